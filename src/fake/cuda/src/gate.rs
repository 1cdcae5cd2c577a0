//! What every call passes first: is the driver initialised, is this a forked child, is the process stopped, is a
//! fault due? And last: a panic becomes an error code.

use crate::driver::driver;
use crate::fault::{self, Fault};
use crate::settings::settings;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use vcuda_driver::result::{CUerror, CUresult};

/// `cuInit` hasn't succeeded yet.
const CLOSED: u8 = 0;
/// Initialised, work takes no time and no faults are asked for: nothing to do on the way in.
const OPEN: u8 = 1;
/// Initialised: calls are counted, and wait while the process is stopped.
const COUNTED: u8 = 2;
/// The same, with faults to look up at each call.
const FAULTY: u8 = 4;
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
    /// After `cuInit`, and also while the process is stopped.
    Stopped,
}

/// A call under way that could be stopped.
struct Counted;

impl Drop for Counted {
    fn drop(&mut self) {
        driver().member.leave_call();
    }
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
        let _counted = match GATE.load(Relaxed) {
            OPEN => None,
            COUNTED if self.when == When::Initialised => Some(enter()),
            _ => self.examine()?,
        };
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
    fn examine(&'static self) -> Result<Option<Counted>, CUerror> {
        let gate = GATE.load(Acquire);
        if matches!(gate, FORKED | CLOSED) && self.when != When::Always {
            return Err(CUerror::NOT_INITIALIZED);
        }
        let counts = gate == FAULTY && self.when == When::Initialised;
        let counted = counts.then(enter);
        self.fault.strike(self.name)?;
        Ok(counted)
    }
}

#[inline]
fn enter() -> Counted {
    driver().member.enter_call();
    Counted
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
    let gate = match (fault::is_any_planned(), settings().is_null) {
        (true, _) => FAULTY,
        (false, false) => COUNTED,
        (false, true) => OPEN,
    };
    GATE.store(gate, Release);
}
