//! Files and directories that are there whole or not at all.
//!
//! Permissions are set and not asked for: what makes shares may have any umask.

use crate::error::ShareError;
use crate::step;
use rustix::fs::{FlockOperation, flock};
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Held while shares are made and removed; whoever is killed loses it.
pub struct Lock(#[expect(dead_code, reason = "locked for as long as it is open")] File);

impl Lock {
    /// Waits for it. `directory` must exist.
    pub fn take(directory: &Path) -> Result<Lock, ShareError> {
        let path = directory.join(".lock");
        let opened =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
        let file = opened.map_err(|error| ShareError::io("open", &path, error))?;
        flock(&file, FlockOperation::LockExclusive)
            .map_err(|error| ShareError::io("lock", &path, error.into()))?;
        Ok(Lock(file))
    }
}

/// Makes a directory and those above it, which anybody may look into.
pub fn make_open(directory: &Path) -> Result<(), ShareError> {
    if directory.is_dir() {
        return Ok(());
    }
    if let Some(parent) = directory.parent() {
        make_open(parent)?;
    }
    make(directory, 0o755)
}

/// Makes a directory. That it is there already is no error.
pub fn make(directory: &Path, mode: u32) -> Result<(), ShareError> {
    match DirBuilder::new().mode(mode).create(directory) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            return Err(ShareError::io("make", directory, error));
        }
        _ => step::done(),
    }
    fs::set_permissions(directory, Permissions::from_mode(mode))
        .map_err(|error| ShareError::io("make", directory, error))
}

/// Writes a file that others may read, beside its place and then into it. If it `lasts`, it does so through a power cut.
pub fn write(path: &Path, text: &[u8], lasts: bool) -> Result<(), ShareError> {
    let temporary = temporary_of(path);
    let written =
        OpenOptions::new().write(true).create(true).truncate(true).open(&temporary).and_then(|mut file| {
            step::done();
            file.write_all(text)?;
            step::done();
            file.set_permissions(Permissions::from_mode(0o644))?;
            if lasts { file.sync_all() } else { Ok(()) }
        });
    written.map_err(|error| ShareError::io("write", path, error))?;
    rename(&temporary, path)?;
    if lasts { sync_parent(path) } else { Ok(()) }
}

/// Gives a file or directory another name, in the place of any file that has it.
pub fn rename(from: &Path, to: &Path) -> Result<(), ShareError> {
    step::done();
    fs::rename(from, to).map_err(|error| ShareError::io("make", to, error))?;
    step::done();
    Ok(())
}

/// Makes a link at `path` to `target`.
pub fn link(target: &Path, path: &Path) -> Result<(), ShareError> {
    step::done();
    std::os::unix::fs::symlink(target, path).map_err(|error| ShareError::io("make", path, error))?;
    step::done();
    Ok(())
}

/// Has the names in the directory of `path` last through a power cut.
pub fn sync_parent(path: &Path) -> Result<(), ShareError> {
    let Some(parent) = path.parent() else { return Ok(()) };
    let synced = File::open(parent).and_then(|directory| directory.sync_all());
    synced.map_err(|error| ShareError::io("write", parent, error))
}

/// Removes a file. True if there was one.
pub fn remove(path: &Path) -> Result<bool, ShareError> {
    let removed = fs::remove_file(path);
    step::done();
    match removed {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(ShareError::io("remove", path, error)),
    }
}

/// Removes a directory with all that is in it; files only, as a share has no directories.
pub fn remove_directory(directory: &Path) -> Result<(), ShareError> {
    for path in children(directory)? {
        remove(&path)?;
    }
    let removed = fs::remove_dir(directory);
    step::done();
    match removed {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(ShareError::io("remove", directory, error)),
        _ => Ok(()),
    }
}

/// What is in a directory, in order; nothing if there is none.
pub fn children(directory: &Path) -> Result<Vec<PathBuf>, ShareError> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(ShareError::io("look into", directory, error)),
    };
    let mut found: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    found.sort();
    Ok(found)
}

/// Where a file is until it is whole. No CDI file: those end in `.json`.
pub fn temporary_of(path: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(TEMPORARY_SUFFIX);
    path.with_file_name(name)
}

/// What names of files that are not whole yet end with.
pub const TEMPORARY_SUFFIX: &str = ".new";
