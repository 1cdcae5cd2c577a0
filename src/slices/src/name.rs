//! Slices as people name them.
//!
//! A slice is its control file. Those in a user's own directory have short names, the files' own, and so have shares; any
//! other is named by its path. A process id means the slice that the process counts in.

use crate::find::{USER_DIRECTORY_PARENTS, find, owner_of, share_of};
use crate::limits_file::is_limits_file;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use vcuda_core::control::Control;
use vcuda_core::identity::pid_namespace_of_this_process;

/// What a slice may be called.
pub(crate) const USABLE: &str = "write letters, digits, dots, dashes and underscores, beginning with a letter, at most 64 of them, such as trainer-2";

/// Whether a slice may be called so: nothing that reads as a path, a process id, or another kind of file.
pub(crate) fn is_usable(name: &str) -> bool {
    let is_good = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    name.len() <= 64
        && name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.chars().all(is_good)
        && !is_limits_file(OsStr::new(name))
        && name != "control"
}

/// The short name of a slice and the user in whose directory it is; `None` for a share, which is everybody's.
fn short_name(control_file: &Path) -> Option<(&str, Option<u32>)> {
    if let Some(share) = share_of(control_file) {
        return Some((share, None));
    }
    let directory = control_file.parent()?;
    let is_known = USER_DIRECTORY_PARENTS.iter().any(|parent| directory.parent() == Some(Path::new(parent)));
    let owner = owner_of(directory.file_name()?).filter(|_| is_known)?;
    Some((control_file.file_name()?.to_str()?, Some(owner)))
}

/// A slice's name: short where it has one, whosever it is.
pub fn name_of(control_file: &Path) -> String {
    short_name(control_file).map_or_else(|| control_file.display().to_string(), |(name, _)| name.to_owned())
}

/// A slice's name as this user may type it: short if it is his own.
pub fn shown_name(control_file: &Path) -> String {
    match short_name(control_file) {
        Some((name, owner)) if owner.is_none_or(|owner| owner == rustix::process::geteuid().as_raw()) => {
            name.to_owned()
        }
        _ => control_file.display().to_string(),
    }
}

/// What a text that names a slice means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// A slice, by its control file.
    Slice(PathBuf),
    /// A limits file.
    Limits(PathBuf),
}

/// Why a text names no slice.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum LookupError {
    /// Nothing of that name.
    #[error("there is no slice {text}; {}", the_slices_are(.known))]
    None {
        /// What was asked for.
        text: String,
        /// The names there are.
        known: Vec<String>,
    },
    /// No process of that id.
    #[error("process {pid} is in no slice; {}", the_slices_are(.known))]
    NoProcess {
        /// The process id.
        pid: u32,
        /// The names there are.
        known: Vec<String>,
    },
    /// More than one user has a slice of that name.
    #[error("{text} is the name of several slices: write one of {}", .paths.join(", "))]
    Several {
        /// What was asked for.
        text: String,
        /// The paths.
        paths: Vec<String>,
    },
}

fn the_slices_are(known: &[String]) -> String {
    if known.is_empty() {
        "there are none; start one with vcuda run --memory 4GiB -- COMMAND".to_owned()
    } else {
        format!("there are {}", known.join(", "))
    }
}

/// Finds the slice that `text` names: by a path of its control file or of a limits file, by the id of a process in
/// it, or by its name.
///
/// # Errors
/// [`LookupError`]. Whether a path leads to what it says is for its reader to find out.
pub fn find_named(text: &str) -> Result<Found, LookupError> {
    if text.contains('/') || text.ends_with(".json") {
        let path = std::path::absolute(text).unwrap_or_else(|_| text.into());
        let is_limits = path.extension() == Some(OsStr::new("json"));
        return Ok(if is_limits { Found::Limits(path) } else { Found::Slice(path) });
    }
    let slices: Vec<PathBuf> =
        find(&[]).into_iter().filter(|path| Control::open_existing(path).is_ok()).collect();
    let known = || slices.iter().map(|path| shown_name(path)).collect();
    if let Ok(pid) = text.parse() {
        let slice = slices.iter().find(|path| has_process(path, pid));
        return slice
            .cloned()
            .map(Found::Slice)
            .ok_or_else(|| LookupError::NoProcess { pid, known: known() });
    }
    let own = rustix::process::geteuid().as_raw();
    let mut named: Vec<&PathBuf> =
        slices.iter().filter(|path| short_name(path).is_some_and(|(name, _)| name == text)).collect();
    if named.iter().any(|path| is_of(path, own)) {
        named.retain(|path| is_of(path, own));
    }
    match named[..] {
        [] => Err(LookupError::None { text: text.to_owned(), known: known() }),
        [path] => Ok(Found::Slice(path.clone())),
        _ => {
            let paths = named.iter().map(|path| path.display().to_string()).collect();
            Err(LookupError::Several { text: text.to_owned(), paths })
        }
    }
}

fn is_of(control_file: &Path, user: u32) -> bool {
    short_name(control_file).is_some_and(|(_, owner)| owner.is_none_or(|owner| owner == user))
}

/// Whether a living process of this id, as it is known here, counts in the file.
fn has_process(control_file: &Path, pid: u32) -> bool {
    let here = pid_namespace_of_this_process();
    let snapshot = Control::open_existing(control_file).ok().and_then(|control| control.snapshot().ok());
    snapshot.is_some_and(|snapshot| {
        snapshot.processes.iter().any(|process| {
            let identity = &process.identity;
            process.alive != Some(false) && identity.pid == pid && identity.pid_namespace == here
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_can_be_typed_and_means_nothing_else() {
        for name in ["trainer", "run-17", "A_b.c-2", "t"] {
            assert!(is_usable(name), "{name}");
        }
        let long = "x".repeat(65);
        for name in ["", "17", "-m", ".hidden", "a/b", "a b", "ä", "x.limits.json", "control", &long] {
            assert!(!is_usable(name), "{name}");
        }
    }

    #[test]
    fn only_files_of_users_directories_have_short_names() {
        assert_eq!(name_of(Path::new("/dev/shm/vcuda-7/run-9")), "run-9");
        assert_eq!(name_of(Path::new("/tmp/vcuda-7/control")), "control");
        for path in ["/srv/dev/shm/vcuda-7/run-9", "/dev/shm/vcuda-x/run-9", "/dev/shm/run-9", "/"] {
            assert_eq!(name_of(Path::new(path)), path);
        }
        let own = rustix::process::geteuid().as_raw();
        assert_eq!(shown_name(Path::new(&format!("/dev/shm/vcuda-{own}/a"))), "a");
        let other = format!("/dev/shm/vcuda-{}/a", own + 1);
        assert_eq!(shown_name(Path::new(&other)), other);
    }

    #[test]
    fn shares_are_everybodys() {
        for path in ["/var/lib/vcuda/shares/half/control", "/run/vcuda/shares/half/control"] {
            assert_eq!(
                (name_of(Path::new(path)), shown_name(Path::new(path))),
                ("half".into(), "half".into())
            );
        }
        for path in [
            "/var/lib/vcuda/shares/half/limits.json",
            "/var/lib/vcuda/shares/.half.new/control",
            "/var/lib/vcuda/shares/control",
            "/srv/vcuda/shares/half/control",
        ] {
            assert_eq!(name_of(Path::new(path)), path);
        }
    }

    #[test]
    fn paths_are_taken_at_their_word() {
        assert_eq!(find_named("/srv/share/control"), Ok(Found::Slice("/srv/share/control".into())));
        assert_eq!(find_named("/srv/share/limits.json"), Ok(Found::Limits("/srv/share/limits.json".into())));
        let error = find_named("no-such-slice").unwrap_err().to_string();
        assert!(error.starts_with("there is no slice no-such-slice; there are "), "{error}");
        let error = find_named("4294967295").unwrap_err().to_string();
        assert!(error.starts_with("process 4294967295 is in no slice; "), "{error}");
    }
}
