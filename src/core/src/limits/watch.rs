//! A limits file while programs run under it: who rewrites the file changes what holds, at once.
//!
//! The authority is the file and nothing else, so whoever may write to it may change the limits, and inside a container,
//! where it is mounted read-only, nobody may. It is found again by its path at every look: that sees a file that was
//! replaced as well as one that was written over, which is all that can be done to a file mounted by itself. Nothing is
//! held open, and a look at a file that nobody touched is one `stat`.
//!
//! Must never make a program unlimited by mistake: a file that is gone, half written or wrong changes nothing. What was
//! in force stays in force, and the mistake is told once, when two looks in a row have found the same: a file that is
//! just being written is none.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use super::{Limits, LimitsError, SYSTEM_FILE, Source, file, read_file, source};
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

/// A file that changed so short a time ago may change again without another time stamp: stamps move with the
/// system's tick, which is up to ten milliseconds, and a file system on the network has a clock of its own.
const SETTLING_NS: i128 = 100_000_000;

/// Watches the file that a process's limits come from.
pub struct Watch {
    path: PathBuf,
    source: Source,
    /// The GPU that a share is of.
    gpu: Option<String>,
    /// The file as it was when it was last read and had been left alone for a while.
    settled: Option<Stamp>,
    /// Of the text whose limits are in force.
    digest: u64,
    mistake: Option<Mistake>,
}

/// What the last look found wrong.
struct Mistake {
    /// Of the text; 0 where there is none to read.
    digest: u64,
    told: bool,
}

/// What changes whenever a file is changed or replaced.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    /// Of the last change, which unlike the time of the last writing nobody can set.
    changed_ns: i128,
}

impl Stamp {
    fn of(metadata: &Metadata) -> Stamp {
        let changed_ns = i128::from(metadata.ctime()) * 1_000_000_000 + i128::from(metadata.ctime_nsec());
        Stamp { device: metadata.dev(), inode: metadata.ino(), bytes: metadata.len(), changed_ns }
    }

    fn is_settled(self) -> bool {
        let now_ns = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        i128::try_from(now_ns).unwrap_or(0) - self.changed_ns >= SETTLING_NS
    }
}

impl Watch {
    /// Watches the file that `limits` were read from; `None` if they were read from none, or from several.
    pub fn new(limits: &Limits) -> Option<Watch> {
        let path = match limits.source() {
            Source::SystemFile => PathBuf::from(SYSTEM_FILE),
            Source::File(path) | Source::Share(path) => path.clone(),
            Source::Nothing | Source::Environment | Source::Shares => return None,
        };
        let source = limits.source().clone();
        let gpu = limits.share_of.clone();
        Some(Watch { path, source, gpu, settled: None, digest: limits.digest(), mistake: None })
    }

    /// Tells the text whose limits are in force from others, see [`digest`](super::digest).
    pub fn digest(&self) -> u64 {
        self.digest
    }

    /// Looks at the file, and has other limits put into force by `take`, which may refuse them. Gives what is to be told
    /// of a mistake: once for each, however often one looks.
    pub fn look(&mut self, take: impl FnOnce(&Limits) -> Result<(), LimitsError>) -> Option<LimitsError> {
        let stamp = match std::fs::metadata(&self.path) {
            Ok(metadata) => Some(Stamp::of(&metadata)),
            Err(_) => None,
        };
        if stamp.is_some() && stamp == self.settled {
            return None;
        }
        let read = source::read_or_explain(&self.path, &read_file);
        let found = read.and_then(|text| text.ok_or_else(|| self.gone()));
        let mistake = match found {
            Ok(text) => self.read(&text, take).map(|error| (file::digest(&text), error)),
            Err(error) => Some((0, error)),
        };
        let unsaid = match mistake {
            None => {
                self.mistake = None;
                None
            }
            Some((digest, error)) => {
                let told = match &self.mistake {
                    Some(last) if last.digest == digest => Some(last.told),
                    _ => None,
                };
                self.mistake = Some(Mistake { digest, told: told.is_some() });
                (told == Some(false)).then_some(error)
            }
        };
        let is_final = self.mistake.as_ref().is_none_or(|mistake| mistake.told);
        self.settled = stamp.filter(|stamp| is_final && stamp.is_settled());
        unsaid
    }

    fn read(
        &mut self,
        text: &[u8],
        take: impl FnOnce(&Limits) -> Result<(), LimitsError>,
    ) -> Option<LimitsError> {
        let digest = file::digest(text);
        if digest == self.digest {
            return None;
        }
        let taken = file::parse(&self.path, self.source.clone(), text).and_then(|limits| {
            if limits.share_of == self.gpu { take(&limits) } else { Err(self.is_of_another()) }
        });
        match taken {
            Ok(()) => {
                self.digest = digest;
                None
            }
            Err(error) => Some(error),
        }
    }

    fn is_of_another(&self) -> LimitsError {
        let gpu = self.gpu.as_deref().unwrap_or_default();
        let problem = format!("is of another GPU than GPU-{gpu} now");
        LimitsError::new(&self.path.display().to_string(), problem, "make a share of the other GPU")
    }

    fn gone(&self) -> LimitsError {
        LimitsError::new(&self.path.display().to_string(), "is gone", "put it back to change limits again")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use std::fs;
    use std::path::Path;
    use tempfile::TempDir;

    const FOUR: &str = r#"{"version":1,"default":{"memory":"4GiB"}}"#;
    const SIX: &str = r#"{"version":1,"default":{"memory":"6GiB"}}"#;

    fn load(path: &Path) -> Limits {
        let name = path.to_str().unwrap().to_owned();
        Limits::load(&|variable| (variable == "VCUDA_LIMITS_FILE").then(|| name.clone()), &read_file, &|_| {
            Ok(None)
        })
        .unwrap()
    }

    struct Watched {
        _directory: TempDir,
        path: PathBuf,
        watch: Watch,
    }

    fn watched(text: &str) -> Watched {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("limits.json");
        fs::write(&path, text).unwrap();
        let watch = Watch::new(&load(&path)).unwrap();
        Watched { _directory: directory, path, watch }
    }

    impl Watched {
        /// The limit that a look puts into force, and what it tells.
        fn look(&mut self) -> (Option<String>, Option<String>) {
            let mut taken = None;
            let told = self.watch.look(|limits| {
                taken =
                    Some(limits.memory().first().map_or("none".to_owned(), |entry| entry.value.to_string()));
                Ok(())
            });
            (taken, told.map(|error| error.to_string()))
        }

        fn sees(&mut self, limit: &str) {
            assert_eq!(self.look(), (Some(limit.to_owned()), None));
            self.sees_nothing();
        }

        fn sees_nothing(&mut self) {
            assert_eq!(self.look(), (None, None));
        }
    }

    #[test]
    fn a_file_that_is_written_over_or_replaced_is_seen_once() {
        let mut watched = watched(FOUR);
        watched.sees_nothing();
        fs::write(&watched.path, SIX).unwrap();
        watched.sees("6GiB");
        let other = watched.path.with_extension("new");
        fs::write(&other, FOUR).unwrap();
        fs::rename(&other, &watched.path).unwrap();
        watched.sees("4GiB");
        // The same limits in other words are other limits to nobody; so they are taken and nothing changes.
        fs::write(&watched.path, FOUR.replace("4GiB", "4096M")).unwrap();
        watched.sees("4GiB");
    }

    #[test]
    fn changes_faster_than_any_time_stamp_are_seen() {
        let mut watched = watched(FOUR);
        for _ in 0..50 {
            fs::write(&watched.path, SIX).unwrap();
            watched.sees("6GiB");
            fs::write(&watched.path, FOUR).unwrap();
            watched.sees("4GiB");
        }
    }

    #[test]
    fn a_file_left_alone_is_not_read_again() {
        let mut watched = watched(FOUR);
        std::thread::sleep(std::time::Duration::from_millis(150));
        watched.sees_nothing();
        assert!(watched.watch.settled.is_some());
        fs::write(&watched.path, SIX).unwrap();
        watched.sees("6GiB");
        assert!(watched.watch.settled.is_none(), "it may change again within the same tick");
    }

    #[test]
    fn what_is_wrong_is_told_at_the_second_look_and_never_again() {
        let mut watched = watched(FOUR);
        for wrong in ["", "{", "\0\"version\":1}", r#"{"version":1,"default":{"memory":"4X"}}"#] {
            fs::write(&watched.path, wrong).unwrap();
            watched.sees_nothing();
            let (taken, told) = watched.look();
            assert_eq!(taken, None);
            assert!(told.unwrap().starts_with(watched.path.to_str().unwrap()), "{wrong}");
            watched.sees_nothing();
            watched.sees_nothing();
        }
        fs::remove_file(&watched.path).unwrap();
        watched.sees_nothing();
        assert!(watched.look().1.unwrap().contains("is gone; put it back"));
        watched.sees_nothing();
        fs::write(&watched.path, SIX).unwrap();
        watched.sees("6GiB");
        fs::remove_file(&watched.path).unwrap();
        watched.sees_nothing();
        assert!(watched.look().1.is_some(), "a mistake made again is told again");
    }

    #[test]
    fn what_is_refused_is_asked_for_again_only_when_it_changes() {
        let mut watched = watched(FOUR);
        fs::write(&watched.path, SIX).unwrap();
        let refuse = |_: &Limits| Err(LimitsError::new("here", "no", "yes"));
        assert_eq!(watched.watch.look(refuse), None);
        assert!(watched.watch.look(refuse).is_some());
        assert_eq!(watched.watch.look(refuse), None);
        fs::write(&watched.path, FOUR).unwrap();
        watched.sees_nothing();
    }

    #[test]
    fn a_share_stays_one_of_its_gpu() {
        let of = |first: &str, memory: &str| {
            let devices =
                format!("{{\"{first}c0ffee-0000-4000-8000-766375646100\":{{\"memory\":\"{memory}\"}}}}");
            format!("{{\"version\":1,\"control_file\":\"/run/c\",\"devices\":{devices}}}")
        };
        let mut watched = watched(&of("GPU-51", "4GiB"));
        let source = Source::Share(watched.path.clone());
        let text = fs::read(&watched.path).unwrap();
        watched.watch = Watch::new(&file::parse(&watched.path, source, &text).unwrap()).unwrap();
        fs::write(&watched.path, of("GPU-51", "6GiB")).unwrap();
        watched.sees("6GiB");
        for (wrong, said) in [
            (of("GPU-52", "9GiB"), "is of another GPU than GPU-51c0ffee-"),
            (SIX.to_owned(), "is not of one GPU"),
        ] {
            fs::write(&watched.path, wrong).unwrap();
            watched.sees_nothing();
            let (taken, told) = watched.look();
            assert!(taken.is_none() && told.unwrap().contains(said));
        }
    }

    #[test]
    fn limits_of_variables_have_no_file() {
        let variable = |name: &str| (name == "VCUDA_MEMORY_LIMIT").then(|| "1G".to_owned());
        let limits = Limits::load(&variable, &|_| Ok(None), &|_| Ok(None));
        assert!(Watch::new(&limits.unwrap()).is_none());
    }
}
