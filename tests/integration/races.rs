//! Many processes at once: the sum never exceeds the limit, and the dead keep nothing.

use vcuda_tests::{Container, GIB, MIB, Outcome, World, program};

const LIMIT_BYTES: u64 = 2 * GIB;
/// Device memory that a context takes and that is put down to no process, and what a process takes as such.
const UNATTRIBUTED_BYTES: u64 = 10 * MIB;
/// Small contexts, so that eight processes have room to race.
const CONTEXT_MIB: &str = "64";

struct Raced {
    race: Outcome,
    watch: Outcome,
}

/// Runs a race, watched from outside the container.
fn race(container: &Container, arguments: &[&str]) -> Raced {
    let mut watcher = container.run(World::Bare, program("gpu_watch")).start();
    watcher.wait_for("watching");
    let race = container
        .run(World::Limited, program("alloc_race"))
        .env("VCUDA_FAKE_CONTEXT_MIB", CONTEXT_MIB)
        .args(arguments)
        .finish();
    Raced { race: race.clean(), watch: watcher.finish().clean() }
}

#[track_caller]
fn assert_kept(container: &Container, raced: &Raced, processes: u64) {
    let Raced { race, watch } = raced;
    assert!(race.number("got") > 500, "{race:#?}");
    assert!(race.number("refused") > 50, "a race must get to the limit: {race:#?}");
    assert_eq!(race.number("errors"), 0, "{race:#?}");
    assert_eq!(race.number("over_limit"), 0, "{race:#?}");
    let device = &container.snapshot().devices[0];
    assert!(device.peak_bytes <= LIMIT_BYTES, "{} bytes were charged at once", device.peak_bytes);
    assert!(device.peak_bytes > LIMIT_BYTES - 64 * MIB, "the limit was reached");
    // What processes hold is read one after the other; only the GPU's own figure is of one instant.
    let most = LIMIT_BYTES + processes * UNATTRIBUTED_BYTES;
    let seen = (watch.number("peak_used_bytes") - watch.number("first_used_bytes")) as u64;
    assert!(seen <= most, "{} MiB seen from outside, {} are expected at most", seen / MIB, most / MIB);
    let peak = container.gpu(0).peak_bytes;
    assert!(
        peak <= most,
        "the machine counted {} MiB at once, {} are expected at most",
        peak / MIB,
        most / MIB
    );
}

/// What the whole quota is for one process.
fn whole_quota_mib(container: &Container) -> f64 {
    let outcome = container
        .run(World::Limited, program("memory_paths"))
        .env("VCUDA_FAKE_CONTEXT_MIB", CONTEXT_MIB)
        .args(["linear", "8", "3072"])
        .finish()
        .clean();
    outcome.float("got_mib")
}

#[test]
fn eight_processes_never_pass_the_limit_together() {
    let container = Container::new();
    let raced = race(&container, &["8", "5", "most_mib=200"]);
    assert_kept(&container, &raced, 8);
    assert_eq!(raced.race.number("failed_processes"), 0);
    assert_eq!(whole_quota_mib(&container), whole_quota_mib(&Container::new()));
}

#[test]
fn the_race_passes_the_limit_bare() {
    let container = Container::new().gpus("1x16GiB");
    let race =
        container.run(World::Bare, program("alloc_race")).args(["8", "1", "most_mib=200"]).finish().clean();
    assert!(race.number("got") > 100);
    assert!(container.gpu(0).peak_bytes > LIMIT_BYTES, "or the other tests would prove nothing");
}

#[test]
fn the_killed_give_everything_back() {
    let container = Container::new();
    let raced = race(&container, &["6", "8", "most_mib=300", "kills=150"]);
    assert_eq!(raced.race.number("kills"), 150);
    // A killed process may not have given back yet when the next one starts: room for one more of each.
    assert_kept(&container, &raced, 12);
    assert_eq!(whole_quota_mib(&container), whole_quota_mib(&Container::new()));
    let snapshot = container.snapshot();
    let device = &snapshot.devices[0];
    let held: u64 = snapshot.processes.iter().map(|process| process.used_bytes(device.index)).sum();
    assert_eq!(device.used_bytes, held, "what the device has in use is what processes hold");
}

#[test]
fn what_a_killed_process_held_is_free_at_once_when_needed() {
    let container = Container::new();
    let full = || {
        let mut running = container
            .run(World::Limited, program("memory_paths"))
            .args(["linear", "64", "3072", "hold"])
            .start();
        running.wait_for("full");
        running
    };
    let first = full();
    let got = first.number("got_mib");
    let refused = container.run(World::Limited, program("devices")).finish().succeeded();
    assert_eq!(refused.number("device_0_context"), vcuda_tests::OUT_OF_MEMORY, "not even a context fits");
    first.kill();
    let second = full();
    assert_eq!(second.number("got_mib"), got);
    second.kill();
}
