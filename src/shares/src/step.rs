//! The places between two changes to the disk, at each of which whoever makes them may be killed.
//!
//! Nothing happens there; tests end the operation at every one of them in turn.

#[cfg(not(any(test, feature = "steps")))]
#[inline]
pub(crate) fn done() {}

#[cfg(any(test, feature = "steps"))]
pub(crate) use counted::done;

#[cfg(any(test, feature = "steps"))]
pub use counted::killed_after;

#[cfg(any(test, feature = "steps"))]
pub(crate) mod counted {
    use std::cell::Cell;
    use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

    thread_local! {
        static LEFT: Cell<u32> = const { Cell::new(u32::MAX) };
    }

    /// What the operation ends with.
    struct Killed;

    pub(crate) fn done() {
        let left = LEFT.get();
        if left == 0 {
            resume_unwind(Box::new(Killed));
        }
        LEFT.set(left.saturating_sub(1));
    }

    /// Runs `operation` until it has made `steps` changes; `None` if it was ended there. It has nothing that cleans up
    /// after it but its lock, which a killed process loses as well.
    pub fn killed_after<T>(steps: u32, operation: impl FnOnce() -> T) -> Option<T> {
        LEFT.set(steps);
        let result = catch_unwind(AssertUnwindSafe(operation));
        LEFT.set(u32::MAX);
        match result {
            Ok(value) => Some(value),
            Err(reason) if reason.is::<Killed>() => None,
            Err(reason) => resume_unwind(reason),
        }
    }
}
