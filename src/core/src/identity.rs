//! Who claimed a slot: for people and for lists of processes, never for deciding who is alive.
//!
//! Owns the descriptive fields of a slot and the state word around them. Writers have the slot's lock; readers have
//! nothing, so a reader compares the state before and after, as the state counts every change.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![deny(clippy::arithmetic_side_effects)]

use std::fs;
use std::os::unix::fs::MetadataExt;

use crate::abi::{self, NAME_BYTES, Slot};
use crate::atomic::Ordering;
use crate::region::{effective_user, unix_time_ns};

/// How a process is described in its slot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// In the process's own PID namespace.
    pub pid: u32,
    /// Effective user.
    pub uid: u32,
    /// Inode of the PID namespace, 0 if unknown.
    pub pid_namespace: u64,
    /// Field 22 of `/proc/PID/stat`, in clock ticks since boot, 0 if unknown.
    pub start_time_ticks: u64,
    /// When the slot was claimed, in nanoseconds since 1970.
    pub started_unix_ns: u64,
    /// At most 31 bytes, without control characters.
    pub name: String,
    /// Tells the text of the limits file it goes by from others, see [`digest`](crate::limits::digest); 0 if its limits
    /// come from variables.
    pub limits_digest: u64,
}

impl Identity {
    /// This process, under `name`.
    pub fn of_this_process(name: &str) -> Self {
        Self {
            pid: std::process::id(),
            uid: effective_user(),
            pid_namespace: pid_namespace_of_this_process(),
            start_time_ticks: fs::read_to_string("/proc/self/stat")
                .ok()
                .and_then(|stat| start_time_ticks(&stat))
                .unwrap_or(0),
            started_unix_ns: unix_time_ns(),
            name: printable(name),
            limits_digest: 0,
        }
    }
}

/// Inode of this process's PID namespace, 0 if unknown: tells whether a pid in the file means something here.
pub fn pid_namespace_of_this_process() -> u64 {
    fs::metadata("/proc/self/ns/pid").map_or(0, |metadata| metadata.ino())
}

/// Field 22. The second field, the program's name in parentheses, may itself contain spaces and parentheses.
fn start_time_ticks(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// As much of `name` as fits, at a character's end, with control characters shown as `?`.
fn printable(name: &str) -> String {
    let mut kept = String::new();
    for character in name.chars().map(|c| if c.is_control() { '?' } else { c }) {
        if kept.len().saturating_add(character.len_utf8()) >= NAME_BYTES {
            break;
        }
        kept.push(character);
    }
    kept
}

/// The low byte of the slot's state.
pub(crate) fn status(slot: &Slot) -> u64 {
    slot.state.load(Ordering::Acquire) & STATUS_MASK
}

const STATUS_MASK: u64 = (1 << abi::SLOT_STATE_SHIFT) - 1;

fn set_status(slot: &Slot, status: u64) {
    let count = (slot.state.load(Ordering::Relaxed) >> abi::SLOT_STATE_SHIFT).wrapping_add(1);
    slot.state.store(count << abi::SLOT_STATE_SHIFT | status, Ordering::Release);
}

/// Marks the slot as neither its former owner's nor its next one's.
pub(crate) fn begin_change(slot: &Slot) {
    set_status(slot, abi::SLOT_CHANGING);
}

/// Describes the slot and gives it its new status.
pub(crate) fn end_change(slot: &Slot, identity: &Identity, status: u64) {
    // Releases, so that whoever reads one of these also sees the state that came before.
    slot.pid.store(identity.pid, Ordering::Release);
    slot.uid.store(identity.uid, Ordering::Release);
    slot.pid_namespace.store(identity.pid_namespace, Ordering::Release);
    slot.start_time_ticks.store(identity.start_time_ticks, Ordering::Release);
    slot.started_unix_ns.store(identity.started_unix_ns, Ordering::Release);
    slot.found_dead_ns.store(0, Ordering::Release);
    slot.limits_digest.store(identity.limits_digest, Ordering::Release);
    let padded = identity.name.bytes().take(NAME_BYTES.saturating_sub(1)).chain(std::iter::repeat(0));
    for (place, byte) in slot.name.iter().zip(padded) {
        place.store(byte, Ordering::Release);
    }
    set_status(slot, status);
}

/// The description of a slot's owner, or `None` if the slot has none now.
pub(crate) fn read(slot: &Slot) -> Option<Identity> {
    // A slot changes hands in microseconds and rarely; eight tries fail only on a file that something scribbles on.
    for _ in 0..8 {
        let before = slot.state.load(Ordering::Acquire);
        if before & STATUS_MASK == abi::SLOT_FREE {
            return None;
        }
        let identity = read_once(slot);
        if slot.state.load(Ordering::Acquire) == before {
            return Some(identity);
        }
    }
    None
}

fn read_once(slot: &Slot) -> Identity {
    let name: Vec<u8> =
        slot.name.iter().map(|byte| byte.load(Ordering::Acquire)).take_while(|byte| *byte != 0).collect();
    Identity {
        pid: slot.pid.load(Ordering::Acquire),
        uid: slot.uid.load(Ordering::Acquire),
        pid_namespace: slot.pid_namespace.load(Ordering::Acquire),
        start_time_ticks: slot.start_time_ticks.load(Ordering::Acquire),
        started_unix_ns: slot.started_unix_ns.load(Ordering::Acquire),
        name: printable(&String::from_utf8_lossy(&name)),
        limits_digest: slot.limits_digest.load(Ordering::Acquire),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn describes_this_process() {
        let identity = Identity::of_this_process("python3");
        assert_eq!(identity.pid, std::process::id());
        assert_ne!(identity.pid_namespace, 0);
        assert_ne!(identity.start_time_ticks, 0);
        assert!(identity.started_unix_ns > 1_600_000_000_000_000_000);
        assert_eq!(identity.name, "python3");
    }

    #[test]
    fn finds_the_start_time_behind_any_name() {
        let rest = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 987654 20";
        for name in ["sh", "a b", ") S 1 2", "(("] {
            assert_eq!(start_time_ticks(&format!("42 ({name}) {rest}")), Some(987_654), "{name}");
        }
        assert_eq!(start_time_ticks("42 (sh) S 1"), None);
        assert_eq!(start_time_ticks(""), None);
    }

    #[test]
    fn cuts_names_at_a_character() {
        assert_eq!(printable(&"ä".repeat(40)), "ä".repeat(15));
        assert_eq!(printable(&"x".repeat(40)).len(), 31);
        assert_eq!(printable("a\nb\u{1b}[31m"), "a?b?[31m");
    }
}
