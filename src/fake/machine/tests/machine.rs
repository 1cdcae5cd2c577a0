//! One machine used by several processes: the test's own and children of it, which re-run this binary.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};
use vcuda_fake_machine::{
    Bytes, Engine, Incident, Length, Machine, Member, OutOfMemory, Scene, Unit, now_ns, parse_gpus,
    sleep_until,
};

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
    start_by(Command::new(std::env::current_exe().unwrap()), test, role, path)
}

/// As `start`, by a program that starts it.
fn start_by(mut program: Command, test: &str, role: &str, path: &Path) -> Child {
    let mut child = program
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
        "look" => {
            member.count_contexts(1, 1);
            let seen: Vec<usize> = (0..2).map(|gpu| member.machine().users(gpu).len()).collect();
            assert_eq!((std::process::id(), seen), (1, vec![0, 1]), "it sees itself alone");
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
        "work" => {
            member.timeline(|timeline| {
                let line = member.open_line(timeline, 0).unwrap();
                let engine = Engine::Processors { percent: 100 };
                let unit = Unit { engine, length: Length::Fixed(1_000_000_000), ..Unit::MARK };
                while timeline.append(line, unit, |_| {}).is_some() {}
            });
            println!("ready");
            loop {
                std::thread::park();
            }
        }
        "hurry" => {
            let line = member.timeline(|timeline| member.open_line(timeline, 0)).unwrap();
            println!("ready");
            loop {
                member.timeline(|timeline| {
                    let engine = Engine::Processors { percent: 50 };
                    let unit = Unit { engine, length: Length::Fixed(1), ..Unit::MARK };
                    timeline.append(line, unit, |_| {});
                });
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
fn processes_are_named_by_the_ids_of_the_asker_s_namespace() {
    const TEST: &str = "processes_are_named_by_the_ids_of_the_asker_s_namespace";
    play_role();
    let in_a_namespace = || {
        let mut unshare = Command::new("unshare");
        unshare.args(["--pid", "--fork", "--kill-child", "--mount-proc"]);
        unshare
    };
    if !in_a_namespace().arg("true").status().is_ok_and(|ended| ended.success()) {
        eprintln!("skipped: PID namespaces can't be made here");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("machine");
    let machine = machine(&path);
    let by = |role| {
        let mut unshare = in_a_namespace();
        unshare.arg(std::env::current_exe().unwrap());
        start_by(unshare, TEST, role, &path)
    };
    let mut children = [by("hold"), by("look")];
    for (gpu, child) in children.iter().enumerate() {
        let children = format!("/proc/{0}/task/{0}/children", child.id());
        let inside: u32 = std::fs::read_to_string(children).unwrap().trim().parse().unwrap();
        let users = machine.users(gpu);
        assert_eq!(
            users.iter().map(|user| user.pid).collect::<Vec<_>>(),
            [inside],
            "both are 1 in their own"
        );
    }
    for child in &mut children {
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

/// Lets processes go on for a while, kills them all, and sees them gone.
fn kill_after(mut children: Vec<Child>, after_ns: u64) {
    sleep_until(now_ns() + after_ns);
    for child in &mut children {
        child.kill().unwrap();
    }
    for child in &mut children {
        child.wait().unwrap();
    }
}

#[test]
fn processes_killed_at_any_moment_lose_nothing() {
    play_role();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("machine");
    let watcher = machine(&path);
    for round in 0..10 {
        let start = |_| start("processes_killed_at_any_moment_lose_nothing", "churn", &path);
        kill_after((0..4).map(start).collect(), 2_000_000 + round * 100_000);
        watcher.reap();
        assert_eq!(watcher.users(1), []);
        assert_eq!(watcher.gpus()[1].used_bytes.load(Relaxed), 0);
        assert!(watcher.gpus()[1].peak_bytes.load(Relaxed) <= 4 * GIB);
    }
}

#[test]
fn processes_killed_at_any_moment_leave_a_whole_time_line() {
    play_role();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("machine");
    let member = member(&path);
    let line = member.timeline(|timeline| member.open_line(timeline, 0)).unwrap();
    for round in 0..10 {
        let start = |_| start("processes_killed_at_any_moment_leave_a_whole_time_line", "hurry", &path);
        kill_after((0..4).map(start).collect(), 2_000_000 + round * 100_000);
        let busy = member.machine().busy(0);
        assert_eq!(busy.processes.len(), 1);
        let engine = Engine::Processors { percent: 100 };
        let unit = Unit { engine, length: Length::Fixed(1000), ..Unit::MARK };
        let mark = member.timeline(|timeline| timeline.append(line, unit, |_| {})).unwrap();
        sleep_until(now_ns() + 10_000);
        let after = member.machine().busy(0);
        assert_eq!(after.busy_ns - busy.busy_ns, 1000, "nothing else is left to run");
        assert!(member.timeline(|timeline| timeline.is_over(mark)));
    }
}

#[test]
fn how_busy_a_gpu_was_is_remembered() {
    let directory = tempfile::tempdir().unwrap();
    let member = member(&directory.path().join("machine"));
    let second = 1_000_000_000;
    let start = now_ns() - 2 * second;
    let machine = member.machine();
    machine.timeline_at(start, |timeline| {
        let line = member.open_line(timeline, 0).unwrap();
        let engine = Engine::Processors { percent: 100 };
        timeline
            .append(line, Unit { engine, length: Length::Fixed(2 * second), ..Unit::MARK }, |_| {})
            .unwrap();
    });
    assert!(machine.utilisation_percent(0) >= 90);
    assert_eq!(machine.utilisation_percent(1), 0);
    let busy = machine.busy(0);
    assert_eq!((busy.busy_ns, busy.processes), (2 * second, vec![(std::process::id(), 2 * second)]));
}

#[test]
fn a_killed_process_has_no_more_work() {
    play_role();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("machine");
    let member = member(&path);
    let mut child = start("a_killed_process_has_no_more_work", "work", &path);
    let machine = member.machine();
    let pid = child.id();
    let before = machine.busy(0);
    sleep_until(before.at_ns + 10_000_000);
    let after = machine.busy(0);
    assert_eq!(after.busy_ns - before.busy_ns, after.at_ns - before.at_ns, "it works all the time");
    child.kill().unwrap();
    child.wait().unwrap();
    let ended = machine.busy(0);
    assert_eq!(ended.ended, [(pid, ended.busy_ns)]);
    assert_eq!(ended.ended_busy_ns, ended.busy_ns);
    sleep_until(ended.at_ns + 5_000_000);
    assert_eq!(machine.busy(0).busy_ns, ended.busy_ns);
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

#[test]
fn what_befalls_a_gpu_is_seen_in_turn_and_wakes_who_waits() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("machine");
    let (one, other) = (machine(&path), machine(&path));
    let scene = |gpu| Scene { gpu, instance: None };
    one.befall(scene(1), Incident::Xid(79));
    assert_eq!(other.incident_after(0), Some(((scene(1), Incident::Xid(79)), 1)));
    assert_eq!(other.incident_after(1), None);
    // What is there already is not slept over, nor is what comes meanwhile.
    let begin = Instant::now();
    other.wait_for_incident(0, Duration::from_secs(3600));
    let waiting = std::thread::spawn(move || {
        while other.incident_after(1).is_none() {
            other.wait_for_incident(1, Duration::from_secs(3600));
        }
        other.incident_after(1)
    });
    std::thread::sleep(Duration::from_millis(50));
    one.befall(scene(0), Incident::DoubleBitEcc);
    assert_eq!(waiting.join().unwrap(), Some(((scene(0), Incident::DoubleBitEcc), 2)));
    assert!(begin.elapsed() < Duration::from_secs(600));
    one.wait_for_incident(2, Duration::from_millis(1));
    // Who looks late sees the newest.
    (0..100).for_each(|number| one.befall(scene(0), Incident::Xid(number)));
    let ((_, first), seen) = one.incident_after(2).unwrap();
    assert_eq!((first, seen), (Incident::Xid(36), 39));
}
