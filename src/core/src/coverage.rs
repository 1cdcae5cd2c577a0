//! When a device was busy lately, kept so that time is counted once however many streams and processes say so.
//!
//! Owns the packing of the record's words and the only code that changes them. It must never block or take a lock.
//!
//! Time is cut into slices of [`SLOT_NS`], each with a word that says which slice it is of (so that no one has to
//! clear it) and which of its [`PARTS`] parts the device was busy in. Whoever measured an interval adds it slice by
//! slice, and is told how much of it was *new*: no part counts twice. What nobody else was busy in counts to the
//! nanosecond; of what somebody was, whole parts are taken off, half a microsecond each. Of work that is spread over a
//! longer time it isn't known when it ran: it takes parts that are still free, because kernels of different processes run
//! one after the other. The sum of what everybody was told is the device's busy time, whatever the order in which
//! intervals arrive.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![deny(clippy::arithmetic_side_effects)]

use crate::atomic::{AtomicU64, Ordering};

/// Length of one slice in nanoseconds.
pub const SLOT_NS: u64 = 1 << SLOT_SHIFT;
/// Slices in a record, which so reaches 134 ms back.
pub const SLOTS: usize = 8192;

/// Parts of a slice.
pub const PARTS: u32 = 32;
/// Length of a part in nanoseconds.
pub const PART_NS: u64 = SLOT_NS / PARTS as u64;

const SLOT_SHIFT: u32 = 14;
const NUMBER_SHIFT: u32 = 32;
const NUMBER_MASK: u64 = (1 << NUMBER_SHIFT) - 1;

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
            let range = parts(from_ns, next_ns, number);
            let count = if busy_ns == span_ns {
                range.count_ones()
            } else {
                // Counted from the start, so that what is less than a part is not lost in every slice.
                let parts = part_number(sum_ns).saturating_sub(part_number(added_ns));
                (parts as u32).min(range.count_ones())
            };
            new_ns = new_ns.saturating_add(self.add_to_slot(
                number,
                range,
                count,
                sum_ns.saturating_sub(added_ns),
            ));
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
            let busy = if is_of(word, number) { (word as u32).count_ones() } else { 0 };
            sum.saturating_add(u64::from(busy).saturating_mul(PART_NS))
        })
    }

    fn slot(self, number: u64) -> Option<&'a AtomicU64> {
        let place = number.checked_rem(self.slots.len() as u64)?;
        self.slots.get(usize::try_from(place).ok()?)
    }

    /// Adds `busy_ns` of work that fills `count` parts of a slice, somewhere in `range`.
    fn add_to_slot(self, number: u64, range: u32, count: u32, busy_ns: u64) -> u64 {
        let Some(slot) = self.slot(number) else { return busy_ns };
        // Less than half a part.
        if count == 0 {
            return busy_ns;
        }
        let mut found = slot.load(Ordering::Relaxed);
        loop {
            let before = if is_of(found, number) {
                found as u32
            } else if is_later(found, number) {
                // The slice's word has moved on to a later round; nobody can tell any more what was covered.
                return busy_ns;
            } else {
                0
            };
            let taken = first_ones(range & !before, count);
            if taken == 0 {
                return 0;
            }
            let word = number << NUMBER_SHIFT | u64::from(before | taken);
            match slot.compare_exchange(found, word, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => {
                    let part = busy_ns.saturating_mul(u64::from(taken.count_ones()));
                    return part.checked_div(u64::from(count)).unwrap_or(busy_ns).min(busy_ns);
                }
                Err(now) => found = now,
            }
        }
    }
}

/// The number of the part boundary closest to `time_ns`.
fn part_number(time_ns: u64) -> u64 {
    time_ns.saturating_add(PART_NS / 2).checked_div(PART_NS).unwrap_or(0)
}

/// The parts of slice `number` from `from_ns` to `to_ns`, which lie within it: those whose middle does.
fn parts(from_ns: u64, to_ns: u64, number: u64) -> u32 {
    let start_ns = number << SLOT_SHIFT;
    let below = |time_ns: u64| {
        let parts = part_number(time_ns.saturating_sub(start_ns)).min(u64::from(PARTS));
        1u64.checked_shl(parts as u32).unwrap_or(0).wrapping_sub(1) as u32
    };
    below(to_ns) & !below(from_ns)
}

/// The lowest `count` ones of a word, or all if it has no more.
fn first_ones(mut word: u32, count: u32) -> u32 {
    let all = word;
    for _ in 0..count.min(PARTS) {
        word &= word.wrapping_sub(1);
    }
    all & !word
}

fn is_of(word: u64, number: u64) -> bool {
    word >> NUMBER_SHIFT == number & NUMBER_MASK
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
        /// Intervals without gaps that begin and end with parts.
        #[test]
        fn agrees_with_the_union(
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
            prop_assert_eq!(told, union);
            prop_assert_eq!(told, coverage.busy_ns(0, 512 * SLOT_NS));
        }

        /// Intervals that begin and end anywhere.
        #[test]
        fn agrees_with_the_union_to_half_a_part_per_end(
            intervals in proptest::collection::vec((0u64..500_000, 600u64..60_000), 1..20),
        ) {
            let words = words(512);
            let coverage = Coverage::new(&words);
            let mut steps = vec![false; 600_000];
            let mut told = 0i64;
            for &(start, length) in &intervals {
                told += coverage.add(start, start + length, length) as i64;
                steps[start as usize..(start + length) as usize].fill(true);
            }
            let union = steps.iter().filter(|&&busy| busy).count() as i64;
            let bound = PART_NS as i64 * intervals.len() as i64;
            prop_assert!((told - union).abs() <= bound, "told {told}, union {union}");
        }

        /// What nobody else said counts to the nanosecond, however little and however spread.
        #[test]
        fn counts_exactly_what_is_alone(pieces in proptest::collection::vec((1u64..20_000, 0u64..20_000), 1..50)) {
            let words = words(512);
            let coverage = Coverage::new(&words);
            let mut now_ns = 0;
            for (busy_ns, idle_ns) in pieces {
                let end_ns = now_ns + busy_ns + idle_ns;
                prop_assert_eq!(coverage.add(now_ns, end_ns, busy_ns), busy_ns);
                // Further apart than a part.
                now_ns = end_ns + 2 * PART_NS;
            }
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
