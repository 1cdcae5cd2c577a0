//! Where control files are looked for: the directories of all users, and those given by option.
//!
//! Owns the walk and its bounds. Directories may belong to people who wish us ill: they are reached by descriptor, and
//! none of them can make the walk long or keep it from the others.

use std::collections::{BTreeMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::labels::Labels;
use crate::options::Options;
use vcuda_slices::directory::Directory;
use vcuda_slices::owner_of;

/// Users' directories in one parent.
const MOST_USERS: usize = 4096;
/// Control files of one user.
const MOST_FILES: usize = 1024;
/// Control files in a directory given by option, and directories in it.
const MOST_SHARES: usize = 4096;
/// How long one user's directory may take before the rest of it is left for another time.
const PATIENCE: Duration = Duration::from_millis(500);
/// Name of the control file in a directory for one share.
const CONTROL: &str = "control";

/// What is looked through.
#[derive(Clone, Debug, Default)]
pub struct Places {
    /// Where users' own directories `vcuda-UID` are.
    pub users_under: Vec<PathBuf>,
    /// Where the machine's shares are, if it has any.
    pub shares: PathBuf,
    /// Directories of control files, and of directories with one each.
    pub directories: Vec<PathBuf>,
}

/// A file that may be a control file.
pub struct Found<'a> {
    /// Where it is.
    pub directory: &'a Directory,
    /// Its name there.
    pub name: &'a OsStr,
    /// Its labels.
    pub labels: Labels,
    /// Why there may be fewer labels than somebody meant there to be.
    pub complaint: Option<String>,
    /// Whether it is a control file or a mistake. Elsewhere, there may be other files beside control files.
    pub is_expected: bool,
}

impl Found<'_> {
    /// Where it is, for people.
    pub fn path(&self) -> PathBuf {
        self.directory.path().join(self.name)
    }
}

/// What the walk takes what it meets to.
pub trait Visitor {
    /// A file that may be a control file.
    fn file(&mut self, found: Found<'_>);
    /// All files of a user's own directory have been seen.
    fn end_of_user(&mut self, directory: &Directory);
}

/// How the walk went.
#[derive(Debug, Default)]
pub struct Walked {
    /// Every directory that was to be looked into, and what kept us out.
    pub directories: BTreeMap<PathBuf, Result<(), String>>,
    /// Files and directories beyond the bounds; at least that many.
    pub left_out: u64,
}

impl Places {
    /// Those that `options` name.
    pub fn of(options: &Options) -> Self {
        Self {
            users_under: options.users_under.clone(),
            shares: options.shares.clone(),
            directories: options.directory.clone(),
        }
    }

    /// Where control files may be now, by their names alone: cheap enough to be asked often. Nothing says that there is one.
    pub fn list(&self) -> HashSet<PathBuf> {
        let mut paths = HashSet::new();
        for parent in &self.users_under {
            let names = Directory::open(parent).and_then(|directory| directory.entries(MOST_USERS));
            for name in names.unwrap_or_default().directories {
                let Some(user) = owner_of(&name) else { continue };
                let Ok(directory) = Directory::open(&parent.join(&name)) else { continue };
                if directory.owner().is_ok_and(|owner| owner == user) {
                    let files = directory.entries(MOST_FILES).unwrap_or_default().files;
                    paths.extend(files.into_iter().map(|name| directory.path().join(name)));
                }
            }
        }
        for path in self.parents_of_shares() {
            let entries = Directory::open(path).and_then(|directory| directory.entries(MOST_SHARES));
            let entries = entries.unwrap_or_default();
            paths.extend(entries.files.into_iter().map(|name| path.join(name)));
            paths.extend(entries.directories.into_iter().map(|name| {
                let path = path.join(name).join(CONTROL);
                fs::read_link(&path).unwrap_or(path)
            }));
        }
        paths
    }

    /// Walks through all of them.
    pub fn walk(&self, visitor: &mut impl Visitor) -> Walked {
        let mut walked = Walked::default();
        for parent in &self.users_under {
            let names = walked.enter(parent, || {
                let entries = Directory::open(parent)?.entries(MOST_USERS)?;
                Ok((entries.directories, entries.is_cut))
            });
            for name in names.unwrap_or_default() {
                if let Some(user) = owner_of(&name) {
                    walked.user(&parent.join(&name), user, visitor);
                }
            }
        }
        for path in self.parents_of_shares() {
            walked.shares(path, visitor);
        }
        walked
    }

    /// Where control files and directories with one each are.
    fn parents_of_shares(&self) -> impl Iterator<Item = &PathBuf> {
        // With the first share comes its directory; named as another one, too, it is read once.
        let shares = Some(&self.shares).filter(|path| path.is_dir() && !self.directories.contains(path));
        self.directories.iter().chain(shares)
    }
}

impl Walked {
    /// Notes whether `path` could be entered, and whether not all of it was listed.
    fn enter<T>(&mut self, path: &Path, enter: impl FnOnce() -> io::Result<(T, bool)>) -> Option<T> {
        let entered = enter();
        self.directories.insert(path.to_owned(), entered.as_ref().map(|_| ()).map_err(ToString::to_string));
        let (value, is_cut) = entered.ok()?;
        self.left_out += u64::from(is_cut);
        Some(value)
    }

    fn user(&mut self, path: &Path, user: u32, visitor: &mut impl Visitor) {
        let entered = self.enter(path, || {
            let directory = Directory::open(path)?;
            if directory.owner()? != user {
                return Err(io::Error::other(format!("does not belong to user {user}")));
            }
            let entries = directory.entries(MOST_FILES)?;
            Ok(((directory, entries.files), entries.is_cut))
        });
        let Some((directory, files)) = entered else { return };
        let start = Instant::now();
        for (position, name) in files.iter().enumerate() {
            if start.elapsed() > PATIENCE {
                self.left_out += (files.len() - position) as u64;
                break;
            }
            let share = format!("vcuda-{user}/{}", name.to_string_lossy());
            let labels = Labels::of(share);
            visitor.file(Found { directory: &directory, name, labels, complaint: None, is_expected: false });
        }
        visitor.end_of_user(&directory);
    }

    fn shares(&mut self, path: &Path, visitor: &mut impl Visitor) {
        let entered = self.enter(path, || {
            let directory = Directory::open(path)?;
            let entries = directory.entries(MOST_SHARES)?;
            let is_cut = entries.is_cut;
            Ok(((directory, entries), is_cut))
        });
        let Some((directory, entries)) = entered else { return };
        for name in &entries.files {
            let labels = Labels::of(name.to_string_lossy());
            visitor.file(Found { directory: &directory, name, labels, complaint: None, is_expected: false });
        }
        for name in &entries.directories {
            self.share(&directory, name, visitor);
        }
    }

    fn share(&mut self, parent: &Directory, name: &OsString, visitor: &mut impl Visitor) {
        let directory = match parent.open_in(name) {
            Ok(directory) => directory,
            // It may have gone since it was listed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => {
                self.directories.insert(parent.path().join(name), Err(error.to_string()));
                return;
            }
        };
        let share = name.to_string_lossy();
        let (labels, complaint) = match Labels::read(&directory, &share) {
            Ok(labels) => (labels, None),
            Err(complaint) => (Labels::of(share), Some(complaint)),
        };
        let name = OsStr::new(CONTROL);
        let led_to = match led_to(&directory) {
            Ok(led_to) => led_to,
            // Of a machine that was just started: it is made anew before anything runs in the share.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => {
                self.directories.insert(directory.path().to_owned(), Err(error.to_string()));
                return;
            }
        };
        let directory = led_to.unwrap_or(directory);
        visitor.file(Found { directory: &directory, name, labels, complaint, is_expected: true });
    }
}

/// The directory of the control file that a link in a share's directory leads to; `None` if the control file is there
/// itself. A link is followed only where nobody but root and this agent's user could have made it.
fn led_to(share: &Directory) -> io::Result<Option<Directory>> {
    let link = share.through(OsStr::new(CONTROL));
    let Ok(target) = fs::read_link(&link) else { return Ok(None) };
    let own = fs::metadata("/proc/self")?.uid();
    let made_by = fs::symlink_metadata(&link)?.uid();
    let is_trusted = [made_by, share.owner()?].iter().all(|user| [0, own].contains(user));
    match target.parent().filter(|_| target.is_absolute() && target.file_name() == Some(OsStr::new(CONTROL)))
    {
        Some(parent) if is_trusted => Directory::open(parent).map(Some),
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[derive(Default)]
    struct Seen {
        files: Vec<(String, PathBuf)>,
        users: Vec<PathBuf>,
    }

    impl Visitor for Seen {
        fn file(&mut self, found: Found<'_>) {
            self.files.push((found.labels.share.clone(), found.path()));
        }

        fn end_of_user(&mut self, directory: &Directory) {
            self.users.push(directory.path().to_owned());
        }
    }

    #[test]
    fn users_and_shares_are_found_and_the_rest_is_told() {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        let own = fs::metadata(root.path()).unwrap().uid();
        for directory in
            [format!("shm/vcuda-{own}"), "shm/vcuda-4000000".to_owned(), "shm/vcuda-x".to_owned()]
        {
            fs::create_dir_all(path(&directory)).unwrap();
            fs::write(path(&directory).join("control"), "").unwrap();
        }
        fs::create_dir_all(path("shares/one")).unwrap();
        fs::write(path("shares/two"), "").unwrap();
        fs::write(path("shares/one/share.json"), r#"{"share": "first"}"#).unwrap();

        let places = Places {
            users_under: vec![path("shm"), path("missing")],
            shares: path("no shares"),
            directories: vec![path("shares"), path("shares/two")],
        };
        let mut seen = Seen::default();
        let walked = places.walk(&mut seen);
        assert_eq!(
            seen.files,
            [
                (format!("vcuda-{own}/control"), path(&format!("shm/vcuda-{own}/control"))),
                ("two".to_owned(), path("shares/two")),
                ("first".to_owned(), path("shares/one/control")),
            ]
        );
        assert_eq!(seen.users, [path(&format!("shm/vcuda-{own}"))]);
        assert_eq!(places.list(), seen.files.iter().map(|(_, path)| path.clone()).collect());
        let reasons: BTreeMap<PathBuf, String> = walked
            .directories
            .into_iter()
            .filter_map(|(path, entered)| Some((path, entered.err()?)))
            .collect();
        assert_eq!(reasons.len(), 3, "{reasons:?}");
        assert!(reasons[&path("missing")].contains("No such file"), "{reasons:?}");
        assert!(reasons[&path("shares/two")].contains("Not a directory"), "{reasons:?}");
        assert!(reasons[&path("shm/vcuda-4000000")].contains("belong to user 4000000"), "{reasons:?}");
        assert_eq!(walked.left_out, 0);

        let mut seen = Seen::default();
        let places = Places { shares: path("shares"), ..Places::default() };
        places.walk(&mut seen);
        assert_eq!(seen.files.len(), 2, "shares are read where they are");
        assert_eq!(places.list().len(), 2);
    }

    #[test]
    fn a_shares_link_leads_to_its_control_file_and_nobody_elses_does() {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        for share in ["linked", "waiting", "strange", "relative"] {
            fs::create_dir_all(path("shares").join(share)).unwrap();
        }
        fs::create_dir_all(path("run/linked")).unwrap();
        let link = |target: PathBuf, share: &str| {
            std::os::unix::fs::symlink(target, path("shares").join(share).join(CONTROL)).unwrap();
        };
        link(path("run/linked/control"), "linked");
        link(path("run/waiting/control"), "waiting");
        link(path("run/linked/other"), "strange");
        link("../linked/control".into(), "relative");
        let places = Places { shares: path("shares"), ..Places::default() };
        let found = || {
            let mut seen = Seen::default();
            let walked = places.walk(&mut seen);
            assert!(walked.directories.values().all(Result::is_ok), "{walked:?}");
            seen.files.sort();
            seen.files
        };
        let itself = |share: &str| (share.to_owned(), path("shares").join(share).join(CONTROL));
        let linked = ("linked".to_owned(), path("run/linked/control"));
        // Of one that is not made anew yet, nothing is said; other links are no control files.
        assert_eq!(found(), [linked.clone(), itself("relative"), itself("strange")]);
        assert!(places.list().contains(&linked.1));
        if fs::metadata("/proc/self").unwrap().uid() == 0 {
            std::os::unix::fs::lchown(path("shares/linked/control"), Some(4_000_000), None).unwrap();
            assert_eq!(
                found(),
                [itself("linked"), itself("relative"), itself("strange")],
                "somebody's own making"
            );
        }
    }

    #[test]
    fn one_user_cannot_fill_the_walk() {
        let root = tempfile::tempdir().unwrap();
        let own = fs::metadata(root.path()).unwrap().uid();
        let directory = root.path().join(format!("vcuda-{own}"));
        fs::create_dir(&directory).unwrap();
        for number in 0..=MOST_FILES {
            fs::write(directory.join(number.to_string()), "").unwrap();
        }
        let places = Places { users_under: vec![root.path().to_owned()], ..Places::default() };
        let mut seen = Seen::default();
        let walked = places.walk(&mut seen);
        assert_eq!(seen.files.len(), MOST_FILES);
        assert_eq!(walked.left_out, 1);
    }
}
