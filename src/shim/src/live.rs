//! Limits that change while the program runs.
//!
//! Owns when the limits file is looked at: by whoever asks for memory, is asked about it, or is held back for its share,
//! and then at most every [`INTERVAL_NS`]. So a program that does nothing pays nothing, one whose limits come from
//! variables reads one word, and one that was never limited doesn't come here at all. What a look finds is
//! [`Watch`]'s business, what to do about it is the caller's.
//!
//! Must never wait: one thread looks, and others go on under the limits that are in force.

use crate::clock;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use vcuda_core::limits::{Limits, LimitsError, Watch};

/// How long a change may go unnoticed by a program that asks for memory or works, and a third of what is promised.
pub const INTERVAL_NS: u64 = 30_000_000;

/// A limits file and when to look at it next.
pub struct Lookout {
    next_ns: AtomicU64,
    /// `None` where limits come from variables: those of a running process don't change.
    watch: Mutex<Option<Watch>>,
}

impl Lookout {
    /// For the file that `limits` come from, if they come from one.
    pub fn new(limits: &Limits) -> Lookout {
        let watch = Watch::new(limits);
        let next_ns = if watch.is_some() { 0 } else { u64::MAX };
        Lookout { next_ns: AtomicU64::new(next_ns), watch: Mutex::new(watch) }
    }

    /// Whether it is time.
    #[inline]
    pub fn is_due(&self) -> bool {
        let next_ns = self.next_ns.load(Ordering::Relaxed);
        next_ns != u64::MAX && clock::now_ns() >= next_ns
    }

    /// Looks, and has other limits put into force by `take`, which may refuse them. Gives a mistake that is to be told.
    #[cold]
    pub fn look(&self, take: &dyn Fn(&Limits) -> Result<(), LimitsError>) -> Option<LimitsError> {
        let mut watch = self.watch.try_lock()?;
        // Before the look, because taking a share leads here again.
        self.next_ns.store(clock::now_ns().saturating_add(INTERVAL_NS), Ordering::Relaxed);
        watch.as_mut()?.look(take)
    }
}
