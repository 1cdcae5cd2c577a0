//! `vcuda set` and `vcuda inspect` on slices in which programs run.

use crate::live::Obedient;
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};
use vcuda_tests::{Container, OUT_OF_MEMORY, Outcome, Run, SUCCESS, World, artefacts, program, skip};

/// What `vcuda ps` and `vcuda set` may take.
const PROMISED: Duration = Duration::from_millis(20);

fn vcuda(container: &Container) -> Run {
    container.run(World::Bare, &artefacts().vcuda).env("VCUDA_LIBRARY", &artefacts().library)
}

/// A name for a slice that no other test has: they are in the user's own directory, whatever the test.
fn name(test: &str) -> String {
    format!("test-{test}-{}", std::process::id())
}

/// The obedient program in a slice of a `vcuda run`.
fn run(container: &Container, name: &str, limits: &[&str]) -> Obedient {
    let run = vcuda(container).args(["run", "--name", name]).args(limits).arg("--").arg(program("live"));
    Obedient::new(run)
}

fn set(container: &Container, arguments: &[&str]) -> Outcome {
    vcuda(container).arg("set").args(arguments).finish()
}

fn inspect(container: &Container, slice: &str) -> Value {
    let outcome = vcuda(container).args(["inspect", slice, "--json"]).finish().clean();
    serde_json::from_str(&outcome.stdout).expect("JSON")
}

#[test]
fn a_named_slice_is_changed_while_its_program_runs() {
    let container = Container::new();
    let name = name("change");
    let mut program = run(&container, &name, &["--memory", "1GiB", "--cores", "30"]);
    assert_eq!(program.result("take 700"), OUT_OF_MEMORY);

    let outcome = set(&container, &[&name, "--memory", "2GiB", "--cores", "50"]).clean();
    let expected = format!(
        "{name}: memory 2GiB of every GPU (was 1GiB of every GPU)\n{name}: cores 50 % of every GPU (was 30 % of every \
         GPU)\n"
    );
    assert_eq!(outcome.stdout, expected);
    program.until_total(2048);
    assert_eq!(program.result("take 700"), SUCCESS);
    let seen = inspect(&container, &name);
    assert_eq!(seen["devices"][0]["limit_bytes"], 2u64 << 30);
    assert_eq!(seen["devices"][0]["compute"]["share_ppm"], 500_000);
    assert_eq!(seen["processes"][0]["has_current_limits"], true);
    assert_eq!(seen["limits_files"][0]["memory"][0]["limit"], "2GiB");

    let pid = seen["processes"][0]["pid"].as_u64().expect("a process id").to_string();
    let lowered = set(&container, &[&pid, "--memory", "1GiB"]).clean();
    assert!(lowered.stdout.contains("in use, over 1.00 GiB: nothing more is given out"), "{lowered:?}");
    let again = set(&container, &[&name, "--memory", "1024MiB"]).clean();
    assert_eq!(again.stdout.lines().next(), Some(format!("{name}: these are its limits already").as_str()));
    program.until_total(1024);
    assert_eq!(program.result("take 1"), OUT_OF_MEMORY);
    assert_eq!(program.result("check"), 0);

    set(&container, &[&name, "--memory", "none"]).clean();
    program.until_total(16384);
    let gained = set(&container, &[&name, "--memory", "0=8GiB"]).clean();
    assert!(gained.stdout.contains("there was no memory limit: those of its 1 running"), "{gained:?}");
    program.until_total(8192);
    program.end();
    let gone = set(&container, &[&name, "--memory", "1GiB"]);
    assert_eq!((gone.code(), gone.stdout.as_str()), (1, ""), "{gone:#?}");
    assert!(gone.stderr.contains(&format!("there is no slice {name}; ")), "{gone:#?}");
}

#[test]
fn how_a_slice_shares_is_changed_while_its_program_runs() {
    let container = Container::new();
    let name = name("share");
    let limits = ["--memory", "1GiB", "--cores", "30", "--elastic", "--weight", "60", "--priority", "high"];
    let mut program = run(&container, &name, &limits);
    let sharing = |seen: &Value| seen["devices"][0]["compute"]["sharing"].clone();
    let seen = inspect(&container, &name);
    assert_eq!(sharing(&seen), json!({"elastic": true, "weight": 60, "priority": "high"}));
    assert_eq!(seen["limits_files"][0]["weight"], json!([{"gpu": "every GPU", "limit": 60}]));
    let text = vcuda(&container).args(["inspect", &name]).finish().clean().stdout;
    assert!(text.contains("    elastic     true of every GPU\n    weight      60 of every GPU\n"), "{text}");
    assert!(text.contains("          elastic, weight 60, high priority\n"), "{text}");

    let change =
        [name.as_str(), "--memory", "2GiB", "--elastic=false", "--weight", "7", "--priority", "normal"];
    let outcome = set(&container, &change).clean();
    let expected = format!(
        "{name}: memory 2GiB of every GPU (was 1GiB of every GPU)\n\
         {name}: elastic false of every GPU (was true of every GPU)\n\
         {name}: weight 7 of every GPU (was 60 of every GPU)\n\
         {name}: priority normal of every GPU (was high of every GPU)\n"
    );
    assert_eq!(outcome.stdout, expected);
    program.until_total(2048);
    let seen = inspect(&container, &name);
    assert_eq!(sharing(&seen), json!({"elastic": false, "weight": 7, "priority": "normal"}));
    assert_eq!(seen["devices"][0]["compute"]["share_ppm"], 300_000);
    assert_eq!(seen["processes"][0]["has_current_limits"], true);
    program.end();
}

#[test]
fn who_shares_from_now_on_does_so_from_the_next_start() {
    let container = Container::new();
    let name = name("later");
    let program = run(&container, &name, &["--memory", "1GiB"]);
    let gained = set(&container, &[&name, "--weight", "60"]).clean();
    let told = "  there was no compute limit: those of its 1 running processes that started without one go on without\n";
    assert_eq!(gained.stdout, format!("{name}: weight 60 of every GPU (was none)\n{told}"));
    let changed = set(&container, &[&name, "--weight", "70"]).clean();
    assert_eq!(changed.stdout, format!("{name}: weight 70 of every GPU (was 60 of every GPU)\n"));
    program.end();
}

#[test]
fn mistakes_are_told_and_change_nothing() {
    let container = Container::new();
    let name = name("mistakes");
    let program = run(&container, &name, &["--memory", "1GiB"]);
    let before = inspect(&container, &name)["limits_files"].clone();
    for (arguments, words) in [
        (vec![name.as_str()], "nothing to change: say what, such as --memory 6GiB or --cores 50"),
        (vec!["no-such-slice", "--memory", "1GiB"], "there is no slice no-such-slice; there are "),
        (vec!["4294967295", "--memory", "1GiB"], "process 4294967295 is in no slice"),
        (vec!["/nowhere/control", "--memory", "1GiB"], "/nowhere/control: "),
        (vec!["/nowhere/limits.json", "--memory", "1GiB"], "can't open /nowhere/limits.json: No such file"),
        (vec![&name, "--memory", "4X"], "--memory: \"4X\" has an unknown unit"),
        (vec![&name, "--memory", "0"], "is no memory at all"),
        (vec![&name, "--cores", "130"], "--cores: \"130\" is more than the whole GPU"),
        (vec![&name, "--memory", "0=1GiB,0=2GiB"], "is given twice"),
        (vec![&name, "--weight", "0"], "--weight: \"0\" is no weight; write a whole number from 1 to 10000"),
        (vec![&name, "--priority", "low"], "--priority: \"low\" is no priority; write normal or high"),
    ] {
        let outcome = set(&container, &arguments);
        assert_eq!((outcome.code(), outcome.stdout.as_str()), (1, ""), "{arguments:?}: {outcome:#?}");
        assert!(outcome.stderr.starts_with("vcuda: ") && outcome.stderr.contains(words), "{outcome:#?}");
        assert_eq!(outcome.complaints().len(), 1, "{outcome:#?}");
    }
    assert_eq!(inspect(&container, &name)["limits_files"], before);
    program.end();
}

#[test]
fn limits_of_variables_cannot_be_changed_and_that_is_said() {
    let container = Container::new();
    let mut running = container.run(World::Limited, program("live")).start();
    running.wait_for("ready");
    let path = container.control_path().display().to_string();
    let outcome = set(&container, &[&path, "--memory", "1GiB"]);
    assert_eq!(outcome.code(), 1);
    assert!(outcome.stderr.contains("take their limits from variables or from a file"), "{outcome:#?}");
    assert!(outcome.stderr.contains("start them with vcuda run"), "{outcome:#?}");

    // A file that names the slice is found by the slice's name, and what it can't change is named.
    let file = container.directory().join("limits.json");
    fs::write(&file, format!(r#"{{"version":1,"control_file":"{path}","default":{{"memory":"2GiB"}}}}"#))
        .expect("a limits file");
    let set = vcuda(&container).args(["set", &path, "--memory", "3GiB"]).env("VCUDA_LIMITS_FILE", &file);
    let outcome = set.finish().clean();
    let said = format!("  process {} (live) takes its limits from variables and keeps them", running.pid());
    assert!(outcome.stdout.contains(&said), "{outcome:#?}");
    assert!(fs::read_to_string(&file).expect("the limits file").contains("3GiB"));
    running.kill();
}

#[test]
fn who_may_not_write_the_file_is_told_what_to_do() {
    let container = Container::new();
    let file = container.directory().join("limits.json");
    let text = r#"{"version":1,"default":{"memory":"2GiB"}}"#;
    fs::write(&file, text).expect("a limits file");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).expect("permissions");
    fs::set_permissions(container.directory(), fs::Permissions::from_mode(0o755)).expect("permissions");
    let path = file.display().to_string();
    let as_nobody = |command: &str, arguments: &[&str]| {
        let run = container.run(World::Bare, "setpriv").args(["--reuid=65534", "--clear-groups"]);
        run.arg(command).args(arguments).finish()
    };
    let command = artefacts().vcuda.display().to_string();
    let probe = as_nobody(&command, &["--version"]);
    if probe.status.success() {
        let outcome = as_nobody(&command, &["set", &path, "--memory", "3GiB"]);
        assert_eq!((outcome.code(), outcome.stdout.as_str()), (1, ""), "{outcome:#?}");
        assert!(outcome.stderr.contains("belongs to root: ask there, or try sudo vcuda set"), "{outcome:#?}");
    } else {
        skip("another user can't run the command here");
    }

    let script =
        format!("mount --bind '{path}' '{path}' && mount -o remount,ro,bind '{path}' && exec \"$@\"");
    let run = container.run(World::Bare, "unshare").args(["-m", "sh", "-c", &script, "sh"]);
    let outcome = run.arg(&command).args(["set", &path, "--memory", "3GiB"]).finish();
    if outcome.stderr.contains("unshare: ") || outcome.stderr.contains("mount: ") {
        skip("no file system can be mounted here");
    } else {
        assert!(
            outcome.stderr.contains("is read-only here; limits are changed where they come"),
            "{outcome:#?}"
        );
    }
    assert_eq!(fs::read_to_string(&file).expect("the limits file"), text);
}

#[test]
fn a_file_that_is_mounted_by_itself_is_changed_from_outside() {
    let container = Container::new().no_limit();
    let file = container.directory().join("outside.json");
    let inside = container.directory().join("limits.json");
    let path = container.control_path().display().to_string();
    fs::write(&file, format!(r#"{{"version":1,"control_file":"{path}","default":{{"memory":"1GiB"}}}}"#))
        .expect("a limits file");
    fs::write(&inside, "").expect("a place to mount it");
    let script = format!(
        "mount --bind '{0}' '{1}' && mount -o remount,ro,bind '{1}' && exec \"$@\"",
        file.display(),
        inside.display()
    );
    let probe =
        container.run(World::Bare, "unshare").args(["-m", "sh", "-c", &script, "sh", "true"]).finish();
    if !probe.status.success() {
        return skip("no file system can be mounted here");
    }
    let run = container.run(World::Limited, "unshare").args(["-m", "sh", "-c", &script, "sh"]);
    let mut program = Obedient::new(run.arg(program("live")).env("VCUDA_LIMITS_FILE", &inside));
    assert_eq!(program.total_mib(), 1024);
    let file = file.display().to_string();
    set(&container, &[&file, "--memory", "2GiB"]).clean();
    program.until_total(2048);
    assert_eq!(program.result("take 600"), SUCCESS);
}

#[test]
fn runs_that_share_a_slice_are_changed_together() {
    let container = Container::new();
    let control = container.control_path().display().to_string();
    let run = |memory: &str| {
        let run = vcuda(&container).args(["run", "--memory", memory, "--control-file", &control, "--"]);
        Obedient::new(run.arg(program("live")))
    };
    let mut programs = [run("2GiB"), run("3GiB")];
    let outcome = set(&container, &[&control, "--memory", "4GiB"]).clean();
    let mut lines: Vec<&str> = outcome.stdout.lines().collect();
    lines.sort();
    let changed = |before: &str| format!("{control}: memory 4GiB of every GPU (was {before} of every GPU)");
    assert_eq!(lines, [changed("2GiB"), changed("3GiB")]);
    programs.iter_mut().for_each(|program| {
        program.until_total(4096);
    });
    programs.into_iter().for_each(Obedient::end);
}

#[test]
fn a_run_whose_limits_are_in_the_users_file_is_changed_there() {
    let container = Container::new();
    let file = container.directory().join("mine.json");
    fs::write(&file, r#"{"version":1,"default":{"memory":"1GiB"}}"#).expect("a limits file");
    let name = name("mine");
    let run = vcuda(&container).args(["run", "--name", &name, "--limits-file"]).arg(&file).arg("--");
    let mut program = Obedient::new(run.arg(program("live")));
    set(&container, &[&name, "--memory", "2GiB"]).clean();
    program.until_total(2048);
    assert!(fs::read_to_string(&file).expect("the limits file").contains("2GiB"));
    assert_eq!(inspect(&container, &name)["limits_files"][0]["path"], file.display().to_string());
    program.end();
    assert!(file.exists(), "it is not the run's to remove");
}

#[test]
fn ps_and_set_are_quick() {
    let container = Container::new();
    let name = name("quick");
    let program = run(&container, &name, &["--memory", "1GiB"]);
    // The quickest of many, as this machine is busy with other tests, and built without care for speed.
    let quickest = |arguments: &dyn Fn(usize) -> Vec<String>| {
        let time = |number: usize| {
            let run = vcuda(&container).args(arguments(number));
            let begun = Instant::now();
            run.finish().clean();
            begun.elapsed()
        };
        (0..20).map(time).min().expect("a time")
    };
    let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let ps = quickest(&|_| words("ps --json"));
    let set = quickest(&|number| words(&format!("set {name} --memory {}MiB", 1024 + number)));
    println!("vcuda ps {ps:?}, vcuda set {set:?}");
    assert!(ps <= PROMISED && set <= PROMISED, "ps {ps:?}, set {set:?}");
    program.end();
}
