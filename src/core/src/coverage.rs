//! When a device was busy lately, kept so that time is counted once however many streams and processes say so.
//!
//! Owns the packing of the record's words and the only code that changes them. It must never block or take a lock.
//!
//! Time is cut into slices of [`SLOT_NS`], each with a word that says which slice it is of (so that no one has to
//! clear it) and for how many nanoseconds of it the device was busy. Whoever measured an interval adds it slice by
//! slice, and is told how much of it was *new*: a slice never counts for more than its length. Intervals that overlap in
//! whole slices are therefore united exactly; where two share only part of a slice they are taken to lie side by side,
//! which is right for kernels of different processes, and wrong by less than a slice at each end otherwise. The sum of
//! what everybody was told is the device's busy time, whatever the order in which intervals arrive.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![deny(clippy::arithmetic_side_effects)]

use crate::atomic::{AtomicU64, Ordering};

/// Length of one slice in nanoseconds.
pub const SLOT_NS: u64 = 1 << SLOT_SHIFT;
/// Slices in a record, which so reaches 134 ms back.
pub const SLOTS: usize = 8192;

const SLOT_SHIFT: u32 = 14;
const NUMBER_SHIFT: u32 = 32;
const BUSY_MASK: u64 = (1 << NUMBER_SHIFT) - 1;

/// One device's record. Times are nanoseconds of the monotonic clock.
#[derive(Clone, Copy)]
pub struct Coverage<'a> {
    slots: &'a [AtomicU64],
}

impl<'a> Coverage<'a> {
    /// The record kept in these words: [`SLOTS`] of them in a control file, fewer in a model.
    pub fn new(slots: &'a [AtomicU64]) -> Self {
        Self { slots }
    }

    /// How far back the record reaches, in nanoseconds.
    pub fn reach_ns(self) -> u64 {
        (self.slots.len() as u64).saturating_mul(SLOT_NS)
    }

    /// Adds `busy_ns` of work, spread evenly from `start_ns` to `end_ns`, and returns how much of it was new.
    ///
    /// What lies further back than the record reaches from `end_ns` counts as new.
    pub fn add(self, start_ns: u64, end_ns: u64, busy_ns: u64) -> u64 {
        let span_ns = end_ns.saturating_sub(start_ns);
        let busy_ns = busy_ns.min(span_ns);
        if busy_ns == 0 {
            return 0;
        }
        let kept_from_ns = start_ns.max(end_ns.saturating_sub(self.reach_ns().saturating_sub(SLOT_NS)));
        let mut added_ns = 0u64;
        let mut new_ns = 0u64;
        // Work up to a moment, rounded so that the parts add up to the whole.
        let upto = |time_ns: u64| {
            let past_ns = time_ns.saturating_sub(start_ns);
            match past_ns.checked_mul(busy_ns) {
                _ if busy_ns == span_ns => past_ns,
                Some(part) => part.checked_div(span_ns).unwrap_or(0),
                None => {
                    let part = u128::from(past_ns).saturating_mul(u128::from(busy_ns));
                    part.checked_div(u128::from(span_ns)).unwrap_or(0) as u64
                }
            }
        };
        if kept_from_ns > start_ns {
            added_ns = upto(kept_from_ns);
            new_ns = added_ns;
        }
        let mut from_ns = kept_from_ns;
        while from_ns < end_ns {
            let number = from_ns >> SLOT_SHIFT;
            let next_ns = end_ns.min((number << SLOT_SHIFT).saturating_add(SLOT_NS));
            let sum_ns = upto(next_ns);
            new_ns = new_ns.saturating_add(self.add_to_slot(number, sum_ns.saturating_sub(added_ns)));
            added_ns = sum_ns;
            from_ns = next_ns;
        }
        new_ns
    }

    /// Nanoseconds for which the device was busy in the whole slices from `from_ns` to `to_ns`; at most the record's
    /// reach.
    pub fn busy_ns(self, from_ns: u64, to_ns: u64) -> u64 {
        let from_ns = from_ns.max(to_ns.saturating_sub(self.reach_ns()));
        let numbers = (from_ns >> SLOT_SHIFT)..(to_ns >> SLOT_SHIFT);
        numbers.fold(0u64, |sum, number| {
            let word = self.slot(number).map_or(0, |slot| slot.load(Ordering::Relaxed));
            sum.saturating_add(if is_of(word, number) { (word & BUSY_MASK).min(SLOT_NS) } else { 0 })
        })
    }

    fn slot(self, number: u64) -> Option<&'a AtomicU64> {
        let place = number.checked_rem(self.slots.len() as u64)?;
        self.slots.get(usize::try_from(place).ok()?)
    }

    fn add_to_slot(self, number: u64, busy_ns: u64) -> u64 {
        let Some(slot) = self.slot(number) else { return busy_ns };
        let mut found = slot.load(Ordering::Relaxed);
        loop {
            let before_ns = if is_of(found, number) {
                (found & BUSY_MASK).min(SLOT_NS)
            } else if is_later(found, number) {
                // The slice's word has moved on to a later round; nobody can tell any more what was covered.
                return busy_ns;
            } else {
                0
            };
            let after_ns = before_ns.saturating_add(busy_ns).min(SLOT_NS);
            if after_ns == before_ns {
                return 0;
            }
            let word = number << NUMBER_SHIFT | after_ns;
            match slot.compare_exchange(found, word, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return after_ns.saturating_sub(before_ns),
                Err(now) => found = now,
            }
        }
    }
}

fn is_of(word: u64, number: u64) -> bool {
    word >> NUMBER_SHIFT == number & BUSY_MASK
}

/// Whether the word is of a later slice than `number`, as far as 32 bits tell (they wrap in 19 hours).
fn is_later(word: u64, number: u64) -> bool {
    let ahead = ((word >> NUMBER_SHIFT) as u32).wrapping_sub(number as u32);
    word != 0 && ahead != 0 && ahead < 1 << 31
}

#[cfg(all(test, not(loom)))]
#[allow(clippy::arithmetic_side_effects, clippy::indexing_slicing)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn words(count: usize) -> Vec<AtomicU64> {
        (0..count).map(|_| AtomicU64::new(0)).collect()
    }

    #[test]
    fn what_two_say_counts_once() {
        let words = words(64);
        let coverage = Coverage::new(&words);
        let at = |slot: i64| (1000 + slot) as u64 * SLOT_NS;
        assert_eq!(coverage.add(at(0), at(10), 10 * SLOT_NS), 10 * SLOT_NS);
        assert_eq!(coverage.add(at(0), at(10), 10 * SLOT_NS), 0);
        assert_eq!(coverage.add(at(5), at(15), 10 * SLOT_NS), 5 * SLOT_NS);
        assert_eq!(coverage.add(at(-2), at(0), 2 * SLOT_NS), 2 * SLOT_NS);
        assert_eq!(coverage.busy_ns(at(-10), at(20)), 17 * SLOT_NS);
    }

    #[test]
    fn sparse_work_lies_side_by_side() {
        let words = words(64);
        let coverage = Coverage::new(&words);
        assert_eq!(coverage.add(0, 10 * SLOT_NS, 3 * SLOT_NS), 3 * SLOT_NS);
        assert_eq!(coverage.add(0, 10 * SLOT_NS, 3 * SLOT_NS), 3 * SLOT_NS);
        let new = coverage.add(0, 10 * SLOT_NS, 10 * SLOT_NS);
        assert_eq!(new, 4 * SLOT_NS);
    }

    #[test]
    fn work_longer_than_the_record_is_all_counted() {
        let words = words(16);
        let coverage = Coverage::new(&words);
        let (start_ns, end_ns) = (SLOT_NS / 2, 1000 * SLOT_NS);
        assert_eq!(coverage.add(start_ns, end_ns, end_ns - start_ns), end_ns - start_ns);
        assert_eq!(coverage.add(0, SLOT_NS, SLOT_NS), SLOT_NS, "the record has moved on");
        assert_eq!(coverage.add(999 * SLOT_NS, 1000 * SLOT_NS, SLOT_NS), 0);
    }

    #[test]
    fn an_idle_round_leaves_no_trace() {
        let words = words(16);
        let coverage = Coverage::new(&words);
        coverage.add(0, 16 * SLOT_NS, 16 * SLOT_NS);
        assert_eq!(coverage.busy_ns(20 * SLOT_NS, 30 * SLOT_NS), 0);
        assert_eq!(coverage.add(20 * SLOT_NS, 21 * SLOT_NS, SLOT_NS), SLOT_NS);
    }

    proptest! {
        /// Against a record with a bit for each sixteenth of a slice, for intervals without gaps.
        #[test]
        fn agrees_with_the_union_to_less_than_a_slice_per_end(
            intervals in proptest::collection::vec((0u64..3000, 1u64..400), 1..20),
        ) {
            const STEP_NS: u64 = SLOT_NS / 16;
            let words = words(512);
            let coverage = Coverage::new(&words);
            let mut steps = vec![false; 4000];
            let mut told = 0;
            for &(start, length) in &intervals {
                told += coverage.add(start * STEP_NS, (start + length) * STEP_NS, length * STEP_NS);
                steps[start as usize..(start + length) as usize].fill(true);
            }
            let union = steps.iter().filter(|&&busy| busy).count() as u64 * STEP_NS;
            prop_assert!(told >= union, "told {told}, union {union}");
            prop_assert!(told <= union + 2 * SLOT_NS * intervals.len() as u64);
            prop_assert_eq!(told, coverage.busy_ns(0, 512 * SLOT_NS));
        }

        #[test]
        fn never_tells_more_than_was_added(start: u64, end: u64, busy: u64, word: u64) {
            let words: Vec<_> = (0..8).map(|_| AtomicU64::new(word)).collect();
            let coverage = Coverage::new(&words);
            let new = coverage.add(start, end, busy);
            prop_assert!(new <= busy.min(end.saturating_sub(start)));
            prop_assert!(coverage.busy_ns(start, end) <= coverage.reach_ns());
        }
    }
}
