//! Processes without the library on a GPU that has limited slices: they are noticed, and what shares promise is then
//! said to be best effort.

use crate::idle_release::{daemon, metric};
use vcuda_tests::{Container, Outcome, Run, Running, World, artefacts, program};

const MEANING: &str = "shares of its time are best effort";

/// A program that holds a context of GPU 0 until it is told to end.
fn load(container: &Container, world: World) -> Running {
    let mut running =
        container.run(world, program("compute_load")).arg("serve").env("VCUDA_CORE_LIMIT", "30").start();
    running.wait_for("ready");
    running
}

fn vcuda(container: &Container, command: &str) -> Run {
    let run = container.run(World::Bare, &artefacts().vcuda).arg(command);
    run.env("VCUDA_LIBRARY", &artefacts().library)
}

/// What the doctor says where a program would be limited as those here are.
fn doctor(container: &Container) -> Outcome {
    let run = vcuda(container, "doctor").env("VCUDA_CORE_LIMIT", "0=30");
    run.env("VCUDA_CONTROL_FILE", container.control_path()).finish()
}

fn look(container: &Container, arguments: &[&str]) -> String {
    let (command, more) = arguments.split_first().expect("a command");
    vcuda(container, command)
        .args(more)
        .arg("--control-file")
        .arg(container.control_path())
        .finish()
        .clean()
        .stdout
}

#[test]
fn who_works_without_the_library_beside_slices_is_said_everywhere() {
    let container = Container::new();
    let limited = load(&container, World::Limited);
    let agent = daemon(&container);
    let gpu = container.uuid(0);
    let told = || metric(&agent, "vcuda_device_foreign_processes", &gpu);
    assert!(Container::eventually(|| told() == Some(0.0)), "{:?}", told());
    for quiet in [look(&container, &["ps"]), look(&container, &["top", "--once"]), doctor(&container).stdout]
    {
        assert!(!quiet.contains("best effort"), "{quiet}");
    }

    let foreign = [load(&container, World::Bare), load(&container, World::Bare)];
    let names = format!(
        "2 processes without vcuda (compute_load {}, compute_load {})",
        foreign[0].pid(),
        foreign[1].pid()
    );
    let ps = look(&container, &["ps"]);
    assert!(ps.contains(&format!("beside the slices: {names}\n            {MEANING}\n")), "{ps}");
    let top = look(&container, &["top", "--once"]);
    assert!(top.contains(&format!("2 processes without vcuda: {MEANING}\n")), "{top}");
    let doctor = doctor(&container);
    let words: Vec<&str> = doctor.stdout.split_whitespace().collect();
    let expected = format!("! GPU-510faced: {names} beside slices: {MEANING}");
    assert!(words.join(" ").contains(&expected), "{}", doctor.stdout);
    assert_eq!(doctor.status.code(), Some(0), "memory limits hold, and shares as far as they can");
    assert!(Container::eventually(|| told() == Some(2.0)), "{:?}", told());

    // Once they have gone, all is as it was.
    foreign.into_iter().for_each(Running::kill);
    assert!(!look(&container, &["ps"]).contains("best effort"));
    assert!(Container::eventually(|| told() == Some(0.0)), "{:?}", told());
    limited.kill();
    agent.kill();
}
