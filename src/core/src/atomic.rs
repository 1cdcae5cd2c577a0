//! The atomics every shared word is made of.
//!
//! Owns the one switch between the processor's atomics and loom's, so that the model checker runs the very code
//! that ships. Nothing else in the crate may name `core::sync::atomic` for a word other processes can see.

#[cfg(not(loom))]
pub use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
#[cfg(loom)]
pub use loom::sync::atomic::{AtomicU64, Ordering};

/// Lets whoever holds the next step make it, after the `attempt`-th exchange in a row was lost.
pub(crate) fn back_off(attempt: u32) {
    #[cfg(loom)]
    {
        let _ = attempt;
        loom::thread::yield_now();
    }
    #[cfg(not(loom))]
    if attempt < 16 {
        core::hint::spin_loop();
    } else {
        std::thread::yield_now();
    }
}
