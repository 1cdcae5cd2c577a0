//! `vcuda run` as a program sees it: its environment, its signals, its exit status. No GPU and no hooks: any
//! library can stand in for the preloaded one here.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};
use vcuda_core::limits::{CONTROL_FILE_VARIABLE, LIMIT_VARIABLES, LIMITS_FILE_VARIABLE};

/// A library that every process may be preloaded with.
fn harmless_library() -> PathBuf {
    let candidates = ["/lib/x86_64-linux-gnu/libm.so.6", "/lib64/libm.so.6", "/usr/lib/libm.so.6"];
    let found = candidates.into_iter().map(PathBuf::from).find(|path| path.exists());
    found.expect("a C library to preload")
}

fn vcuda(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vcuda"));
    command.args(arguments).env("VCUDA_LIBRARY", harmless_library());
    for name in ["LD_PRELOAD", LIMITS_FILE_VARIABLE, CONTROL_FILE_VARIABLE].iter().chain(&LIMIT_VARIABLES) {
        command.env_remove(name);
    }
    command
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn own_error(arguments: &[&str]) -> String {
    let output = vcuda(arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(125), "{output:?}");
    assert!(output.stdout.is_empty());
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    text
}

fn wait_until(condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "timed out");
        sleep(Duration::from_millis(5));
    }
}

#[test]
fn the_command_gets_limit_library_and_a_control_file_of_its_own() {
    let script = r#"echo "$LD_PRELOAD"; echo "$VCUDA_CONTROL_FILE"; echo "$VCUDA_LIMITS_FILE"; test -f "$VCUDA_CONTROL_FILE" && cat "$VCUDA_LIMITS_FILE""#;
    let output = vcuda(&["run", "--memory", "4GiB", "--", "sh", "-c", script]).env("LD_PRELOAD", "").output();
    let text = stdout(&output.unwrap());
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], harmless_library().to_str().unwrap());
    assert_eq!(lines[2], format!("{}.limits.json", lines[1]));
    assert_eq!(
        lines[4..],
        [
            format!("  \"control_file\": \"{}\",", lines[1]).as_str(),
            "  \"default\": { \"memory\": \"4GiB\" } }"
        ]
    );
    assert!(lines[1..3].iter().all(|path| !Path::new(path).exists()), "both files are removed after the run");
}

#[test]
fn options_after_the_command_are_the_commands() {
    let text = stdout(&vcuda(&["run", "-m", "1G", "echo", "--memory", "-x"]).output().unwrap());
    assert_eq!(text, "--memory -x\n");
}

#[test]
fn exit_status_and_signals_of_the_command_are_passed_on() {
    let code = |script| vcuda(&["run", "-m", "1G", "sh", "-c", script]).status().unwrap().code();
    assert_eq!(code("exit 7"), Some(7));
    assert_eq!(code("kill -KILL $$"), Some(128 + 9));
    assert_eq!(code("kill -SEGV $$"), Some(128 + 11));
}

#[test]
fn signals_sent_to_us_reach_the_command() {
    let directory = tempfile::tempdir().unwrap();
    let ready = directory.path().join("ready");
    let script = format!("trap 'exit 9' TERM; touch {}; while :; do sleep 0.01; done", ready.display());
    let mut child = vcuda(&["run", "-m", "1G", "sh", "-c", &script]).spawn().unwrap();
    wait_until(|| ready.exists());
    // SAFETY: the child has not been waited for.
    unsafe { libc::kill(child.id() as i32, libc::SIGTERM) };
    assert_eq!(child.wait().unwrap().code(), Some(9));
}

#[test]
fn the_command_starts_with_our_callers_signal_mask() {
    let output = vcuda(&["run", "-m", "1G", "grep", "SigBlk", "/proc/self/status"]).output().unwrap();
    assert_eq!(stdout(&output).trim(), "SigBlk:\t0000000000000000");
}

#[test]
fn a_control_file_in_use_by_what_the_command_left_behind_stays_until_a_later_run() {
    let directory = tempfile::tempdir().unwrap();
    let stop = directory.path().join("stop");
    let script = format!(
        "(while ! test -e {}; do sleep 0.01; done) >/dev/null 2>&1 & echo $VCUDA_CONTROL_FILE",
        stop.display()
    );
    // A shell's own child has the shell's environment only if it is executed anew.
    let script = script.replace("(while", "sh -c '(while").replace("done)", "done)'");
    let output = vcuda(&["run", "-m", "1G", "sh", "-c", &script]).stderr(Stdio::null()).output().unwrap();
    let control_file = PathBuf::from(stdout(&output).trim());
    assert!(control_file.exists(), "{} is still in use", control_file.display());
    fs::write(&stop, "").unwrap();
    wait_until(|| {
        stdout(&vcuda(&["run", "-m", "1G", "true"]).output().unwrap());
        !control_file.exists()
    });
}

#[test]
fn a_named_control_file_is_shared_and_stays() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("job");
    let text = path.to_str().unwrap();
    let run = ["run", "-m", "1G", "--control-file", text, "sh", "-c", "echo $VCUDA_CONTROL_FILE"];
    assert_eq!(stdout(&vcuda(&run).output().unwrap()).trim(), text);
    assert!(path.exists());
}

#[test]
fn limits_may_come_from_a_file_or_the_environment() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("limits.json");
    fs::write(&file, r#"{"version":1,"default":{"memory":"50%"}}"#).unwrap();
    let run = ["run", "--limits-file", file.to_str().unwrap(), "sh", "-c", "echo $VCUDA_LIMITS_FILE"];
    assert_eq!(stdout(&vcuda(&run).output().unwrap()).trim(), file.to_str().unwrap());
    let run = ["run", "sh", "-c", "grep -c '\"default\": { \"memory\": \"2GiB\" }' $VCUDA_LIMITS_FILE"];
    assert_eq!(stdout(&vcuda(&run).env("VCUDA_MEMORY_LIMIT", "2G").output().unwrap()), "1\n");
    let beside = r#"readlink "$VCUDA_CONTROL_FILE.limits.json""#;
    let run = ["run", "--limits-file", file.to_str().unwrap(), "sh", "-c", beside];
    assert_eq!(stdout(&vcuda(&run).output().unwrap()).trim(), file.to_str().unwrap());
}

#[test]
fn each_kind_of_limit_may_be_given_alone() {
    let script =
        r#"echo "${VCUDA_MEMORY_LIMIT-none} ${VCUDA_CORE_LIMIT-none}"; tail -n +3 "$VCUDA_LIMITS_FILE""#;
    let seen = |arguments: &[&str], variables: &[(&str, &str)]| {
        let mut command = vcuda(&[&["run"], arguments, &["sh", "-c", script]].concat());
        stdout(&command.envs(variables.iter().copied()).output().unwrap())
    };
    let every = |limits: &str| format!("none none\n  \"default\": {{ {limits} }} }}\n");
    assert_eq!(seen(&["--cores", "30"], &[]), every(r#""cores": 30"#));
    let single = "none none\n  \"default\": { \"memory\": \"4GiB\" },\n  \"devices\": {\n    \"0\": { \"cores\": 30 },\n    \"1\": { \"cores\": 12.5 } } }\n";
    assert_eq!(seen(&["--cores", "0=30,1=12.5%", "-m", "4GiB"], &[]), single);
    assert_eq!(seen(&[], &[("VCUDA_CORE_LIMIT", "30")]), every(r#""cores": 30"#));
    let both = every(r#""memory": "1GiB", "cores": 30"#);
    assert_eq!(seen(&["-m", "1G"], &[("VCUDA_CORE_LIMIT", "30")]), both, "the rest stays");
    assert_eq!(seen(&["--cores", "50"], &[("VCUDA_CORE_LIMIT", "wrong")]), every(r#""cores": 50"#));
    assert_eq!(seen(&["--cores", "100"], &[]), every(r#""cores": 100"#), "no limit, but what was asked for");
    assert_eq!(
        seen(&[], &[("CUDA_DEVICE_MEMORY_LIMIT_1", "512m")]),
        "none none\n  \"devices\": {\n    \"1\": { \"memory\": \"512MiB\" } } }\n"
    );
}

#[test]
fn how_gpus_are_shared_is_given_beside_the_limits_or_alone() {
    let script = r#"echo "${VCUDA_ELASTIC-none}${VCUDA_WEIGHT-none}${VCUDA_PRIORITY-none}"; tail -n +3 "$VCUDA_LIMITS_FILE""#;
    let seen = |arguments: &[&str], variables: &[(&str, &str)]| {
        let mut command = vcuda(&[&["run"], arguments, &["--", "sh", "-c", script]].concat());
        stdout(&command.envs(variables.iter().copied()).output().unwrap())
    };
    let every = |limits: &str| format!("nonenonenone\n  \"default\": {{ {limits} }} }}\n");
    assert_eq!(
        seen(&["--cores", "30", "--elastic", "--weight", "60", "--priority", "high"], &[]),
        every(r#""cores": 30, "elastic": true, "weight": 60, "priority": "high""#)
    );
    assert_eq!(seen(&["--elastic"], &[]), every(r#""elastic": true"#));
    assert_eq!(seen(&["--elastic=false", "--weight", "7"], &[]), every(r#""elastic": false, "weight": 7"#));
    let inherited = [("VCUDA_ELASTIC", "1"), ("VCUDA_WEIGHT", "60"), ("VCUDA_PRIORITY", "high")];
    assert_eq!(seen(&[], &inherited), every(r#""elastic": true, "weight": 60, "priority": "high""#));
    assert_eq!(
        seen(&["--weight", "0=30,1=60", "--priority", "normal"], &inherited),
        "nonenonenone\n  \"default\": { \"elastic\": true, \"priority\": \"normal\" },\n  \"devices\": {\n    \"0\": { \"weight\": 30 \
         },\n    \"1\": { \"weight\": 60 } } }\n"
    );
    for option in ["--elastic", "--weight=30", "--priority=high"] {
        let both = vcuda(&["run", option, "--limits-file", "/dev/null", "true"]).output().unwrap();
        assert_eq!(both.status.code(), Some(2), "{option}");
    }
}

#[test]
fn a_limits_file_and_limits_on_the_command_line_do_not_mix() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("limits.json");
    fs::write(&file, r#"{"version":1,"default":{"cores":50}}"#).unwrap();
    let script = r#"echo "${VCUDA_CORE_LIMIT-none} ${VCUDA_LIMITS_FILE-none}""#;
    let path = file.to_str().unwrap();
    let mut command = vcuda(&["run", "--limits-file", path, "sh", "-c", script]);
    let output = command.env("VCUDA_CORE_LIMIT", "30").output().unwrap();
    assert_eq!(stdout(&output), format!("none {path}\n"));
    assert!(output.stderr.is_empty(), "{output:?}");
    let mut command = vcuda(&["run", "--cores", "30", "sh", "-c", script]);
    let output = command.env("VCUDA_LIMITS_FILE", path).output().unwrap();
    let own = stdout(&output);
    assert!(own.starts_with("none ") && own.ends_with(".limits.json\n") && !own.contains(path), "{own}");
    let warning = String::from_utf8(output.stderr).unwrap();
    assert_eq!(warning, "vcuda: VCUDA_LIMITS_FILE is ignored: the command line sets the limits here\n");
    let both = vcuda(&["run", "--cores", "30", "--limits-file", path, "true"]).output().unwrap();
    assert_eq!(both.status.code(), Some(2));
}

#[test]
fn a_run_inside_a_run_has_limits_of_its_own() {
    let inner = format!("{} run --memory 1GiB cat $VCUDA_LIMITS_FILE", env!("CARGO_BIN_EXE_vcuda"));
    let script = inner.replace("cat $VCUDA_LIMITS_FILE", "sh -c 'cat $VCUDA_LIMITS_FILE'");
    let output = vcuda(&["run", "--memory", "4GiB", "sh", "-c", &script]).output().unwrap();
    assert!(stdout(&output).contains("1GiB") && output.stderr.is_empty(), "{output:?}");
}

#[test]
fn a_named_run_has_its_name_to_itself() {
    let name = format!("named-{}", std::process::id());
    let script = format!(
        r#"basename "$VCUDA_CONTROL_FILE"; {} run --name {name} -m 1G true 2>&1 | cut -c1-70"#,
        env!("CARGO_BIN_EXE_vcuda")
    );
    let text = stdout(&vcuda(&["run", "--name", &name, "-m", "1G", "sh", "-c", &script]).output().unwrap());
    let told = format!("vcuda: --name {name}: there is a slice of this name, in /dev/shm/vcuda-");
    assert!(text.starts_with(&format!("{name}\n{}", &told[..70])), "{text}");
    stdout(&vcuda(&["run", "--name", &name, "-m", "1G", "true"]).output().unwrap());
    let error = own_error(&["run", "--name", "7", "-m", "1G", "true"]);
    assert!(error.contains("--name \"7\" is no name for a slice; write letters, digits"), "{error}");
}

#[test]
fn mistakes_are_told_before_anything_starts() {
    assert!(own_error(&["run", "true"]).contains("no limit given: say --memory 4GiB"));
    assert!(
        own_error(&["run", "-m", "4X", "true"]).starts_with("vcuda: --memory: \"4X\" has an unknown unit")
    );
    for (text, problem) in [
        ("0", "\"0\" is no GPU time at all; write 1 to 100"),
        ("101", "\"101\" is more than the whole GPU"),
        ("half", "\"half\" is not a percentage"),
        ("", "\"\" is empty"),
        ("0=30,0=50", "GPU 0 is given twice"),
        ("30,50", "\"30\" does not say which GPU it is for"),
    ] {
        let told = own_error(&["run", "--cores", text, "true"]);
        assert!(told.starts_with("vcuda: --cores: ") && told.contains(problem), "{told}");
    }
    assert!(own_error(&["run", "--cores=-5", "true"]).contains("\"-5\" is negative"));
    for (option, told) in [
        ("--elastic=maybe", "vcuda: --elastic: \"maybe\" is neither true nor false; write true or false\n"),
        (
            "--weight=0",
            "vcuda: --weight: \"0\" is no weight; write a whole number from 1 to 10000, such as 30\n",
        ),
        ("--priority=urgent", "vcuda: --priority: \"urgent\" is no priority; write normal or high\n"),
    ] {
        assert_eq!(own_error(&["run", option, "true"]), told);
    }
    let missing = own_error(&["run", "--limits-file", "/nowhere.json", "true"]);
    assert!(missing.contains("there is no file \"/nowhere.json\""), "{missing}");
    let nowhere = own_error(&["run", "-m", "1G", "--control-file", "/nowhere/job", "true"]);
    assert!(nowhere.contains("/nowhere/job"), "{nowhere}");
}

#[test]
fn a_library_that_the_loader_would_skip_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("libvcuda.so");
    fs::write(&file, "text").unwrap();
    for path in [file.as_path(), Path::new("/nowhere/libvcuda.so")] {
        let output = vcuda(&["run", "-m", "1G", "true"]).env("VCUDA_LIBRARY", path).output().unwrap();
        assert_eq!(output.status.code(), Some(125));
        assert!(String::from_utf8_lossy(&output.stderr).contains("is no 64-bit ELF library"));
    }
}

#[test]
fn commands_that_cannot_run_exit_as_in_a_shell() {
    let code = |command| vcuda(&["run", "-m", "1G", command]).output().unwrap().status.code();
    assert_eq!(code("/nowhere/command"), Some(127));
    assert_eq!(code("/etc/passwd"), Some(126));
}
