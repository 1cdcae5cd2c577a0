//! What one look at all slices found, as the other jobs and the metrics take it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use crate::counters::Totals;
use crate::labels::Labels;

/// One look.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    /// When it ended; `None` before the first.
    pub at: Option<SystemTime>,
    /// How long it took.
    pub took: Duration,
    /// The slices, each with its own labels.
    pub slices: Vec<Slice>,
    /// Every directory that was to be looked into, and whether it could be.
    pub directories: BTreeMap<PathBuf, bool>,
    /// Control files that could not be read, by reason.
    pub unreadable: BTreeMap<&'static str, u64>,
    /// Files and directories beyond the bounds, which were not looked at; at least that many.
    pub left_out: u64,
    /// What was cleaned up since the agent began.
    pub cleaned: Cleaned,
}

/// What was cleaned up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cleaned {
    /// Ended processes whose slots were taken back.
    pub processes: u64,
    /// Device memory they held by their slice's books, in bytes.
    pub bytes: u64,
    /// Control files removed.
    pub files: u64,
}

/// One slice.
#[derive(Clone, Debug)]
pub struct Slice {
    /// Its labels.
    pub labels: Labels,
    /// Where its control file is.
    pub path: PathBuf,
    /// Its devices, each once.
    pub devices: Vec<Device>,
    /// Processes that live in it, whether they hold anything or not.
    pub processes: u64,
    /// Whether one of them may be put aside when idle.
    pub has_idle_release: bool,
    /// Of them, those that are put aside because they were idle.
    pub put_aside: u64,
    /// And those that wait for memory which others have.
    pub waiting: u64,
}

/// One device of a slice.
#[derive(Clone, Debug, PartialEq)]
pub struct Device {
    /// Its UUID as drivers print it.
    pub uuid: String,
    /// The memory limit; `None` if there is none.
    pub limit_bytes: Option<u64>,
    /// Memory in use.
    pub used_bytes: u64,
    /// The most memory ever in use.
    pub peak_bytes: u64,
    /// The share of the device's time, 0 to 1; `None` if there is no limit.
    pub share_ratio: Option<f64>,
    /// How much of the share was used lately, 0 to 1; `None` without a share or on the first look.
    pub utilization_ratio: Option<f64>,
    /// Processes that hold or have used something of the device.
    pub processes: u64,
    /// What was counted, never less than said before.
    pub totals: Totals,
    /// When work was last seen to have been counted.
    pub last_work: Option<SystemTime>,
}
