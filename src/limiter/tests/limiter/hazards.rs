//! What programs and drivers do that a limiter would rather they didn't.

use crate::device::{Behaviour, Device, Engine, Work};
use crate::host::{Host, Manners, World};
use crate::program::*;
use crate::words::{File, Words, read};
use vcuda_limiter::cost::Unit;
use vcuda_limiter::meter::Meter;

const TENTH_PPM: u32 = 100_000;

fn unit(kind: u64) -> Unit {
    Unit { kind: kind * 2 + 1, family: kind * 2 + 1_000_001, size: 1, guess_ns: 10_000, waits: false }
}

fn got(case: &Case) -> f64 {
    case.run().got
}

/// A kernel that runs until a later launch has started: each round ends, and none takes longer because the ones before
/// did.
#[test]
fn kernels_that_wait_for_a_later_launch_get_it() {
    for work_ns in [0, 5 * MILLISECOND_NS] {
        let world = World::new(Device::new(Behaviour::default()), 1, BEGIN_NS);
        let host = Host::new(&world, 0, Manners::default(), 1);
        host.hangs_after(BEGIN_NS + 600 * SECOND_NS);
        let file = File::new();
        let meter = Meter::new(Words::new(&file), TENTH_PPM);
        let limit = Limit::Meter(&meter);
        let lanes = [Lane::new(&host, &limit), Lane::new(&host, &limit)];
        let mut rounds_ns = Vec::new();
        for _ in 0..60 {
            let began_ns = host.now();
            let gate = world.device(|device| device.add_gate());
            let part = Work::whole(work_ns + 10_000).on(Engine::Part);
            lanes[0].give(&host, &limit, (Work { awaits: Some(gate), ..part }, unit(1)));
            lanes[1].give(&host, &limit, (Work { opens: Some(gate), ..part }, unit(2)));
            lanes.iter().for_each(|lane| lane.wait(&host, &limit));
            rounds_ns.push(host.now() - began_ns);
        }
        let mean = |rounds_ns: &[u64]| rounds_ns.iter().sum::<u64>() / rounds_ns.len() as u64;
        let (early_ns, late_ns) = (mean(&rounds_ns[20..40]), mean(&rounds_ns[40..]));
        assert!(late_ns <= early_ns + early_ns / 2, "{early_ns} ns a round, then {late_ns}");
    }
}

#[test]
fn long_kernels_do_not_queue_up_before_their_length_is_known() {
    for streams in [1, 8] {
        let world = World::new(Device::new(Behaviour::default()), 1, BEGIN_NS);
        let host = Host::new(&world, 0, Manners::default(), 1);
        let file = File::new();
        let meter = Meter::new(Words::new(&file), TENTH_PPM);
        let limit = Limit::Meter(&meter);
        let lanes: Vec<_> = (0..streams).map(|_| Lane::new(&host, &limit)).collect();
        for launch in 1..=30u64 {
            let lane = &lanes[launch as usize % streams];
            lane.give(&host, &limit, (Work::whole(100 * MILLISECOND_NS), unit(1)));
            let done = world.device(|device| {
                device.advance(host.now());
                device.truth.between(BEGIN_NS, host.now()) / (100 * MILLISECOND_NS)
            });
            assert!(launch <= done + 8, "{launch} launched, {done} done");
        }
    }
}

#[test]
fn failed_launches_cost_nothing() {
    for pattern in [Pattern::SyncEvery(1), Pattern::Free] {
        let mut case = Case::of(0.3, Program::of(200_000, pattern), 1);
        case.manners.launch_fails_one_in = 3;
        let got = got(&case);
        assert!((got - 0.3).abs() <= 0.01, "got {got} with {pattern:?}");
    }
}

/// Where a stream is never waited for, what is not measured is charged by the time that it may have taken.
#[test]
fn now_and_then_an_event_is_missing() {
    for (pattern, below) in
        [(Pattern::SyncEvery(1), 0.01), (Pattern::SyncEvery(16), 0.01), (Pattern::Free, 0.15)]
    {
        for (record_fails_one_in, event_lost_one_in) in [(10, 0), (0, 50)] {
            let mut case = Case::of(0.3, Program::of(200_000, pattern), 1);
            case.manners = Manners { record_fails_one_in, event_lost_one_in, ..case.manners };
            let got = got(&case);
            assert!((0.3 - below..=0.31).contains(&got), "got {got} with {pattern:?}");
        }
    }
}

/// Then predictions have to do: here they are right.
#[test]
fn a_driver_that_records_no_events() {
    for pattern in [Pattern::SyncEvery(1), Pattern::Free] {
        let mut case = Case::of(0.3, Program::of(10_000, pattern), 1);
        case.manners.record_fails_one_in = 1;
        let got = got(&case);
        assert!((got - 0.3).abs() <= 0.01, "got {got} with {pattern:?}");
    }
}

/// A program slower than its share never notices, but for its first launches.
#[test]
fn whoever_uses_less_is_never_held_back() {
    for (mean_ns, gap_ns) in
        [(20_000, 60_000), (200_000, 400_000), (2_000_000, 4_500_000), (20_000_000, 50_000_000)]
    {
        let world = World::new(Device::new(Behaviour::default()), 1, BEGIN_NS);
        let host = Host::new(&world, 0, Manners::default(), 1);
        let file = File::new();
        let meter = Meter::new(Words::new(&file), 500_000);
        let limit = Limit::Meter(&meter);
        let program = Program::of(mean_ns, Pattern::Paced { gap_ns });
        let lane = Lane::new(&host, &limit);
        program.run_on(&host, &limit, std::slice::from_ref(&lane), host.now() + SECOND_NS);
        let (throttled_ns, records) = (read(&file.compute.throttled_ns), host.tally().records);
        program.run_on(&host, &limit, std::slice::from_ref(&lane), host.now() + 4 * SECOND_NS);
        assert_eq!(read(&file.compute.throttled_ns), throttled_ns, "kernels of {mean_ns} ns");
        // One event for each half millisecond of work, and those that tie the clocks together.
        let busy_ns = world.device(|device| device.truth.between(host.now() - 4 * SECOND_NS, host.now()));
        let most = busy_ns / 500_000 + 4 * 50;
        let records = host.tally().records - records;
        assert!(records <= most, "{records} events for {busy_ns} ns");
    }
}

#[test]
fn another_share_holds_at_once() {
    let world = World::new(Device::new(Behaviour::default()), 1, BEGIN_NS);
    let host = Host::new(&world, 0, Manners::default(), 1);
    let file = File::new();
    let meter = Meter::new(Words::new(&file), 700_000);
    let limit = Limit::Meter(&meter);
    let program = Program::of(200_000, Pattern::Free);
    let lane = Lane::new(&host, &limit);
    for share in [0.7, 0.1, 0.9, 0.3] {
        meter.set_share_ppm((share * 1e6) as u32);
        program.run_on(&host, &limit, std::slice::from_ref(&lane), host.now() + 100 * MILLISECOND_NS);
        let from_ns = host.now();
        program.run_on(&host, &limit, std::slice::from_ref(&lane), from_ns + 2 * SECOND_NS);
        let got = world.device(|device| device.truth.share(from_ns, from_ns + 2 * SECOND_NS));
        assert!((got - share).abs() <= 0.01, "got {got} of {share}");
    }
}
