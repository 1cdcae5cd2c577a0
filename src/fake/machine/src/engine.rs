//! The time line of one GPU: work of all streams of all processes runs one after the other.

use crate::layout::{BUSY_SLOT_NS, BUSY_SLOTS, Gpu, Holding};
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};

/// When a piece of work runs, on the monotonic clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub start_ns: u64,
    pub end_ns: u64,
}

/// Queues work that takes `duration_ns` and can't begin before `earliest_ns`.
pub(crate) fn queue(gpu: &Gpu, holding: &Holding, earliest_ns: u64, duration_ns: u64) -> Span {
    let mut busy_until = gpu.busy_until_ns.load(Acquire);
    let span = loop {
        let start_ns = busy_until.max(earliest_ns);
        let end_ns = start_ns.saturating_add(duration_ns);
        match gpu.busy_until_ns.compare_exchange_weak(busy_until, end_ns, AcqRel, Acquire) {
            Ok(_) => break Span { start_ns, end_ns },
            Err(now) => busy_until = now,
        }
    };
    gpu.busy_ns.fetch_add(duration_ns, Relaxed);
    gpu.work_count.fetch_add(1, Relaxed);
    holding.busy_ns.fetch_add(duration_ns, Relaxed);
    record(gpu, span);
    span
}

/// Enters a span into the record, slot by slot. What lies further ahead than the record is long is left out.
fn record(gpu: &Gpu, span: Span) {
    let first = span.start_ns / BUSY_SLOT_NS;
    let last = (span.end_ns / BUSY_SLOT_NS).min(first + BUSY_SLOTS as u64 / 2);
    for number in first..=last {
        let from = span.start_ns.max(number * BUSY_SLOT_NS);
        let to = span.end_ns.min((number + 1) * BUSY_SLOT_NS);
        let busy = to.saturating_sub(from);
        let tag = (number & u64::from(u32::MAX)) << 32;
        let slot = &gpu.busy_slots[number as usize % BUSY_SLOTS];
        // A slot of an earlier round starts over. Losing a race here costs a sample, nothing more.
        let _ = slot.fetch_update(Relaxed, Relaxed, |old| {
            Some(if old >> 32 == tag >> 32 { old + busy } else { tag | busy })
        });
    }
}

/// Nanoseconds for which the GPU worked in the `slots` whole slots before `now_ns`.
pub(crate) fn recent_busy_ns(gpu: &Gpu, now_ns: u64, slots: u64) -> u64 {
    let current = now_ns / BUSY_SLOT_NS;
    (current.saturating_sub(slots)..current)
        .map(|number| {
            let word = gpu.busy_slots[number as usize % BUSY_SLOTS].load(Relaxed);
            let is_current = word >> 32 == number & u64::from(u32::MAX);
            if is_current { word & u64::from(u32::MAX) } else { 0 }
        })
        .sum()
}
