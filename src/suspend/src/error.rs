//! Why a suspension or a resumption did not come about: what was wrong, with whom, and what would be right.

use crate::driver::Unavailable;
use std::fmt;
use thiserror::Error;
use vcuda_core::error::{ControlError, Lost};

/// What is wrong with one process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Its id, here.
    pub pid: u32,
    /// Its name.
    pub name: String,
    /// What is wrong, and what to do.
    pub reason: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} ({}): {}", self.pid, self.name, self.reason)
    }
}

/// Several of them, one a line.
fn lines(problems: &[Problem]) -> String {
    problems.iter().map(|problem| format!("\n  {problem}")).collect()
}

/// Why an operation did not come about.
#[derive(Debug, Error)]
pub enum Error {
    /// The driver has no checkpoints.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    /// The control file can't be opened, or not be written to.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The control file can't be used any more.
    #[error("the slice's control file {0}; restart the programs that use it")]
    Lost(#[from] Lost),
    /// What has to be kept for resuming can't be written.
    #[error("{path}: {source}; nothing was suspended")]
    Record {
        /// The file.
        path: std::path::PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// Another agent is at work.
    #[error("another vcuda is suspending or resuming this slice; try again when it is done")]
    Busy,
    /// There is nobody to suspend.
    #[error("no program is running in this slice")]
    NoProcesses,
    /// Something can't be suspended, and nothing was touched.
    #[error("nothing was suspended:{}", lines(.0))]
    Refused(Vec<Problem>),
    /// The driver failed half-way; everything runs as before.
    #[error("nothing was suspended, everything runs as before:\n  {0}")]
    RolledBack(Problem),
    /// The driver failed half-way, and the memory to bring everything back isn't there now.
    #[error(
        "suspending failed half-way, and there is no room now to bring back what was suspended:\n  {0}\n\
         run vcuda resume for this slice when GPU memory is free"
    )]
    HalfWay(Problem),
    /// Memory did not become free in time; everything stays suspended.
    #[error("nothing was resumed in time: {0}; the slice stays suspended, try again later")]
    TimedOut(String),
    /// The driver could not bring processes back. The others run.
    #[error("the driver could not bring back everything; these can only be ended:{}", lines(.0))]
    ProcessesLost(Vec<Problem>),
}

/// Of an error on the way, whether the process is still what it was before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Lives,
    Died,
}
