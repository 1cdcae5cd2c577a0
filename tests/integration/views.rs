//! CUDA and the management library tell one story: the slice is the GPU.

use vcuda_tests::{Container, GIB, MIB, Outcome, World, program};

/// Reads `... total T used U free F`.
fn amounts(outcome: &Outcome, key: &str) -> (u64, u64, u64) {
    let words: Vec<&str> = outcome.text(key).split_whitespace().collect();
    assert_eq!(words[0], "0", "{key}: {words:?}");
    let after = |word| {
        let position = words.iter().position(|other| *other == word).expect(word);
        words[position + 1].parse::<u64>().expect(word)
    };
    (after("total"), after("used"), after("free"))
}

/// Reads `NAME RESULT sizing RESULT COUNT count N : PID=BYTES ...`; `None` for a call the library lacks.
fn processes(outcome: &Outcome, name: &str) -> Option<Vec<(u32, u64)>> {
    let text = outcome.text(name);
    if text == "missing" {
        return None;
    }
    assert!(text.starts_with("0 "), "{name}: {text}");
    let list = text.split_once(':').expect("a list").1.split_whitespace();
    let pair = |item: &str| {
        let (pid, bytes) = item.split_once('=').expect("PID=BYTES");
        (pid.parse().expect("a process id"), bytes.parse().expect("bytes"))
    };
    let mut list: Vec<_> = list.map(pair).collect();
    list.sort_unstable();
    Some(list)
}

#[test]
fn every_source_tells_the_same() {
    let container = Container::new();
    let mut running = container.run(World::Limited, program("views")).arg("300").start();
    running.wait_for("ready").go_on().wait_for("done");
    let charged = container.charged_bytes(0);
    let pid = running.pid();
    let outcome = running.go_on().finish().clean();

    let used = charged;
    let total = 2 * GIB;
    assert_eq!(outcome.number("cuda_total") as u64, total);
    assert_eq!(outcome.number("cuda_device_total") as u64, total);
    assert_eq!(outcome.number("cuda_free") as u64, total - used);
    assert_eq!(amounts(&outcome, "nvml_memory"), (total, used, total - used));
    assert_eq!(amounts(&outcome, "nvml_memory_v2"), (total, used, total - used));
    let expected = Some(vec![(pid, used)]);
    for name in [
        "nvmlDeviceGetComputeRunningProcesses",
        "nvmlDeviceGetComputeRunningProcesses_v2",
        "nvmlDeviceGetComputeRunningProcesses_v3",
    ] {
        assert_eq!(processes(&outcome, name), expected, "{name}");
    }
    for name in ["nvmlDeviceGetGraphicsRunningProcesses_v3", "nvmlDeviceGetMPSComputeRunningProcesses_v3"] {
        assert_ne!(
            processes(&outcome, name).as_deref(),
            Some([(pid, used)].as_slice()),
            "listed once, under compute"
        );
    }
}

#[test]
fn a_monitor_sees_the_containers_processes_and_costs_nothing() {
    let container = Container::new();
    let mut first = container.run(World::Limited, program("views")).arg("100").start();
    let mut second = container.run(World::Limited, program("views")).arg("200").start();
    // Not in the container: its own affair.
    let mut foreign = container.run(World::Bare, program("views")).arg("400").start();
    first.wait_for("ready");
    second.wait_for("ready");
    foreign.wait_for("ready");
    let charged = container.charged_bytes(0);
    let processes_on_the_gpu = container.gpu(0).process_count;

    let mut monitor = container.run(World::Limited, program("views")).arg("monitor").start();
    monitor.wait_for("ready").go_on().wait_for("done");
    assert_eq!(container.gpu(0).process_count, processes_on_the_gpu, "a monitor is no user of the GPU");
    assert_eq!(container.charged_bytes(0), charged, "a monitor takes nothing");
    let outcome = monitor.go_on().finish().clean();
    assert_eq!(amounts(&outcome, "nvml_memory"), (2 * GIB, charged, 2 * GIB - charged));
    let listed = processes(&outcome, "nvmlDeviceGetComputeRunningProcesses_v3").expect("a list");
    let mut pids: Vec<u32> = listed.iter().map(|&(pid, _)| pid).collect();
    pids.sort_unstable();
    let mut expected = [first.pid(), second.pid()];
    expected.sort_unstable();
    assert_eq!(pids, expected);
    assert_eq!(listed.iter().map(|&(_, bytes)| bytes).sum::<u64>(), charged);

    let bare = container.run(World::Bare, program("views")).arg("monitor").input("\n\n").finish().clean();
    let everybody = processes(&bare, "nvmlDeviceGetComputeRunningProcesses_v3").expect("a list");
    assert!(everybody.iter().any(|&(pid, _)| pid == foreign.pid()), "the machine itself lists everybody");
    for running in [first, second, foreign] {
        running.kill();
    }
}

#[test]
fn a_monitor_alone_leaves_no_trace() {
    let container = Container::new();
    let outcome =
        container.run(World::Limited, program("views")).arg("monitor").input("\n\n").finish().clean();
    assert_eq!(amounts(&outcome, "nvml_memory"), (2 * GIB, 0, 2 * GIB));
    assert_eq!(processes(&outcome, "nvmlDeviceGetComputeRunningProcesses_v3"), Some(Vec::new()));
    assert!(!container.control_path().exists());
}

#[test]
fn a_monitor_shows_nothing_of_the_dead() {
    let container = Container::new();
    let mut running = container.run(World::Limited, program("views")).arg("300").start();
    running.wait_for("ready");
    running.kill();
    let outcome =
        container.run(World::Limited, program("views")).arg("monitor").input("\n\n").finish().clean();
    assert_eq!(amounts(&outcome, "nvml_memory"), (2 * GIB, 0, 2 * GIB));
    assert_eq!(processes(&outcome, "nvmlDeviceGetComputeRunningProcesses_v3"), Some(Vec::new()));
}

#[test]
fn a_gpu_without_a_limit_is_shown_as_it_is() {
    let container = Container::new();
    let limit = format!("{}=1GiB", container.uuid(1));
    let container = container.limit(&limit);
    let monitor =
        |world| container.run(world, program("views")).arg("monitor").input("\n\n").finish().clean();
    let (bare, limited) = (monitor(World::Bare), monitor(World::Limited));
    assert_eq!(amounts(&bare, "nvml_memory"), amounts(&limited, "nvml_memory"));
    let told = container.run(World::Limited, program("devices")).finish().clean();
    assert_eq!(told.number("device_1_total") as u64, GIB);
    assert!(told.number("device_0_total") as u64 > 15 * GIB);
}

#[test]
fn used_beyond_the_limit_is_never_shown_as_less_than_nothing() {
    // A context alone is more than this limit: CUDA is refused, and nothing wraps around.
    let container = Container::new().limit("100MiB");
    let outcome = container.run(World::Limited, program("devices")).finish().succeeded();
    assert_eq!(outcome.number("device_0_context"), vcuda_tests::OUT_OF_MEMORY);
    let monitor =
        container.run(World::Limited, program("views")).arg("monitor").input("\n\n").finish().clean();
    let (total, used, free) = amounts(&monitor, "nvml_memory");
    assert_eq!(total, 100 * MIB);
    assert_eq!(free + used, total);
}
