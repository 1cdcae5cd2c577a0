//! What slices count, as numbers that only grow for as long as the agent lives, and how busy they were lately.
//!
//! A control file counts for as long as it exists. When it is made anew under the same labels, what the new one counts is
//! added to what the old one had; a number that goes down within one file was changed by somebody else, and what was
//! reached stands. Owns that memory and its bound.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use crate::labels::Labels;

/// How far back [`Counted::busy_ratio`] looks: about as far as from one scrape to the next.
pub const WINDOW: Duration = Duration::from_secs(10);
/// How long a slice is remembered that is not there any more, for the case that it comes back.
const MEMORY: Duration = Duration::from_secs(3600);
/// Slices remembered that are not there any more.
const MOST_FORGONE: usize = 4096;

/// What is counted for one device of one slice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Reservations of memory refused.
    pub denied: u64,
    /// Launches, graphs, copies and fills.
    pub work: u64,
    /// GPU time used, in nanoseconds.
    pub busy_ns: u64,
    /// Time that calls were held back, in nanoseconds.
    pub throttled_ns: u64,
}

impl Totals {
    fn combine(self, other: Self, with: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            denied: with(self.denied, other.denied),
            work: with(self.work, other.work),
            busy_ns: with(self.busy_ns, other.busy_ns),
            throttled_ns: with(self.throttled_ns, other.throttled_ns),
        }
    }
}

/// What there is to say about one device of one slice.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Counted {
    /// Never less than said before.
    pub totals: Totals,
    /// GPU time used in the last [`WINDOW`], of the whole GPU's; `None` on the first look.
    pub busy_ratio: Option<f64>,
    /// When work was last seen to have been counted; `None` while it was not.
    pub last_work: Option<Instant>,
}

/// What is remembered of one device of one slice from one agent to the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saved {
    /// The slice.
    pub labels: Labels,
    /// The device's UUID.
    pub device: String,
    /// When the control file was made, in nanoseconds since 1970.
    pub file: u64,
    /// What that file said last.
    pub raw: Totals,
    /// What was told last.
    pub totals: Totals,
}

/// The memory.
#[derive(Debug, Default)]
pub struct Counters {
    known: HashMap<(Labels, String), Known>,
}

#[derive(Debug)]
struct Known {
    file: u64,
    raw: Totals,
    totals: Totals,
    busy: VecDeque<(Instant, u64)>,
    last_work: Option<Instant>,
    seen: Instant,
}

impl Counters {
    /// Takes in what the control file that was made at `file` (nanoseconds since 1970) says about one device.
    pub fn count(&mut self, labels: &Labels, device: &str, file: u64, raw: Totals, now: Instant) -> Counted {
        let known = self.known.entry((labels.clone(), device.to_owned())).or_insert_with(|| Known {
            file,
            raw: Totals::default(),
            totals: Totals::default(),
            busy: VecDeque::new(),
            last_work: None,
            seen: now,
        });
        if known.file != file {
            known.file = file;
            known.raw = Totals::default();
        }
        let is_first = known.busy.is_empty();
        let new = raw.combine(known.raw, u64::saturating_sub);
        known.totals = known.totals.combine(new, u64::saturating_add);
        known.raw = raw;
        known.seen = now;
        if new.work > 0 && !is_first {
            known.last_work = Some(now);
        }
        Counted { totals: known.totals, busy_ratio: known.busy_ratio(now), last_work: known.last_work }
    }

    /// All that is worth remembering from one agent to the next.
    pub fn save(&self) -> Vec<Saved> {
        let one = |((labels, device), known): (&(Labels, String), &Known)| Saved {
            labels: labels.clone(),
            device: device.clone(),
            file: known.file,
            raw: known.raw,
            totals: known.totals,
        };
        self.known.iter().map(one).collect()
    }

    /// Goes on from what an earlier agent remembered.
    pub fn restore(saved: Vec<Saved>, now: Instant) -> Self {
        let one = |Saved { labels, device, file, raw, totals }| {
            let known = Known { file, raw, totals, busy: VecDeque::new(), last_work: None, seen: now };
            ((labels, device), known)
        };
        Self { known: saved.into_iter().map(one).collect() }
    }

    /// Forgets slices that have been gone for long. To be called after a pass at `now`.
    pub fn forget(&mut self, now: Instant) {
        self.known.retain(|_, known| now.duration_since(known.seen) < MEMORY);
        let mut gone: Vec<Instant> =
            self.known.values().map(|known| known.seen).filter(|seen| *seen < now).collect();
        if gone.len() > MOST_FORGONE {
            gone.sort_unstable();
            let from = gone.swap_remove(gone.len() - MOST_FORGONE);
            self.known.retain(|_, known| known.seen >= from);
        }
    }
}

impl Known {
    fn busy_ratio(&mut self, now: Instant) -> Option<f64> {
        let before = self.busy.iter().rev().find(|(at, _)| now.duration_since(*at) >= WINDOW).copied();
        let before = before.or_else(|| self.busy.front().copied());
        self.busy.retain(|(at, _)| Some(*at) >= before.map(|(at, _)| at));
        self.busy.push_back((now, self.totals.busy_ns));
        let (at, busy_ns) = before?;
        let elapsed_ns = now.duration_since(at).as_nanos();
        (elapsed_ns > 0).then(|| self.totals.busy_ns.saturating_sub(busy_ns) as f64 / elapsed_ns as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn totals(number: u64) -> Totals {
        Totals { denied: number, work: number, busy_ns: number, throttled_ns: number }
    }

    #[test]
    fn a_new_file_goes_on_where_the_old_one_ended() {
        let (mut counters, labels, start) = (Counters::default(), Labels::of("a"), Instant::now());
        let mut count = |file, raw| counters.count(&labels, "GPU-1", file, totals(raw), start).totals;
        assert_eq!(count(1, 100), totals(100), "what was counted before the agent began");
        assert_eq!(count(1, 130), totals(130));
        assert_eq!(count(2, 20), totals(150));
        assert_eq!(count(2, 200), totals(330));
        assert_eq!(count(3, 200), totals(530), "a new file that has counted as much as the old one");
    }

    #[test]
    fn the_next_agent_goes_on_where_the_last_one_ended() {
        let (mut counters, labels, start) = (Counters::default(), Labels::of("a"), Instant::now());
        counters.count(&labels, "GPU-1", 1, totals(100), start);
        counters.count(&labels, "GPU-1", 2, totals(10), start);
        let later = |raw, file| {
            let mut next = Counters::restore(counters.save(), start);
            next.count(&labels, "GPU-1", file, totals(raw), start + SECOND)
        };
        assert_eq!(later(10, 2).totals, totals(110));
        assert_eq!(later(30, 2).totals, totals(130), "counted between the two");
        assert_eq!(later(30, 3).totals, totals(140), "a new file between the two");
        assert_eq!(later(30, 2).busy_ratio, None);
        assert_eq!(later(30, 2).last_work, None, "it may have been long ago");
    }

    #[test]
    fn devices_and_slices_count_apart() {
        let (mut counters, start) = (Counters::default(), Instant::now());
        for (labels, device) in [("a", "GPU-1"), ("a", "GPU-2"), ("b", "GPU-1")] {
            let counted = counters.count(&Labels::of(labels), device, 1, totals(5), start);
            assert_eq!(counted.totals, totals(5));
        }
    }

    #[test]
    fn busy_is_what_was_used_lately() {
        let (mut counters, labels, start) = (Counters::default(), Labels::of("a"), Instant::now());
        let mut at = |second: u32, busy_ns| {
            let raw = Totals { busy_ns, ..Totals::default() };
            counters.count(&labels, "GPU-1", 1, raw, start + SECOND * second).busy_ratio
        };
        assert_eq!(at(0, 7_000_000_000), None, "what was before is not known");
        assert_eq!(at(1, 7_500_000_000), Some(0.5));
        assert_eq!(at(2, 7_500_000_000), Some(0.25));
        for second in 3..=12 {
            at(second, 7_500_000_000);
        }
        assert_eq!(at(13, 7_500_000_000), Some(0.0), "nothing in the last ten seconds");
        assert_eq!(at(14, 8_500_000_000), Some(0.1));
    }

    #[test]
    fn work_is_noticed_when_it_is_counted() {
        let (mut counters, labels, start) = (Counters::default(), Labels::of("a"), Instant::now());
        let mut at = |second: u32, work| {
            let raw = Totals { work, ..Totals::default() };
            let counted = counters.count(&labels, "GPU-1", 1, raw, start + SECOND * second);
            counted.last_work.map(|last| last.duration_since(start))
        };
        assert_eq!(at(0, 5), None, "when that was is not known");
        assert_eq!(at(1, 5), None);
        assert_eq!(at(2, 6), Some(SECOND * 2));
        assert_eq!(at(3, 6), Some(SECOND * 2));
    }

    #[test]
    fn the_gone_are_remembered_for_a_while_and_not_without_end() {
        let (mut counters, start) = (Counters::default(), Instant::now());
        for number in 0..2 * MOST_FORGONE as u64 {
            let at = start + Duration::from_millis(number);
            counters.count(&Labels::of(number.to_string()), "GPU-1", 1, totals(1), at);
        }
        let now = start + SECOND * 60;
        counters.count(&Labels::of("present"), "GPU-1", 1, totals(1), now);
        counters.forget(now);
        assert_eq!(counters.known.len(), MOST_FORGONE + 1);
        counters.count(&Labels::of("present"), "GPU-1", 1, totals(1), now + MEMORY);
        counters.forget(now + MEMORY);
        assert_eq!(counters.known.len(), 1);
    }

    proptest! {
        #[test]
        fn whatever_is_written_nothing_goes_down(steps in prop::collection::vec((0u64..4, any::<u64>()), 1..50)) {
            let (mut counters, labels, start) = (Counters::default(), Labels::of("a"), Instant::now());
            let mut before = Totals::default();
            for (number, (file, raw)) in (0u32..).zip(steps) {
                let now = start + SECOND * number;
                let counted = counters.count(&labels, "GPU-1", file, totals(raw), now);
                prop_assert_eq!(before.combine(counted.totals, u64::max), counted.totals);
                prop_assert!(counted.busy_ratio.is_none_or(f64::is_finite));
                before = counted.totals;
            }
        }
    }
}
