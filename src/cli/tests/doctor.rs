//! `vcuda doctor` on whatever machine this is: its verdict and its exit status agree.

use serde_json::Value;
use std::process::Command;

fn doctor(arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vcuda"));
    let output = command.arg("doctor").args(arguments).env_remove("LD_PRELOAD").output().unwrap();
    (output.status.code(), String::from_utf8(output.stdout).unwrap())
}

#[test]
fn the_exit_status_says_whether_limits_hold() {
    let (code, text) = doctor(&["--json"]);
    let json: Value = serde_json::from_str(&text).unwrap();
    let findings = json["findings"].as_array().unwrap();
    let problems = findings.iter().filter(|finding| finding["level"] == "problem").count();
    assert_eq!(json["limits_hold"], problems == 0);
    assert_eq!(code, Some(if problems == 0 { 0 } else { 1 }));
    for finding in findings.iter().filter(|finding| finding["level"] == "problem") {
        assert!(finding["remedy"].is_string(), "a problem says what would be right: {finding}");
    }
}

#[test]
fn a_wrong_limit_is_found() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vcuda"));
    let output = command.arg("doctor").env("VCUDA_MEMORY_LIMIT", "4 gigs").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("VCUDA_MEMORY_LIMIT: \"4 gigs\" has an unknown unit"), "{text}");
}

#[test]
fn a_wrong_share_is_found() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vcuda"));
    let output = command.arg("doctor").env("VCUDA_CORE_LIMIT", "130").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("VCUDA_CORE_LIMIT: \"130\" is more than the whole GPU"), "{text}");
}

#[test]
fn the_report_fits_a_terminal() {
    let (_, text) = doctor(&[]);
    assert!(text.lines().filter(|line| !line.contains('/')).all(|line| line.chars().count() <= 80), "{text}");
}
