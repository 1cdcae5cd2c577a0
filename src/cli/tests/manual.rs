//! `vcuda completions` and `vcuda man`, as shells and readers get them.

use std::process::{Command, Output};

const SUBCOMMANDS: [&str; 8] = ["run", "ps", "top", "inspect", "set", "doctor", "completions", "man"];

fn vcuda(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vcuda")).args(arguments).env_remove("LD_PRELOAD").output().unwrap()
}

#[test]
fn completions_know_every_command_and_option() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = vcuda(&["completions", shell]);
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        for word in SUBCOMMANDS.iter().chain(&["memory", "cores", "elastic", "weight", "json", "interval"]) {
            assert!(text.contains(word), "{shell} completions lack {word}");
        }
    }
    assert_eq!(vcuda(&["completions", "command.com"]).status.code(), Some(2));
}

#[test]
fn bash_completes_what_has_been_typed() {
    let output = vcuda(&["completions", "bash"]);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("vcuda.bash");
    std::fs::write(&file, output.stdout).unwrap();
    let script = format!(
        "source {}; COMP_WORDS=(vcuda set --m); COMP_CWORD=2; _vcuda vcuda --m set; echo \"${{COMPREPLY[@]}}\"",
        file.display()
    );
    let completed = Command::new("bash").args(["-c", &script]).output().unwrap();
    assert_eq!(String::from_utf8(completed.stdout).unwrap(), "--memory\n", "{:?}", completed.stderr);
}

#[test]
fn there_is_a_page_for_every_command() {
    let directory = tempfile::tempdir().unwrap();
    let made = directory.path().join("share/man1");
    let output = vcuda(&["man", made.to_str().unwrap()]);
    assert!(output.status.success() && output.stdout.is_empty() && output.stderr.is_empty(), "{output:?}");
    for name in SUBCOMMANDS {
        let page = std::fs::read_to_string(made.join(format!("vcuda-{name}.1"))).unwrap();
        assert!(page.contains(".SH SYNOPSIS") && page.contains(".SH DESCRIPTION"), "{page}");
    }
    let page = std::fs::read_to_string(made.join("vcuda.1")).unwrap();
    assert!(page.contains("vcuda\\-set(1)"), "{page}");
    let output = vcuda(&["man", "/dev/null/man1"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().starts_with("vcuda: can't make /dev/null/man1: "));
}
