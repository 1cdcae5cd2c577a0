//! Kernels under a share: asked against got, end to end, for the ways to launch them and for several processes.
//!
//! What is got is what the simulated GPU was busy, by its own books. How exact a share is on a real GPU is the business
//! of `scripts/gpu-compute`; here the machine may be busy with other tests, and a program that is kept from launching by
//! others than the limiter gets less.

use std::thread::sleep;
use std::time::Duration;
use vcuda_tests::{Container, Running, World, measured_again_while, program};

/// Wide enough for a machine that runs other tests beside this one: above, and below.
const ABOVE: f64 = 2.0;
const BELOW: f64 = 4.0;
/// Until kinds of kernels are known and what was saved up is spent.
const START_UP: Duration = Duration::from_millis(700);
const WINDOW: Duration = Duration::from_millis(1500);

/// A load that goes on for longer than anybody looks: how it launches, and how long its kernels take.
fn start(container: &Container, world: World, share: &str, (mode, kernel_us): (&str, u64)) -> Running {
    let run = container.run(world, program("compute_load")).arg("serve").env("VCUDA_CORE_LIMIT", share);
    let mut running = run.start();
    running.wait_for("ready");
    let seconds = (START_UP + WINDOW).as_secs_f64() + 0.5;
    running.say(&format!("{mode} {} 1 seconds={seconds} warmup=0", kernel_us * 1000));
    running
}

/// Percent of the time that the GPU is busy with these loads, which share a container.
fn busy_percent(world: World, share: f64, loads: &[(&str, u64)]) -> f64 {
    let container = Container::new();
    let share = share.to_string();
    let running: Vec<_> = loads.iter().map(|&load| start(&container, world, &share, load)).collect();
    sleep(START_UP);
    let machine = container.machine();
    let before = machine.busy(0);
    sleep(WINDOW);
    let after = machine.busy(0);
    for mut load in running {
        load.wait_for("done");
        load.kill();
    }
    100.0 * (after.busy_ns - before.busy_ns) as f64 / (after.at_ns - before.at_ns) as f64
}

#[track_caller]
fn assert_held(share: f64, loads: &[(&str, u64)]) {
    let is_little = |&percent: &f64| percent < share - BELOW;
    let percent = measured_again_while(is_little, || busy_percent(World::Limited, share, loads));
    assert!(percent <= share + ABOVE && percent >= share - BELOW, "{loads:?}: {percent:.1} %, asked {share}");
}

#[test]
fn bare_kernels_keep_a_gpu_busy() {
    let bare = || busy_percent(World::Bare, 30.0, &[("free", 2_000)]);
    let percent = measured_again_while(|&percent| percent <= 90.0, bare);
    assert!(percent > 90.0, "{percent:.1} %");
}

#[test]
fn launches_in_a_row() {
    assert_held(30.0, &[("free", 200)]);
    assert_held(70.0, &[("free", 2_000)]);
    assert_held(10.0, &[("free", 5_000)]);
}

#[test]
fn loops_that_wait() {
    assert_held(20.0, &[("sync1", 2_000)]);
    assert_held(50.0, &[("sync16", 500)]);
}

#[test]
fn streams_beside_each_other() {
    assert_held(40.0, &[("streams8", 500)]);
}

#[test]
fn graphs() {
    assert_held(50.0, &[("graph20", 200)]);
}

#[test]
fn cooperative_and_extensible_launches() {
    assert_held(60.0, &[("cooperative", 1_000)]);
    assert_held(25.0, &[("ex", 1_000)]);
}

#[test]
fn default_streams() {
    assert_held(35.0, &[("legacy", 1_000)]);
    assert_held(35.0, &[("perthread", 1_000)]);
}

#[test]
fn threads_of_one_program() {
    assert_held(45.0, &[("threads4", 1_000)]);
}

#[test]
fn processes_share_one_budget() {
    assert_held(50.0, &[("free", 1_000), ("free", 1_000)]);
    assert_held(30.0, &[("free", 2_000), ("sync16", 500), ("graph20", 100)]);
}
