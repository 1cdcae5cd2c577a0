//! One process to act on: found again by what its slot says, and known to be that very process.

use crate::error::{Fate, Problem};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use vcuda_core::control::Control;
use vcuda_core::device::Uuid;
use vcuda_core::identity::{Identity, pid_namespace_of_this_process};
use vcuda_core::snapshot::{ProcessView, Snapshot};
use vcuda_core::suspension::Suspension;
use vcuda_driver::result::CUerror;

/// A process of the slice.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) slot: u16,
    /// In this process's PID namespace.
    pub(crate) pid: u32,
    pub(crate) identity: Identity,
    pub(crate) suspension: Suspension,
    /// What it holds of each GPU that the slice knows in bytes, by the slice's books; may be 0.
    pub(crate) charged: Vec<(Uuid, u64)>,
}

impl Target {
    /// Finds the process that a slot describes.
    pub(crate) fn find(view: &ProcessView, snapshot: &Snapshot) -> Result<Target, Problem> {
        let identity = view.identity.clone();
        let pid = resolve(&identity).ok_or_else(|| Problem {
            pid: identity.pid,
            name: identity.name.clone(),
            reason: "can't be found from here; run this as root, outside of the container".to_owned(),
        })?;
        let used = |gpu: &vcuda_core::snapshot::DeviceView| (gpu.uuid, view.used_bytes(gpu.index));
        let charged = snapshot.devices.iter().map(used).collect();
        Ok(Target { slot: view.slot, pid, identity, suspension: view.suspension, charged })
    }

    /// Whether it still is the process that the slot described, and lives.
    pub(crate) fn fate(&self) -> Fate {
        if is_process(self.pid, self.identity.start_time_ticks) { Fate::Lives } else { Fate::Died }
    }

    /// Whether it has the slice's control file open: what a slot says may be anybody's who can write to the file, and
    /// must not lead a privileged agent to the processes of others.
    pub(crate) fn uses(&self, control: &Control) -> bool {
        let Ok(inode) = fs::metadata(control.path()).map(|metadata| metadata.ino()) else { return false };
        // Some file systems have other device numbers here than anywhere else; this process has the file mapped too.
        let own = mappings("self", inode);
        mappings(&self.pid.to_string(), inode).iter().any(|device| own.contains(device))
    }

    /// Something is wrong with it.
    pub(crate) fn problem(&self, reason: impl Into<String>) -> Problem {
        Problem { pid: self.pid, name: self.identity.name.clone(), reason: reason.into() }
    }

    /// The driver refused to `act` on it.
    pub(crate) fn failed(&self, act: &str, error: CUerror) -> Problem {
        let advice = match error {
            CUerror::NOT_READY => {
                "; it did not come to rest in time: wait for its work to end, or give it longer with --timeout"
            }
            _ if !may_trace(self.pid) => "; this needs the right to trace it: run as its user, or as root",
            CUerror::NOT_SUPPORTED => {
                "; it uses something that checkpoints don't cover, such as managed variables of a module"
            }
            _ => "",
        };
        self.problem(format!("the driver answers {error} when asked to {act} it{advice}"))
    }
}

/// Whether `pid` lives and began at `start_time_ticks` (0: whenever).
fn is_process(pid: u32, start_time_ticks: u64) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    let fields = |stat: &str| -> Option<(char, u64)> {
        // From the third field on; the second, the name in parentheses, may contain anything.
        let (_, rest) = stat.rsplit_once(')')?;
        let mut fields = rest.split_ascii_whitespace();
        let state = fields.next()?.chars().next()?;
        Some((state, fields.nth(18)?.parse().ok()?))
    };
    fields(&stat).is_some_and(|(state, start)| {
        !matches!(state, 'Z' | 'X') && (start_time_ticks == 0 || start == start_time_ticks)
    })
}

/// The devices of all files with this inode number that a process has mapped.
fn mappings(process: &str, inode: u64) -> BTreeSet<String> {
    let text = fs::read(format!("/proc/{process}/maps")).unwrap_or_default();
    let inode = inode.to_string();
    let device = |line: &str| {
        let mut fields = line.split_ascii_whitespace().skip(3);
        let (device, of) = (fields.next()?, fields.next()?);
        (of == inode).then(|| device.to_owned())
    };
    String::from_utf8_lossy(&text).lines().filter_map(device).collect()
}

/// What only a tracer may open.
fn may_trace(pid: u32) -> bool {
    fs::File::open(format!("/proc/{pid}/mem")).is_ok()
}

/// The id that a process has here.
fn resolve(identity: &Identity) -> Option<u32> {
    let own = pid_namespace_of_this_process();
    if identity.pid_namespace == own || identity.pid_namespace == 0 {
        return is_process(identity.pid, identity.start_time_ticks).then_some(identity.pid);
    }
    let processes =
        fs::read_dir("/proc").ok()?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    processes.into_iter().find(|&pid: &u32| {
        let namespace = fs::metadata(format!("/proc/{pid}/ns/pid")).map_or(0, |metadata| metadata.ino());
        namespace == identity.pid_namespace
            && innermost_id(pid) == Some(identity.pid)
            && is_process(pid, identity.start_time_ticks)
    })
}

/// The id that a process has in its own namespace: the last one of its `NSpid`.
fn innermost_id(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    line.split_ascii_whitespace().last()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_found_and_no_other_of_its_id() {
        let identity = Identity::of_this_process("test");
        assert_eq!(resolve(&identity), Some(std::process::id()));
        assert_eq!(innermost_id(std::process::id()), Some(std::process::id()));
        let later = Identity { start_time_ticks: identity.start_time_ticks + 1, ..identity.clone() };
        assert_eq!(resolve(&later), None);
        assert_eq!(resolve(&Identity { pid_namespace: 1, ..identity }), None);
    }

    #[test]
    fn a_zombie_is_dead() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id();
        while is_process(pid, 0) {
            std::thread::yield_now();
        }
        assert!(std::path::Path::new(&format!("/proc/{pid}")).exists());
        child.wait().unwrap();
    }

    #[test]
    fn only_who_has_the_file_open_is_of_the_slice() {
        let directory = tempfile::tempdir().unwrap();
        let control = Control::open_or_create(directory.path().join("control")).unwrap();
        let target = |pid| Target {
            slot: 0,
            pid,
            identity: Identity::of_this_process("test"),
            suspension: Suspension::default(),
            charged: Vec::new(),
        };
        assert!(target(std::process::id()).uses(&control));
        let mut other = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        assert!(!target(other.id()).uses(&control));
        other.kill().unwrap();
        other.wait().unwrap();
    }
}
