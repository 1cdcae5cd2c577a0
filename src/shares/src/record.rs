//! The description of a share, `share.json`: what it was asked to be, and the words that `vcuda-node` labels it with.
//!
//! Owns the file's form. Limits are not read from here but from the limits file, which may have been changed since; what
//! was asked for is kept to tell a repeated request from another one.

use crate::wanted::{MadeBy, Wanted};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;
use vcuda_core::share::Share as Cores;
use vcuda_core::sharing::Priority;

/// Name of the file.
pub const FILE: &str = "share.json";
const VERSION: u32 = 1;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    version: u32,
    /// As `vcuda-node` calls the share.
    share: String,
    namespace: String,
    pod: String,
    container: String,
    gpu: String,
    memory_bytes: Option<u64>,
    cores_ppm: Option<u32>,
    elastic: bool,
    weight: Option<u32>,
    priority: Option<String>,
    idle_release_ms: Option<u64>,
    labels: BTreeMap<String, String>,
    made_by: MadeBy,
    merge_with: Option<PathBuf>,
    /// Where its CDI file is.
    pub cdi: PathBuf,
}

impl Record {
    /// What is kept of a request whose CDI file goes into `cdi`.
    pub fn of(wanted: &Wanted, cdi: &Path) -> Record {
        let label = |name: &str| wanted.labels.get(name).cloned().unwrap_or_default();
        Record {
            version: VERSION,
            share: wanted.name.clone(),
            namespace: label("namespace"),
            pod: label("pod"),
            container: label("container"),
            gpu: wanted.gpu_uuid.to_string(),
            memory_bytes: wanted.memory_bytes,
            cores_ppm: wanted.cores.map(Cores::ppm),
            elastic: wanted.elastic,
            weight: wanted.weight,
            priority: wanted.priority.map(|priority| priority.name().to_owned()),
            idle_release_ms: wanted
                .idle_release
                .map(|span| u64::try_from(span.as_millis()).unwrap_or(u64::MAX)),
            labels: wanted.labels.clone(),
            made_by: wanted.made_by,
            merge_with: wanted.merge_with.clone(),
            cdi: cdi.to_owned(),
        }
    }

    /// The request; `None` if what was read describes no share.
    pub fn wanted(&self) -> Option<Wanted> {
        let cores = match self.cores_ppm {
            Some(ppm) => Some(Cores::from_ppm(ppm)?),
            None => None,
        };
        let priority = match &self.priority {
            Some(name) => Some(Priority::parse(name)?),
            None => None,
        };
        (self.version == VERSION).then_some(())?;
        Some(Wanted {
            name: self.share.clone(),
            gpu_uuid: self.gpu.parse().ok()?,
            memory_bytes: self.memory_bytes,
            cores,
            elastic: self.elastic,
            weight: self.weight,
            priority,
            idle_release: self.idle_release_ms.map(Duration::from_millis),
            labels: self.labels.clone(),
            made_by: self.made_by,
            physical_bytes: None,
            merge_with: self.merge_with.clone(),
        })
    }

    /// As the file has it.
    pub fn to_text(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).unwrap_or_default();
        text.push('\n');
        text
    }

    /// What the file says; `None` if it describes no share.
    pub fn parse(text: &[u8]) -> Option<Record> {
        serde_json::from_slice(text).ok()
    }
}
