//! The management library tells how busy the slice is, not the GPU, where the container has a share of its time.

use std::thread::sleep;
use std::time::Duration;
use vcuda_tests::{Container, Outcome, Run, Running, World, program};

const SUCCESS: i64 = 0;
const INVALID_ARGUMENT: &str = "2";
const NOT_FOUND: i64 = 6;
const INSUFFICIENT_SIZE: &str = "7";

/// A program that keeps GPU 0 busy for a while.
fn load(run: Run) -> Running {
    let mut running = run.args(["launch", "20"]).start();
    running.wait_for("running");
    running
}

fn limited_load(container: &Container, share: &str) -> Running {
    load(container.run(World::Limited, program("compute_copies")).env("VCUDA_CORE_LIMIT", share))
}

/// What a monitor sees that looks `looks` times, every quarter of a second.
fn monitor(run: Run, looks: usize) -> Outcome {
    run.arg(looks.to_string()).arg("250").finish().clean()
}

fn limited_monitor(container: &Container, share: &str, looks: usize) -> Outcome {
    monitor(container.run(World::Limited, program("utilization")).env("VCUDA_CORE_LIMIT", share), looks)
}

/// The numbers on a line.
fn numbers(outcome: &Outcome, key: &str) -> Vec<i64> {
    outcome.text(key).split_whitespace().filter_map(|word| word.parse().ok()).collect()
}

/// Reads `RESULT sizing RESULT COUNT count COUNT : PID=PERCENT ...`.
#[track_caller]
fn users(outcome: &Outcome, key: &str) -> Vec<(u32, u32)> {
    let (head, list) = outcome.text(key).split_once(':').expect("a list");
    let words: Vec<&str> = head.split_whitespace().collect();
    let [result, "sizing", sizing, needed, "count", count] = words[..] else { panic!("{key}: {head}") };
    assert_eq!((result, sizing), ("0", INSUFFICIENT_SIZE), "{key}: {head}");
    let pair = |item: &str| {
        let (pid, percent) = item.split_once('=').expect("PID=PERCENT");
        (pid.parse().expect("a process id"), percent.parse().expect("percent"))
    };
    let list: Vec<(u32, u32)> = list.split_whitespace().map(pair).collect();
    assert_eq!(count, list.len().to_string());
    assert!(needed.parse::<usize>().expect("a count") >= list.len(), "{key}: {head}");
    list
}

#[test]
fn a_slice_that_is_used_up_reads_as_its_share_of_the_gpu() {
    let container = Container::new();
    let running = limited_load(&container, "30");
    sleep(Duration::from_millis(500));
    let seen = limited_monitor(&container, "30", 6);
    for look in 0..6 {
        let [result, gpu, memory] = numbers(&seen, &format!("rates_{look}"))[..] else { panic!("{seen:?}") };
        assert_eq!(result, SUCCESS);
        assert!((25..=35).contains(&gpu), "look {look}: {gpu} %");
        // The simulated GPU's memory is half as busy as its processors.
        assert!((10..=20).contains(&memory), "look {look}: {memory} %");
        let [result, count, kind, last] = numbers(&seen, &format!("samples_{look}"))[..] else {
            panic!("{seen:?}")
        };
        assert_eq!((result, count, kind), (SUCCESS, 1, 1));
        assert!((25..=35).contains(&last), "look {look}: {last} %");
        let [result, room] = numbers(&seen, &format!("samples_sizing_{look}"))[..] else {
            panic!("{seen:?}")
        };
        assert!(result == SUCCESS && room >= 1, "{result} {room}");
        assert_eq!(seen.number(&format!("samples_after_all_{look}")), NOT_FOUND);
    }
    assert_eq!(seen.text("null"), format!("{INVALID_ARGUMENT} {INVALID_ARGUMENT}"));
    running.kill();
}

#[test]
fn processes_are_the_containers_own_with_what_each_used() {
    let container = Container::new().limit("8GiB");
    let first = limited_load(&container, "30");
    let second = limited_load(&container, "30");
    // Takes turns with them, and is nobody's business here.
    let foreign = load(container.run(World::Bare, program("compute_copies")));
    sleep(Duration::from_millis(500));
    let seen = limited_monitor(&container, "30", 4);
    let mut expected = [first.pid(), second.pid()];
    expected.sort_unstable();
    for look in 0..4 {
        for kind in ["users", "infos"] {
            let list = users(&seen, &format!("{kind}_{look}"));
            let mut pids: Vec<u32> = list.iter().map(|&(pid, _)| pid).collect();
            pids.sort_unstable();
            assert_eq!(pids, expected, "{kind}");
            let sum: u32 = list.iter().map(|&(_, percent)| percent).sum();
            assert!((20..=42).contains(&sum), "look {look}: {list:?}");
        }
        assert_eq!(seen.number(&format!("left_behind_{look}")), 0);
        let gpu = numbers(&seen, &format!("rates_{look}"))[1];
        // Of a tenth of a second, in which processes that share take turns of four milliseconds, or a little more.
        assert!((20..=42).contains(&gpu), "look {look}: {gpu} %");
    }
    for running in [first, second, foreign] {
        running.kill();
    }
}

#[test]
fn an_idle_slice_reads_as_idle_whatever_others_do() {
    let container = Container::new();
    let foreign = load(container.run(World::Bare, program("compute_copies")));
    sleep(Duration::from_millis(300));
    let seen = limited_monitor(&container, "30", 2);
    for look in 0..2 {
        assert_eq!(numbers(&seen, &format!("rates_{look}")), [SUCCESS, 0, 0]);
        let [result, ..] = numbers(&seen, &format!("users_{look}"))[..] else { panic!("{seen:?}") };
        assert_eq!(result, NOT_FOUND, "nobody of the container uses the GPU");
    }
    assert!(!container.control_path().exists(), "a monitor leaves no trace");
    foreign.kill();
}

#[test]
fn without_a_share_the_gpu_is_shown_as_it_is() {
    let container = Container::new();
    // With a memory limit alone nothing is measured.
    let running = load(container.run(World::Limited, program("compute_copies")));
    let foreign = load(container.run(World::Bare, program("compute_copies")));
    // The machine's own figure is of the last second.
    sleep(Duration::from_millis(1300));
    let seen = monitor(container.run(World::Limited, program("utilization")), 3);
    for look in 0..3 {
        let gpu = numbers(&seen, &format!("rates_{look}"))[1];
        assert!(gpu >= 90, "look {look}: {gpu} %");
        for kind in ["users", "infos"] {
            let list = users(&seen, &format!("{kind}_{look}"));
            let pids: Vec<u32> = list.iter().map(|&(pid, _)| pid).collect();
            assert_eq!(pids, [running.pid()], "{kind}: the container's own only");
        }
        assert_eq!(seen.number(&format!("left_behind_{look}")), 0);
    }
    let bare = monitor(container.run(World::Bare, program("utilization")), 1);
    let everybody = users(&bare, "users_0");
    assert!(everybody.iter().any(|&(pid, _)| pid == foreign.pid()), "the machine itself lists everybody");
    for running in [running, foreign] {
        running.kill();
    }
}
