//! Keeps this library's own driver calls out of the program's stream captures.
//!
//! While a capture is under way the driver forbids many calls, on that thread or on all, and a forbidden
//! call spoils the capture (`CUDA_ERROR_STREAM_CAPTURE_INVALIDATED`). A thread in relaxed mode is exempt,
//! so from the first capture of the process on, calls of our own are made in that mode. Before that it
//! costs one load.

use crate::compute::events;
use crate::driver;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use vcuda_driver::cuda::types::{CU_STREAM_CAPTURE_MODE_RELAXED, CUstream, CUstreamCaptureMode};
use vcuda_driver::result::CUresult;

static ANY: AtomicBool = AtomicBool::new(false);

/// Captures under way. Too high after a capture was given up without being ended, never too low.
static ACTIVE: AtomicU32 = AtomicU32::new(0);

/// Begins a capture by `driver`, when no event of ours is being recorded any more on a stream that may become part
/// of it.
pub fn begin(driver: impl FnOnce() -> CUresult) -> CUresult {
    ANY.store(true, Ordering::Relaxed);
    ACTIVE.fetch_add(1, Ordering::SeqCst);
    events::wait_for_recorders();
    let begun = driver();
    if begun.is_err() {
        ACTIVE.fetch_sub(1, Ordering::SeqCst);
    }
    begun
}

/// Ends the capture of a stream by `driver`, if that ends it.
pub fn end(is_capturing: impl Fn() -> bool, driver: impl FnOnce() -> CUresult) -> CUresult {
    let before = is_capturing();
    let ended = driver();
    if before && !is_capturing() {
        let less = |active: u32| active.checked_sub(1);
        let _ = ACTIVE.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less);
    }
    ended
}

/// Whether any capture may be under way.
#[inline]
pub fn active() -> bool {
    ACTIVE.load(Ordering::SeqCst) != 0
}

/// Whether `stream` is being captured, so that what it allocates goes into a graph.
#[inline]
pub fn is_capturing(stream: CUstream) -> bool {
    ANY.load(Ordering::Relaxed) && driver::stream_is_capturing(stream)
}

/// Makes this thread exempt for as long as the answer lives; `None` where no capture was ever begun.
#[inline]
pub fn exempt() -> Option<Exempt> {
    if ANY.load(Ordering::Relaxed) { Exempt::begin() } else { None }
}

/// The thread is in relaxed mode; dropping restores the mode it was in.
pub struct Exempt {
    before: CUstreamCaptureMode,
}

impl Exempt {
    #[cold]
    fn begin() -> Option<Exempt> {
        let before = driver::exchange_capture_mode(CU_STREAM_CAPTURE_MODE_RELAXED).ok()?;
        Some(Exempt { before })
    }
}

impl Drop for Exempt {
    fn drop(&mut self) {
        // The mode came from the driver, which takes it back.
        let _ = driver::exchange_capture_mode(self.before);
    }
}
