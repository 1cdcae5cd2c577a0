//! What a share is asked to be.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;
use vcuda_core::device::Uuid;
use vcuda_core::share::Share as Cores;
use vcuda_core::sharing::Priority;

/// A share as it is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Its name, see [`is_usable`](crate::is_usable).
    pub name: String,
    /// The GPU or MIG instance that it is of.
    pub gpu_uuid: Uuid,
    /// Its memory; `None` for no limit, which promises nothing: it gets what there is.
    pub memory_bytes: Option<u64>,
    /// Its part of the GPU's time; `None` for no limit, which promises nothing.
    pub cores: Option<Cores>,
    /// Whether it may use time that others leave.
    pub elastic: bool,
    /// Its weight beside others, 1 to 10 000; `None` for its part of the time in percent.
    pub weight: Option<u32>,
    /// Whether it goes before others; `None` for normal.
    pub priority: Option<Priority>,
    /// How long its programs must be idle before they may be put aside for others; `None` if they never may.
    pub idle_release: Option<Duration>,
    /// Words of whoever grants it, for tools: `namespace`, `pod`, `container`, `claim` and others.
    pub labels: BTreeMap<String, String>,
    /// Who makes it.
    pub made_by: MadeBy,
    /// The GPU's memory. If given, all shares of the GPU with this one must fit into it and into the GPU's time; `None`
    /// where somebody else sees to that, as a scheduler, or where more is to be promised than there is.
    pub physical_bytes: Option<u64>,
    /// For images that have an `/etc/ld.so.preload` of their own: the `vcuda` command that adds the library to it, in
    /// place of a mount over it.
    pub merge_with: Option<PathBuf>,
}

impl Wanted {
    /// A share without limits, to be narrowed.
    pub fn new(name: impl Into<String>, gpu_uuid: Uuid, made_by: MadeBy) -> Wanted {
        Wanted {
            name: name.into(),
            gpu_uuid,
            memory_bytes: None,
            cores: None,
            elastic: false,
            weight: None,
            priority: None,
            idle_release: None,
            labels: BTreeMap::new(),
            made_by,
            physical_bytes: None,
            merge_with: None,
        }
    }
}

/// Who made a share, and sees to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MadeBy {
    /// A person, by `vcuda share create`.
    Cli,
    /// The driver for resource claims.
    Dra,
    /// The device plugin.
    Plugin,
}

impl fmt::Display for MadeBy {
    /// To follow "made by".
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            MadeBy::Cli => "vcuda share create",
            MadeBy::Dra => "vcuda-node for a resource claim",
            MadeBy::Plugin => "vcuda-node for a pod",
        })
    }
}
