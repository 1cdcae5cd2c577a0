//! Suspending and resuming a slice: its programs' memory leaves the GPU, its quota is others' meanwhile, and everything
//! is as it was afterwards.

use serde_json::Value;
use std::time::{Duration, Instant};
use vcuda_core::compute::monotonic_ns;
use vcuda_tests::{Container, GIB, OUT_OF_MEMORY, Outcome, Run, Running, SUCCESS, World, artefacts, program};

/// A command of `vcuda` on the container's slice.
fn vcuda(container: &Container, command: &str) -> Run {
    let lease = container.directory();
    let run = container.run(World::Bare, &artefacts().vcuda).env("VCUDA_LEASE_DIRECTORY", lease);
    run.arg(command).arg(container.control_path())
}

fn holder(container: &Container, mib: u64) -> Running {
    let mut running = container.run(World::Limited, program("suspendable")).arg(mib.to_string()).start();
    running.wait_for("ready");
    running
}

#[track_caller]
fn works(running: &mut Running) {
    running.say("work").wait_for("worked");
}

#[track_caller]
fn failure(outcome: Outcome) -> String {
    assert_eq!(outcome.status.code(), Some(1), "{outcome:?}");
    assert!(outcome.stdout.is_empty(), "{outcome:?}");
    outcome.stderr
}

fn states(container: &Container) -> Vec<String> {
    let run = container.run(World::Bare, &artefacts().vcuda).args(["ps", "--json", "--control-file"]);
    let json: Value =
        serde_json::from_str(&run.arg(container.control_path()).finish().clean().stdout).unwrap();
    let path = container.control_path().display().to_string();
    let slices = json["slices"].as_array().unwrap();
    let slice = slices.iter().find(|slice| slice["control_file"] == *path).unwrap();
    let processes = slice["devices"][0]["processes"].as_array().unwrap();
    processes.iter().map(|process| process["state"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_slice_leaves_the_gpu_and_comes_back_as_it_was() {
    let container = Container::new().limit("4GiB");
    let mut programs = [holder(&container, 512), holder(&container, 700)];
    programs.iter_mut().for_each(works);
    let (used, charged) = (container.gpu(0), container.charged_bytes(0));
    assert_eq!(states(&container), ["running", "running"]);

    let said = vcuda(&container, "suspend").finish().clean().stdout;
    assert!(said.starts_with("suspended: 2 processes, 2."), "{said}");
    assert_eq!((container.gpu(0).process_count, container.gpu(0).used_bytes), (0, 0));
    assert_eq!(container.charged_bytes(0), 0);
    assert_eq!(states(&container), ["suspended", "suspended"]);
    assert_eq!(vcuda(&container, "suspend").finish().clean().stdout, "already suspended: 2 processes\n");

    // A call meanwhile is late, not wrong.
    programs[0].say("work");
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(vcuda(&container, "resume").finish().clean().stdout, "resumed: 2 processes\n");
    programs[0].wait_for("worked");
    programs.iter_mut().for_each(works);
    assert_eq!(container.gpu(0).process_bytes, used.process_bytes);
    assert_eq!(container.charged_bytes(0), charged);
    assert_eq!(states(&container), ["running", "running"]);
    assert_eq!(vcuda(&container, "resume").finish().clean().stdout, "already running: 2 processes\n");
    for mut running in programs {
        running.finish().clean();
    }
    assert_eq!(container.charged_bytes(0), 0);
}

#[test]
fn the_quota_of_a_suspended_program_is_another_ones_until_it_returns() {
    let container = Container::new().limit("4GiB");
    let mut first = holder(&container, 2048);
    vcuda(&container, "suspend").finish().clean();
    let mut second = holder(&container, 1024);
    second.say("alloc 1500").wait_for("alloc_1");
    assert_eq!(second.number("alloc_1"), SUCCESS, "2566 MiB of the first one's are room now");
    second.say("alloc 1500").wait_for("alloc_2");
    assert_eq!(second.number("alloc_2"), OUT_OF_MEMORY, "the limit is the limit");
    let told = failure(vcuda(&container, "resume").args(["--timeout", "100ms"]).finish());
    assert!(told.contains("others of the slice use 30") && told.contains("of its 4096 MiB"), "{told}");
    first.say("work");
    let mut resuming = vcuda(&container, "resume").start();
    std::thread::sleep(Duration::from_millis(300));
    second.say("free").wait_for("free");
    second.finish().clean();
    let outcome = resuming.finish();
    assert_eq!(outcome.stdout, "resumed: 1 process\n", "{outcome:?}");
    assert!(outcome.stderr.starts_with("vcuda: waiting: others of the slice use"), "{outcome:?}");
    first.wait_for("worked");
    first.finish().clean();
}

#[test]
fn resuming_waits_for_the_gpu_and_never_loses_a_program() {
    let container = Container::new().gpus("4GiB").limit("3GiB");
    let mut first = holder(&container, 2048);
    vcuda(&container, "suspend").finish().clean();
    // A program without limits takes what is free.
    let mut other = container.run(World::Bare, program("suspendable")).arg("2048").start();
    other.wait_for("ready");
    let told = failure(vcuda(&container, "resume").args(["--timeout", "100ms"]).finish());
    assert!(told.contains("MiB free of the ") && told.contains("stays suspended"), "{told}");
    assert_eq!(states(&container), ["suspended"]);
    let mut resuming = vcuda(&container, "resume").start();
    std::thread::sleep(Duration::from_millis(300));
    other.finish().clean();
    assert_eq!(resuming.finish().stdout, "resumed: 1 process\n");
    works(&mut first);
    first.finish().clean();
}

#[test]
fn what_cant_be_suspended_goes_on_and_is_told_why() {
    let container = Container::new().limit("4GiB");
    let mut running = holder(&container, 64);
    running.say("managed").wait_for("managed");
    let told = failure(vcuda(&container, "suspend").finish());
    assert!(told.contains("nothing was suspended") && told.contains("managed memory"), "{told}");
    works(&mut running);
    running.say("free").wait_for("free");
    vcuda(&container, "suspend").finish().clean();
    vcuda(&container, "resume").finish().clean();
    running.say("share").wait_for("share");
    let told = failure(vcuda(&container, "suspend").finish());
    assert!(told.contains("CUDA IPC") && told.contains("610"), "{told}");
    let newer = vcuda(&container, "suspend").env("VCUDA_FAKE_DRIVER_RELEASE", "610.12");
    newer.finish().clean();
    vcuda(&container, "resume").finish().clean();
    works(&mut running);
    let old = vcuda(&container, "suspend").env("VCUDA_FAKE_DRIVER_VERSION", "12040");
    let told = failure(old.finish());
    assert!(told.contains("CUDA 12.4") && told.contains("570"), "{told}");
    running.finish().clean();
}

#[test]
fn a_driver_that_fails_half_way_leaves_everything_running() {
    let container = Container::new().limit("4GiB");
    let mut programs = [holder(&container, 64), holder(&container, 64), holder(&container, 64)];
    let (used, charged) = (container.gpu(0).process_bytes, container.charged_bytes(0));
    for faults in [
        "cuCheckpointProcessLock:2=600",
        "cuCheckpointProcessCheckpoint:3=2",
        "cuCheckpointProcessCheckpoint:1=801",
        "cuCheckpointProcessGetState:1=999",
    ] {
        let told = failure(vcuda(&container, "suspend").env("VCUDA_FAKE_FAULTS", faults).finish());
        assert!(
            told.contains("everything runs as before") && told.contains("CUDA_ERROR_"),
            "{faults}: {told}"
        );
        programs.iter_mut().for_each(works);
        assert_eq!((container.gpu(0).process_bytes, container.charged_bytes(0)), (used, charged), "{faults}");
    }
    vcuda(&container, "suspend").finish().clean();
    vcuda(&container, "resume").finish().clean();
    programs.iter_mut().for_each(works);
}

#[test]
fn who_dies_meanwhile_leaves_the_others_in_order() {
    let container = Container::new().limit("4GiB");
    let (mut first, second) = (holder(&container, 64), holder(&container, 64));
    // Slow enough for one to die between being locked and being moved.
    let slow =
        vcuda(&container, "suspend").env("VCUDA_FAKE_FAULTS", "cuCheckpointProcessCheckpoint:*=sleep:700ms");
    let mut suspending = slow.start();
    std::thread::sleep(Duration::from_millis(500));
    second.kill();
    let outcome = suspending.finish();
    assert!(outcome.stdout.starts_with("suspended: 1 process"), "{outcome:?}");
    let third = holder(&container, 64);
    vcuda(&container, "suspend").finish().clean();
    third.kill();
    vcuda(&container, "resume").finish().clean();
    works(&mut first);
    first.finish().clean();
    assert_eq!((container.charged_bytes(0), container.gpu(0).used_bytes), (0, 0));
}

#[test]
fn what_an_agent_that_was_killed_left_is_finished_or_undone() {
    let container = Container::new().limit("4GiB");
    let mut programs = [holder(&container, 64), holder(&container, 64)];
    let killed = |command: &str, faults: &str| {
        let agent = vcuda(&container, command).env("VCUDA_FAKE_FAULTS", faults).start();
        std::thread::sleep(Duration::from_millis(700));
        agent.kill();
    };
    for (faults, next) in [
        ("cuCheckpointProcessLock:2=sleep:20s", "resume"),
        ("cuCheckpointProcessLock:1=sleep:20s", "suspend"),
        ("cuCheckpointProcessCheckpoint:2=sleep:20s", "resume"),
        ("cuCheckpointProcessCheckpoint:2=sleep:20s", "suspend"),
    ] {
        killed("suspend", faults);
        let outcome = vcuda(&container, next).finish().clean();
        if next == "suspend" {
            assert_eq!(states(&container), ["suspended", "suspended"], "{faults}: {outcome:?}");
            assert_eq!((container.gpu(0).used_bytes, container.charged_bytes(0)), (0, 0));
            killed("resume", "cuCheckpointProcessRestore:2=sleep:20s");
            vcuda(&container, "resume").finish().clean();
        }
        assert_eq!(states(&container), ["running", "running"], "{faults}: {outcome:?}");
        programs.iter_mut().for_each(works);
    }
}

#[test]
fn a_restore_without_room_is_told_as_the_end_that_it_is() {
    let container = Container::new().limit("4GiB");
    let mut programs = [holder(&container, 64), holder(&container, 64)];
    vcuda(&container, "suspend").finish().clean();
    let faulty = vcuda(&container, "resume").env("VCUDA_FAKE_FAULTS", "cuCheckpointProcessRestore:1=304");
    let told = failure(faulty.finish());
    assert!(told.contains("can only be ended") && told.contains(&programs[0].pid().to_string()), "{told}");
    assert_eq!(states(&container), ["lost", "running"]);
    works(&mut programs[1]);
}

#[test]
fn bad_input_is_answered() {
    let container = Container::new();
    let run = |arguments: &[&str]| {
        let run = container.run(World::Bare, &artefacts().vcuda).args(arguments);
        let outcome = run.finish();
        assert_ne!(outcome.status.code(), Some(0));
        outcome.stderr
    };
    assert!(run(&["suspend", "no-such-slice"]).contains("there is no slice no-such-slice"));
    assert!(run(&["resume", "/nowhere/control"]).contains("/nowhere/control: does not exist"));
    assert!(run(&["suspend", "x", "--timeout", "1d"]).contains("such as 60s, 5m or 1h"));
    let mut running = holder(&container, 64);
    let inside =
        container.run(World::Limited, &artefacts().vcuda).arg("suspend").arg(container.control_path());
    assert!(failure(inside.finish()).contains("inside of a slice"));
    running.say("sleep 1").wait_for("slept");
    running.finish().clean();
    let told = failure(vcuda(&container, "suspend").finish());
    assert!(told.contains("no program is running in this slice"), "{told}");
}

/// Takes turns on a GPU that has room for one of two at a time, each with a slice of its own.
#[test]
fn again_and_again_under_pressure_nothing_is_lost() {
    let container = Container::new().gpus("4GiB").limit("3GiB");
    let mut first = holder(&container, 1024);
    let begin = Instant::now();
    for round in 0..30 {
        vcuda(&container, "suspend").finish().clean();
        let mut pressure = container.run(World::Bare, program("suspendable")).arg("2300").start();
        pressure.wait_for("ready");
        let mut resuming = vcuda(&container, "resume").start();
        if round % 10 == 0 {
            std::thread::sleep(Duration::from_millis(150));
        }
        pressure.kill();
        assert_eq!(resuming.finish().stdout, "resumed: 1 process\n", "round {round}");
        works(&mut first);
        if begin.elapsed() > Duration::from_secs(45) {
            assert!(round > 5, "only {round} rounds");
            break;
        }
    }
    first.finish().clean();
    assert!(container.gpu(0).used_bytes < GIB);
}

#[test]
fn allocations_wait_while_a_program_is_restored_and_no_longer() {
    let container = Container::new().limit("4GiB");
    let mut running = holder(&container, 64);
    let control = container.control();
    let gpu = container.uuid(0).parse().expect("a UUID");
    let device = control.find_device(gpu).expect("a whole control file").expect("a device in use");
    let hold = |time: Duration| {
        control.hold_until(device, monotonic_ns() + time.as_nanos() as u64).expect("a whole control file");
    };
    // Over by itself if whoever restores is killed.
    hold(Duration::from_millis(700));
    let begin = Instant::now();
    running.say("alloc 64").wait_for("alloc_1");
    assert_eq!(running.number("alloc_1"), SUCCESS);
    assert!(begin.elapsed() >= Duration::from_millis(500), "{:?}", begin.elapsed());
    hold(Duration::from_secs(300));
    running.say("work").wait_for("worked");
    running.say("free").wait_for("free");
    running.say("alloc 64");
    std::thread::sleep(Duration::from_millis(100));
    control.hold_until(device, 0).expect("a whole control file");
    running.wait_for("alloc_2");
    assert_eq!(running.number("alloc_2"), SUCCESS);
    running.finish().clean();
}
