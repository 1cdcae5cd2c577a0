//! Several processes in one container: one deadline, one record, one sum.

use crate::device::{Behaviour, Device};
use crate::host::{Host, Manners, World};
use crate::program::*;
use crate::words::{File, Words};
use std::sync::Arc;
use vcuda_limiter::meter::Meter;

/// What processes get together, each running its own program until `until_ns`, or until it is killed. Nothing holds them
/// back if `share` is 1.
fn got(
    share: f64,
    programs: &[Program],
    window_ns: u64,
    killed_after_ns: impl Fn(usize) -> Option<u64> + Sync,
) -> f64 {
    let world = World::new(Device::new(Behaviour::default()), programs.len(), BEGIN_NS);
    let file = File::new();
    let longest_ns = programs.iter().map(Program::longest_ns).max().unwrap_or(0);
    let wall_ns = (longest_ns as f64 / share) as u64;
    let start_up_ns = (2 * SECOND_NS).max(10 * programs.len() as u64 * wall_ns);
    let until_ns = BEGIN_NS + start_up_ns + window_ns.max(110 * wall_ns);
    std::thread::scope(|scope| {
        for (index, program) in programs.iter().enumerate() {
            let (world, file, killed_after_ns) = (&world, Arc::clone(&file), &killed_after_ns);
            scope.spawn(move || {
                let host = Host::new(world, index, Manners::default(), index as u64 + 1);
                let meter = Meter::new(Words::new(&file), (share * 1e6) as u32);
                let until_ns = killed_after_ns(index).map_or(until_ns, |after_ns| BEGIN_NS + after_ns);
                let limit = if share < 1.0 { Limit::Meter(&meter) } else { Limit::None };
                program.run(&host, &limit, until_ns);
            });
        }
    });
    world.device(|device| {
        device.advance(until_ns);
        device.truth.share(BEGIN_NS + start_up_ns, until_ns)
    })
}

fn check(processes: usize, shares: &[f64], kernels_ns: &[u64], patterns: &[Pattern]) {
    for &share in shares {
        for &mean_ns in kernels_ns {
            for &pattern in patterns {
                let programs = vec![Program::of(mean_ns, pattern); processes];
                let found = got(share, &programs, SECOND_NS, |_| None);
                let off = if processes > 2 { 0.02 } else { 0.01 };
                // Going from one process to another costs so much that some can't reach their share.
                let least = if found < share - off {
                    share.min(got(1.0, &programs, SECOND_NS, |_| None))
                } else {
                    share
                };
                assert!(
                    found <= share + off && found >= least - off,
                    "got {found}, not {least}, of {share}: {processes} x {mean_ns} ns, {pattern:?}"
                );
            }
        }
    }
}

const PATTERNS: [Pattern; 3] = [Pattern::SyncEvery(1), Pattern::SyncEvery(16), Pattern::Free];

#[test]
fn two_get_together_what_was_asked() {
    check(2, &[0.1, 0.5], &[200_000, 2_000_000, 20_000_000], &PATTERNS);
}

#[test]
fn four_get_together_what_was_asked() {
    check(4, &[0.1, 0.5], &[2_000_000], &PATTERNS);
    check(4, &[0.3], &[20_000_000], &[Pattern::SyncEvery(1)]);
}

#[test]
fn eight_get_together_what_was_asked() {
    check(8, &[0.3, 0.5], &[2_000_000, 20_000_000], &[Pattern::SyncEvery(1)]);
}

#[test]
fn short_kernels_of_two_too() {
    check(2, &[0.3], &[20_000], &PATTERNS);
}

/// They keep the device's queue full, with kernels much shorter and much longer than a millisecond.
#[test]
fn four_that_never_wait_too() {
    check(4, &[0.3, 0.5], &[200_000, 2_000_000, 20_000_000], &[Pattern::Free]);
}

#[test]
fn different_programs_share_it() {
    let programs = [
        Program::of(200_000, Pattern::SyncEvery(1)),
        Program::of(2_000_000, Pattern::Free),
        Program::of(500_000, Pattern::SyncEvery(16)),
    ];
    let got = got(0.4, &programs, 2 * SECOND_NS, |_| None);
    assert!((got - 0.4).abs() <= 0.01, "got {got}");
}

/// Those that go leave the others their time.
#[test]
fn whoever_stays_takes_over() {
    let programs = vec![Program::of(2_000_000, Pattern::Free); 4];
    let got = got(0.5, &programs, 2 * SECOND_NS, |index| (index > 0).then_some(400 * MILLISECOND_NS));
    assert!((got - 0.5).abs() <= 0.01, "got {got}");
}
