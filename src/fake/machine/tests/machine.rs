//! One machine used by several processes: the test's own and children of it, which re-run this binary.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering::Relaxed;
use vcuda_fake_machine::{Bytes, Machine, Member, OutOfMemory, now_ns, parse_gpus, sleep_until};

const GIB: u64 = 1 << 30;
const ROLE: &str = "VCUDA_FAKE_TEST_ROLE";
const FILE: &str = "VCUDA_FAKE_TEST_FILE";

fn machine(path: &Path) -> Machine {
    Machine::open_or_create(path, &parse_gpus("2x4GiB").unwrap()).unwrap()
}

fn member(path: &Path) -> Member {
    machine(path).join().unwrap()
}

/// Starts this binary as `role` of a test and waits until it says that it is ready.
fn start(test: &str, role: &str, path: &Path) -> Child {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(ROLE, role)
        .env(FILE, path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.as_mut().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("ready")));
    child
}

/// In a child, plays its role and never returns.
fn play_role() {
    let (Ok(role), Some(file)) = (std::env::var(ROLE), std::env::var_os(FILE)) else { return };
    let member = member(Path::new(&file));
    match role.as_str() {
        "hold" => {
            member.take(0, Bytes::of_process(3 * GIB)).unwrap();
            member.count_contexts(0, 1);
            println!("ready");
            loop {
                std::thread::park();
            }
        }
        "churn" => {
            println!("ready");
            loop {
                if member.take(1, Bytes::of_process(GIB)).is_ok() {
                    member.give(1, Bytes::of_process(GIB));
                }
            }
        }
        role => panic!("unknown role {role}"),
    }
}

#[test]
fn memory_is_taken_given_and_runs_out() {
    let directory = tempfile::tempdir().unwrap();
    let member = member(&directory.path().join("machine"));
    let managed = Bytes { device: GIB, process: 0 };
    member.take(0, Bytes::of_process(3 * GIB)).unwrap();
    member.take(0, managed).unwrap();
    assert_eq!(member.take(0, Bytes::of_process(1)), Err(OutOfMemory));
    assert_eq!(member.free_bytes(0), 0);
    assert_eq!(member.free_bytes(1), 4 * GIB);
    let users = member.machine().users(0);
    assert_eq!(users.len(), 1);
    assert_eq!(users[0].pid, std::process::id());
    assert_eq!(users[0].bytes, Bytes { device: 4 * GIB, process: 3 * GIB });
    member.give(0, managed);
    member.give(0, Bytes::of_process(3 * GIB));
    assert_eq!(member.gpus()[0].used_bytes.load(Relaxed), 0);
    assert_eq!(member.gpus()[0].peak_bytes.load(Relaxed), 4 * GIB);
    member.machine().reset_peaks();
    assert_eq!(member.gpus()[0].peak_bytes.load(Relaxed), 0);
}

#[test]
fn a_killed_process_gives_its_memory_back() {
    play_role();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("machine");
    let member = member(&path);
    let mut child = start("a_killed_process_gives_its_memory_back", "hold", &path);
    assert_eq!(member.free_bytes(0), GIB);
    assert_eq!(member.machine().users(0)[0].pid, child.id());
    assert_eq!(member.take(0, Bytes::of_process(2 * GIB)), Err(OutOfMemory), "its holder lives");
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(member.take(0, Bytes::of_process(2 * GIB)), Ok(()), "whoever needs it takes it");
    assert_eq!(member.machine().users(0).len(), 1);
}

#[test]
fn processes_killed_at_any_moment_lose_nothing() {
    play_role();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("machine");
    let watcher = machine(&path);
    for round in 0..10 {
        let start = |_| start("processes_killed_at_any_moment_lose_nothing", "churn", &path);
        let mut children: Vec<Child> = (0..4).map(start).collect();
        sleep_until(now_ns() + 2_000_000 + round * 100_000);
        for child in &mut children {
            child.kill().unwrap();
        }
        for child in &mut children {
            child.wait().unwrap();
        }
        watcher.reap();
        assert_eq!(watcher.users(1), []);
        assert_eq!(watcher.gpus()[1].used_bytes.load(Relaxed), 0);
        assert!(watcher.gpus()[1].peak_bytes.load(Relaxed) <= 4 * GIB);
    }
}

#[test]
fn work_of_all_processes_runs_one_after_the_other() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("machine");
    let (one, other) = (member(&path), member(&path));
    let now = now_ns();
    let first = one.queue(0, now, 1_000_000);
    let second = other.queue(0, now, 500_000);
    assert_eq!(first.end_ns - first.start_ns, 1_000_000);
    assert_eq!(second.start_ns, first.end_ns);
    assert_eq!(other.queue(1, now, 7).start_ns, now, "another GPU is free");
    sleep_until(second.end_ns);
    assert!(now_ns() >= second.end_ns);
    assert_eq!(one.gpus()[0].busy_ns.load(Relaxed), 1_500_000);
}

#[test]
fn how_busy_a_gpu_was_is_remembered() {
    let directory = tempfile::tempdir().unwrap();
    let member = member(&directory.path().join("machine"));
    let second = 1_000_000_000;
    member.queue(0, now_ns() - 2 * second, 2 * second);
    assert!(member.gpus()[0].utilisation_percent() >= 90);
    assert_eq!(member.gpus()[1].utilisation_percent(), 0);
}

#[test]
fn a_file_that_is_no_machine_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("machine");
    std::fs::write(&path, "something else").unwrap();
    let error = Machine::open_or_create(&path, &[]).err().unwrap().to_string();
    assert!(error.contains("not a machine of this version"), "{error}");
    let missing = directory.path().join("missing/machine");
    let error = Machine::open_or_create(&missing, &[]).err().unwrap().to_string();
    assert!(error.contains("VCUDA_FAKE_STATE"), "{error}");
}
