//! What can go wrong with a control file, in sentences a person can act on: what, where, what would be right.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use core::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::abi;
use crate::device::Uuid;

/// Why a mapped control file can no longer be used. The process that sees this goes on; its accounting is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// The file became shorter than its mapping.
    Truncated,
    /// The header no longer is the one that was opened: the file was zeroed or written over.
    Overwritten,
    /// A number that only its owner may change was changed by somebody else, or cannot be.
    Contradictory,
    /// Somebody keeps changing a word faster than any operation could.
    Starved,
    /// This process is a forked child and the account its parent's; the child must claim a slot of its own.
    Forked,
    /// The file is mapped read-only.
    ReadOnly,
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Truncated => "was truncated while in use",
            Self::Overwritten => "was written over while in use",
            Self::Contradictory => {
                "contains numbers that contradict each other: something other than vcuda wrote to it"
            }
            Self::Starved => "is being changed by something without pause",
            Self::Forked => "is used by a forked child through its parent's slot",
            Self::ReadOnly => "is open read-only",
        })
    }
}

impl std::error::Error for Lost {}

/// A reservation that was not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReserveError {
    /// The device's total would have passed the limit. Nothing changed.
    Refused(Refused),
    /// Nothing new is to be taken of the device just now, as a process is being restored. Nothing changed; to be tried
    /// again in a moment.
    Held,
    /// The file cannot be used.
    Lost(Lost),
}

/// The amounts at the instant of a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Pages in use on the device by all processes.
    pub used_pages: u64,
    /// The limit that was asked for.
    pub limit_pages: u64,
}

impl From<Lost> for ReserveError {
    fn from(lost: Lost) -> Self {
        Self::Lost(lost)
    }
}

impl fmt::Display for ReserveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(Refused { used_pages, limit_pages }) => {
                write!(f, "over the limit: {used_pages} of {limit_pages} pages of 4096 bytes are in use")
            }
            Self::Held => f.write_str("a process is being restored on the device"),
            Self::Lost(lost) => write!(f, "control file {lost}"),
        }
    }
}

impl std::error::Error for ReserveError {}

/// Why a control file could not be opened, or a slot or device not be had in it.
#[derive(Debug)]
pub struct ControlError {
    path: PathBuf,
    kind: ControlErrorKind,
}

/// The cases of [`ControlError`].
#[derive(Debug)]
#[non_exhaustive]
pub enum ControlErrorKind {
    /// The system refused an operation on the file or its directory.
    Io {
        /// What was being done, as in "cannot {action}".
        action: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// There is no such file.
    Missing,
    /// The directory the file would be in does not exist.
    NoDirectory,
    /// The name is a symbolic link.
    Symlink,
    /// The name is not a regular file's.
    NotRegular,
    /// The file does not begin as a control file does.
    NotControlFile,
    /// The file is of another version.
    WrongVersion {
        /// The version found.
        found: u32,
    },
    /// The file is shorter or longer than one of this version.
    WrongSize {
        /// The size found in bytes.
        found: u64,
    },
    /// The file's sections are not where this version has them.
    WrongLayout,
    /// The file was never finished, or was taken out of use.
    NotReady,
    /// There is no room for the file.
    NoSpace,
    /// The directory belongs to somebody else or others may write to it.
    UnsafeDirectory,
    /// The path now names another file than the one in use.
    Replaced,
    /// The file is open read-only.
    ReadOnly,
    /// All slots belong to living processes.
    SlotsFull,
    /// The file has no room for another device.
    DevicesFull {
        /// The device without an entry.
        uuid: Uuid,
    },
    /// One half of the UUID is zero, which the file cannot express.
    ImpossibleUuid {
        /// The UUID.
        uuid: Uuid,
    },
    /// The file cannot be used any more.
    Lost(Lost),
}

impl ControlError {
    pub(crate) fn new(path: &Path, kind: ControlErrorKind) -> Self {
        Self { path: path.to_owned(), kind }
    }

    /// An answer of the system; full disks get their own sentence.
    pub(crate) fn io(path: &Path, action: &'static str, source: io::Error) -> Self {
        let kind = match source.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT) => ControlErrorKind::NoSpace,
            _ => ControlErrorKind::Io { action, source },
        };
        Self::new(path, kind)
    }

    /// The file or directory concerned.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What became of a file that was in use.
    pub fn lost(path: &Path, lost: Lost) -> Self {
        Self::new(path, ControlErrorKind::Lost(lost))
    }

    /// The same about the file as people know it, where it was opened by another path.
    pub fn at(self, path: &Path) -> Self {
        Self { path: path.to_owned(), ..self }
    }

    /// Which case it is.
    pub fn kind(&self) -> &ControlErrorKind {
        &self.kind
    }
}

const START_OVER: &str = "remove it when nothing uses it, or set VCUDA_CONTROL_FILE to another path";

impl fmt::Display for ControlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "control file {}: ", self.path.display())?;
        match &self.kind {
            ControlErrorKind::Io { action, source } => {
                write!(f, "cannot {action}: {source}; set VCUDA_CONTROL_FILE to a path where this user may write")
            }
            ControlErrorKind::Missing => f.write_str("does not exist; the first program under a limit makes it"),
            ControlErrorKind::NoDirectory => {
                f.write_str("its directory does not exist; make it, or set VCUDA_CONTROL_FILE to another path")
            }
            ControlErrorKind::Symlink => {
                f.write_str("is a symbolic link, which is never followed; set VCUDA_CONTROL_FILE to the file itself")
            }
            ControlErrorKind::NotRegular => {
                f.write_str("is not a regular file; set VCUDA_CONTROL_FILE to another path")
            }
            ControlErrorKind::NotControlFile => {
                write!(f, "is something else than a vcuda control file; {START_OVER}")
            }
            ControlErrorKind::WrongVersion { found } => {
                write!(f, "version {found}, this library speaks {}: {START_OVER}", abi::VERSION)
            }
            ControlErrorKind::WrongSize { found } => {
                write!(f, "{found} bytes long instead of {}: {START_OVER}", abi::FILE_BYTES)
            }
            ControlErrorKind::WrongLayout => {
                write!(f, "its header describes another layout than version {} has: {START_OVER}", abi::VERSION)
            }
            ControlErrorKind::NotReady => write!(f, "was never finished or was taken out of use: {START_OVER}"),
            ControlErrorKind::NoSpace => write!(
                f,
                "no space left for its {} KiB; free some, or set VCUDA_CONTROL_FILE to a path on another file system",
                abi::FILE_BYTES / 1024
            ),
            ControlErrorKind::UnsafeDirectory => f.write_str(
                "must be a directory of this user's own that nobody else can write to (mode 0700), and not a symbolic \
                 link; correct it, or set VCUDA_CONTROL_FILE to another path",
            ),
            ControlErrorKind::Replaced => f.write_str(
                "was removed or replaced while in use; processes started before and after count apart until the \
                 former are restarted",
            ),
            ControlErrorKind::ReadOnly => f.write_str("is open read-only; this needs the right to write to it"),
            ControlErrorKind::SlotsFull => write!(
                f,
                "all {} slots belong to living processes; end some, or give a group of them another file with \
                 VCUDA_CONTROL_FILE",
                abi::SLOT_CAPACITY
            ),
            ControlErrorKind::DevicesFull { uuid } => write!(
                f,
                "no room for {uuid}, as {} devices are known already; {START_OVER}",
                abi::DEVICE_CAPACITY
            ),
            ControlErrorKind::ImpossibleUuid { uuid } => {
                write!(f, "{uuid} cannot be a device: neither the first nor the last eight bytes may all be zero")
            }
            ControlErrorKind::Lost(lost) => write!(f, "{lost}; restart the programs that use it"),
        }
    }
}

impl std::error::Error for ControlError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.kind {
            ControlErrorKind::Io { source, .. } => Some(source),
            ControlErrorKind::Lost(lost) => Some(lost),
            _ => None,
        }
    }
}
