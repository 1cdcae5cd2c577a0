//! Where things are: on the machine, and in a container.

use std::path::{Path, PathBuf};
use vcuda_core::limits::SHARES_DIRECTORY;
use vcuda_core::location::{SHARE_CONTROL_FILE, SHARES_IN_CONTAINER, SHARES_ON_HOST};

/// CDI files that last, of shares that a person makes.
pub const CDI_OF_COMMANDS: &str = "/etc/cdi";
/// CDI files until the machine is started anew, of shares that a daemon makes.
pub const CDI_OF_DAEMONS: &str = "/var/run/cdi";
/// The file that is mounted over a container's `/etc/ld.so.preload`, beside the shares.
const PRELOAD: &str = "ld.so.preload";
/// The file in which containers take turns.
const ARBITER: &str = "arbiter";
/// Where a container finds the library.
pub const LIBRARY_IN_CONTAINER: &str = "/usr/local/vcuda/libvcuda.so";
/// Where a container finds the file in which containers take turns on GPUs.
pub(crate) const ARBITER_IN_CONTAINER: &str = "/run/vcuda/arbiter";
/// Which libraries a container's programs are started with.
pub(crate) const PRELOAD_IN_CONTAINER: &str = "/etc/ld.so.preload";

/// Where a machine's control files are, each in a directory of its share's name, and the file in which containers take turns:
/// as in a container, in memory.
pub const CONTROL_ON_HOST: &str = SHARES_IN_CONTAINER;

/// Where a machine has what containers are given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// The shares, a directory each.
    pub shares: PathBuf,
    /// The shares' control files, in a directory each, which should be in memory: programs write into them on every
    /// launch, and a file system on a disk may have such a write wait while it writes to the disk (ext4, of 426 000 writes
    /// beside dd and sync: 44 ms at worst and 8 over 1 ms; in memory 0.05 ms). A share's directory has a link there. If
    /// this is `shares`, they are in the shares' own directories.
    pub control: PathBuf,
    /// The CDI files that are written.
    pub cdi: PathBuf,
    /// The library.
    pub library: PathBuf,
    /// The file that names the library for `/etc/ld.so.preload`; made with the first share.
    pub preload: PathBuf,
}

impl Places {
    /// Those that go with the shares in `shares`, with CDI files in `cdi` and the library `library`. Control files are in
    /// memory if it is the usual place, and with the shares otherwise.
    pub fn of(shares: impl Into<PathBuf>, cdi: impl Into<PathBuf>, library: impl Into<PathBuf>) -> Places {
        let shares = shares.into();
        let is_usual = shares == Path::new(SHARES_ON_HOST);
        Places {
            control: if is_usual { CONTROL_ON_HOST.into() } else { shares.clone() },
            cdi: cdi.into(),
            library: library.into(),
            preload: shares.with_file_name(PRELOAD),
            shares,
        }
    }

    /// The file in which all containers of the machine take turns on its GPUs; made with the first share. One from before
    /// is used on, until there are no shares: who takes turns must do so in one file.
    pub fn arbiter(&self) -> PathBuf {
        let before = self.arbiter_before();
        if before.exists() { before } else { self.control.with_file_name(ARBITER) }
    }

    /// Where that file was before there were control files in memory.
    pub(crate) fn arbiter_before(&self) -> PathBuf {
        self.shares.with_file_name(ARBITER)
    }

    /// Whether control files are in a place of their own.
    pub(crate) fn has_control_elsewhere(&self) -> bool {
        self.control != self.shares
    }
}

/// Where a container finds the limits file of the share `name`.
pub(crate) fn limits_in_container(name: &str) -> PathBuf {
    Path::new(SHARES_DIRECTORY).join(format!("{name}.json"))
}

/// Where a container finds the control file of the share `name`.
pub(crate) fn control_in_container(name: &str) -> PathBuf {
    Path::new(SHARES_IN_CONTAINER).join(name).join(SHARE_CONTROL_FILE)
}
