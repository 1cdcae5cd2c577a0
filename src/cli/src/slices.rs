//! The control files of this machine: where they are, making one for a run, and removing those nobody needs.
//!
//! Must never remove a file that a program may still open: programs that count in two files would get the
//! quota twice.

use anyhow::{Context, Result};
use std::ffi::OsStr;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use vcuda_core::control::Control;
use vcuda_core::limits::{CONTROL_FILE_VARIABLE, Limits};
use vcuda_core::location::default_path;

/// Where [`default_path`] may put a user's directory.
const PARENTS: [&str; 2] = ["/dev/shm", "/tmp"];
const DIRECTORY_PREFIX: &str = "vcuda-";
/// Names of files made by `vcuda run`, followed by the process id of that command.
const RUN_PREFIX: &str = "run-";

/// Makes a control file for one run, after removing those of runs that have ended.
pub fn make() -> Result<PathBuf> {
    let default = default_path()?;
    if let Some(directory) = default.parent() {
        remove_ended(directory);
    }
    let path = default.with_file_name(format!("{RUN_PREFIX}{}", std::process::id()));
    // One of the same name is from an ended run whose processes go on: they keep it, and this run shares no
    // quota with them.
    match fs::remove_file(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(error)
                .with_context(|| format!("can't remove the old control file {}", path.display()));
        }
        _ => {}
    }
    Control::open_or_create(&path)?;
    Ok(path)
}

/// Removes a run's control file unless a program that the run started is still there to use it.
pub fn remove_unless_used(path: &Path) {
    let living = Control::open_existing(path)
        .ok()
        .and_then(|control| control.snapshot().ok())
        .is_some_and(|snapshot| snapshot.processes.iter().any(|process| process.alive != Some(false)));
    if !living && !is_in_an_environment(path) {
        // If it can't be removed, it is empty and in nobody's way.
        let _ = fs::remove_file(path);
    }
}

/// The control files to show: `named` (which must exist), the one configured here, and those in the default
/// directories of all users who let us look.
pub fn find(named: &[PathBuf]) -> Vec<PathBuf> {
    let mut found = named.to_vec();
    found.extend(
        Limits::of_this_process().ok().and_then(|limits| limits.control_file).filter(|path| path.exists()),
    );
    for parent in PARENTS {
        let mut below: Vec<PathBuf> = children(Path::new(parent))
            .filter(|path| name_of(path).starts_with(DIRECTORY_PREFIX))
            .flat_map(|directory| children(&directory).collect::<Vec<_>>())
            .filter(|path| !name_of(path).starts_with('.'))
            .filter(|path| path.symlink_metadata().is_ok_and(|metadata| metadata.is_file()))
            .collect();
        below.sort();
        found.extend(below);
    }
    let mut seen = std::collections::HashSet::new();
    found.retain(|path| seen.insert(path.clone()));
    found
}

fn remove_ended(directory: &Path) {
    for path in children(directory) {
        let starter = name_of(&path).strip_prefix(RUN_PREFIX).and_then(|pid| pid.parse::<u32>().ok());
        if starter.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            remove_unless_used(&path);
        }
    }
}

/// Whether some process was started with `path` as its control file, so that its children would open it.
fn is_in_an_environment(path: &Path) -> bool {
    let wanted = [CONTROL_FILE_VARIABLE.as_bytes(), b"=", path.as_os_str().as_bytes()].concat();
    children(Path::new("/proc"))
        .filter(|process| name_of(process).parse::<u32>().is_ok_and(|pid| pid != std::process::id()))
        .filter_map(|process| fs::read(process.join("environ")).ok())
        .any(|environment| environment.split(|byte| *byte == 0).any(|variable| variable == wanted))
}

fn children(directory: &Path) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(directory).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()))
}

fn name_of(path: &Path) -> &str {
    path.file_name().and_then(OsStr::to_str).unwrap_or("")
}
