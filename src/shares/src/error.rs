//! Why a share could not be made, read or removed: what was wrong, where, what to do next.

use crate::name::USABLE;
use crate::wanted::MadeBy;
use std::io;
use std::path::{Path, PathBuf};
use vcuda_core::device::Uuid;
use vcuda_core::error::ControlError;
use vcuda_core::limits::LimitsError;

/// Why an operation on shares did not come about. Nothing of it is left that counts.
#[derive(Debug, thiserror::Error)]
pub enum ShareError {
    /// The name can't be one.
    #[error("{0:?} is no name for a share; {USABLE}")]
    Unusable(String),
    /// The name is another share's.
    #[error(
        "there is a share {name} already, of {gpu} with {granted}, made by {made_by}; choose another name, change its \
         limits with vcuda set {name}, or remove it with vcuda share delete {name}"
    )]
    Taken {
        /// The name.
        name: String,
        /// The GPU of the share that has it.
        gpu: Uuid,
        /// Its limits, for people.
        granted: String,
        /// Who made it.
        made_by: MadeBy,
    },
    /// The GPU is promised to others.
    #[error(
        "{gpu} has {left} of {what} left to promise, and {asked} were asked for ({promised}); ask for less, delete a share, \
         or promise more than there is with --overcommit"
    )]
    OverPromised {
        /// The GPU.
        gpu: Uuid,
        /// What there is not enough of, and how much of it there is.
        what: String,
        /// How much is left.
        left: String,
        /// How much was asked for.
        asked: String,
        /// Who has how much.
        promised: String,
    },
    /// The library is not where it should be.
    #[error("there is no library at {}; name libvcuda.so's place, or install it there", .0.display())]
    NoLibrary(PathBuf),
    /// Nobody but root may do this.
    #[error("can't {action} {}: {source}; shares are made and removed by root: try sudo", .path.display())]
    Forbidden {
        /// What was being done.
        action: &'static str,
        /// To which file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The system has another reason.
    #[error("can't {action} {}: {source}", .path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// To which file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The control file can't be made or read.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The limits can't be written, or are wrong.
    #[error(transparent)]
    Limits(#[from] LimitsError),
}

impl ShareError {
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> ShareError {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::PermissionDenied => ShareError::Forbidden { action, path, source },
            _ => ShareError::Io { action, path, source },
        }
    }
}
