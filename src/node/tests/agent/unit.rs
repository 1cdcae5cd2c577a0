//! The systemd unit: accepted by systemd, hardened, and with as many powers as the agent needs.

use crate::process::Agent;
use crate::world::{Holder, MIB, World};
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::{Command, Output};

const UNIT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/systemd/vcuda-node.service");

/// Runs `systemd-analyze` on the unit as if the agent were installed; `None` where there is no systemd.
fn analyze(arguments: &[&str]) -> Option<Output> {
    let unit = fs::read_to_string(UNIT).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("vcuda-node.service");
    let installed = unit
        .replace("ExecStart=/usr/bin/vcuda-node", concat!("ExecStart=", env!("CARGO_BIN_EXE_vcuda-node")));
    assert_ne!(unit, installed);
    fs::write(&path, installed).unwrap();
    match Command::new("systemd-analyze").args(arguments).arg(&path).output() {
        Ok(output) => Some(output),
        Err(error) => {
            eprintln!("skipped: systemd-analyze: {error}");
            None
        }
    }
}

#[test]
fn systemd_accepts_it() {
    let Some(output) = analyze(&["verify", "--man=no"]) else { return };
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}

#[test]
fn systemd_calls_it_hardened() {
    // Of 100, where 90 is a service without any protection.
    let Some(output) = analyze(&["security", "--offline=true", "--threshold=35", "--no-pager"]) else {
        return;
    };
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", told.lines().last().unwrap_or_default());
}

#[test]
fn its_powers_are_enough_for_another_users_slice() {
    const NOBODY: u32 = 65_534;
    let unit = fs::read_to_string(UNIT).unwrap();
    let line = unit.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet=")).unwrap();
    let kept: Vec<String> =
        line.split(' ').map(|name| name.strip_prefix("CAP_").unwrap().to_lowercase()).collect();
    let has_setpriv =
        Command::new("setpriv").arg("--version").output().is_ok_and(|output| output.status.success());
    let world = World::new();
    if world.uid() != 0 || !has_setpriv {
        eprintln!("skipped: not root, or no setpriv");
        return;
    }
    let directory = world.path("shm").join(format!("vcuda-{NOBODY}"));
    let path = directory.join("control");
    world.slice(&path);
    Holder::start(&path).kill();
    for (path, mode) in [(path.as_path(), 0o600), (directory.as_path(), 0o700)] {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    // The way to it is open to all, as it is in /dev/shm.
    for path in [world.path(""), world.path("shm")] {
        fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
    }

    let run_as = |bounding: &str| {
        ["setpriv", "--bounding-set", bounding, "--inh-caps", "-all", "--"].map(str::to_owned)
    };
    let all_but =
        |kept: &[String]| format!("-all{}", kept.iter().map(|name| format!(",+{name}")).collect::<String>());
    let label = format!("directory=\"{}\"", directory.display());

    let agent =
        Agent::start_as(&run_as(&all_but(&kept)), Path::new(env!("CARGO_BIN_EXE_vcuda-node")), &world, &[]);
    let metrics =
        agent.metrics_when(|metrics| metrics.find("vcuda_node_reaped_processes_total", &[]) == Some(1.0));
    assert_eq!(metrics.get("vcuda_node_directory_readable", &[&label]), 1.0);
    assert_eq!(metrics.get("vcuda_node_reaped_bytes_total", &[]), (300 * MIB) as f64);
    drop(agent);

    // And no more than that is given: without, another user's directory is closed, which is told and not fatal.
    let agent = Agent::start_as(&run_as("-all"), Path::new(env!("CARGO_BIN_EXE_vcuda-node")), &world, &[]);
    let metrics =
        agent.metrics_when(|metrics| metrics.find("vcuda_node_directory_readable", &[&label]).is_some());
    assert_eq!(metrics.get("vcuda_node_directory_readable", &[&label]), 0.0);
    assert_eq!(metrics.get("vcuda_node_slices", &[]), 0.0);
}
