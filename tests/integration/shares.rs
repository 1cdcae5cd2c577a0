//! Shares as containers have them: their files mounted one by one into a mount namespace of its own. `scripts/check-containers`
//! does the same with a real container runtime.

use crate::config::{assert_refused, totals};
use crate::live::Obedient;
use serde_json::Value;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use vcuda_core::control::Control;
use vcuda_tests::{Container, GIB, OUT_OF_MEMORY, Outcome, Run, SUCCESS, World, artefacts, program, skip};

/// A machine with shares.
struct Host {
    machine: Container,
}

impl Host {
    fn new() -> Host {
        Host { machine: Container::new().no_limit() }
    }

    /// `None` where no file system can be mounted.
    fn with_containers() -> Option<Host> {
        let host = Host::new();
        let probe = host.inside(&[], "true").finish();
        if probe.status.success() {
            return Some(host);
        }
        skip("no file system can be mounted here");
        None
    }

    fn share(&self, name: &str) -> PathBuf {
        self.machine.directory().join("shares").join(name)
    }

    /// The command, on the host.
    fn vcuda(&self, arguments: &[&str]) -> Run {
        let run = self.machine.run(World::Bare, &artefacts().vcuda).args(arguments);
        run.env("VCUDA_LIBRARY", &artefacts().library)
            .env("VCUDA_SHARES", self.machine.directory().join("shares"))
            .env("VCUDA_CDI", self.machine.directory().join("cdi"))
    }

    fn create(&self, name: &str, gpu: &str, limits: &[&str]) -> Outcome {
        self.vcuda(&["share", "create", name, "--gpu", gpu]).args(limits).finish()
    }

    fn control(&self, name: &str) -> Arc<Control> {
        Control::open_existing(self.share(name).join("control")).expect("a control file")
    }

    /// A program of a container that has `shares`, each with all its files or only those that are named.
    fn inside_with(&self, shares: &[(&str, &[&str])], program: impl AsRef<std::ffi::OsStr>) -> Run {
        // A private /etc and /run, so that nothing outside the test sees them.
        let mut script = "mount -t tmpfs none /etc && mount -t tmpfs none /run".to_owned();
        let mut mount = |from: PathBuf, place: &str, options: &str| {
            script.push_str(&format!(
                " && mkdir -p $(dirname {place}) && touch {place} && mount --bind '{}' {place} && mount -o \
                 remount,bind,{options} {place}",
                from.display()
            ));
        };
        if !shares.is_empty() {
            mount(self.machine.directory().join("arbiter"), "/run/vcuda/arbiter", "rw");
        }
        for (name, files) in shares {
            for file in *files {
                let from = self.share(name).join(file);
                match *file {
                    "control" => mount(from, &format!("/run/vcuda/shares/{name}/control"), "rw"),
                    _ => mount(from, &format!("/etc/vcuda/shares.d/{name}.json"), "ro"),
                }
            }
        }
        script.push_str(" && exec \"$@\"");
        let run = self.machine.run(World::Limited, "unshare").args(["-m", "sh", "-c", &script, "sh"]);
        run.arg(program).without("VCUDA_CONTROL_FILE").env("VCUDA_LIBRARY", &artefacts().library)
    }

    fn inside(&self, shares: &[&str], program: impl AsRef<std::ffi::OsStr>) -> Run {
        const ALL: &[&str] = &["control", "limits.json"];
        self.inside_with(&shares.iter().map(|name| (*name, ALL)).collect::<Vec<_>>(), program)
    }
}

fn json(outcome: &Outcome) -> Value {
    serde_json::from_str(&outcome.stdout).expect("JSON")
}

#[test]
fn a_container_has_what_its_shares_say() {
    let Some(host) = Host::with_containers() else { return };
    host.create("one", "0", &["--memory", "1GiB", "--cores", "30"]).clean();
    host.create("two", "1", &["--memory", "12.5%"]).clean();
    let mut run = host.inside(&["one", "two"], program("devices")).arg("hold").start();
    run.wait_for("held");
    for (name, gpu) in [("one", 0), ("two", 1)] {
        let snapshot = host.control(name).snapshot().expect("a whole control file");
        let [device] = &snapshot.devices[..] else { panic!("one GPU in {name}: {snapshot:#?}") };
        assert_eq!(device.uuid.to_string(), host.machine.uuid(gpu));
        assert_eq!(device.limit_bytes, Some([1, 2][gpu] * GIB));
        assert!(device.used_bytes > 0);
        let [process] = &snapshot.processes[..] else { panic!("one process in {name}") };
        assert!(process.suspension.has_several(), "putting it aside for one would take it from the other");
        assert_eq!(process.used_bytes(device.index), device.used_bytes);
    }
    let outcome = run.go_on().finish().clean();
    assert_eq!(totals(&outcome), [GIB, 2 * GIB]);

    // Variables are void, and a GPU without a share is nobody's.
    let run = host.inside(&["one", "two"], program("devices")).env("VCUDA_MEMORY_LIMIT", "8GiB");
    let outcome = run.finish().succeeded();
    assert_eq!(totals(&outcome), [GIB, 2 * GIB]);
    assert!(
        outcome.complaints()[0].contains("VCUDA_MEMORY_LIMIT is ignored: /etc/vcuda/shares.d"),
        "{outcome:#?}"
    );
    let alone = host.inside(&["one"], program("devices")).finish();
    assert_refused(&alone, &["/etc/vcuda/shares.d", "has no share of", &host.machine.uuid(1)]);
    let hidden = host.inside(&["one"], program("devices")).env("CUDA_VISIBLE_DEVICES", "0").finish().clean();
    assert_eq!(totals(&hidden), [GIB]);
}

#[test]
fn a_share_is_one_quota_and_two_shares_are_two() {
    let Some(host) = Host::with_containers() else { return };
    host.create("left", "0", &["--memory", "2GiB"]).clean();
    host.create("right", "0", &["--memory", "2GiB"]).clean();
    let of =
        |share: &str| Obedient::new(host.inside(&[share], program("live")).env("CUDA_VISIBLE_DEVICES", "0"));
    let (mut first, mut second, mut other) = (of("left"), of("left"), of("right"));
    assert_eq!(first.result("take 900"), SUCCESS);
    assert_eq!(second.result("take 900"), OUT_OF_MEMORY, "the share is used up");
    assert_eq!(other.result("take 900"), SUCCESS);
    assert_eq!(first.result("give"), SUCCESS);
    assert_eq!(second.result("take 900"), SUCCESS);
    for program in [first, second, other] {
        program.end();
    }
}

#[test]
fn a_share_is_changed_by_its_name_and_seen_from_both_sides() {
    let Some(host) = Host::with_containers() else { return };
    host.create("part", "0", &["--memory", "1GiB", "--cores", "50", "--idle-release", "60s"]).clean();
    host.create("rest", "1", &["--memory", "1GiB"]).clean();
    let run = host.inside(&["part", "rest"], program("live"));
    let mut program = Obedient::new(run);
    assert_eq!(program.total_mib(), 1024);
    let changed = host.vcuda(&["set", "part", "--memory", "3GiB", "--cores", "40"]).finish().clean();
    let uuid = host.machine.uuid(0);
    assert_eq!(
        changed.stdout,
        format!(
            "part: memory 3GiB of {uuid} (was 1GiB of {uuid})\npart: cores 40 % of {uuid} (was 50 % of {uuid})\n"
        )
    );
    program.until_total(3072);
    let processes = host.control("part").snapshot().expect("a whole control file").processes;
    assert_eq!(processes[0].suspension.idle_release(), None, "its other share would be put aside, too");
    host.vcuda(&["set", "part", "--memory", "none"]).finish().clean();
    program.until_total(16384);
    host.vcuda(&["set", "part", "--memory", "2GiB"]).finish().clean();
    program.until_total(2048);
    assert_eq!(program.result("take 1000"), SUCCESS);

    let all = json(&host.vcuda(&["ps", "--json"]).finish().clean());
    let slices = all.as_array().or_else(|| all["slices"].as_array()).expect("slices").clone();
    let names: Vec<&str> = slices.iter().filter_map(|slice| slice["name"].as_str()).collect();
    assert!(names.contains(&"part") && names.contains(&"rest"), "{names:?}");
    let seen = json(&host.vcuda(&["inspect", "part", "--json"]).finish().clean());
    assert_eq!(seen["devices"][0]["limit_bytes"], 2 * GIB);
    assert_eq!(seen["processes"][0]["has_current_limits"], true);
    let listed = json(&host.vcuda(&["share", "list", "--json"]).finish().clean());
    assert_eq!(
        (listed[0]["name"].as_str(), listed[0]["memory_bytes"].as_u64()),
        (Some("part"), Some(2 * GIB))
    );
    assert_eq!((listed[0]["cores_ppm"].as_u64(), listed[1]["cores_ppm"].as_u64()), (Some(400_000), None));
    assert_eq!((listed[0]["programs"].as_u64(), listed[0]["containers"].as_u64()), (Some(1), Some(1)));
    let used = host.vcuda(&["share", "delete", "part"]).finish();
    assert!(used.stderr.contains("part is in use by 1 container, 1 program; end them first"), "{used:#?}");

    // Inside, the same names; and nothing that could be changed.
    let tool =
        |arguments: &[&str]| host.inside(&["part", "rest"], &artefacts().vcuda).args(arguments).finish();
    let inside = tool(&["ps"]).clean();
    assert!(inside.stdout.contains("part\n") && inside.stdout.contains("rest\n"), "{inside:#?}");
    let seen = json(&tool(&["inspect", "part", "--json"]).clean());
    assert_eq!(seen["limits_files"][0]["path"], "/etc/vcuda/shares.d/part.json");
    let refused = tool(&["set", "part", "--memory", "8GiB"]);
    assert!(refused.stderr.contains("/etc/vcuda/shares.d/part.json is read-only here"), "{refused:#?}");
    let run = tool(&["run", "--memory", "8GiB", "--", "true"]);
    assert!(run.stderr.contains("/etc/vcuda/shares.d sets the limits here"), "{run:#?}");
    let top = tool(&["top", "--once"]).clean();
    assert!(top.stdout.contains("\n part ") && top.stdout.contains(" of 2.00 GiB"), "{top:#?}");
    let doctor = tool(&["doctor"]);
    for words in
        ["2GiB for GPU-", "40 % of its time for GPU-", "control file /run/vcuda/shares/rest/control is sound"]
    {
        assert!(doctor.stdout.contains(words), "{words}: {doctor:#?}");
    }
    program.end();
    host.vcuda(&["share", "delete", "part"]).finish().clean();
    let gone = host.vcuda(&["share", "delete", "part"]).finish();
    assert!(gone.stderr.contains("there is no share part; there are rest"), "{gone:#?}");
}

#[test]
fn what_is_half_or_wrong_is_refused() {
    let Some(host) = Host::with_containers() else { return };
    for (name, gpu) in [("good", "0"), ("same", "0"), ("rest", "1")] {
        host.create(name, gpu, &["--memory", "1GiB"]).clean();
    }
    let refused = |run: Run, words: &[&str]| assert_refused(&run.finish(), words);
    refused(
        host.inside(&["good", "same", "rest"], program("devices")),
        &["same.json", "good.json", "are of the same GPU", "a larger one"],
    );
    refused(
        host.inside_with(
            &[("good", &["limits.json"]), ("rest", &["limits.json", "control"])],
            program("devices"),
        ),
        &["/run/vcuda/shares/good/control: is not mounted", "vcuda.dev/share=NAME"],
    );
    let good = host.share("good").join("limits.json");
    let whole = fs::read(&good).expect("limits");
    fs::write(&good, &whole[..whole.len() / 2]).expect("half of them");
    refused(
        host.inside(&["good", "rest"], program("devices")),
        &["/etc/vcuda/shares.d/good.json", "not JSON"],
    );
    fs::write(&good, whole).expect("limits");
    // A runtime that finds nothing to mount makes a directory.
    let script = "mkdir -p /etc/vcuda/shares.d/x.json && exec \"$@\"";
    let run = host.inside(&["good", "rest"], "sh").args(["-c", script, "sh"]).arg(program("devices"));
    refused(run, &["/etc/vcuda/shares.d/x.json", "not a regular file"]);
    let script = "mkdir -p /etc/vcuda/shares.d && exec \"$@\"";
    let run = host.inside(&[], "sh").args(["-c", script, "sh"]).arg(program("devices"));
    refused(run, &["/etc/vcuda/shares.d: has no share in it"]);
}

#[test]
fn shares_are_made_by_people() {
    let host = Host::new();
    let made = host.create("half", "GPU-", &["--memory", "12GiB", "--cores", "50"]);
    assert!(made.stderr.contains("--gpu: \"GPU-\" names no GPU"), "{made:#?}");
    let made = host.create("half", "0", &["--memory", "12GiB", "--cores", "50"]).clean();
    let uuid = host.machine.uuid(0);
    assert_eq!(
        made.stdout,
        format!(
            "half: 12.00 GiB and 50 % of the time of {uuid}\n\n  docker run --device nvidia.com/gpu=0 --device \
             vcuda.dev/share=half IMAGE\n\n"
        )
    );
    host.create("half", &uuid[..12], &["--memory", "12GiB", "--cores", "50"]).clean();
    for (name, gpu, limits, words) in [
        ("half", "0", ["--memory", "1GiB"], "there is a share half already, of GPU-"),
        ("7up", "0", ["--memory", "1GiB"], "\"7up\" is no name for a share; write letters"),
        ("more", "2", ["--memory", "1GiB"], "--gpu: there is no GPU 2; the GPUs here are 0 (GPU-"),
        (
            "more",
            "0",
            ["--memory", "5GiB"],
            "has 4GiB of 16GiB of memory left to promise, and 5GiB were asked for (half has 12GiB)",
        ),
        ("more", "0", ["--cores", "51"], "has 50 % of 100 % of time left to promise"),
        ("more", "0", ["--memory", "0=1GiB"], "--memory: a share is of the one GPU of --gpu"),
        ("more", "0", ["--memory", "1QiB"], "--memory: \"1QiB\" has an unknown unit"),
        ("more", "0", ["--idle-release", "soon"], "--idle-release: \"soon\" is no time"),
    ] {
        let refused = host.create(name, gpu, &limits);
        assert_eq!((refused.code(), refused.stdout.as_str()), (1, ""), "{refused:#?}");
        assert!(
            refused.stderr.starts_with("vcuda: ") && refused.stderr.contains(words),
            "{words}: {refused:#?}"
        );
    }
    host.create("more", "0", &["--memory", "5GiB", "--overcommit"]).clean();
    host.create("turns", "1", &["--cores", "30", "--elastic", "--weight", "60", "--priority", "high"])
        .clean();
    let listed = json(&host.vcuda(&["share", "list", "--json"]).finish().clean());
    assert_eq!((&listed[2]["elastic"], &listed[2]["weight"]), (&true.into(), &60.into()));
    assert_eq!((&listed[2]["priority"], &listed[2]["memory_bytes"]), (&"high".into(), &Value::Null));
    let list = host.vcuda(&["share", "list"]).finish().clean();
    let lines: Vec<Vec<&str>> = list.stdout.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[1], ["half", &uuid[..12], "12.00", "GiB", "50", "%", "nobody"]);
    assert_eq!(lines[2], ["more", &uuid[..12], "5.00", "GiB", "no", "limit", "nobody"]);
    let cdi = fs::read_to_string(host.machine.directory().join("cdi/vcuda-half.json")).expect("a CDI file");
    assert_eq!(serde_json::from_str::<Value>(&cdi).expect("JSON")["kind"], "vcuda.dev/share");
}
