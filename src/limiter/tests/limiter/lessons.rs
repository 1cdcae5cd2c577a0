//! Mistakes that were made once.

use crate::program::*;

/// Time between the events of a held-back stream was charged as work; the program locked itself out.
#[test]
fn time_held_back_is_no_work() {
    for share in [0.01, 0.05, 0.2] {
        for pattern in [Pattern::SyncEvery(1), Pattern::SyncEvery(16), Pattern::Free] {
            let case = Case::of(share, Program::of(200_000, pattern), 1);
            let outcome = case.run();
            let off = outcome.counted_ns as f64 / outcome.busy_ns as f64 - 1.0;
            assert!(off.abs() <= 0.02, "counted {off:+} of {pattern:?} at {share}");
        }
    }
}

/// A charge that began at "now less the burst" when the work was measured threw away the time that a kernel longer
/// than the burst had waited for: 20 ms kernels got 36 of 50 %.
#[test]
fn kernels_longer_than_the_credit_keep_their_turn() {
    for mean_ns in [20 * MILLISECOND_NS, 50 * MILLISECOND_NS, 200 * MILLISECOND_NS] {
        for share in [0.1, 0.5, 0.9] {
            for pattern in [Pattern::SyncEvery(1), Pattern::Free] {
                let got = Case::of(share, Program::of(mean_ns, pattern), 1).run().got;
                assert!(
                    (got - share).abs() <= 0.005,
                    "got {got} of {share} with {pattern:?} of {mean_ns} ns"
                );
            }
        }
    }
}

/// An event on an idle stream happens before the kernel behind it starts; what lies between was charged as work, and
/// loops that wait for each of their short kernels got less.
#[test]
fn what_an_event_takes_is_no_work() {
    for (share, most) in [(0.1, 0.102), (0.5, 0.506)] {
        let got = Case::of(share, Program::of(20_000, Pattern::SyncEvery(1)), 1).run().got;
        assert!(got >= share - 0.005 && got <= most, "got {got} of {share}");
    }
}
