//! Process ids as the asker knows them: those of its own PID namespace, as the driver names processes. A process of a
//! namespace below has an id in it, and one here; one of a namespace beside or above has none here, and isn't seen.

use crate::layout::Process;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::Ordering::Relaxed;

/// Inode of this process's PID namespace; 0 if unknown.
pub(crate) fn own_namespace() -> u64 {
    namespace("self").unwrap_or(0)
}

/// The id here of the process in a slot; `None` for a free slot and for a process that can't be seen from here.
pub(crate) fn pid_here(slot: &Process) -> Option<u32> {
    let (pid, its) = (slot.pid.load(Relaxed), slot.namespace.load(Relaxed));
    if pid == 0 {
        return None;
    }
    if its == own_namespace() { Some(pid) } else { pid_below(its, pid) }
}

/// The id here of the process that is `pid` in the namespace `its`.
fn pid_below(its: u64, pid: u32) -> Option<u32> {
    let entries = fs::read_dir("/proc").ok()?;
    let here = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    here.into_iter().find(|here| namespace(&here.to_string()) == Some(its) && innermost(*here) == Some(pid))
}

fn namespace(process: &str) -> Option<u64> {
    fs::metadata(format!("/proc/{process}/ns/pid")).ok().map(|metadata| metadata.ino())
}

/// A process's id in its own namespace, the last of the line `NSpid` of its status.
fn innermost(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    line.split_ascii_whitespace().next_back()?.parse().ok()
}
