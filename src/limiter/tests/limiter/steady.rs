//! Asked against got, over programs drawn at random.
//!
//! Each case is a program under a share on a device of its own, and its number is its seed: a failure names it. What it
//! got is the union of its work's true intervals over a window of at least a second and 110 of its longest kernels at
//! the asked share, after a start in which kinds are unknown and the credit of an idle container is spent.

use crate::chance::Chance;
use crate::device::Behaviour;
use crate::host::Manners;
use crate::program::*;
use vcuda_core::bucket::CREDIT_NS;
use vcuda_limiter::meter::BURST_NS;

/// By how many parts per million clocks differ at most: an H200's by 0.65.
const DRIFT_PPM: f64 = 1.0;

/// What programs are drawn from.
struct Family {
    /// Kinds of kernels in a program at most, and how long kernels are.
    kinds: usize,
    kernels_ns: (u64, u64),
    streams: &'static [usize],
    patterns: &'static [fn(&Chance, u64) -> Pattern],
    /// How many launches a case may take, so that a hundred thousand take a minute.
    launches: f64,
    /// How far above and below it may be, in parts of the device's time.
    above: f64,
    below: f64,
}

fn sync_each(_: &Chance, _: u64) -> Pattern {
    Pattern::SyncEvery(1)
}

fn sync_often(chance: &Chance, _: u64) -> Pattern {
    Pattern::SyncEvery(chance.scaled(2, 200))
}

fn free(_: &Chance, _: u64) -> Pattern {
    Pattern::Free
}

/// From a program that the device waits for to one that waits for the device.
fn paced(chance: &Chance, mean_ns: u64) -> Pattern {
    Pattern::Paced { gap_ns: chance.scaled(1_000, 5 * mean_ns.max(1_000)) }
}

impl Family {
    fn case(&self, number: u64) -> Case {
        let chance = Chance::new(number);
        loop {
            let count = 1 + chance.next() as usize % self.kinds;
            let (least_ns, most_ns) = self.kernels_ns;
            let kinds = (0..count).map(|_| Kind::kernel(chance.scaled(least_ns, most_ns))).collect();
            let is_mixed = chance.one_in(2);
            let mut program =
                Program { kinds, is_mixed, pattern: Pattern::Free, streams: chance.any(self.streams) };
            program.pattern = chance.any(self.patterns)(&chance, program.mean_ns());
            let mut case = Case::of(chance.between(1, 100) as f64 / 100.0, program, number);
            if case.window_ns as f64 * case.share / case.program.mean_ns() as f64 > self.launches {
                continue;
            }
            case.behaviour = Behaviour {
                timer_step_ns: chance.any(&[32, 512]),
                drift_ppm: DRIFT_PPM * (2.0 * chance.fraction() - 1.0),
                ..Behaviour::default()
            };
            // Programs wait by spinning, or by an interrupt.
            case.manners = Manners { wake_ns: chance.any(&[4_000, 4_000, 20_000]), ..Manners::default() };
            return case;
        }
    }

    fn check(&self, numbers: std::ops::Range<u64>) {
        for number in numbers {
            let case = self.case(number);
            let got = case.run().got;
            // Where the program alone takes little more than its share, it spends its credit slowly.
            let credit = (CREDIT_NS as f64 * case.share + BURST_NS as f64) / case.window_ns as f64;
            let most = case.share + self.above + if case.share > 0.8 { credit } else { 0.0 };
            assert!(got <= most, "{number}: got {got} at {case:?}");
            if got < case.share - self.below {
                let natural = case.natural();
                // Where the program is slower than its share, the window may begin and end anywhere in a kernel.
                let edges = if natural < case.share { 2.0 * case.program.longest_ns() as f64 } else { 0.0 };
                let least =
                    case.share.min(natural).min(case.ideal()) - self.below - edges / case.window_ns as f64;
                assert!(got >= least, "{number}: got {got}, not {least} at {case:?}");
            }
        }
    }
}

const ONE_KIND: Family = Family {
    kinds: 1,
    kernels_ns: (20_000, 200_000_000),
    streams: &[1],
    patterns: &[sync_each, sync_often, free, free, paced],
    launches: 600.0,
    above: 0.005,
    below: 0.005,
};

#[test]
fn one_kind_of_kernels_gets_what_was_asked() {
    ONE_KIND.check(0..25_000);
}

#[test]
fn so_does_a_program_that_waits() {
    Family { patterns: &[sync_each, sync_often, paced], ..ONE_KIND }.check(0..20_000);
}

/// Kernels of some ten microseconds by the ten thousand.
#[test]
fn short_kernels_get_what_was_asked() {
    let kernels_ns = (20_000, 500_000);
    Family { kernels_ns, launches: 40_000.0, above: 0.01, below: 0.01, ..ONE_KIND }.check(0..800);
}

#[test]
fn streams_share_what_was_asked() {
    let kernels_ns = (50_000, 25_000_000);
    Family { streams: &[2, 4, 8], patterns: &[free], kernels_ns, ..ONE_KIND }.check(0..25_000);
}

#[test]
fn kinds_of_different_length_share_what_was_asked() {
    let kernels_ns = (20_000, 2_000_000);
    Family { kinds: 4, patterns: &[free], kernels_ns, above: 0.01, below: 0.01, ..ONE_KIND }.check(0..30_000);
}

/// Nobody waits for more than his share in any second of short kernels.
#[test]
fn every_second_is_within_three_points() {
    let family = Family { kernels_ns: (50_000, 2_000_000), launches: 6_000.0, ..ONE_KIND };
    for number in 0..200 {
        let case = Case { window_ns: 8 * SECOND_NS, ..family.case(number) };
        let (outcome, reachable) = (case.run(), case.share.min(case.natural()));
        for second in 0..8 {
            let from_ns = BEGIN_NS + case.start_up_ns + second * SECOND_NS;
            let got = outcome.truth.share(from_ns, from_ns + SECOND_NS);
            assert!((got - reachable).abs() <= 0.03, "{number}: got {got} in second {second} of {case:?}");
        }
    }
}

/// What the container is said to have used is what it has used.
#[test]
fn charges_sum_to_what_was_used() {
    for number in 0..2_000 {
        let case = ONE_KIND.case(number);
        let outcome = case.run();
        let off = outcome.counted_ns as f64 / outcome.busy_ns as f64 - 1.0;
        // What was given last is counted when the next is.
        let last = 2.0 * case.program.longest_ns() as f64 / outcome.busy_ns as f64;
        assert!(off.abs() <= 0.02 + last, "{number}: counted {off:+} at {case:?}");
        assert!(outcome.events < 100, "{number}: {} events in use", outcome.events);
    }
}
