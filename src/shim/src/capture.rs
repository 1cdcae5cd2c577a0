//! Keeps this library's own driver calls out of the program's stream captures.
//!
//! While a capture is under way the driver forbids many calls, on that thread or on all, and a forbidden
//! call spoils the capture (`CUDA_ERROR_STREAM_CAPTURE_INVALIDATED`). A thread in relaxed mode is exempt,
//! so from the first capture of the process on, calls of our own are made in that mode. Before that it
//! costs one load.

use crate::driver;
use std::sync::atomic::{AtomicBool, Ordering};
use vcuda_driver::cuda::types::{CU_STREAM_CAPTURE_MODE_RELAXED, CUstream, CUstreamCaptureMode};

static ANY: AtomicBool = AtomicBool::new(false);

/// Notes that the process uses captures.
pub fn note_begun() {
    ANY.store(true, Ordering::Relaxed);
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
