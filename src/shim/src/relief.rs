//! What is tried before an allocation is refused: making room with what is this process's own or nobody's.
//!
//! In order of cost: give back what is reserved ahead, trim this process's pools, measure again, take over
//! what dead processes left, and wait (a second at most) for processes that are dying right now. Never
//! synchronises a stream, never touches another live process's memory.

use crate::quota::{Quota, Refusal, lost};
use crate::{log, slice};
use std::thread;
use std::time::{Duration, Instant};
use vcuda_driver::result::CUerror;

/// Longest wait for processes that are being torn down.
const DYING_WAIT: Duration = Duration::from_millis(1000);
const DYING_POLL: Duration = Duration::from_millis(2);

/// Reserves `pages` on a full quota, or says `CUDA_ERROR_OUT_OF_MEMORY`.
#[cold]
pub fn reserve_after_relief(quota: &Quota, pages: u64) -> Result<(), CUerror> {
    let attempt = || match quota.try_reserve(pages) {
        Ok(()) => Some(Ok(())),
        Err(Refusal::Full) => None,
        Err(Refusal::Lost) => Some(Err(lost())),
    };
    let refused = || {
        quota.count_refusal();
        log::info!(
            "{} MiB refused on device {}: the container holds {} of {} MiB",
            pages >> 8,
            quota.ordinal,
            quota.used_bytes().unwrap_or(0) >> 20,
            quota.limit_pages() >> 8,
        );
        Err(CUerror::OUT_OF_MEMORY)
    };
    if pages > quota.limit_pages() {
        return refused();
    }
    quota.chunks.give_back_spare(quota);
    quota.pools.refresh(quota);
    if let Some(done) = attempt() {
        return done;
    }
    let trimmed = quota.pools.trim(quota) | quota.graphs.trim(quota);
    if let Some(done) = trimmed.then(attempt).flatten() {
        return done;
    }
    quota.measure();
    if let Some(done) = attempt() {
        return done;
    }
    let start = Instant::now();
    loop {
        let dying = slice::reap();
        if let Some(done) = attempt() {
            return done;
        }
        if dying == 0 || start.elapsed() >= DYING_WAIT {
            return refused();
        }
        thread::sleep(DYING_POLL);
    }
}
