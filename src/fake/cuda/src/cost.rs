//! What calls take of their caller's time, where the environment asks for that. The GPU hears of what a call
//! queues when the call is over.

use std::cell::Cell;
use std::hint::spin_loop;
use vcuda_fake_machine::now_ns;

thread_local! {
    /// When the call under way is to be over; 0 where it takes no time.
    static END_NS: Cell<u64> = const { Cell::new(0) };
}

/// A call that takes time: it isn't over before this is dropped, and not too early.
pub struct Cost(());

/// Begins a call that takes `cost_ns`.
#[inline]
pub fn begin(cost_ns: u64) -> Option<Cost> {
    if cost_ns == 0 {
        return None;
    }
    END_NS.set(now_ns() + cost_ns);
    Some(Cost(()))
}

/// When the call under way is to be over; 0 where it takes no time.
#[inline]
pub fn end_ns() -> u64 {
    END_NS.get()
}

impl Drop for Cost {
    fn drop(&mut self) {
        let end_ns = END_NS.replace(0);
        while now_ns() < end_ns {
            spin_loop();
        }
    }
}
