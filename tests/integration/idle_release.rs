//! Idle release: programs that do not fit together take turns, and none of them sees an error.

use serde_json::json;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};
use vcuda_core::control::Control;
use vcuda_core::suspension::Phase;
use vcuda_tests::{Container, OUT_OF_MEMORY, Run, Running, SUCCESS, World, artefacts, program};

/// A tenant with a slice of its own, that may be put aside after 300 ms.
fn tenant(container: &Container, slice: &str, mib: u64) -> Running {
    let run = container.run(World::Limited, program("suspendable")).arg(mib.to_string());
    let control = container.directory().join(slice);
    run.env("VCUDA_CONTROL_FILE", control).env("VCUDA_IDLE_RELEASE", "300ms").start()
}

/// `vcuda release` on the slices of these tests.
fn release(container: &Container) -> Run {
    let mut run = container.run(World::Bare, &artefacts().vcuda).arg("release");
    for slice in ["first", "second", "third"] {
        run = run.arg("--control-file").arg(container.directory().join(slice));
    }
    run.env("VCUDA_LEASE_DIRECTORY", container.directory())
}

fn agent(container: &Container) -> Running {
    let mut agent = release(container).start();
    agent.wait_for("vcuda:");
    agent
}

/// `vcuda-node` on the same slices; its log's lines, without time and level, come from its standard output.
fn node(container: &Container) -> Run {
    let log = r#"exec "$0" "$@" 2> >(exec sed -u -E 's/^[^ ]+ +[A-Z]+ //')"#;
    let run = container.run(World::Bare, "bash").arg("-c").arg(log).arg(&artefacts().node);
    let run = run.args(["--listen", "127.0.0.1:0", "--interval", "100ms", "--log", "debug"]);
    let run = run.arg("--directory").arg(container.directory());
    let run = run.arg("--users-under").arg(container.directory().join("users"));
    run.env("VCUDA_LEASE_DIRECTORY", container.directory())
}

pub fn daemon(container: &Container) -> Running {
    let mut daemon = node(container).start();
    daemon.wait_for("serving");
    daemon
}

/// What the daemon answers.
fn get(daemon: &Running, path: &str) -> String {
    let address = daemon.text("serving").strip_prefix("http://").unwrap().strip_suffix("/metrics").unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// The value of a metric by the beginning of its line, for a slice if one is named.
pub fn metric(daemon: &Running, name: &str, slice: &str) -> Option<f64> {
    let answer = get(daemon, "/metrics");
    let mut lines = answer.lines().filter(|line| line.starts_with(name) && line.contains(slice));
    lines.next()?.rsplit_once(' ')?.1.parse().ok()
}

/// Waits until a slice's only program is in `phase`.
#[track_caller]
fn wait_for_phase(container: &Container, slice: &str, phase: Phase) {
    assert!(Container::eventually(|| phase_of(container, slice) == phase), "{slice} is not {phase:?}");
}

fn phase_of(container: &Container, slice: &str) -> Phase {
    let snapshot = Control::open_existing(container.directory().join(slice)).unwrap().snapshot().unwrap();
    let mut programs =
        snapshot.processes.iter().filter(|process| process.suspension.idle_release().is_some());
    programs.next().unwrap().suspension.phase()
}

fn terminate(running: &Running) {
    // SAFETY: the process was started here and has not been waited for.
    unsafe { libc::kill(running.pid() as i32, libc::SIGTERM) };
}

#[test]
fn two_that_do_not_fit_together_both_work() {
    let container = Container::new().gpus("8GiB").limit("6GiB");
    let _agent = agent(&container);
    both_work(&container);
}

#[test]
fn the_daemon_has_two_that_do_not_fit_together_both_work() {
    let container = Container::new().gpus("8GiB").limit("6GiB");
    let daemon = daemon(&container);
    both_work(&container);
    assert_eq!(metric(&daemon, "vcuda_node_idle_release_possible", ""), Some(1.0));
    assert_eq!(metric(&daemon, "vcuda_node_idle_release_failures_total", ""), Some(0.0));
    for slice in ["share=\"first\"", "share=\"second\""] {
        let put_aside = metric(&daemon, "vcuda_node_put_aside_total", slice);
        assert!(put_aside >= Some(3.0), "{slice}: {put_aside:?}");
        assert!(metric(&daemon, "vcuda_node_brought_back_total", slice) >= Some(3.0), "{slice}");
    }
    assert!(get(&daemon, "/healthz").ends_with("ok\n"));
}

fn both_work(container: &Container) {
    let tenant = |slice: &str, mib| tenant(container, slice, mib);
    let mut first = tenant("first", 4500);
    first.wait_for("ready");
    let mut second = tenant("second", 4500);
    second.wait_for("ready");
    for round in 0..4 {
        first.say("work").wait_for("worked");
        // As long as they come in time, nobody is put aside in the midst of its work.
        first.say("work").wait_for("worked");
        // A call that nobody hooks brings a process back as well.
        second.say(if round % 2 == 0 { "ask" } else { "work" });
        second.wait_for(if round % 2 == 0 { "asked" } else { "worked" });
        second.say("work").wait_for("worked");
    }
    assert!(container.gpu(0).peak_bytes <= 8 << 30);
    first.finish().clean();
    second.finish().clean();
}

#[test]
fn an_allocation_waits_for_room_and_a_limit_is_still_a_limit() {
    let container = Container::new().gpus("8GiB").limit("6GiB");
    let _agent = agent(&container);
    let mut first = tenant(&container, "first", 5000);
    first.wait_for("ready");
    let mut second = tenant(&container, "second", 64);
    second.wait_for("ready");
    second.say("alloc 4000").wait_for("alloc_1");
    assert_eq!(second.number("alloc_1"), SUCCESS);
    let begin = Instant::now();
    second.say("alloc 4000").wait_for("alloc_2");
    assert_eq!(second.number("alloc_2"), OUT_OF_MEMORY);
    assert!(begin.elapsed() < Duration::from_secs(5), "its own limit is not waited for");
    // The first one comes back once there is room, without having called.
    second.finish().clean();
    assert!(Container::eventually(|| container.gpu(0).process_bytes > 5000 << 20));
    first.say("work").wait_for("worked");
    first.finish().clean();
}

#[test]
fn idle_release_that_is_changed_holds_for_programs_that_run() {
    let container = Container::new().gpus("8GiB").limit("6GiB");
    let _agent = agent(&container);
    let (file, control) = (container.directory().join("limits.json"), container.directory().join("first"));
    let limits = json!({ "version": 1, "control_file": control, "default": { "memory": "6GiB" } });
    fs::write(&file, limits.to_string()).unwrap();
    let set = |idle_release: &str| {
        let run = container.run(World::Bare, &artefacts().vcuda).arg("set").arg(&file);
        run.args(["--idle-release", idle_release]).finish().clean().stdout
    };
    let run = container.run(World::Limited, program("suspendable")).arg("4500");
    let mut first = run.env("VCUDA_LIMITS_FILE", &file).start();
    first.wait_for("ready");
    let mut second = tenant(&container, "second", 64);
    second.wait_for("ready");
    second.say("alloc 4000").wait_for("alloc_1");
    assert_eq!(second.number("alloc_1"), OUT_OF_MEMORY, "the first one may not be put aside");

    let said = set("300ms");
    assert!(said.contains(": idle release after 300.0 ms (was never)\n"), "{said}");
    assert!(said.contains("  there was no idle release: programs see it when they next ask"), "{said}");
    first.say("alloc 1").wait_for("alloc_1");
    second.say("alloc 4000").wait_for("alloc_2");
    assert_eq!(second.number("alloc_2"), SUCCESS);
    assert_eq!(first_phase(&control), Phase::Suspended);
    // A call is noted by now, and waits.
    first.say("work");
    first.wait_for("worked");

    let said = set("never");
    assert!(said.contains(": idle release never (was after 300.0 ms)\n"), "{said}");
    std::thread::sleep(Duration::from_millis(50));
    first.say("work").wait_for("worked");
    second.say("work");
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(first_phase(&control), Phase::Running, "it may not be put aside any more");
    // Of its limits it says that they are the file's.
    assert_eq!(first.finish().status.code(), Some(0));
    second.wait_for("worked");
    second.finish().clean();
}

/// Where the only program of a slice is.
fn first_phase(control: &Path) -> Phase {
    let snapshot = Control::open_existing(control).unwrap().snapshot().unwrap();
    let mut living = snapshot.processes.iter().filter(|process| process.identity.name == "suspendable");
    living.next().unwrap().suspension.phase()
}

#[test]
fn without_an_agent_nothing_waits() {
    let container = Container::new().gpus("8GiB").limit("6GiB");
    let mut first = tenant(&container, "first", 5000);
    first.wait_for("ready");
    let mut second = tenant(&container, "second", 64);
    second.wait_for("ready");
    let begin = Instant::now();
    second.say("alloc 4000").wait_for("alloc_1");
    assert_eq!(second.number("alloc_1"), OUT_OF_MEMORY);
    assert!(begin.elapsed() < Duration::from_secs(5));
    first.finish().clean();
    second.finish().clean();
}

#[test]
fn an_agent_that_is_killed_is_succeeded() {
    let container = Container::new().gpus("8GiB").limit("6GiB");
    let first_agent = agent(&container);
    let mut first = tenant(&container, "first", 4500);
    first.wait_for("ready");
    let mut second = tenant(&container, "second", 4500);
    second.wait_for("ready");
    first_agent.kill();
    first.say("work");
    std::thread::sleep(Duration::from_millis(300));
    let _second_agent = agent(&container);
    first.wait_for("worked");
    second.say("work").wait_for("worked");
    first.finish().clean();
    second.finish().clean();
}

#[test]
fn a_tenant_that_is_killed_while_put_aside_leaves_nothing() {
    let container = Container::new().gpus("8GiB").limit("6GiB");
    let _agent = agent(&container);
    let mut first = tenant(&container, "first", 4500);
    first.wait_for("ready");
    let mut second = tenant(&container, "second", 4500);
    second.wait_for("ready");
    first.kill();
    let mut third = tenant(&container, "third", 2000);
    third.wait_for("ready");
    second.say("work").wait_for("worked");
    third.say("work").wait_for("worked");
    second.finish().clean();
    third.finish().clean();
    // What initialising takes of the agent is its own.
    assert_eq!(container.gpu(0).process_bytes, 0);
}

#[test]
fn a_daemon_that_is_killed_while_it_puts_aside_is_succeeded() {
    let container = Container::new().gpus("8GiB").limit("6GiB");
    for call in ["cuCheckpointProcessLock", "cuCheckpointProcessCheckpoint"] {
        let slow = node(&container).env("VCUDA_FAKE_FAULTS", format!("{call}:*=sleep:60s")).start();
        let mut first = tenant(&container, "first", 4500);
        first.wait_for("ready");
        let mut second = tenant(&container, "second", 4500);
        wait_for_phase(&container, "first", Phase::Suspending);
        slow.kill();
        assert_eq!(phase_of(&container, "first"), Phase::Suspending);
        let mut next = daemon(&container);
        next.wait_for("idle release: finished what another agent had left:");
        second.wait_for("ready");
        first.say("work").wait_for("worked");
        second.say("work").wait_for("worked");
        first.finish().clean();
        second.finish().clean();
    }
}

#[test]
fn a_daemon_that_is_told_to_end_leaves_nobody_half_way() {
    let container = Container::new().gpus("8GiB").limit("6GiB");
    let faults = "cuCheckpointProcessCheckpoint:1=sleep:7s";
    let mut slow = node(&container).env("VCUDA_FAKE_FAULTS", faults).start();
    let mut first = tenant(&container, "first", 4500);
    first.wait_for("ready");
    let mut second = tenant(&container, "second", 4500);
    wait_for_phase(&container, "first", Phase::Suspending);
    terminate(&slow);
    let ended = slow.finish();
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    assert!(ended.stdout.contains("waiting for a program to be put aside"), "{ended:?}");
    assert!(ended.stdout.contains("1 processes stay put aside"), "{ended:?}");
    assert_eq!(phase_of(&container, "first"), Phase::Suspended);
    let _next = daemon(&container);
    second.wait_for("ready");
    first.say("work").wait_for("worked");
    first.finish().clean();
    second.finish().clean();
}

#[test]
fn of_two_agents_one_does_it_and_the_other_says_who() {
    let container = Container::new().gpus("8GiB").limit("6GiB");
    let first_agent = agent(&container);
    let mut first = tenant(&container, "first", 4500);
    first.wait_for("ready");
    let mut daemon = daemon(&container);
    daemon.wait_for(&format!("vcuda (process {}) makes room on this machine already;", first_agent.pid()));
    assert_eq!(metric(&daemon, "vcuda_node_idle_release_possible", ""), None);
    let mut second = tenant(&container, "second", 4500);
    second.wait_for("ready");
    first_agent.kill();
    daemon.wait_for("idle release: making room on this machine's GPUs");
    let refused = release(&container).finish();
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    let told = format!("vcuda-node (process {}) makes room on this machine already", daemon.pid());
    assert!(refused.stderr.contains(&told), "{refused:?}");
    first.say("work").wait_for("worked");
    second.say("work").wait_for("worked");
    first.finish().clean();
    second.finish().clean();
}

#[test]
fn a_daemon_opens_the_driver_only_for_slices_that_want_it() {
    let container = Container::new().gpus("8GiB").limit("6GiB");
    let mut daemon = daemon(&container);
    let run = container.run(World::Limited, program("suspendable")).arg("64");
    let mut plain = run.env("VCUDA_CONTROL_FILE", container.directory().join("third")).start();
    plain.wait_for("ready");
    assert!(Container::eventually(|| metric(&daemon, "vcuda_node_slices", "") == Some(1.0)));
    std::thread::sleep(Duration::from_secs(1));
    plain.finish().clean();
    assert_eq!(container.gpu(0).used_bytes, 0, "the driver was opened");
    assert_eq!(metric(&daemon, "vcuda_node_idle_release_possible", ""), None);
    let mut first = tenant(&container, "first", 64);
    first.wait_for("ready");
    daemon.wait_for("idle release: making room on this machine's GPUs");
    first.finish().clean();
    assert!(container.gpu(0).used_bytes > 0, "nobody has opened the driver");
}

#[test]
fn a_daemon_without_checkpoints_says_so_once_and_goes_on() {
    let container = Container::new().gpus("8GiB").limit("6GiB");
    let mut daemon = node(&container).env("VCUDA_FAKE_DRIVER_VERSION", "12040").start();
    daemon.wait_for("serving");
    let mut first = tenant(&container, "first", 64);
    first.wait_for("ready");
    daemon.wait_for("no idle release here: the driver is for CUDA 12.4;");
    assert!(Container::eventually(|| metric(&daemon, "vcuda_node_slices", "") == Some(1.0)));
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(metric(&daemon, "vcuda_node_idle_release_possible", ""), Some(0.0));
    assert_eq!(metric(&daemon, "vcuda_node_job_failures_total", "idle_release"), Some(0.0));
    assert!(get(&daemon, "/healthz").ends_with("ok\n"));
    terminate(&daemon);
    let ended = daemon.finish();
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    assert_eq!(ended.stdout.matches("no idle release here").count(), 1, "{ended:?}");
    first.finish().clean();
}

#[test]
fn a_daemon_with_idle_release_off_leaves_it_to_others() {
    let container = Container::new().gpus("8GiB").limit("6GiB");
    let mut daemon = node(&container).args(["--idle-release", "off"]).start();
    daemon.wait_for("serving");
    let _agent = agent(&container);
    both_work(&container);
    assert_eq!(metric(&daemon, "vcuda_node_idle_release", ""), None);
    assert_eq!(metric(&daemon, "vcuda_node_job_healthy", "idle_release"), None);
    terminate(&daemon);
    assert_eq!(daemon.finish().status.code(), Some(0));
}
