//! Processes that work on a GPU without the library, beside slices: nobody holds them back, so what shares promise of the
//! GPU's time is kept as far as they leave it.
//!
//! Owns the question whether a process has the library, by the files that it has mapped. That asks for the rights to look
//! at it; of what can't be looked at nothing is said.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};

/// How the file names begin that the library is installed under.
const LIBRARY: &str = "libvcuda.so";
/// What every program has mapped that works on a GPU.
const DRIVER: &str = "libcuda.so";
/// The server of MPS, which works for its clients: they are listed as well. The kernel keeps 15 characters of a name.
const MPS_SERVER: &str = "nvidia-cuda-mps";
/// Processes that are remembered at most.
const MOST: usize = 4096;

/// One process without the library.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Foreign {
    /// Its process id here.
    pub pid: u32,
    /// Its name, as much of it as the kernel keeps.
    pub name: String,
}

/// What is known of those that work on one GPU.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Neighbours {
    /// Those without the library, in the order in which they were listed.
    pub foreign: Vec<Foreign>,
    /// Whether there are others that can't be looked at: they are another user's, or of another PID namespace.
    pub has_unknown: bool,
}

impl Neighbours {
    /// `2 processes without vcuda (python3 4242, trainer 17)`; of many, the first.
    pub fn text(&self) -> String {
        const NAMED: usize = 3;
        let named = self.foreign.iter().take(NAMED).map(|one| format!("{} {}", one.name, one.pid));
        let mut names: Vec<String> = named.collect();
        if self.foreign.len() > NAMED {
            names.push("…".to_owned());
        }
        let count = self.foreign.len();
        format!("{count} process{} without vcuda ({})", if count == 1 { "" } else { "es" }, names.join(", "))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// It has the library, or is none that works on a GPU for itself.
    Known,
    Foreign,
}

/// Looks at processes again and again; what each is is found out once.
#[derive(Debug, Default)]
pub struct Lookout {
    known: HashMap<u32, (u64, Kind)>,
}

impl Lookout {
    /// What the processes are that a GPU lists: those that it works for now.
    pub fn look(&mut self, listed: impl IntoIterator<Item = u32>) -> Neighbours {
        if self.known.len() > MOST {
            self.known.clear();
        }
        let mut found = Neighbours::default();
        for pid in listed {
            match self.kind(pid) {
                Some(Kind::Known) => {}
                Some(Kind::Foreign) => found.foreign.push(Foreign { pid, name: name_of(pid) }),
                None => found.has_unknown = true,
            }
        }
        found
    }

    /// `None` of what can't be looked at.
    fn kind(&mut self, pid: u32) -> Option<Kind> {
        let started = start_time(pid)?;
        match self.known.get(&pid) {
            Some((then, kind)) if *then == started => Some(*kind),
            _ => {
                let kind = if name_of(pid) == MPS_SERVER { Kind::Known } else { kind_by_maps(pid)? };
                self.known.insert(pid, (started, kind));
                Some(kind)
            }
        }
    }
}

/// Whether this process has the library itself: what it is told of a GPU is then its slice's.
pub fn has_library() -> bool {
    kind_by_maps(std::process::id()) == Some(Kind::Known)
}

fn name_of(pid: u32) -> String {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    name.trim_end().chars().map(|character| if character.is_control() { '?' } else { character }).collect()
}

/// Field 22 of its `stat`, which tells it from others of the same id before and after it.
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_ascii_whitespace().nth(19)?.parse().ok()
}

fn kind_by_maps(pid: u32) -> Option<Kind> {
    kind_of(BufReader::new(File::open(format!("/proc/{pid}/maps")).ok()?))
}

/// `None` of a list without the driver: an ended process, or one that a GPU can't mean, as the id is of another namespace.
fn kind_of(maps: impl BufRead) -> Option<Kind> {
    let mut has_driver = false;
    for line in maps.split(b'\n') {
        let line = line.ok()?;
        let file = line.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        if file.starts_with(LIBRARY.as_bytes()) {
            return Some(Kind::Known);
        }
        has_driver |= file.starts_with(DRIVER.as_bytes());
    }
    has_driver.then_some(Kind::Foreign)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRIVER_LINE: &str = "7f20a5e00000-7f20a6e00000 r-xp 00000000 fe:00 1189 /usr/lib/x86_64-linux-gnu/libcuda.so.580.159.04\n";
    const OTHER_LINES: &str = "55d0a0a00000-55d0a0a2a000 r--p 00000000 fe:00 262 /usr/bin/python3.11\n\
         7ffd1c3e0000-7ffd1c401000 rw-p 00000000 00:00 0 [stack]\n";

    #[test]
    fn the_library_tells_whose_a_process_is() {
        let kind = |text: &str| kind_of(text.as_bytes());
        let library = "7f20a8000000-7f20a80f0000 r-xp 00000000 fe:00 7 /opt/vcuda/lib/libvcuda.so\n";
        assert_eq!(kind(&format!("{OTHER_LINES}{DRIVER_LINE}")), Some(Kind::Foreign));
        assert_eq!(kind(&format!("{OTHER_LINES}{DRIVER_LINE}{library}")), Some(Kind::Known));
        assert_eq!(kind(&format!("{library}{DRIVER_LINE}")), Some(Kind::Known));
        assert_eq!(kind(&library.replace(".so\n", ".so (deleted)\n")), Some(Kind::Known));
        assert_eq!(kind(OTHER_LINES), None);
        assert_eq!(kind(""), None);
    }

    #[test]
    fn what_is_not_there_or_uses_no_gpu_is_unknown() {
        let mut lookout = Lookout::default();
        assert_eq!(lookout.look([]), Neighbours::default());
        let found = lookout.look([u32::MAX - 1, std::process::id()]);
        assert_eq!(found, Neighbours { foreign: Vec::new(), has_unknown: true });
    }

    #[test]
    fn a_process_is_judged_once_and_its_successor_anew() {
        let (own, mut lookout) = (std::process::id(), Lookout::default());
        let started = start_time(own).unwrap();
        lookout.known.insert(own, (started, Kind::Foreign));
        let found = lookout.look([own]);
        assert_eq!(found.foreign.len(), 1);
        assert_eq!(found.foreign[0], Foreign { pid: own, name: name_of(own) });
        lookout.known.insert(own, (started + 1, Kind::Foreign));
        assert_eq!(lookout.look([own]), Neighbours { foreign: Vec::new(), has_unknown: true });
    }

    #[test]
    fn the_text_names_a_few() {
        let foreign = |pid| Foreign { pid, name: "python3".to_owned() };
        let neighbours =
            |count| Neighbours { foreign: (1..=count).map(foreign).collect(), has_unknown: false };
        assert_eq!(neighbours(1).text(), "1 process without vcuda (python3 1)");
        assert_eq!(neighbours(3).text(), "3 processes without vcuda (python3 1, python3 2, python3 3)");
        assert_eq!(neighbours(9).text(), "9 processes without vcuda (python3 1, python3 2, python3 3, …)");
    }
}
