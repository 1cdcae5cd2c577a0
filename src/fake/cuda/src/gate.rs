//! What every call passes first: is the driver initialised, is this a forked child, is a fault due?
//! And last: a panic becomes an error code.

use crate::fault::{self, Fault};
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use vcuda_driver::result::{CUerror, CUresult};

/// `cuInit` hasn't succeeded yet.
const CLOSED: u8 = 0;
/// Initialised, and no faults are asked for: nothing to do on the way in.
const OPEN: u8 = 1;
/// Initialised, with faults to look up at each call.
const FAULTY: u8 = 2;
/// The child of an initialised parent: as with the real driver, nothing works here any more.
const FORKED: u8 = 3;

static GATE: AtomicU8 = AtomicU8::new(CLOSED);

thread_local! {
    /// Whether the call under way means the thread's own stream where it names none.
    static PER_THREAD: Cell<bool> = const { Cell::new(false) };
}

/// When a function may be called.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// Before `cuInit` and in forked children too.
    Always,
    /// After `cuInit`.
    Initialised,
}

/// An exported function as the gate knows it.
pub struct Call {
    name: &'static str,
    when: When,
    per_thread: bool,
    fault: Fault,
}

impl Call {
    /// The function of an ABI symbol; its name says which default stream it works on.
    pub const fn new(name: &'static str, when: When) -> Call {
        Call { name, when, per_thread: is_per_thread(name), fault: Fault::new() }
    }

    /// Runs the function's body if the gate lets it through.
    #[inline]
    pub fn run(&'static self, body: impl FnOnce() -> CUresult) -> CUresult {
        if GATE.load(Relaxed) != OPEN {
            self.examine()?;
        }
        let run = || catch_unwind(AssertUnwindSafe(body)).unwrap_or(Err(CUerror::UNKNOWN));
        if !self.per_thread {
            return run();
        }
        let outer = PER_THREAD.replace(true);
        let result = run();
        PER_THREAD.set(outer);
        result
    }

    #[cold]
    fn examine(&'static self) -> CUresult {
        match GATE.load(Acquire) {
            FORKED if self.when == When::Initialised => return Err(CUerror::NOT_INITIALIZED),
            CLOSED if self.when == When::Initialised => return Err(CUerror::NOT_INITIALIZED),
            _ => {}
        }
        self.fault.strike(self.name)
    }
}

const fn is_per_thread(name: &str) -> bool {
    let name = name.as_bytes();
    let Some((_, end)) = name.split_last_chunk::<5>() else { return false };
    matches!(end, b"_ptsz" | b"_ptds")
}

/// Whether the call under way means the thread's own stream where it names none.
#[inline]
pub fn is_default_stream_per_thread() -> bool {
    PER_THREAD.get()
}

/// Whether this is the child of an initialised parent.
pub fn is_forked() -> bool {
    GATE.load(Acquire) == FORKED
}

/// Lets all functions through from now on, in this process but not in children forked from it.
pub fn open() {
    extern "C" fn shut_in_child() {
        GATE.store(FORKED, Release);
    }
    // SAFETY: the handler only stores to a static.
    unsafe { libc::pthread_atfork(None, None, Some(shut_in_child)) };
    GATE.store(if fault::is_any_planned() { FAULTY } else { OPEN }, Release);
}
