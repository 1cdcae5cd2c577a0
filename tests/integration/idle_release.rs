//! Idle release: programs that do not fit together take turns, and none of them sees an error.

use std::time::{Duration, Instant};
use vcuda_tests::{Container, OUT_OF_MEMORY, Running, SUCCESS, World, artefacts, program};

/// A tenant with a slice of its own, that may be put aside after 300 ms.
fn tenant(container: &Container, slice: &str, mib: u64) -> Running {
    let run = container.run(World::Limited, program("suspendable")).arg(mib.to_string());
    let control = container.directory().join(slice);
    run.env("VCUDA_CONTROL_FILE", control).env("VCUDA_IDLE_RELEASE", "300ms").start()
}

fn agent(container: &Container) -> Running {
    let mut run = container.run(World::Bare, &artefacts().vcuda).arg("release");
    for slice in ["first", "second", "third"] {
        run = run.arg("--control-file").arg(container.directory().join(slice));
    }
    let mut agent = run.env("VCUDA_LEASE_DIRECTORY", container.directory()).start();
    agent.wait_for("vcuda:");
    agent
}

#[test]
fn two_that_do_not_fit_together_both_work() {
    let container = Container::new().gpus("8GiB").limit("6GiB");
    let _agent = agent(&container);
    let mut first = tenant(&container, "first", 4500);
    first.wait_for("ready");
    let mut second = tenant(&container, "second", 4500);
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
