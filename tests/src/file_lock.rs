//! A lock between processes: test runners may run every test in a process of its own.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::path::Path;

/// Held until dropped.
pub(crate) struct FileLock {
    _file: File,
}

/// Waits for the lock that `path` stands for, making the file if there is none.
pub(crate) fn lock(path: &Path) -> FileLock {
    let opened = OpenOptions::new().create(true).truncate(false).write(true).open(path);
    let file = opened.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    // SAFETY: the descriptor is open.
    let locked = unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX) };
    assert_eq!(locked, 0, "{}: {}", path.display(), std::io::Error::last_os_error());
    FileLock { _file: file }
}
