//! Files that last as long as a `vcuda run`: made for it, and removed when nobody needs them.
//!
//! A run has a limits file `NAME.limits.json`, by which its limits can be changed, and beside it a control file `NAME`
//! unless it shares another. NAME is `run-` and the process id of `vcuda run`, or what the user chose; then the
//! command keeps its control file locked as long as it lives, as no process id tells whether it does.

use crate::directory::Directory;
use crate::environments::Environments;
use crate::limits_file::{LIMITS_SUFFIX, is_limits_file};
use crate::name::{USABLE, is_usable};
use rustix::fs::{FlockOperation, flock};
use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::{fs, io};
use vcuda_core::control::Control;
use vcuda_core::error::ControlError;
use vcuda_core::location::{default_path, suspension_record};

/// Names of runs that were given none, followed by the process id of the command.
const PREFIX: &str = "run-";
/// Runs of one user to look at; more are left to the next time.
const MOST: usize = 4096;

/// Why no files could be made for a run.
#[derive(Debug, thiserror::Error)]
pub enum MakeError {
    /// The name can't be one.
    #[error("--name {0:?} is no name for a slice; {USABLE}")]
    Unusable(String),
    /// The name is another's.
    #[error(
        "--name {name}: there is a slice of this name, in {path}; choose another name, or join it with --control-file"
    )]
    Taken {
        /// The name.
        name: String,
        /// The other's control file.
        path: PathBuf,
    },
    /// The control file could not be made.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The limits file could not be made.
    #[error("can't write the limits file {path}: {source}")]
    Limits {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

/// The files of one run.
#[derive(Debug)]
pub struct RunFiles {
    control: PathBuf,
    owns_control: bool,
    limits: PathBuf,
    /// Kept locked, so that others see that the run goes on.
    _lock: Option<File>,
}

impl RunFiles {
    /// Makes a control file for one run, called `name` or by this process's id, unless it shares `shared`; after
    /// removing the files of runs that have ended.
    ///
    /// # Errors
    /// [`MakeError`].
    pub fn make(name: Option<&str>, shared: Option<&Path>) -> Result<RunFiles, MakeError> {
        let default = default_path()?;
        if let Some(name) = name.filter(|name| !is_usable(name)) {
            return Err(MakeError::Unusable(name.to_owned()));
        }
        if let Some(directory) = default.parent().and_then(|path| Directory::open(path).ok()) {
            remove_ended(&directory, Sight::OwnUser);
        }
        let own = match name {
            Some(name) => default.with_file_name(name),
            None => unused_name(&default),
        };
        let limits = limits_beside(&own);
        if let (Some(name), true) = (name, is_taken(&own)) {
            return Err(MakeError::Taken { name: name.to_owned(), path: own });
        }
        if let Some(shared) = shared {
            return Ok(RunFiles { control: shared.to_owned(), owns_control: false, limits, _lock: None });
        }
        Control::open_or_create(&own)?;
        Ok(RunFiles { _lock: lock(&own), control: own, owns_control: true, limits })
    }

    /// Where the run's processes count.
    pub fn control(&self) -> &Path {
        &self.control
    }

    /// Where the run's limits are written, or a link to where they are.
    pub fn limits(&self) -> &Path {
        &self.limits
    }

    /// Writes the run's limits file.
    ///
    /// # Errors
    /// [`MakeError::Limits`].
    pub fn write_limits(&mut self, text: &str) -> Result<(), MakeError> {
        let made = OpenOptions::new().write(true).create_new(true).mode(0o644).open(&self.limits);
        made.and_then(|mut file| file.write_all(text.as_bytes()))
            .map_err(|source| self.limits_error(source))?;
        if !self.owns_control {
            self._lock = lock(&self.limits);
        }
        Ok(())
    }

    /// Notes that the run's limits are in another file, for those who look beside its control file.
    ///
    /// # Errors
    /// [`MakeError::Limits`].
    pub fn link_limits(&self, file: &Path) -> Result<(), MakeError> {
        if !self.owns_control {
            return Ok(());
        }
        symlink(file, &self.limits).map_err(|source| self.limits_error(source))
    }

    fn limits_error(&self, source: io::Error) -> MakeError {
        MakeError::Limits { path: self.limits.clone(), source }
    }

    /// The run has ended: removes its files unless a program that it started is still there to use them.
    pub fn retire(self) {
        let Some(directory) = self.limits.parent().and_then(|path| Directory::open(path).ok()) else {
            return;
        };
        let name = if self.owns_control { self.control.file_name() } else { self.limits.file_name() };
        let Some(name) = name else { return };
        if !is_in_use(&directory, name) && !may_be_named(&Environments::read(), &directory, name) {
            remove(&directory, name);
        }
    }
}

fn limits_beside(control: &Path) -> PathBuf {
    let mut name = control.as_os_str().to_owned();
    name.push(LIMITS_SUFFIX);
    PathBuf::from(name)
}

fn is_taken(control: &Path) -> bool {
    [control, &limits_beside(control)].iter().any(|path| path.symlink_metadata().is_ok())
}

/// `run-` and this process's id, and a number if there is a run of that name: one that ended and whose processes go on.
fn unused_name(default: &Path) -> PathBuf {
    let pid = std::process::id();
    let numbered = |number: u32| match number {
        1 => format!("{PREFIX}{pid}"),
        number => format!("{PREFIX}{pid}-{number}"),
    };
    let mut names = (1..u32::MAX).map(|number| default.with_file_name(numbered(number)));
    names.find(|path| !is_taken(path)).unwrap_or_else(|| default.with_file_name(numbered(1)))
}

/// Locks a file for as long as the answer lives. Where that can't be, the run is taken for ended a little early, and its
/// files are kept as long as anybody uses them.
fn lock(path: &Path) -> Option<File> {
    let file = File::open(path).ok()?;
    flock(&file, FlockOperation::NonBlockingLockShared).ok()?;
    Some(file)
}

/// Whether somebody keeps the file locked.
fn is_locked(path: &Path) -> bool {
    File::open(path).is_ok_and(|file| flock(&file, FlockOperation::NonBlockingLockExclusive).is_err())
}

/// Removes a run's control file and what is beside it, or its limits file; true if there was one. What can't be removed
/// is empty and in nobody's way.
fn remove(directory: &Directory, name: &OsStr) -> bool {
    let removed = fs::remove_file(directory.through(name)).is_ok();
    let _ = fs::remove_file(limits_beside(&directory.through(name)));
    let _ = fs::remove_file(suspension_record(&directory.through(name)));
    removed
}

/// Whether some process may have been started with the control file `name` or the limits file beside it.
fn may_be_named(environments: &Environments, directory: &Directory, name: &OsStr) -> bool {
    let path = directory.path().join(name);
    environments.may_name(&path) || environments.may_name(&limits_beside(&path))
}

/// Whose processes may be meant to use a directory's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sight {
    /// This user's: what other users' processes hide is none of this directory.
    OwnUser,
    /// Any user's: nothing is removed unless every process lets us look.
    AllUsers,
}

/// Removes the files of runs that have ended and left no program; returns how many runs that were.
///
/// Only where this process sees those that may use the files: not from a container whose directory others share.
pub fn remove_ended(directory: &Directory, sight: Sight) -> usize {
    let Ok(entries) = directory.entries(MOST) else { return 0 };
    let unused: Vec<OsString> = entries
        .files
        .into_iter()
        .filter(|name| has_lost_its_starter(directory, name) && !is_in_use(directory, name))
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
        let is_needed =
            may_be_named(&environments, directory, &name) || !has_lost_its_starter(directory, &name);
        if !is_needed && remove(directory, &name) {
            removed += 1;
        }
    }
    removed
}

/// Whether this is a run's control file, or the limits file of one that shares another's, and its `vcuda run` has gone.
fn has_lost_its_starter(directory: &Directory, name: &OsStr) -> bool {
    let Some(text) = name.to_str() else { return false };
    let control = text.strip_suffix(LIMITS_SUFFIX).unwrap_or(text);
    if is_limits_file(name) && directory.through(OsStr::new(control)).exists() {
        // Goes with the control file.
        return false;
    }
    let starter = control.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
    match starter {
        Some(pid) => !Path::new(&format!("/proc/{pid}")).exists(),
        None => {
            let is_run = limits_beside(&directory.through(OsStr::new(control))).symlink_metadata().is_ok();
            is_run && !is_locked(&directory.through(name))
        }
    }
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
    fn a_named_run_keeps_its_files_while_it_lives_and_its_name_to_itself() {
        let directory = tempfile::tempdir().unwrap();
        let opened = Directory::open(directory.path()).unwrap();
        let [control, limits] = ["trainer", "trainer.limits.json"].map(|name| directory.path().join(name));
        drop(Control::open_or_create(&control).unwrap());
        assert_eq!(remove_ended(&opened, Sight::OwnUser), 0, "a control file of that name that no run made");
        fs::write(&limits, "{}").unwrap();
        let files = RunFiles {
            _lock: lock(&control),
            control: control.clone(),
            owns_control: true,
            limits: limits.clone(),
        };
        assert_eq!(remove_ended(&opened, Sight::OwnUser), 0);
        assert!(is_taken(&control));
        drop(files);
        assert_eq!(remove_ended(&opened, Sight::OwnUser), 1);
        assert!(!control.exists() && !limits.exists());

        fs::write(&limits, "{}").unwrap();
        let lock = lock(&limits);
        assert_eq!(remove_ended(&opened, Sight::OwnUser), 0, "of a run that shares a control file");
        drop(lock);
        assert_eq!(remove_ended(&opened, Sight::OwnUser), 1);
        assert!(!limits.exists());
    }

    #[test]
    fn a_runs_own_files_go_when_the_run_ends() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(format!("run-{}", std::process::id()));
        let control = Control::open_or_create(&path).unwrap();
        let slot = control.claim("left behind").unwrap();
        let retire = || {
            let files = RunFiles {
                control: path.clone(),
                owns_control: true,
                limits: limits_beside(&path),
                _lock: None,
            };
            files.retire();
        };
        fs::write(limits_beside(&path), "{}").unwrap();
        retire();
        assert!(path.exists());
        drop(slot);
        retire();
        assert!(!path.exists() && !limits_beside(&path).exists());
    }
}
