//! `vcuda ps` on a control file that this test itself counts in.

use serde_json::Value;
use std::path::Path;
use std::process::Command;
use vcuda_core::control::Control;
use vcuda_core::device::Uuid;

const MIB_PAGES: u64 = (1 << 20) / 4096;

fn ps(arguments: &[&str], control_file: &Path) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_vcuda"))
        .args([&["ps", "--control-file", control_file.to_str().unwrap()], arguments].concat())
        .env_remove("LD_PRELOAD")
        .output()
        .unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn what_this_process_holds_is_shown_while_it_lives() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control");
    let control = Control::open_or_create(&path).unwrap();
    let gpu = control.device(Uuid::gpu([0x5a; 16])).unwrap();
    control.set_limit_bytes(gpu, Some(1 << 30)).unwrap();
    let slot = control.claim("trainer").unwrap();
    let mut account = slot.account(gpu).unwrap().unwrap();
    account.reserve(300 * MIB_PAGES, 1024 * MIB_PAGES).unwrap();
    account.set_overhead_pages(100 * MIB_PAGES).unwrap();

    let text = ps(&[], &path);
    assert!(text.contains("  GPU-5a5a5a5a  300 MiB of 1.00 GiB (29 %), peak 300 MiB\n"), "{text}");
    let row =
        format!("{:>11}  {:<20} {:>9}    {:>16}\n", std::process::id(), "trainer", "300 MiB", "100 MiB");
    assert!(text.contains(&row), "{text}\nlacks\n{row}");

    let json: Value = serde_json::from_str(&ps(&["--json"], &path)).unwrap();
    let slices = json["slices"].as_array().unwrap();
    let slice = slices.iter().find(|slice| slice["control_file"] == path.to_str().unwrap()).unwrap();
    assert_eq!(slice["devices"][0]["used_bytes"], 300 << 20);
    assert_eq!(slice["devices"][0]["processes"][0]["pid"], std::process::id());
    assert_eq!(slice["devices"][0]["processes"][0]["context_bytes"], 100 << 20);

    drop((account, slot));
    assert!(!ps(&[], &path).contains("trainer"));
}

#[test]
fn a_named_file_that_is_none_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control");
    let fails = |expected: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vcuda"));
        let output = command.arg("ps").arg("--control-file").arg(&path).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(text.starts_with("vcuda: control file ") && text.contains(expected), "{text}");
    };
    fails("does not exist");
    std::fs::write(&path, "something else").unwrap();
    fails("control file");
}
