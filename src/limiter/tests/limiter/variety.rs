//! Work of other sorts than kernels that always take the same.

use crate::device::Engine;
use crate::program::*;
use vcuda_core::bucket::CREDIT_NS;
use vcuda_limiter::meter::BURST_NS;

fn run(share: f64, kind: Kind, pattern: Pattern, seed: u64) -> f64 {
    let program = Program { kinds: vec![kind], ..Program::of(kind.mean_ns, pattern) };
    Case::of(share, program, seed).run().got
}

const SHARES: [f64; 3] = [0.1, 0.4, 0.8];

#[test]
fn lengths_that_differ_from_launch_to_launch() {
    for (spread, most) in [(Spread::Even(0.5), 0.015), (Spread::Even(1.0), 0.02), (Spread::Rare, 0.02)] {
        for mean_ns in [100_000, 1_000_000, 10_000_000] {
            for share in SHARES {
                let got = run(share, Kind { spread, ..Kind::kernel(mean_ns) }, Pattern::Free, 1);
                assert!((got - share).abs() <= most, "got {got} of {share}: {spread:?}, {mean_ns} ns");
            }
        }
    }
}

#[test]
fn a_shape_of_its_own_for_every_launch() {
    for mean_ns in [100_000, 1_000_000, 10_000_000] {
        for share in SHARES {
            let kind = Kind { is_shapeless: true, ..Kind::kernel(mean_ns) };
            let got = run(share, kind, Pattern::SyncEvery(1), 1);
            assert!((got - share).abs() <= 0.01, "got {got} of {share}: {mean_ns} ns");
        }
    }
}

/// What calls that wait take is known from outside only: they are charged by the most it can have been.
#[test]
fn copies_whose_call_waits_get_no_more() {
    for mean_ns in [20_000, 200_000, 2_000_000, 20_000_000] {
        for share in SHARES {
            let kind = Kind { engine: Engine::Copy, waits: true, ..Kind::kernel(mean_ns) };
            let got = run(share, kind, Pattern::Free, 1);
            assert!(got <= share + 0.005 && got >= share * 0.7, "got {got} of {share}: {mean_ns} ns");
        }
    }
}

#[test]
fn copies_behind_kernels_share_with_them() {
    for share in SHARES {
        let copy = Kind { engine: Engine::Copy, ..Kind::kernel(300_000) };
        let kinds = vec![Kind::kernel(500_000), copy];
        let program = Program { kinds, ..Program::of(1, Pattern::Free) };
        let got = Case::of(share, program, 1).run().got;
        assert!((got - share).abs() <= 0.005, "got {got} of {share}");
    }
}

/// A container that was idle may catch up on so much, and no more, however long it was idle.
#[test]
fn an_idle_program_saves_up_the_credit_alone() {
    for idle_ns in [20 * MILLISECOND_NS, 200 * MILLISECOND_NS] {
        for share in [0.1, 0.4] {
            let count = 400;
            let program = Program::of(200_000, Pattern::Bursts { count, idle_ns });
            let case = Case { window_ns: 10 * SECOND_NS, ..Case::of(share, program, 1) };
            let truth = case.run().truth;
            // Whatever second is looked at, with a burst at each end.
            let most = share
                + (CREDIT_NS as f64 * share + 3.0 * BURST_NS as f64) / 1e9 * (1e9 / idle_ns as f64).min(2.0);
            for tenth in 0..90 {
                let from_ns = BEGIN_NS + case.start_up_ns + tenth * 100 * MILLISECOND_NS;
                let got = truth.share(from_ns, from_ns + SECOND_NS);
                assert!(got <= most, "got {got} of {share}, {most} at most, after {idle_ns} ns");
            }
        }
    }
}
