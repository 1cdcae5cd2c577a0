//! Copies and fills are work: a share of a GPU's time holds for them as for kernels.

use std::thread::sleep;
use std::time::Duration;
use vcuda_tests::{Container, World, measured_again_while, program};

/// Asked, in percent of the GPU's time.
const SHARE: f64 = 30.0;
/// Wide enough for a machine that runs other tests beside this one.
const TOLERANCE: f64 = 3.0;

/// Percent of the time that the GPU was busy while a program did `work`, when it had done so for a while.
fn busy_percent(world: World, work: &str) -> f64 {
    let container = Container::new();
    let share = SHARE.to_string();
    let run = container.run(world, program("compute_copies")).args([work, "2.2"]);
    // What is copied does not matter, only how long it takes.
    let mut running = run.env("VCUDA_CORE_LIMIT", &share).env("VCUDA_FAKE_CONTENTS", "0").start();
    running.wait_for("running");
    sleep(Duration::from_millis(500));
    let machine = container.machine();
    let before = machine.busy(0);
    sleep(Duration::from_millis(1500));
    let after = machine.busy(0);
    let outcome = running.finish().clean();
    assert!(outcome.number("count") > 0);
    100.0 * (after.busy_ns - before.busy_ns) as f64 / (after.at_ns - before.at_ns) as f64
}

#[track_caller]
fn assert_held(works: &[&str]) {
    for work in works {
        assert_held_from(SHARE - TOLERANCE, work);
    }
}

#[track_caller]
fn assert_held_from(least: f64, work: &str) {
    let percent = measured_again_while(|&percent| percent < least, || busy_percent(World::Limited, work));
    assert!(
        percent >= least && percent <= SHARE + TOLERANCE,
        "{work}: {percent:.1} %, asked {SHARE}, at least {least:.1}"
    );
}

#[test]
fn a_program_that_copies_all_the_time_keeps_a_gpu_busy() {
    let percent = measured_again_while(|&percent| percent <= 90.0, || busy_percent(World::Bare, "from_host"));
    assert!(percent > 90.0, "{percent:.1} %");
}

#[test]
fn copies_from_and_to_the_host_are_held_to_the_share() {
    assert_held(&["from_host", "to_host", "unified", "rectangle"]);
}

#[test]
fn copies_that_wait_are_held_to_the_share() {
    // How long they take is seen from outside only, and a thread of the simulated driver wakes up late: a tenth of a copy,
    // more on a busy machine. Bare, the GPU rests for as long, which says how much.
    for work in ["from_host_waiting", "to_host_waiting", "unified_waiting"] {
        let bare = busy_percent(World::Bare, work);
        assert!(bare > 50.0, "{work}: {bare:.1} % bare");
        assert_held_from(0.9 * SHARE * bare / 100.0, work);
    }
}

#[test]
fn copies_within_a_gpu_are_held_to_the_share() {
    assert_held(&["within", "within_default", "unified_within"]);
}

#[test]
fn fills_are_held_to_the_share() {
    assert_held(&["fill", "fill_default", "fill_rows"]);
}

#[test]
fn kernels_copies_and_fills_of_one_program_share_the_share() {
    assert_held(&["mixed"]);
}
