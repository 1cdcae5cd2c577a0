//! What the driver itself says this process holds on a device, by the management library.
//!
//! Measured on an H200 with driver 580.159 by `scripts/gpu-facts`: the answer takes 15 us, counts contexts,
//! modules and everything else to the page except managed memory, and names processes by the process ids of
//! the asker's own PID namespace. Where it is not to be had (some MIG, WSL and integrated devices, older
//! drivers inside a PID namespace) overhead stays an estimate, and `vcuda doctor` says so.

use crate::driver;
use parking_lot::{Mutex, MutexGuard};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use vcuda_driver::nvml::types::nvmlDevice_t;

/// Measurements on launches are at least this far apart.
const LAUNCH_INTERVAL: Duration = Duration::from_millis(2);

/// The source of one device's truth.
pub struct Truth {
    device: Option<nvmlDevice_t>,
    /// The source listed this process once, so an empty answer means empty.
    proven: AtomicBool,
    measuring: Mutex<Option<Instant>>,
}

/// Held while one thread measures.
pub type Measuring<'truth> = MutexGuard<'truth, Option<Instant>>;

impl Truth {
    /// A source that asks about `device`; `None` where there is nothing to ask.
    pub fn new(device: Option<nvmlDevice_t>) -> Truth {
        Truth { device, proven: AtomicBool::new(false), measuring: Mutex::new(None) }
    }

    /// The right to measure, unless another thread is at it. Notes the time.
    pub fn exclusive(&self) -> Option<Measuring<'_>> {
        let mut last = self.measuring.try_lock()?;
        *last = Some(Instant::now());
        Some(last)
    }

    /// Whether the last measurement is long enough ago for a launch to pay for another.
    pub fn is_due(&self) -> bool {
        match self.measuring.try_lock() {
            Some(last) => last.is_none_or(|last| last.elapsed() >= LAUNCH_INTERVAL),
            None => false,
        }
    }

    /// Bytes of the device that the driver attributes to this process; `None` where it can't say.
    pub fn taken_bytes(&self) -> Option<u64> {
        let bytes = driver::process_bytes(self.device?, std::process::id()).ok()??;
        if bytes > 0 {
            self.proven.store(true, Ordering::Relaxed);
        }
        // An unproven source that lists nothing may be naming us by a process id we can't know.
        self.proven.load(Ordering::Relaxed).then_some(bytes)
    }

    /// Whether the source has ever listed this process.
    pub fn is_proven(&self) -> bool {
        self.proven.load(Ordering::Relaxed)
    }
}
