//! The `vcuda` command, end to end.

use serde_json::Value;
use vcuda_tests::{Container, GIB, MIB, NOT_PERMITTED, OUT_OF_MEMORY, Run, World, artefacts, program};

fn vcuda(container: &Container) -> Run {
    container.run(World::Bare, &artefacts().vcuda).env("VCUDA_LIBRARY", &artefacts().library)
}

/// The container's slice of what `vcuda ps --json` printed: other tests' slices are on the machine as well.
fn own_slice(container: &Container, json: &str) -> Value {
    let json: Value = serde_json::from_str(json).expect("JSON");
    let path = container.control_path().display().to_string();
    let slices = json["slices"].as_array().expect("slices");
    slices.iter().find(|slice| slice["control_file"] == *path).expect("this container's slice").clone()
}

#[test]
fn run_holds_a_program_to_its_quota() {
    let container = Container::new();
    let paths = program("memory_paths");
    let run =
        vcuda(&container).args(["run", "--memory", "1GiB", "--"]).arg(&paths).args(["linear", "64", "3072"]);
    let outcome = run.finish().clean();
    assert_eq!(outcome.number("refused"), OUT_OF_MEMORY);
    assert!(outcome.number("got_mib") < 1024);
    assert!(outcome.number("got_mib") > 256);
    let other =
        vcuda(&container).args(["run", "--memory", "2GiB", "--"]).arg(&paths).args(["linear", "64", "3072"]);
    assert!(other.finish().clean().number("got_mib") > 1024, "each run has a quota of its own");
}

#[test]
fn run_takes_a_share_alone_and_refuses_a_wrong_one_before_it_starts() {
    let container = Container::new();
    let run = |cores: &str| {
        vcuda(&container).args(["run", "--cores", cores, "--"]).arg(program("devices")).finish()
    };
    assert!(run("30").clean().number("device_0_total") > 15 * GIB as i64, "memory has no limit");
    let wrong = run("130");
    assert_eq!((wrong.code(), wrong.stdout.as_str()), (125, ""));
    assert_eq!(
        wrong.stderr,
        "vcuda: --cores: \"130\" is more than the whole GPU; write 1 to 100, such as 30; decimals work: 12.5\n"
    );
    // Only CUDA knows the GPUs, so a wrong one is told by the program's cuInit.
    let missing = run("7=30");
    assert_eq!(missing.number("init"), NOT_PERMITTED, "{missing:#?}");
    assert!(missing.stderr.contains("devices.7.cores: there is no GPU 7; "), "{missing:#?}");
}

#[test]
fn runs_that_name_a_control_file_share_one_quota() {
    let container = Container::new();
    let control = container.control_path();
    let start = || {
        vcuda(&container)
            .args(["run", "--memory", "2GiB", "--control-file"])
            .arg(&control)
            .arg("--")
            .arg(program("memory_paths"))
            .args(["linear", "64", "3072", "hold"])
    };
    let mut first = start().start();
    first.wait_for("full");
    let second = start().finish();
    assert!(second.stdout.contains("failed 2"), "no context fits beside the first: {second:#?}");
    first.go_on().wait_for("empty").go_on();
    first.finish().clean();
}

#[test]
fn ps_tells_who_holds_what() {
    let container = Container::new();
    let mut running = container.run(World::Limited, program("views")).arg("300").start();
    running.wait_for("ready");
    let ps = |arguments: &[&str]| {
        vcuda(&container)
            .arg("ps")
            .args(arguments)
            .arg("--control-file")
            .arg(container.control_path())
            .finish()
            .clean()
    };
    let slice = own_slice(&container, &ps(&["--json"]).stdout);
    let device = &slice["devices"][0];
    assert_eq!(device["uuid"], container.uuid(0));
    assert_eq!(device["limit_bytes"], 2 * GIB);
    assert_eq!(device["used_bytes"], container.charged_bytes(0));
    let process = &device["processes"][0];
    assert_eq!(process["pid"], running.pid());
    assert_eq!(process["name"], "views");
    assert_eq!(process["used_bytes"], container.charged_bytes(0));
    let context = process["context_bytes"].as_u64().expect("bytes");
    assert!(context > 500 * MIB && context < 540 * MIB, "{context}");
    let text = ps(&[]).stdout;
    assert!(text.contains(&running.pid().to_string()) && text.contains("of 2.00 GiB"), "{text}");
    running.kill();
}

#[test]
fn ps_inside_the_slice_says_the_same_as_outside() {
    let container = Container::new();
    let mut running = container.run(World::Limited, program("views")).arg("100").start();
    running.wait_for("ready");
    let ps = |world| {
        let run = container.run(world, &artefacts().vcuda).args(["ps", "--json", "--control-file"]);
        own_slice(&container, &run.arg(container.control_path()).finish().clean().stdout)
    };
    assert_eq!(ps(World::Bare), ps(World::Limited));
    running.kill();
}

#[test]
fn doctor_names_driver_gpus_and_limits() {
    let container = Container::new();
    let run = container.run(World::Limited, &artefacts().vcuda).env("VCUDA_LIBRARY", &artefacts().library);
    let outcome = run.arg("doctor").env("VCUDA_CORE_LIMIT", "12.5").finish();
    assert!(outcome.code() <= 1, "{outcome:#?}");
    let text = &outcome.stdout;
    assert!(text.contains("Simulated GPU"), "{text}");
    assert!(text.contains("2.00 GiB"), "{text}");
    let bare = vcuda(&container).arg("doctor").env("VCUDA_CORE_LIMIT", "0=12.5").finish().stdout;
    assert!(bare.contains("GPU 0: no memory limit; 12.5 % of its time (VCUDA_CORE_LIMIT)"), "{bare}");
    assert!(bare.contains("GPU 1: no memory limit; no compute limit"), "{bare}");
    assert_eq!(container.gpu(0).process_count, 0, "looking uses no GPU");
}
