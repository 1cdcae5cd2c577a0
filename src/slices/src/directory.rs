//! A directory of control files that somebody else may own and change while it is read.
//!
//! Owns the step from a name to what it names. Everything in the directory is reached through a descriptor of it
//! (`/proc/self/fd/N/NAME`), so that an owner who replaces the directory by a link meanwhile can't lead a privileged
//! reader to files or device nodes elsewhere.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// An open directory.
pub struct Directory {
    handle: File,
    path: PathBuf,
}

/// What a directory has, see [`Directory::entries`].
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Entries {
    /// Names of regular files, sorted.
    pub files: Vec<OsString>,
    /// Names of directories, sorted.
    pub directories: Vec<OsString>,
    /// Whether there are more of either.
    pub is_cut: bool,
}

impl Directory {
    /// Opens `path`, which must not be a link.
    ///
    /// # Errors
    /// The system's.
    pub fn open(path: &Path) -> io::Result<Self> {
        Self::open_as(path, path.to_owned())
    }

    /// Opens the directory `name` in this one, which must not be a link.
    ///
    /// # Errors
    /// The system's.
    pub fn open_in(&self, name: &OsStr) -> io::Result<Self> {
        Self::open_as(&self.through(name), self.path.join(name))
    }

    fn open_as(path: &Path, shown: PathBuf) -> io::Result<Self> {
        let flags = libc::O_DIRECTORY | libc::O_NOFOLLOW;
        let handle = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
        Ok(Self { handle, path: shown })
    }

    /// Where it was found, for people.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The user it belongs to.
    ///
    /// # Errors
    /// The system's.
    pub fn owner(&self) -> io::Result<u32> {
        Ok(self.handle.metadata()?.uid())
    }

    /// The path to open `name` by, for as long as this lives.
    pub fn through(&self, name: &OsStr) -> PathBuf {
        self.itself().join(name)
    }

    /// At most `most` files and `most` directories, without those whose names begin with a dot. Links and all else are
    /// left out.
    ///
    /// # Errors
    /// The system's.
    pub fn entries(&self, most: usize) -> io::Result<Entries> {
        /// Names to look at for each one that may be taken, so that a directory of a million links ends.
        const LOOKS: usize = 4;
        let mut found = Entries::default();
        for (position, entry) in fs::read_dir(self.itself())?.enumerate() {
            let Ok(entry) = entry else { break };
            if position >= most.saturating_mul(LOOKS) {
                found.is_cut = true;
                break;
            }
            let name = entry.file_name();
            let Ok(kind) = entry.file_type() else { continue };
            let list = match kind {
                kind if kind.is_file() => &mut found.files,
                kind if kind.is_dir() => &mut found.directories,
                _ => continue,
            };
            if name.as_encoded_bytes().starts_with(b".") {
                continue;
            }
            if list.len() < most {
                list.push(name);
            } else {
                found.is_cut = true;
            }
        }
        found.files.sort();
        found.directories.sort();
        Ok(found)
    }

    fn itself(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.handle.as_raw_fd()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn files_and_directories_are_told_apart_and_links_left_out() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("share")).unwrap();
        for name in ["b", "a", ".hidden"] {
            fs::write(directory.path().join(name), name).unwrap();
        }
        symlink("a", directory.path().join("link")).unwrap();
        symlink("share", directory.path().join("other")).unwrap();
        let opened = Directory::open(directory.path()).unwrap();
        let entries = opened.entries(10).unwrap();
        assert_eq!(entries.files, ["a", "b"]);
        assert_eq!(entries.directories, ["share"]);
        assert!(!entries.is_cut);
        assert!(opened.open_in(OsStr::new("other")).is_err(), "a link was followed");
        assert_eq!(
            opened.open_in(OsStr::new("share")).unwrap().path(),
            directory.path().join("share"),
            "the path is the one that people know"
        );
    }

    #[test]
    fn no_more_is_listed_than_asked_for() {
        let directory = tempfile::tempdir().unwrap();
        for number in 0..10 {
            fs::write(directory.path().join(number.to_string()), "").unwrap();
        }
        let opened = Directory::open(directory.path()).unwrap();
        let entries = opened.entries(3).unwrap();
        assert_eq!((entries.files.len(), entries.is_cut), (3, true));
        assert!(!opened.entries(10).unwrap().is_cut);
    }

    #[test]
    fn a_directory_replaced_by_a_link_still_is_the_one_that_was_opened() {
        let parent = tempfile::tempdir().unwrap();
        let (path, elsewhere) = (parent.path().join("mine"), parent.path().join("elsewhere"));
        for directory in [&path, &elsewhere] {
            fs::create_dir(directory).unwrap();
            fs::write(directory.join("file"), directory.as_os_str().as_encoded_bytes()).unwrap();
        }
        let opened = Directory::open(&path).unwrap();
        fs::rename(&path, parent.path().join("moved")).unwrap();
        symlink(&elsewhere, &path).unwrap();
        let read = fs::read(opened.through(OsStr::new("file"))).unwrap();
        assert_eq!(read, path.as_os_str().as_encoded_bytes());
        assert!(Directory::open(&path).is_err(), "a link was opened");
    }
}
