//! How much of what the container's streams are busy they are busy at the same time, lately.
//!
//! Where kernels of several streams or processes wait for each other, each stream is busy for as long as all of them, and
//! which of them is told that its time was new is chance; so what a kernel costs is learned from the sum. Must never be
//! what anybody is charged by: that is exact, and the record's business.

use std::sync::atomic::Ordering;
use vcuda_core::compute::ComputeWords;

/// What was summed up when the time that is looked at began.
#[derive(Default)]
pub(crate) struct Overlap {
    /// The container's busy time, and its streams', at the beginning of what is looked at.
    before: Option<(u64, u64)>,
}

impl Overlap {
    /// Time that is remembered.
    const MEMORY_NS: u64 = 20_000_000;

    /// The part of a stream's busy time that is nobody else's, on average.
    pub(crate) fn fraction(&mut self, words: &ComputeWords<'_>) -> f32 {
        let busy_ns = words.compute.busy_ns.load(Ordering::Relaxed);
        let stream_ns = words.compute.stream_busy_ns.load(Ordering::Relaxed);
        let (busy_before_ns, stream_before_ns) = *self.before.get_or_insert((busy_ns, stream_ns));
        let new_ns = busy_ns.saturating_sub(busy_before_ns);
        let all_ns = stream_ns.saturating_sub(stream_before_ns);
        if all_ns > Self::MEMORY_NS {
            self.before = Some((busy_ns - new_ns / 2, stream_ns - all_ns / 2));
        }
        if all_ns == 0 { 1.0 } else { (new_ns as f32 / all_ns as f32).min(1.0) }
    }
}
