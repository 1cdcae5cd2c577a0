//! `vcuda-node man`: the agent's page, as readers of manuals get it.

use std::process::{Command, Output};

fn agent(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vcuda-node")).args(arguments).output().unwrap()
}

#[test]
fn the_page_tells_each_option_that_help_tells_and_where_it_is_set() {
    let directory = tempfile::tempdir().unwrap();
    let made = directory.path().join("share/man8");
    let output = agent(&["man", made.to_str().unwrap()]);
    assert!(output.status.success() && output.stdout.is_empty() && output.stderr.is_empty(), "{output:?}");
    let page = std::fs::read_to_string(made.join("vcuda-node.8")).unwrap().replace("\\-", "-");
    assert!(page.contains(".TH vcuda-node 8") && page.contains("Serves metrics of the GPU slices"), "{page}");

    let help = String::from_utf8(agent(&["--help"]).stdout).unwrap();
    assert!(help.starts_with("Serves metrics of the GPU slices"), "{help}");
    assert!(!help.contains("Commands:"), "who makes packages writes pages, not who runs an agent: {help}");
    let told = |line: &str, start: &str| line.trim_start().starts_with(start);
    let options: Vec<&str> = help.lines().filter(|line| told(line, "--")).collect();
    assert!(options.len() > 10, "{help}");
    for option in options {
        let name = option.split_whitespace().next().unwrap();
        assert!(page.contains(name), "the page lacks {name}");
    }
    for variable in help.lines().filter(|line| told(line, "[env: ")) {
        let name =
            variable.trim().trim_start_matches("[env: ").trim_end_matches(']').split('=').next().unwrap();
        assert!(page.contains(name), "the page lacks {name}");
    }

    let output = agent(&["man", "/dev/null/man8"]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.starts_with("vcuda-node: can't make /dev/null/man8: "), "{said}");
}
