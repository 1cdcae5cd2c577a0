//! Several containers on one device: turns, weights, hard and elastic shares, priority, death.

use crate::chance::Chance;
use crate::device::{Behaviour, Device};
use crate::host::{Host, Manners, World};
use crate::program::*;
use crate::words::{File, Words, read};
use std::sync::Arc;
use vcuda_core::arbiter::words::{Arbiter, Terms};
use vcuda_core::arbiter::{QUANTUM_NS, Tenant};
use vcuda_limiter::meter::Meter;

/// One container.
#[derive(Clone, Debug)]
struct Container {
    programs: Vec<Program>,
    /// Never more than this; 1 for no limit.
    hard: f64,
    terms: Terms,
    /// Its processes end, all at once.
    killed_after_ns: Option<u64>,
}

impl Container {
    /// No limit, and what is left by weight.
    fn weighted(weight: u16, programs: &[Program]) -> Self {
        let terms = Terms { weight, share_ppm: 0, is_high: false };
        Self { programs: programs.to_vec(), hard: 1.0, terms, killed_after_ns: None }
    }

    fn hard(share: f64, programs: &[Program]) -> Self {
        let terms = Terms { weight: (share * 100.0) as u16, share_ppm: (share * 1e6) as u32, is_high: false };
        Self { programs: programs.to_vec(), hard: share, terms, killed_after_ns: None }
    }

    /// At least its share, and what is left by weight.
    fn elastic(share: f64, programs: &[Program]) -> Self {
        Self { hard: 1.0, ..Self::hard(share, programs) }
    }
}

/// What containers got.
struct Got {
    /// What part of the time each kept the device busy, in a window after the start-up.
    shares: Vec<f64>,
    /// What each was charged with, over what it had, from the beginning.
    charged: Vec<f64>,
}

fn run(containers: &[Container], start_up_ns: u64, window_ns: u64) -> Got {
    let owners: Vec<usize> =
        containers.iter().enumerate().flat_map(|(index, c)| vec![index; c.programs.len()]).collect();
    let programs: Vec<&Program> = containers.iter().flat_map(|c| &c.programs).collect();
    let world = World::new(Device::new(Behaviour::default()), programs.len(), BEGIN_NS);
    let arbiter = Arc::new(Arbiter::default());
    let files: Vec<_> = containers.iter().map(|_| File::new()).collect();
    let until_ns = BEGIN_NS + start_up_ns + window_ns;
    std::thread::scope(|scope| {
        for (index, (&owner, program)) in owners.iter().zip(programs).enumerate() {
            let container = &containers[owner];
            let (world, arbiter, file) = (&world, Arc::clone(&arbiter), Arc::clone(&files[owner]));
            scope.spawn(move || {
                let host = Host::new(world, index, Manners::default(), index as u64 + 1);
                let tenant = Tenant::new(owner as u64 + 1, container.terms);
                tenant.enter(&arbiter, host.now());
                let words = Words::with_arbiter(&file, &arbiter);
                let meter = Meter::of_tenant(words, (container.hard * 1e6) as u32, Some(tenant));
                let until_ns = container.killed_after_ns.map_or(until_ns, |after_ns| BEGIN_NS + after_ns);
                program.run(&host, &Limit::Meter(&meter), until_ns);
            });
        }
    });
    world.device(|device| {
        device.advance(until_ns);
        let from_ns = BEGIN_NS + start_up_ns;
        let of = |container: usize, measure: &dyn Fn(usize) -> f64| -> f64 {
            (0..owners.len()).filter(|&process| owners[process] == container).map(measure).sum()
        };
        let truth = |process: usize| device.truths.get(process);
        let share = |process: usize| truth(process).map_or(0.0, |truth| truth.share(from_ns, until_ns));
        let busy = |process: usize| truth(process).map_or(0.0, |truth| truth.busy_ns() as f64);
        let charged =
            |container: usize| read(&files[container].compute.busy_ns) as f64 / of(container, &busy);
        Got {
            shares: (0..containers.len()).map(|container| of(container, &share)).collect(),
            charged: (0..containers.len()).map(charged).collect(),
        }
    })
}

/// The busy part of the time of these programs alone.
fn solo(programs: &[Program]) -> f64 {
    run(&[Container::weighted(1, programs)], 500 * MILLISECOND_NS, SECOND_NS).shares[0]
}

/// What each container has of what its programs have alone.
fn of_solo(containers: &[Container], window_ns: u64) -> Vec<f64> {
    let shares = run(containers, SECOND_NS, window_ns).shares;
    containers.iter().zip(shares).map(|(container, share)| share / solo(&container.programs)).collect()
}

fn free(mean_ns: u64) -> Vec<Program> {
    vec![Program::of(mean_ns, Pattern::Free)]
}

fn waiting(mean_ns: u64) -> Vec<Program> {
    vec![Program::of(mean_ns, Pattern::SyncEvery(1))]
}

/// Each has its part by weight, and together they have what one has alone but for a hundredth.
fn check_weights(containers: &[Container]) {
    let window_ns = 6 * SECOND_NS;
    let got = of_solo(containers, window_ns);
    let weights: f64 = containers.iter().map(|container| f64::from(container.terms.weight)).sum();
    let all: f64 = got.iter().sum();
    for (container, share) in containers.iter().zip(&got) {
        let asked = f64::from(container.terms.weight) / weights;
        let off = share / all / asked - 1.0;
        // The window may end anywhere in a turn.
        let turns = asked * window_ns as f64 / QUANTUM_NS as f64;
        assert!(
            off.abs() < 0.02 + 1.0 / turns,
            "{got:.3?}, {off:.3} off {asked} of {:?}",
            container.programs
        );
    }
    assert!(all > 0.985, "{got:.3?} of {containers:?}");
}

#[test]
fn two_that_want_everything_have_their_parts_by_weight_and_nothing_is_lost() {
    for (one, other) in [(200_000, 200_000), (20_000, 20_000), (200_000, 2_000_000)] {
        check_weights(&[Container::weighted(1, &free(one)), Container::weighted(1, &free(other))]);
        check_weights(&[Container::weighted(3, &waiting(one)), Container::weighted(7, &free(other))]);
        check_weights(&[Container::weighted(3, &waiting(one)), Container::weighted(7, &waiting(other))]);
    }
}

#[test]
fn small_weights_too() {
    check_weights(&[Container::weighted(1, &free(200_000)), Container::weighted(9, &free(20_000))]);
    check_weights(&[Container::weighted(1, &waiting(200_000)), Container::weighted(9, &free(2_000_000))]);
}

#[test]
fn three_have_their_parts_by_weight() {
    check_weights(&[
        Container::weighted(50, &free(200_000)),
        Container::weighted(30, &waiting(20_000)),
        Container::weighted(20, &free(2_000_000)),
    ]);
}

#[test]
fn any_mix_has_its_parts_by_weight() {
    for seed in 0..8 {
        let chance = Chance::new(seed);
        let containers: Vec<_> = (0..chance.between(2, 5))
            .map(|_| {
                let mean_ns = chance.any(&[20_000, 60_000, 200_000, 700_000, 2_000_000]);
                let pattern = chance.any(&[Pattern::Free, Pattern::SyncEvery(1), Pattern::SyncEvery(16)]);
                Container::weighted(chance.between(20, 100) as u16, &[Program::of(mean_ns, pattern)])
            })
            .collect();
        check_weights(&containers);
    }
}

/// A container with many processes has no more of the device than one with one.
#[test]
fn processes_gain_nothing() {
    let many = vec![Program::of(200_000, Pattern::Free); 4];
    let both = [Container::weighted(1, &free(200_000)), Container::weighted(1, &many)];
    let got = of_solo(&both, 4 * SECOND_NS);
    assert!(got[0] > 0.47 && got[1] > 0.40, "{got:.3?}");
}

/// Nor less: what its processes have in flight together none of them knows, and the device must not stand idle for that.
#[test]
fn processes_lose_nothing() {
    let crews =
        [(20_000, Pattern::SyncEvery(1)), (200_000, Pattern::Free), (2_000_000, Pattern::SyncEvery(1))];
    for (mean_ns, pattern) in crews {
        let many = vec![Program::of(mean_ns, pattern); 4];
        let both = [Container::weighted(7, &many), Container::weighted(3, &free(200_000))];
        let got = of_solo(&both, 2 * SECOND_NS);
        // Whoever drains a turn together loses some of it, and the window may end anywhere in one.
        let is_kept = (got[0] - 0.7).abs() < 0.025 && (got[1] - 0.3).abs() < 0.012;
        assert!(is_kept, "{got:.3?} of {mean_ns} ns");
    }
    // In a turn they have the device one after the other, and it goes less often from one to another than it does alone.
    let many = vec![Program::of(20_000, Pattern::Free); 4];
    let both = [Container::weighted(7, &many), Container::weighted(3, &free(200_000))];
    let got = of_solo(&both, 2 * SECOND_NS);
    assert!(got[0] > 0.69 && (got[1] - 0.3).abs() < 0.012, "{got:.3?}");
}

#[test]
fn hard_limits_hold_whatever_others_do() {
    for (one, other) in [
        (free(200_000), free(200_000)),
        (waiting(200_000), free(200_000)),
        (free(2_000_000), waiting(200_000)),
        (free(20_000), free(2_000_000)),
    ] {
        let both = [Container::hard(0.3, &one), Container::hard(0.6, &other)];
        let got = run(&both, SECOND_NS, 4 * SECOND_NS).shares;
        let is_kept = (got[0] - 0.3).abs() < 0.01 && (got[1] - 0.6).abs() < 0.01;
        assert!(is_kept, "{got:.3?} of {both:?}");
    }
    let others = Container::weighted(50, &free(200_000));
    let got = run(&[Container::hard(0.3, &free(200_000)), others], SECOND_NS, 4 * SECOND_NS).shares;
    assert!((got[0] - 0.3).abs() < 0.01 && got[1] > 0.67, "the rest is used: {got:.3?}");
}

/// Everybody is charged with what was his own, so together with what the device was busy.
#[test]
fn charges_add_up_to_what_the_device_was_busy() {
    for (one, other) in [(free(200_000), free(2_000_000)), (waiting(200_000), free(20_000))] {
        let got =
            run(&[Container::weighted(1, &one), Container::hard(0.3, &other)], SECOND_NS, 4 * SECOND_NS);
        assert!(got.charged.iter().all(|charged| (charged - 1.0).abs() < 0.01), "{:.4?}", got.charged);
    }
}

#[test]
fn elastic_shares_are_the_least_and_the_rest_goes_by_weight() {
    let program = free(200_000);
    let both = [Container::elastic(0.3, &program), Container::elastic(0.2, &program)];
    let got = run(&both, SECOND_NS, 4 * SECOND_NS).shares;
    assert!((got[0] - 0.6).abs() < 0.015 && (got[1] - 0.4).abs() < 0.015, "{got:.3?}");
    let both = [Container::elastic(0.3, &program), Container::weighted(1000, &waiting(200_000))];
    let got = run(&both, SECOND_NS, 4 * SECOND_NS).shares;
    assert!(got[0] > 0.29, "its share, whatever others weigh: {got:.3?}");
}

#[test]
fn who_is_alone_has_everything() {
    let seldom = Program::of(200_000, Pattern::Bursts { count: 1, idle_ns: 400 * MILLISECOND_NS });
    let both = [Container::elastic(0.3, &free(200_000)), Container::weighted(1, &[seldom])];
    let got = run(&both, SECOND_NS, 2 * SECOND_NS).shares;
    assert!(got[0] > 0.98, "{got:.3?}");
}

/// As long as there is room for everybody nobody waits.
#[test]
fn who_wants_little_runs_freely() {
    let light = vec![Program::of(20_000, Pattern::Paced { gap_ns: 400_000 })];
    let got = of_solo(&[Container::weighted(1, &light), Container::weighted(9, &light)], 2 * SECOND_NS);
    assert!(got.iter().all(|&share| share > 0.98), "{got:.3?}");
}

#[test]
fn who_wants_little_is_not_starved_by_who_wants_everything() {
    let light = vec![Program::of(20_000, Pattern::Paced { gap_ns: 400_000 })];
    let both = [Container::weighted(1, &light), Container::weighted(1, &free(200_000))];
    let got = of_solo(&both, 2 * SECOND_NS);
    assert!(got.iter().all(|&share| share > 0.45), "{got:.3?}");
}

#[test]
fn high_priority_goes_first() {
    let requests = [Program::of(1_000_000, Pattern::Bursts { count: 5, idle_ns: 45 * MILLISECOND_NS })];
    let alone = solo(&requests);
    let mut high = Container::hard(0.5, &requests);
    let heavy = Container::elastic(0.5, &free(200_000));
    let behind = run(&[high.clone(), heavy.clone()], SECOND_NS, 4 * SECOND_NS).shares[0];
    high.terms.is_high = true;
    let first = run(&[high, heavy], SECOND_NS, 4 * SECOND_NS).shares[0];
    assert!(
        first > 0.96 * alone && first > 1.2 * behind,
        "{first:.4}, in turn {behind:.4}, alone {alone:.4}"
    );
}

/// Who dies in its turn leaves nothing held.
#[test]
fn the_dead_are_not_waited_for() {
    let program = free(200_000);
    let mut dies = Container::weighted(1, &program);
    for after_ns in [1_000, 1_007, 1_012, 1_019, 1_030].map(|ms| ms * MILLISECOND_NS) {
        dies.killed_after_ns = Some(after_ns);
        let both = [dies.clone(), Container::weighted(1, &program)];
        let got = run(&both, 1_060 * MILLISECOND_NS, SECOND_NS).shares[1];
        assert!(got > 0.99, "dead after {after_ns} ns: {got}");
    }
}
