//! Forks, execs, spawns, threads, daemons, descriptors closed by force: every process counts for itself.

use std::fs;
use vcuda_tests::{Container, MIB, Running, World, program, skip};

const TAKEN_BYTES: u64 = 256 * MIB;

fn form(container: &Container, world: World, name: &str) -> Running {
    container.run(world, program("process_forms")).arg(name).start()
}

#[track_caller]
fn assert_counted(container: &Container, processes: u64) {
    let (charged, taken) = (container.charged_bytes(0), container.gpu(0).process_bytes);
    assert!(charged.abs_diff(taken) <= 2 * MIB * processes, "{charged} bytes are charged, {taken} are taken");
    assert!(
        taken >= processes * TAKEN_BYTES,
        "{processes} processes hold {TAKEN_BYTES} bytes each, and contexts"
    );
}

#[test]
fn parent_and_child_count_apart() {
    let container = Container::new();
    let mut running = form(&container, World::Limited, "fork_before_init");
    running.wait_for("check");
    assert_eq!((running.number("parent_got"), running.number("child_got")), (0, 0));
    assert_counted(&container, 2);
    assert_eq!(container.snapshot().processes.len(), 2);
    running.go_on().wait_for("child_status").wait_for("check");
    let outcome = running.go_on().finish().clean();
    assert_eq!(outcome.number("child_status"), 0);
}

#[test]
fn a_child_forked_after_init_gets_the_drivers_answers_and_takes_nothing_from_its_parent() {
    let told = World::BOTH.map(|world| {
        let container = Container::new();
        let mut running = form(&container, world, "fork_after_init");
        running.wait_for("check");
        if world == World::Limited {
            assert_counted(&container, 1);
        }
        running.go_on().wait_for("check");
        if world == World::Limited {
            assert_counted(&container, 1);
            assert!(container.charged_bytes(0) >= 2 * TAKEN_BYTES, "the parent's account goes on");
        }
        running.go_on().finish().clean().stdout
    });
    assert_eq!(told[0], told[1]);
}

fn started_anew(name: &str) {
    let container = Container::new();
    let mut running = form(&container, World::Limited, name);
    running.wait_for("check");
    assert_eq!(running.number("parent_got"), 0);
    assert_eq!(running.number("after_got"), 0, "the new program is limited too");
    assert_eq!(running.number("child_status"), 0);
    assert_counted(&container, 1);
    running.go_on().finish().clean();
}

#[test]
fn fork_and_exec() {
    started_anew("fork_exec");
}

#[test]
fn vfork_and_exec() {
    started_anew("vfork");
}

#[test]
fn posix_spawn() {
    started_anew("posix_spawn");
}

#[test]
fn a_process_that_becomes_another_program_gives_back_what_it_held() {
    let container = Container::new();
    let mut running = form(&container, World::Limited, "exec");
    running.wait_for("check");
    assert_counted(&container, 1);
    running.go_on().wait_for("after_got").wait_for("check");
    assert_eq!(running.number("after_got"), 0);
    assert_counted(&container, 1);
    assert!(
        container.charged_bytes(0) < 2 * TAKEN_BYTES + 530 * MIB,
        "what it held before is not charged twice"
    );
    running.go_on().finish().clean();
}

#[test]
fn sixteen_threads_on_small_stacks() {
    let container = Container::new();
    let mut running = form(&container, World::Limited, "threads");
    running.wait_for("check");
    assert!(running.number("lost_bytes").unsigned_abs() <= 2 * MIB);
    assert_eq!(container.charged_bytes(0).abs_diff(container.gpu(0).process_bytes) / (2 * MIB), 0);
    running.go_on().finish().clean();
}

#[test]
fn closing_every_descriptor_loses_nothing() {
    let container = Container::new();
    let mut running = form(&container, World::Limited, "close_descriptors");
    running.wait_for("check");
    assert_eq!((running.number("before_got"), running.number("after_got")), (0, 0));
    assert_counted(&container, 1);
    let alive: Vec<_> = container.snapshot().processes.iter().map(|process| process.alive).collect();
    assert_eq!(alive, [Some(true)], "it still counts as living");
    running.go_on().finish().clean();
}

#[test]
fn a_daemon_without_descriptors_is_limited() {
    for world in World::BOTH {
        let container = Container::new();
        let report = container.directory().join("report");
        let run = container.run(world, program("process_forms")).arg("daemon").arg(&report);
        run.finish().clean();
        assert_eq!(
            fs::read_to_string(&report).expect("the daemon's report"),
            "0 0\n",
            "{world:?}: result and umask"
        );
        if world == World::Limited {
            assert!(container.control_path().exists());
        }
    }
}

#[test]
fn a_daemon_that_is_refused_says_nothing_into_other_descriptors() {
    let container = Container::new().limit("nonsense");
    let report = container.directory().join("report");
    container.run(World::Limited, program("process_forms")).arg("daemon").arg(&report).finish().clean();
    let text = fs::read_to_string(&report).expect("the daemon's report");
    assert_eq!(text, format!("{} 0\n", vcuda_tests::NOT_PERMITTED));
}

#[test]
fn children_forked_in_the_midst_of_allocations_never_hang() {
    let container = Container::new();
    let mut running = form(&container, World::Limited, "fork_while_allocating");
    running.wait_for("check");
    assert_eq!(running.number("ended"), 200);
    running.go_on().finish().clean();
}

#[test]
fn processes_of_a_pid_namespace_count_and_are_found_dead() {
    let container = Container::new();
    let unshare = container.run(World::Bare, "unshare").args(["-pf", "true"]).finish();
    if !unshare.status.success() {
        return skip("no PID namespace can be made here");
    }
    let inside = |program_and_arguments: &[&str]| {
        let file = program(program_and_arguments[0]);
        container
            .run(World::Limited, "unshare")
            .args(["-pf", "--kill-child", "--"])
            .arg(file)
            .args(&program_and_arguments[1..])
    };
    let mut first = inside(&["memory_paths", "linear", "64", "3072", "hold"]).start();
    first.wait_for("full");
    let got = first.number("got_mib");
    assert_counted(&container, 1);
    // The same process id in a namespace of its own is another process.
    let refused = inside(&["devices"]).finish().succeeded();
    assert_eq!(refused.number("device_0_context"), vcuda_tests::OUT_OF_MEMORY);
    first.kill();
    let mut second = inside(&["memory_paths", "linear", "64", "3072", "hold"]).start();
    second.wait_for("full");
    assert_eq!(second.number("got_mib"), got);
    second.kill();
}
