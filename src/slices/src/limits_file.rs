//! The limits files of a slice: which they are, and changing them.
//!
//! A limits file names the control file that its limits count in, and never the other way round: whoever runs in a slice
//! can write whatever he likes into its control file, and must not thereby lead a privileged `vcuda set` to another's
//! limits. For the same reason a link, which is how a run says that its limits are in a file of its user's choice, is
//! followed to files of the link's owner only.

use crate::find::{files_of_user, share_of, shares_directory};
use rustix::fs::{FlockOperation, fcntl_lock};
use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use vcuda_core::limits::{
    LIMITS_FILE_VARIABLE, Limits, LimitsError, MAX_FILE_BYTES, SYSTEM_FILE, Source, parse_file, patiently,
    rewrite,
};
use vcuda_core::location::default_path_to_read;

/// What the name of a run's limits file ends with.
pub const LIMITS_SUFFIX: &str = ".limits.json";

/// Whether a file of this name is a run's limits file.
pub fn is_limits_file(name: &OsStr) -> bool {
    name.as_encoded_bytes().ends_with(LIMITS_SUFFIX.as_bytes())
}

/// A limits file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitsFile {
    /// Where it is.
    pub path: PathBuf,
    /// Who may have led us there: the user whose link was followed.
    led_by: Option<u32>,
}

/// Why a limits file can't be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum LimitsFileError {
    /// It belongs to others.
    #[error("{} belongs to {}: ask there, or try sudo vcuda set", .path.display(), user_name(*.owner))]
    Forbidden {
        /// The file.
        path: PathBuf,
        /// The user it belongs to.
        owner: u32,
    },
    /// It is mounted so that it can't be written.
    #[error(
        "{} is read-only here; limits are changed where they come from, such as on the container's host",
        .0.display()
    )]
    ReadOnly(PathBuf),
    /// Somebody else's link leads to it.
    #[error(
        "a link of {}'s leads to {}, which is {}'s; if that is right, name the file itself",
        user_name(*.by),
        .path.display(),
        user_name(*.owner)
    )]
    Misled {
        /// The file.
        path: PathBuf,
        /// The user it belongs to.
        owner: u32,
        /// The user whose link was followed.
        by: u32,
    },
    /// The system has another reason.
    #[error("can't {action} {}: {source}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was being done.
        action: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// What it says is wrong already, or would be.
    #[error(transparent)]
    Limits(#[from] LimitsError),
}

impl LimitsFile {
    /// The file at `path`.
    pub fn at(path: &Path) -> LimitsFile {
        LimitsFile { path: path.to_owned(), led_by: None }
    }

    /// Reads what it says.
    ///
    /// # Errors
    /// [`LimitsFileError`].
    pub fn read(&self) -> Result<Limits, LimitsFileError> {
        let file = self.open(false)?;
        if is_fresh(&file) { patiently(|| self.parse(&file)) } else { self.parse(&file) }
    }

    /// The user it belongs to, and its permissions.
    ///
    /// # Errors
    /// The system's.
    pub fn owner_and_mode(&self) -> io::Result<(u32, u32)> {
        let metadata = fs::metadata(&self.path)?;
        Ok((metadata.uid(), metadata.mode() & 0o7777))
    }

    /// Rewrites it by `change`, and gives what it said before and says now. Nothing is written if that is the same.
    ///
    /// # Errors
    /// [`LimitsFileError`]; the file says what it said.
    pub fn change(
        &self,
        change: impl FnOnce(&mut Limits) -> Result<(), LimitsError>,
    ) -> Result<(Limits, Limits), LimitsFileError> {
        let file = self.open(true)?;
        lock(&file);
        let before = self.parse(&file)?;
        let mut after = before.clone();
        change(&mut after)?;
        let text = after.to_text();
        if text != before.to_text() {
            rewrite(&file, text.as_bytes()).map_err(|error| self.io("write", error))?;
        }
        Ok((before, after))
    }

    fn open(&self, for_change: bool) -> Result<File, LimitsFileError> {
        let flags = libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_NOFOLLOW;
        let opened = OpenOptions::new().read(true).write(for_change).custom_flags(flags).open(&self.path);
        let file = opened.map_err(|error| match error.kind() {
            ErrorKind::ReadOnlyFilesystem => LimitsFileError::ReadOnly(self.path.clone()),
            ErrorKind::PermissionDenied => {
                let owner = fs::metadata(&self.path).map_or(0, |metadata| metadata.uid());
                LimitsFileError::Forbidden { path: self.path.clone(), owner }
            }
            _ => self.io("open", error),
        })?;
        let metadata = file.metadata().map_err(|error| self.io("examine", error))?;
        if !metadata.is_file() {
            return Err(self.io("use", io::Error::other("it is no regular file")));
        }
        match self.led_by {
            // By one's own links one misleads nobody but oneself.
            Some(by) if by != metadata.uid() && by != rustix::process::geteuid().as_raw() => {
                Err(LimitsFileError::Misled { path: self.path.clone(), owner: metadata.uid(), by })
            }
            _ => Ok(file),
        }
    }

    fn parse(&self, file: &File) -> Result<Limits, LimitsFileError> {
        let bytes = file.metadata().map_err(|error| self.io("examine", error))?.len();
        // One more than there may be is an error of the parser's.
        let mut text = vec![0; usize::try_from(bytes).unwrap_or(usize::MAX).min(MAX_FILE_BYTES + 1)];
        let length = file.read_at(&mut text, 0).map_err(|error| self.io("read", error))?;
        text.truncate(length);
        Ok(parse_file(&self.path, Source::File(self.path.clone()), &text)?)
    }

    fn io(&self, action: &'static str, source: io::Error) -> LimitsFileError {
        LimitsFileError::Io { path: self.path.clone(), action, source }
    }
}

/// Whether somebody may be writing the file just now. Of files that have long been wrong there may be many, made by
/// somebody who wishes their readers ill.
fn is_fresh(file: &File) -> bool {
    const LONGEST: Duration = Duration::from_secs(1);
    let changed = file.metadata().and_then(|metadata| metadata.modified());
    // In the future is as good as now.
    changed.is_ok_and(|changed| changed.elapsed().map_or(true, |age| age < LONGEST))
}

/// Keeps others that would rewrite the file away for as long as it is open: two that change it at once would lose one of
/// the changes. Waits for a second, in which anybody honest is done, and goes on without: whoever may only read the file can
/// lock it as well, and must not thereby keep his limits from being changed.
fn lock(file: &File) {
    const LONGEST: Duration = Duration::from_secs(1);
    let begun = Instant::now();
    while fcntl_lock(file, FlockOperation::NonBlockingLockExclusive).is_err() && begun.elapsed() < LONGEST {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// What a share's limits file is called, beside its control file.
const SHARE_LIMITS: &str = "limits.json";

/// The limits files that the programs of a slice go by: of a share its own; else the one beside its control file, those of other runs of its owner
/// or of this user that share it, the system's, and the one that this process is told of.
pub fn of_slice(control_file: &Path) -> Vec<LimitsFile> {
    if share_of(control_file).is_some() {
        return of_share(control_file).into_iter().collect();
    }
    let mut beside = control_file.as_os_str().to_owned();
    beside.push(LIMITS_SUFFIX);
    let mut found: Vec<LimitsFile> = follow(Path::new(&beside)).into_iter().collect();
    let owner = fs::symlink_metadata(control_file).map(|metadata| metadata.uid());
    let users: HashSet<u32> = owner.into_iter().chain([rustix::process::geteuid().as_raw()]).collect();
    let mut others: Vec<PathBuf> = users
        .into_iter()
        .flat_map(files_of_user)
        .filter(|path| path.file_name().is_some_and(is_limits_file) && path.as_os_str() != beside)
        .collect();
    others.extend(std::env::var_os(LIMITS_FILE_VARIABLE).map(PathBuf::from));
    let names = |file: &LimitsFile| file.read().is_ok_and(|limits| limits.names(control_file));
    found.extend(others.iter().filter_map(|path| follow(path)).filter(names));
    let system = LimitsFile::at(Path::new(SYSTEM_FILE));
    let is_default = control_file == default_path_to_read();
    if system
        .read()
        .is_ok_and(|limits| limits.names(control_file) || limits.control_file.is_none() && is_default)
    {
        found.push(system);
    }
    let mut seen = HashSet::new();
    found.retain(|file| seen.insert(file.path.clone()));
    found
}

/// In the share's container, the file is elsewhere; and on the machine, where control files are in memory.
fn of_share(control_file: &Path) -> Option<LimitsFile> {
    let here = Limits::of_this_process();
    let mut parts = here.iter().flat_map(Limits::parts).filter(|limits| limits.names(control_file));
    match parts.next().map(Limits::source) {
        Some(Source::Share(path)) => Some(LimitsFile::at(path)),
        _ => follow(&control_file.with_file_name(SHARE_LIMITS)).or_else(|| {
            let share = shares_directory().join(share_of(control_file)?);
            follow(&share.join(SHARE_LIMITS))
        }),
    }
}

/// The regular file at `path`, or the one that the link at `path` leads to.
fn follow(path: &Path) -> Option<LimitsFile> {
    let metadata = path.symlink_metadata().ok()?;
    if metadata.is_file() {
        // In another user's directory it is that user who leads us here.
        let led_by = path.parent().and_then(|directory| directory.metadata().ok()).map(|found| found.uid());
        return Some(LimitsFile { path: path.to_owned(), led_by });
    }
    let target = fs::canonicalize(path).ok().filter(|_| metadata.is_symlink())?;
    Some(LimitsFile { path: target, led_by: Some(metadata.uid()) })
}

/// A user's name for people.
pub fn user_name(user: u32) -> String {
    let known = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = known.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == user.to_string()).then(|| name.to_owned())
    });
    name.unwrap_or_else(|| format!("user {user}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn limits(text: &str) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("job.limits.json"), text).unwrap();
        directory
    }

    #[test]
    fn a_slices_limits_are_beside_it_or_where_a_link_says() {
        let directory = limits(r#"{"version":1,"default":{"memory":"1GiB"}}"#);
        let [job, file] = ["job", "job.limits.json"].map(|name| directory.path().join(name));
        assert_eq!(of_slice(&job).iter().map(|file| &file.path).collect::<Vec<_>>(), [&file]);
        let elsewhere = directory.path().join("elsewhere.json");
        fs::rename(&file, &elsewhere).unwrap();
        assert_eq!(of_slice(&job), []);
        symlink(&elsewhere, &file).unwrap();
        let [found] = &of_slice(&job)[..] else { panic!("not found") };
        assert_eq!(found.path, elsewhere.canonicalize().unwrap());
        assert!(found.read().is_ok());
    }

    #[test]
    fn a_change_is_written_and_a_mistake_leaves_the_file_alone() {
        let directory = limits("{\"version\":1,\n\"default\":{\"memory\":\"1GiB\"}}");
        let path = directory.path().join("job.limits.json");
        let file = LimitsFile::at(&path);
        let text = || fs::read_to_string(&path).unwrap();
        let before = text();
        file.change(|_| Ok(())).unwrap();
        assert_eq!(text(), before, "nothing to change");
        let (old, new) = file
            .change(|limits| {
                limits.remove_memory();
                Ok(())
            })
            .unwrap();
        assert_eq!((old.memory_text().as_str(), new.memory_text().as_str()), ("1GiB of every GPU", "none"));
        assert_eq!(text(), "{ \"version\": 1 }\n");
        fs::write(&path, "{").unwrap();
        assert!(matches!(file.change(|_| Ok(())), Err(LimitsFileError::Limits(_))));
        assert_eq!(text(), "{");
    }

    #[test]
    fn a_lock_is_waited_for_and_keeps_nobody_out() {
        let directory = limits(r#"{"version":1}"#);
        let path = directory.path().join("job.limits.json");
        let set = |text: &str| {
            let change = parse_file(&path, Source::SystemFile, text.as_bytes()).unwrap();
            LimitsFile::at(&path).change(|limits| limits.change(&change)).unwrap();
        };
        // POSIX locks are a process's, so others have to be processes: here one, which reads the file and locks it.
        let script = "import fcntl, sys; f = open(sys.argv[1]); fcntl.lockf(f, fcntl.LOCK_SH); print(1, flush=True); input()";
        let mut other = std::process::Command::new("python3")
            .args(["-c", script])
            .arg(&path)
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = [0; 2];
        std::io::Read::read_exact(other.stdout.as_mut().unwrap(), &mut line).unwrap();
        let begun = Instant::now();
        set(r#"{"version":1,"devices":{"0":{"memory":"1GiB"}}}"#);
        assert!(begun.elapsed() >= Duration::from_millis(900), "it waited: {:?}", begun.elapsed());
        drop(other.stdin.take());
        other.wait().unwrap();
        let begun = Instant::now();
        set(r#"{"version":1,"devices":{"1":{"memory":"2GiB"}}}"#);
        assert!(begun.elapsed() < Duration::from_millis(500));
        let now = LimitsFile::at(&path).read().unwrap();
        assert_eq!(now.memory_text(), "1GiB of GPU 0, 2GiB of GPU 1");
    }

    #[test]
    fn a_link_of_somebody_elses_leads_nowhere() {
        let directory = limits(r#"{"version":1}"#);
        let path = directory.path().join("job.limits.json");
        let stranger = rustix::process::geteuid().as_raw() + 1;
        let misled = LimitsFile { path: path.clone(), led_by: Some(stranger) };
        let error = misled.change(|_| Ok(())).unwrap_err();
        assert!(matches!(error, LimitsFileError::Misled { .. }), "{error}");
        let through = directory.path().join("link.json");
        symlink(&path, &through).unwrap();
        assert!(LimitsFile::at(&through).read().is_err(), "what is named must be the file itself");
    }
}
