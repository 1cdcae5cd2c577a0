//! The bucket: when the next work of a container may start on a device, in one shared word.
//!
//! Owns the arithmetic of the deadline and the only code that changes it. It must never block, never take a lock, and
//! never trust the number it reads.
//!
//! The word is a *theoretical arrival time* as in the generic cell rate algorithm (ITU-T I.371): the moment, on the
//! monotonic clock, by which all GPU time charged so far has been paid for at the container's rate. Charging `c` of
//! GPU time at share `s` moves it by `c / s`; work may start when the deadline before its own charge is due. Nothing
//! refills and nothing ticks. Debt is carried: a kernel that took longer than its charge moves the deadline once it is
//! measured, so the long-run share is exact whatever the lengths of kernels, and a late wake-up costs nothing, because
//! the next deadline counts from the last one and not from the wake-up.
//!
//! Two bounds make it safe. A charge never starts from further back than [`CREDIT_NS`], so an idle container saves up
//! no burst worth mentioning. And the deadline is never further ahead than a bound that each charge names (see
//! [`debt_bound_ns`]), so neither one absurd kernel nor a word left from before a reboot locks anybody out.
//!
//! Every change is one exchange of the word. Whoever dies between two instructions has charged or has not.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![deny(clippy::arithmetic_side_effects)]

use crate::atomic::{AtomicU64, Ordering};

/// How far behind now a deadline still counts: what a container that was late or idle may catch up on, in wall time.
/// Long enough for a thread that the system woke late, short enough to vanish in a second.
pub const CREDIT_NS: u64 = 10_000_000;

/// No deadline is further ahead than this, whatever was charged: half a minute.
pub const LONGEST_DEBT_NS: u64 = 30_000_000_000;

/// A deadline may be this far ahead whatever the work was.
const SHORTEST_DEBT_BOUND_NS: u64 = 2_000_000_000;

/// Parts per million in the whole.
const WHOLE_PPM: u64 = 1_000_000;

/// Wall time that `busy_ns` of GPU time costs at a share. A share of 0 counts as the smallest there is.
pub fn wall_ns(busy_ns: u64, share_ppm: u32) -> u64 {
    let wall = u128::from(busy_ns).saturating_mul(u128::from(WHOLE_PPM));
    let share = u128::from(share_ppm.clamp(1, WHOLE_PPM as u32));
    u64::try_from(wall.checked_div(share).unwrap_or(wall)).unwrap_or(u64::MAX)
}

/// Wall time in which the GPU time that takes `wall_ns` at one share is paid for at another.
pub fn rescaled_ns(wall_ns: u64, from_ppm: u32, to_ppm: u32) -> u64 {
    let busy = u128::from(wall_ns).saturating_mul(u128::from(from_ppm));
    let rescaled = busy.checked_div(u128::from(to_ppm.max(1))).unwrap_or(busy);
    u64::try_from(rescaled).unwrap_or(u64::MAX)
}

/// How far ahead the deadline may be when the longest single piece of work costs `unit_wall_ns`: twice that, at least
/// two seconds, at most [`LONGEST_DEBT_NS`].
pub fn debt_bound_ns(unit_wall_ns: u64) -> u64 {
    unit_wall_ns.saturating_mul(2).clamp(SHORTEST_DEBT_BOUND_NS, LONGEST_DEBT_NS)
}

/// What a charge found and did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Charged {
    /// The deadline before: when the work charged for may start.
    pub due_ns: u64,
    /// Wall time that was not charged because the deadline would have been too far ahead.
    pub forgiven_ns: u64,
}

/// A container's deadline on one device.
#[derive(Clone, Copy)]
pub struct Bucket<'a> {
    deadline: &'a AtomicU64,
}

impl<'a> Bucket<'a> {
    /// The bucket whose deadline stands in this word.
    pub fn new(deadline: &'a AtomicU64) -> Self {
        Self { deadline }
    }

    /// Charges `wall_ns` for work that starts now or as soon as it may. `bound_ns` limits how far ahead the deadline
    /// gets, see [`debt_bound_ns`].
    pub fn charge(self, now_ns: u64, wall_ns: u64, bound_ns: u64) -> Charged {
        self.charge_late(now_ns, wall_ns, bound_ns, CREDIT_NS)
    }

    /// As [`charge`](Self::charge), with another bound than [`CREDIT_NS`] of what may be caught up on: others kept the
    /// container waiting.
    pub fn charge_late(self, now_ns: u64, wall_ns: u64, bound_ns: u64, credit_ns: u64) -> Charged {
        let latest_ns = now_ns.saturating_add(bound_ns);
        let mut found_ns = self.deadline.load(Ordering::Relaxed);
        loop {
            let due_ns = found_ns.clamp(now_ns.saturating_sub(credit_ns), latest_ns);
            let wanted_ns = due_ns.saturating_add(wall_ns);
            let next_ns = wanted_ns.min(latest_ns);
            match self.replace(found_ns, next_ns) {
                Ok(()) => {
                    // What was found beyond the bound is dropped as well, but is no part of this charge.
                    return Charged { due_ns, forgiven_ns: wanted_ns.saturating_sub(next_ns) };
                }
                Err(now_found_ns) => found_ns = now_found_ns,
            }
        }
    }

    /// Corrects earlier charges by `wall_ns`, up or down, now that the work was measured. Returns the wall time that
    /// was dropped because the deadline would have been too far ahead.
    ///
    /// Unlike a charge this does not begin at now: the work has run, and what it was charged with has its place.
    pub fn correct(self, now_ns: u64, wall_ns: i64, bound_ns: u64) -> u64 {
        let mut found_ns = self.deadline.load(Ordering::Relaxed);
        loop {
            let wanted_ns = found_ns.saturating_add_signed(wall_ns);
            // A correction downwards must not be taken for the place to enforce the bound.
            let latest_ns = now_ns.saturating_add(bound_ns);
            let next_ns = if wall_ns > 0 { wanted_ns.min(latest_ns.max(found_ns)) } else { wanted_ns };
            match self.replace(found_ns, next_ns) {
                Ok(()) => return wanted_ns.saturating_sub(next_ns),
                Err(now_found_ns) => found_ns = now_found_ns,
            }
        }
    }

    /// The deadline as it is, with a word that makes no sense brought back to the longest debt.
    pub fn deadline_ns(self, now_ns: u64) -> u64 {
        self.deadline.load(Ordering::Relaxed).min(now_ns.saturating_add(LONGEST_DEBT_NS))
    }

    /// Wall time until all work charged so far is paid for; 0 if it is.
    pub fn debt_ns(self, now_ns: u64) -> u64 {
        self.deadline_ns(now_ns).saturating_sub(now_ns)
    }

    /// The share changes: what is owed is GPU time, and takes as much longer or shorter to pay for as the new share is
    /// smaller or larger. Returns by how much the deadline moved.
    pub fn restate(self, now_ns: u64, from_ppm: u32, to_ppm: u32) -> i64 {
        let mut found_ns = self.deadline.load(Ordering::Relaxed);
        loop {
            let debt_ns = found_ns.saturating_sub(now_ns).min(LONGEST_DEBT_NS);
            if debt_ns == 0 {
                return 0;
            }
            let next_ns = now_ns.saturating_add(rescaled_ns(debt_ns, from_ppm, to_ppm).min(LONGEST_DEBT_NS));
            match self.replace(found_ns, next_ns) {
                Ok(()) => return next_ns.wrapping_sub(found_ns) as i64,
                Err(now_found_ns) => found_ns = now_found_ns,
            }
        }
    }

    fn replace(self, found_ns: u64, next_ns: u64) -> Result<(), u64> {
        self.deadline.compare_exchange(found_ns, next_ns, Ordering::AcqRel, Ordering::Relaxed).map(drop)
    }
}

#[cfg(all(test, not(loom)))]
#[allow(clippy::arithmetic_side_effects)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND_NS: u64 = 1_000_000_000;

    #[test]
    fn work_costs_its_time_over_the_share() {
        assert_eq!(wall_ns(3_000, 300_000), 10_000);
        assert_eq!(wall_ns(3_000, 1_000_000), 3_000);
        assert_eq!(wall_ns(u64::MAX, 1), u64::MAX);
        assert_eq!(wall_ns(7, 0), 7_000_000, "a share of nothing is the smallest there is");
    }

    #[test]
    fn an_idle_container_saves_up_only_the_credit() {
        let word = AtomicU64::new(0);
        let bucket = Bucket::new(&word);
        let charged = bucket.charge(SECOND_NS, 1_000, SECOND_NS);
        assert_eq!(charged, Charged { due_ns: SECOND_NS - CREDIT_NS, forgiven_ns: 0 });
    }

    #[test]
    fn a_word_from_before_a_reboot_locks_nobody_out() {
        let word = AtomicU64::new(u64::MAX - 5);
        let bucket = Bucket::new(&word);
        assert_eq!(bucket.deadline_ns(SECOND_NS), SECOND_NS + LONGEST_DEBT_NS);
        let charged = bucket.charge(SECOND_NS, 1_000, 2 * SECOND_NS);
        assert_eq!(charged.due_ns, 3 * SECOND_NS);
        assert_eq!(bucket.deadline_ns(SECOND_NS), 3 * SECOND_NS);
    }

    #[test]
    fn an_absurd_kernel_is_forgiven_most_of_its_debt() {
        let word = AtomicU64::new(SECOND_NS);
        let dropped =
            Bucket::new(&word).correct(SECOND_NS, 600 * SECOND_NS as i64, debt_bound_ns(600 * SECOND_NS));
        assert_eq!(Bucket::new(&word).debt_ns(SECOND_NS), LONGEST_DEBT_NS);
        assert_eq!(dropped, 570 * SECOND_NS);
    }

    #[test]
    fn a_changed_share_restates_what_is_owed_and_leaves_credit_alone() {
        let word = AtomicU64::new(SECOND_NS + 600_000_000);
        let bucket = Bucket::new(&word);
        assert_eq!(bucket.restate(SECOND_NS, 100_000, 300_000), -400_000_000);
        assert_eq!(bucket.debt_ns(SECOND_NS), 200_000_000);
        assert_eq!(bucket.restate(SECOND_NS, 300_000, 100_000), 400_000_000);
        assert_eq!(bucket.restate(SECOND_NS, 500_000, 1), (LONGEST_DEBT_NS - 600_000_000) as i64, "bounded");
        word.store(SECOND_NS - 5, Ordering::Relaxed);
        assert_eq!(bucket.restate(SECOND_NS, 100_000, 300_000), 0);
        assert_eq!(word.load(Ordering::Relaxed), SECOND_NS - 5);
        word.store(u64::MAX, Ordering::Relaxed);
        bucket.restate(SECOND_NS, 100_000, 200_000);
        assert_eq!(bucket.debt_ns(SECOND_NS), LONGEST_DEBT_NS / 2, "a word from before a reboot");
        assert_eq!(bucket.restate(SECOND_NS, 100_000, 0), (LONGEST_DEBT_NS / 2) as i64);
    }

    proptest! {
        #[test]
        fn charges_in_advance_and_corrections_add_up(
            steps in proptest::collection::vec((1u64..5_000_000, -4_000_000i64..4_000_000), 1..200),
        ) {
            let start_ns = 50 * SECOND_NS;
            let word = AtomicU64::new(start_ns);
            let bucket = Bucket::new(&word);
            let mut expected = i128::from(start_ns);
            for (charge_ns, correction_ns) in steps {
                // Never late, so no credit is lost; never far ahead, so nothing is forgiven.
                let correction_ns = correction_ns.max(-(charge_ns as i64));
                let now_ns = word.load(Ordering::Relaxed);
                prop_assert_eq!(bucket.charge(now_ns, charge_ns, LONGEST_DEBT_NS).forgiven_ns, 0);
                prop_assert_eq!(bucket.correct(now_ns, correction_ns, LONGEST_DEBT_NS), 0);
                expected += i128::from(charge_ns) + i128::from(correction_ns);
                prop_assert_eq!(i128::from(word.load(Ordering::Relaxed)), expected);
            }
        }

        #[test]
        fn never_beyond_its_bound_and_never_a_panic(
            word: u64, now_ns: u64, charge_ns: u64, correction_ns: i64, unit_ns: u64,
        ) {
            let word = AtomicU64::new(word);
            let bucket = Bucket::new(&word);
            let bound_ns = debt_bound_ns(unit_ns);
            bucket.charge(now_ns, charge_ns, bound_ns);
            prop_assert!(word.load(Ordering::Relaxed) <= now_ns.saturating_add(bound_ns));
            bucket.correct(now_ns, correction_ns, bound_ns);
            prop_assert!(bucket.debt_ns(now_ns) <= bound_ns);
        }
    }
}
