//! Control files that last as long as a `vcuda run`: made for it, and removed when nobody needs them.

use crate::directory::Directory;
use crate::environments::Environments;
use std::ffi::{OsStr, OsString};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::{fs, io};
use vcuda_core::control::Control;
use vcuda_core::error::ControlError;
use vcuda_core::location::default_path;

/// Names of files made by `vcuda run`, followed by the process id of that command.
const PREFIX: &str = "run-";
/// Runs of one user to look at; more are left to the next time.
const MOST: usize = 4096;

/// Why no control file could be made for a run.
#[derive(Debug, thiserror::Error)]
pub enum MakeError {
    /// There is an old one of the same name.
    #[error("can't remove the old control file {path}")]
    OldFile {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The new one could not be made.
    #[error(transparent)]
    Control(#[from] ControlError),
}

/// Makes a control file for one run, after removing those of runs that have ended.
///
/// # Errors
/// [`MakeError`].
pub fn make() -> Result<PathBuf, MakeError> {
    let default = default_path()?;
    if let Some(directory) = default.parent().and_then(|path| Directory::open(path).ok()) {
        remove_ended(&directory, Sight::OwnUser);
    }
    let path = default.with_file_name(format!("{PREFIX}{}", std::process::id()));
    // One of the same name is from an ended run whose processes go on: they keep it, and this run shares no
    // quota with them.
    match fs::remove_file(&path) {
        Err(source) if source.kind() != ErrorKind::NotFound => {
            return Err(MakeError::OldFile { path, source });
        }
        _ => {}
    }
    Control::open_or_create(&path)?;
    Ok(path)
}

/// Removes a run's control file unless a program that the run started is still there to use it.
pub fn remove_unless_used(path: &Path) {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return };
    if let Ok(directory) = Directory::open(parent)
        && !is_in_use(&directory, name)
        && !Environments::read().may_name(path)
    {
        // If it can't be removed, it is empty and in nobody's way.
        let _ = fs::remove_file(directory.through(name));
    }
}

/// Whose processes may be meant to use a directory's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sight {
    /// This user's: what other users' processes hide is none of this directory.
    OwnUser,
    /// Any user's: nothing is removed unless every process lets us look.
    AllUsers,
}

/// Removes the control files of runs that have ended and left no program; returns how many.
///
/// Only where this process sees those that may use the files: not from a container whose directory others share.
pub fn remove_ended(directory: &Directory, sight: Sight) -> usize {
    let Ok(entries) = directory.entries(MOST) else { return 0 };
    let unused: Vec<OsString> = entries
        .files
        .into_iter()
        .filter(|name| has_lost_its_starter(name) && !is_in_use(directory, name))
        .collect();
    if unused.is_empty() {
        return 0;
    }
    let environments = Environments::read();
    if sight == Sight::AllUsers && !environments.are_complete() {
        return 0;
    }
    let mut removed = 0;
    for name in unused {
        // Once more, as process ids are used again: a new run by that id makes a new file of that name.
        let is_needed = environments.may_name(&directory.path().join(&name)) || !has_lost_its_starter(&name);
        if !is_needed && fs::remove_file(directory.through(&name)).is_ok() {
            removed += 1;
        }
    }
    removed
}

/// Whether a file of this name is a run's whose `vcuda run` has gone.
fn has_lost_its_starter(name: &OsStr) -> bool {
    let starter = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.parse::<u32>().ok());
    starter.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists())
}

/// Whether a living process counts in the file.
fn is_in_use(directory: &Directory, name: &OsStr) -> bool {
    Control::open_existing(directory.through(name))
        .ok()
        .and_then(|control| control.snapshot().ok())
        .is_some_and(|snapshot| snapshot.processes.iter().any(|process| process.alive != Some(false)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Command};

    /// A process id that no process has: one of a child that has been waited for.
    fn ended_process() -> u32 {
        let mut child = Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        child.id()
    }

    struct Sleeper(Child);

    impl Drop for Sleeper {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[test]
    fn what_nobody_needs_is_removed_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: String| directory.path().join(name);
        let make = |name: String| {
            let path = path(name);
            (Control::open_or_create(&path).unwrap(), path)
        };
        let ended = ended_process();
        let (_, gone) = make(format!("run-{ended}"));
        let (_, default) = make("control".to_owned());
        let (_, of_the_living) = make(format!("run-{}", std::process::id()));
        let (used, in_use) = make(format!("run-{}", ended_process()));
        let slot = used.claim("user").unwrap();
        let (_, in_an_environment) = make(format!("run-{}", ended_process()));
        let sleeper = Sleeper(
            Command::new("sleep").arg("60").env("VCUDA_CONTROL_FILE", &in_an_environment).spawn().unwrap(),
        );
        // Its environment can be read a moment after it was started.
        while fs::read(format!("/proc/{}/environ", sleeper.0.id())).unwrap().is_empty() {
            std::thread::yield_now();
        }

        let opened = Directory::open(directory.path()).unwrap();
        assert_eq!(remove_ended(&opened, Sight::OwnUser), 1);
        assert!(!gone.exists());
        assert!(default.exists() && of_the_living.exists() && in_use.exists() && in_an_environment.exists());
        assert_eq!(remove_ended(&opened, Sight::OwnUser), 0);

        drop((slot, sleeper));
        assert_eq!(remove_ended(&opened, Sight::OwnUser), 2);
        assert!(!in_use.exists() && !in_an_environment.exists());
    }

    #[test]
    fn a_runs_own_file_goes_when_the_run_ends() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(format!("run-{}", std::process::id()));
        let control = Control::open_or_create(&path).unwrap();
        let slot = control.claim("left behind").unwrap();
        remove_unless_used(&path);
        assert!(path.exists());
        drop(slot);
        remove_unless_used(&path);
        assert!(!path.exists());
    }
}
