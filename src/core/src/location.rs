//! Where the control file is when nobody says.
//!
//! Owns the choice and the making of the directory. It must never use a directory that somebody else could have
//! prepared.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::error::{ControlError, ControlErrorKind as Kind};
use crate::region::{directory_is_writable, effective_user};

/// Where a machine keeps its shares, each in a directory of its name.
pub const SHARES_ON_HOST: &str = "/var/lib/vcuda/shares";
/// Where a container finds the control files of its shares, each in a directory of the share's name.
pub const SHARES_IN_CONTAINER: &str = "/run/vcuda/shares";
/// A share's control file, in its directory.
pub const SHARE_CONTROL_FILE: &str = "control";

/// The control file of this user where none is named: `/dev/shm/vcuda-UID/control`, or `/tmp/vcuda-UID/control` where
/// `/dev/shm` cannot be written to. Makes the directory, mode 0700, if it does not exist.
///
/// # Errors
/// `UnsafeDirectory` if the directory is a link, another user's, or open to others; the system's if it cannot be made.
pub fn default_path() -> Result<PathBuf, ControlError> {
    let parent = ["/dev/shm", "/tmp"].map(Path::new).into_iter().find(|parent| directory_is_writable(parent));
    private_file(parent.unwrap_or(Path::new("/tmp")))
}

/// The file in which this user's containers take turns where none is named, see [`arbiter`](crate::arbiter):
/// `.arbiter` beside the file of [`default_path`].
///
/// # Errors
/// As [`default_path`].
pub fn default_arbiter_path() -> Result<PathBuf, ControlError> {
    Ok(default_path()?.with_file_name(".arbiter"))
}

/// The path of [`default_path`] without making anything: for tools that only look. The first that exists, else the
/// first.
pub fn default_path_to_read() -> PathBuf {
    let candidates = ["/dev/shm", "/tmp"].map(|parent| file_under(Path::new(parent)));
    let [first, ..] = &candidates;
    candidates.iter().find(|path| path.exists()).unwrap_or(first).clone()
}

/// Where agents keep what the suspended processes of a control file took of each GPU: `.NAME.suspended` beside it.
pub fn suspension_record(control_file: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(control_file.file_name().unwrap_or_default());
    name.push(".suspended");
    control_file.with_file_name(name)
}

fn file_under(parent: &Path) -> PathBuf {
    parent.join(format!("vcuda-{}", effective_user())).join("control")
}

fn private_file(parent: &Path) -> Result<PathBuf, ControlError> {
    let file = file_under(parent);
    let directory = file.parent().unwrap_or(parent);
    match DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(ControlError::io(directory, "make its directory", error));
        }
        _ => {}
    }
    let found = fs::symlink_metadata(directory).map_err(|e| ControlError::io(directory, "examine it", e))?;
    let safe = found.is_dir() && found.uid() == effective_user() && found.mode() & 0o022 == 0;
    if safe { Ok(file) } else { Err(ControlError::new(directory, Kind::UnsafeDirectory)) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn refused(parent: &Path) {
        let error = private_file(parent).expect_err("accepted");
        assert!(matches!(error.kind(), Kind::UnsafeDirectory), "{error}");
        assert!(error.to_string().contains("VCUDA_CONTROL_FILE"), "{error}");
    }

    #[test]
    fn the_directory_is_made_for_this_user_alone() {
        let parent = tempfile::tempdir().unwrap();
        let file = private_file(parent.path()).unwrap();
        assert_eq!(file, parent.path().join(format!("vcuda-{}/control", effective_user())));
        let directory = file.parent().unwrap();
        assert_eq!(fs::metadata(directory).unwrap().mode() & 0o7777, 0o700);
        assert_eq!(private_file(parent.path()).unwrap(), file);

        fs::set_permissions(directory, Permissions::from_mode(0o777)).unwrap();
        refused(parent.path());
    }

    #[test]
    fn what_somebody_else_prepared_is_refused() {
        let parent = tempfile::tempdir().unwrap();
        let file = file_under(parent.path());
        let directory = file.parent().unwrap();
        symlink(tempfile::tempdir().unwrap().path(), directory).unwrap();
        refused(parent.path());
        fs::remove_file(directory).unwrap();
        fs::write(directory, "").unwrap();
        refused(parent.path());
    }

    #[test]
    fn a_parent_that_is_missing_is_reported() {
        let error = private_file(Path::new("/nonexistent/parent")).expect_err("made");
        assert!(error.to_string().contains("cannot make its directory: No such file"), "{error}");
    }
}
