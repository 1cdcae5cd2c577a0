//! Whether the device memory of a dead process may still be on its way back to the device.
//!
//! A process's lock goes when its address space does, and the driver gives its memory back after that: on an H200 with
//! driver 580.159 and 20 GiB held, 35 to 50 ms later (`scripts/gpu-facts`). Giving the quota away in between would let
//! two processes hold the same memory. Owns only that question; it must never decide that a process is dead.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![deny(clippy::arithmetic_side_effects)]

use std::fs;

use crate::abi::{self, Slot};
use crate::atomic::Ordering;
use crate::identity::{self, pid_namespace_of_this_process};
use crate::region::boot_time_ns;

/// How long a dead process of another PID namespace, which can't be looked at, is taken to be dying.
const UNSEEN_NS: u64 = 300_000_000;

/// Whether the slot's owner, whose lock is known to be free, is being torn down just now.
pub(crate) fn is_being_torn_down(slot: &Slot) -> bool {
    // A slot that changes hands holds nothing of its next owner yet, and its former one was found dead before.
    if identity::status(slot) != abi::SLOT_CLAIMED {
        return false;
    }
    let Some(owner) = identity::read(slot) else { return false };
    if owner.pid_namespace != 0 && owner.pid_namespace == pid_namespace_of_this_process() {
        let stat = fs::read_to_string(format!("/proc/{}/stat", owner.pid));
        return stat.is_ok_and(|stat| is_exiting(&stat, owner.start_time_ticks));
    }
    let now = boot_time_ns();
    let found = match slot.found_dead_ns.compare_exchange(0, now, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => now,
        Err(earlier) => earlier,
    };
    // A time ahead of now is of another boot.
    now.checked_sub(found).is_some_and(|since| since < UNSEEN_NS)
}

/// Whether `/proc/PID/stat` is of the process that started at `start_time_ticks` and shows it on its way out: marked as
/// exiting, and not yet a zombie without other threads. A process that lives on after exec is not exiting: its device
/// memory went with its file descriptors.
fn is_exiting(stat: &str, start_time_ticks: u64) -> bool {
    /// `PF_EXITING` of the kernel's task flags.
    const EXITING: u64 = 4;
    // Fields from the third on, after the name in parentheses.
    let Some((_, after_name)) = stat.rsplit_once(')') else { return false };
    let fields: Vec<&str> = after_name.split_ascii_whitespace().collect();
    let field = |number: usize| fields.get(number.saturating_sub(3)).copied().unwrap_or_default();
    let count = |number: usize| field(number).parse::<u64>().unwrap_or(0);
    let gone = matches!(field(3), "Z" | "X") && count(20) <= 1;
    count(22) == start_time_ticks && count(9) & EXITING != 0 && !gone
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat(state: &str, flags: u64, threads: u64, start: u64) -> String {
        format!("42 (a) b) {state} 1 1 1 0 -1 {flags} 0 0 0 0 0 0 0 0 20 0 {threads} 0 {start} 0 0")
    }

    #[test]
    fn tells_the_dying_from_the_dead_and_the_living() {
        const EXITING: u64 = 0x40_0044;
        assert!(is_exiting(&stat("D", EXITING, 7, 900), 900), "leader still exiting");
        assert!(is_exiting(&stat("Z", EXITING, 2, 900), 900), "leader gone, another thread still exiting");
        assert!(!is_exiting(&stat("Z", EXITING, 1, 900), 900), "waits for its parent only");
        assert!(!is_exiting(&stat("S", 0x40_0000, 7, 900), 900), "lives on after exec");
        assert!(!is_exiting(&stat("R", EXITING, 7, 901), 900), "its pid belongs to another process");
        assert!(!is_exiting("", 900));
    }
}
