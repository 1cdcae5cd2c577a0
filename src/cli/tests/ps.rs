//! `vcuda ps` on a control file that this test itself counts in.

use serde_json::Value;
use std::path::Path;
use std::process::Command;
use vcuda_core::compute::{Charge, Measured, monotonic_ns};
use vcuda_core::control::Control;
use vcuda_core::device::Uuid;
use vcuda_core::sharing::{Priority, Sharing, Weight};

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
    let row = format!("{:>11}  {:<16} {:>9} {:>9}\n", std::process::id(), "trainer", "300 MiB", "100 MiB");
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
fn what_this_process_uses_of_a_share_is_shown() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control");
    let control = Control::open_or_create(&path).unwrap();
    let gpu = control.device(Uuid::gpu([0x5b; 16])).unwrap();
    let slot = control.claim("trainer").unwrap();
    let account = slot.compute_account(gpu);
    let (words, lost) = account.open();
    assert_eq!(lost, None);
    words.set_share_ppm(125_000);
    words.set_sharing(Some(Sharing {
        elastic: true,
        weight: Weight::new(60).unwrap(),
        priority: Priority::Normal,
    }));
    let now_ns = monotonic_ns();
    let charge = Charge { busy_ns: 4_000_000, work_count: 7, done_by_ns: now_ns, ..Charge::default() };
    words.charge(now_ns, charge, 125_000, 30_000_000_000);
    // A second ago, so that it is busy no more.
    let start_ns = now_ns - 1_000_000_000;
    let measured =
        Measured { charged_ns: 4_000_000, start_ns, end_ns: start_ns + 500_000_000, busy_ns: 500_000_000 };
    words.settle(now_ns, measured, 125_000, 30_000_000_000);
    words.note_throttled(2_500_000_000);

    let text = ps(&[], &path);
    assert!(text.contains("  GPU-5b5b5b5b  no memory limit\n"), "{text}");
    assert!(text.contains("    0.0 % busy of ≥ 12.5 %, 500.0 ms used, 2.5 s throttled, debt 3."), "{text}");
    let row = format!("{:>11}  {:<16}  500.0 ms         7     2.5 s\n", std::process::id(), "trainer");
    assert!(text.contains(&row), "{text}\nlacks\n{row}");

    let json: Value = serde_json::from_str(&ps(&["--json"], &path)).unwrap();
    let slices = json["slices"].as_array().unwrap();
    let slice = slices.iter().find(|slice| slice["control_file"] == path.to_str().unwrap()).unwrap();
    let compute = &slice["devices"][0]["compute"];
    assert_eq!(compute["share_ppm"], 125_000);
    let sharing = serde_json::json!({"elastic": true, "weight": 60, "priority": "normal"});
    assert_eq!(compute["sharing"], sharing);
    assert_eq!(compute["recent_busy_ratio"], 0.0);
    assert_eq!(compute["busy_ns"], 500_000_000);
    assert_eq!(compute["work_count"], 7);
    assert_eq!(compute["throttled_ns"], 2_500_000_000u64);
    assert_eq!(compute["throttled_count"], 1);
    let debt_ns = compute["debt_ns"].as_u64().unwrap();
    assert!((2_000_000_000..4_000_000_000).contains(&debt_ns), "{debt_ns}");
    let own = &slice["devices"][0]["processes"][0]["compute"];
    assert_eq!(
        own,
        &serde_json::json!({"busy_ns": 500_000_000, "work_count": 7, "throttled_ns": 2_500_000_000u64})
    );
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
