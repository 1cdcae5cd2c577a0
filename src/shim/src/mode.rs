//! The one word the hot path reads: which groups of hooks have anything to do.
//!
//! Starts with every group on, since nothing is known yet; settled by `cuInit` (or, for a process without
//! any limit, as soon as a driver symbol is looked up). Only ever read with a relaxed load.

use std::sync::atomic::{AtomicU8, Ordering};

/// Hooks that account for memory must run.
pub const LIMITED: u8 = 1;
/// Launch hooks must run once, because something waits to be measured.
pub const WATCHED: u8 = 2;
/// Everything that gives a GPU work must run, because a device has a compute share.
pub const PACED: u8 = 4;

/// Every call is noted, because this process may be put aside when idle.
pub const NOTED: u8 = 8;

/// Which groups must run. Read by the exported functions themselves.
pub static MODE: AtomicU8 = AtomicU8::new(LIMITED | WATCHED | PACED);

/// Whether something waits for a launch.
#[inline(always)]
pub fn watched() -> bool {
    MODE.load(Ordering::Relaxed) & WATCHED != 0
}

/// No limits in this process: every call goes straight to the driver from now on.
pub fn set_unlimited() {
    MODE.store(0, Ordering::Relaxed);
}

/// Limits are in force. Without a compute share launches pass until something is pending.
pub fn set_limited(has_share: bool, is_noted: bool) {
    let bit = |is_set: bool, bit: u8| if is_set { bit } else { 0 };
    MODE.store(LIMITED | bit(has_share, PACED) | bit(is_noted, NOTED), Ordering::Relaxed);
}

/// Calls are noted from now on.
pub fn set_noted() {
    MODE.fetch_or(NOTED, Ordering::Relaxed);
}

/// Whether calls are noted.
#[inline]
pub fn noted() -> bool {
    MODE.load(Ordering::Relaxed) & NOTED != 0
}

/// The next launch runs its hook: something it should see to is waiting.
pub fn set_pending() {
    MODE.fetch_or(WATCHED, Ordering::Relaxed);
}

/// Nothing waits for a launch any more.
pub fn clear_pending() {
    MODE.fetch_and(!WATCHED, Ordering::Relaxed);
}

/// The bit of a group of hooks.
macro_rules! mask {
    (limited) => {
        $crate::mode::LIMITED
    };
    (plain) => {
        $crate::mode::LIMITED
    };
    (subject) => {
        $crate::mode::LIMITED
    };
    (launch) => {
        $crate::mode::WATCHED | $crate::mode::PACED | $crate::mode::NOTED
    };
    (paced_plain) => {
        $crate::mode::PACED | $crate::mode::NOTED
    };
    (paced_subject) => {
        $crate::mode::PACED | $crate::mode::NOTED
    };
    (paced) => {
        $crate::mode::PACED | $crate::mode::NOTED
    };
}
pub(crate) use mask;
