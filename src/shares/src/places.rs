//! Where things are: on the machine, and in a container.

use std::path::{Path, PathBuf};
use vcuda_core::limits::SHARES_DIRECTORY;
use vcuda_core::location::{SHARE_CONTROL_FILE, SHARES_IN_CONTAINER, SHARES_ON_HOST};

/// CDI files that last, of shares that a person makes.
pub const CDI_OF_COMMANDS: &str = "/etc/cdi";
/// CDI files until the machine is started anew, of shares that a daemon makes.
pub const CDI_OF_DAEMONS: &str = "/var/run/cdi";
/// The file that is mounted over a container's `/etc/ld.so.preload`.
pub const PRELOAD_ON_HOST: &str = "/var/lib/vcuda/ld.so.preload";
/// Where a container finds the library.
pub const LIBRARY_IN_CONTAINER: &str = "/usr/local/vcuda/libvcuda.so";
/// Where a container finds the file in which containers take turns on GPUs.
pub(crate) const ARBITER_IN_CONTAINER: &str = "/run/vcuda/arbiter";
/// Which libraries a container's programs are started with.
pub(crate) const PRELOAD_IN_CONTAINER: &str = "/etc/ld.so.preload";

/// Where a machine has what containers are given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// The shares, a directory each.
    pub shares: PathBuf,
    /// The CDI files that are written.
    pub cdi: PathBuf,
    /// The library.
    pub library: PathBuf,
    /// The file that names the library for `/etc/ld.so.preload`; made with the first share.
    pub preload: PathBuf,
}

impl Places {
    /// The usual ones, with CDI files in `cdi` and the library `library`.
    pub fn usual(cdi: impl Into<PathBuf>, library: impl Into<PathBuf>) -> Places {
        Places {
            shares: SHARES_ON_HOST.into(),
            cdi: cdi.into(),
            library: library.into(),
            preload: PRELOAD_ON_HOST.into(),
        }
    }

    /// The file in which all containers of the machine take turns on its GPUs; made with the first share.
    pub fn arbiter(&self) -> PathBuf {
        self.preload.with_file_name("arbiter")
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
