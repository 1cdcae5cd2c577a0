//! `vcuda ps`: who holds how much GPU memory, and of which quota.

use crate::{size, slices};
use anyhow::Result;
use clap::Args;
use serde_json::json;
use std::path::PathBuf;
use std::process::ExitCode;
use vcuda_core::control::Control;
use vcuda_core::error::ControlErrorKind;
use vcuda_core::identity::pid_namespace_of_this_process;
use vcuda_core::snapshot::{DeviceView, ProcessView, Snapshot};

/// Arguments of `vcuda ps`.
#[derive(Args)]
pub struct Ps {
    /// Print JSON, with every amount in bytes and idle slices included
    #[arg(long)]
    json: bool,
    /// Also show this control file; may be given more than once
    #[arg(long, value_name = "FILE")]
    control_file: Vec<PathBuf>,
}

impl Ps {
    /// Prints what the control files say.
    pub fn execute(&self) -> Result<ExitCode> {
        let mut snapshots = Vec::new();
        for path in slices::find(&self.control_file) {
            match Control::open_existing(&path) {
                Ok(control) => {
                    // What dead processes left; a file that may only be read is cleaned by others.
                    let _ = control.reap();
                    snapshots.push(control.snapshot()?);
                }
                Err(error) if self.control_file.contains(&path) => return Err(error.into()),
                // It may have gone since it was listed, and its directory may hold other files.
                Err(error) => match error.kind() {
                    ControlErrorKind::Missing | ControlErrorKind::NotControlFile => {}
                    _ => eprintln!("vcuda: {error}"),
                },
            }
        }
        if self.json {
            println!("{}", as_json(&snapshots));
        } else {
            print!("{}", as_text(&snapshots, pid_namespace_of_this_process()));
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn living(snapshot: &Snapshot) -> impl Iterator<Item = &ProcessView> {
    snapshot.processes.iter().filter(|process| process.alive != Some(false))
}

fn as_json(snapshots: &[Snapshot]) -> serde_json::Value {
    let process = |process: &ProcessView, device: &DeviceView| {
        let held = process.devices.iter().find(|view| view.device == device.index);
        json!({
            "pid": process.identity.pid,
            "pid_namespace": process.identity.pid_namespace,
            "uid": process.identity.uid,
            "name": process.identity.name,
            "since_unix_ns": process.identity.started_unix_ns,
            "used_bytes": held.map_or(0, |view| view.used_bytes),
            "context_bytes": held.map_or(0, |view| view.overhead_bytes),
        })
    };
    let slices: Vec<_> = snapshots
        .iter()
        .map(|snapshot| {
            let devices: Vec<_> = snapshot
                .devices
                .iter()
                .map(|device| {
                    json!({
                        "uuid": device.uuid.to_string(),
                        "limit_bytes": device.limit_bytes,
                        "physical_bytes": device.physical_bytes,
                        "used_bytes": device.used_bytes,
                        "peak_bytes": device.peak_bytes,
                        "refused_count": device.refused_count,
                        "processes": living(snapshot).map(|one| process(one, device)).collect::<Vec<_>>(),
                    })
                })
                .collect();
            json!({
                "control_file": snapshot.path.to_string_lossy(),
                "created_unix_ns": snapshot.created_unix_ns,
                "is_at_path": snapshot.at_path,
                "devices": devices,
            })
        })
        .collect();
    json!({ "slices": slices })
}

fn as_text(snapshots: &[Snapshot], own_namespace: u64) -> String {
    let busy: Vec<_> = snapshots.iter().filter(|snapshot| living(snapshot).next().is_some()).collect();
    if busy.is_empty() {
        return "No program is running under a limit.\nStart one:  vcuda run --memory 4GiB -- COMMAND\n"
            .to_owned();
    }
    let mut text = String::new();
    for (position, snapshot) in busy.iter().enumerate() {
        if position > 0 {
            text.push('\n');
        }
        text.push_str(&slice(snapshot, own_namespace));
    }
    if busy.iter().any(|snapshot| living(snapshot).any(|process| is_elsewhere(process, own_namespace))) {
        text.push_str("\n* process id in another PID namespace\n");
    }
    text
}

fn slice(snapshot: &Snapshot, own_namespace: u64) -> String {
    let mut text = format!("{}\n", snapshot.path.display());
    if !snapshot.at_path {
        text.push_str("  was removed or replaced: programs started from now on count apart\n");
    }
    let used: Vec<&DeviceView> = snapshot.devices.iter().filter(|device| device.used_bytes > 0).collect();
    for device in &used {
        text.push_str(&format!("  {}  {}\n", name_of(device, &used), of_quota(device)));
        text.push_str("        PID  PROCESS                  HOLDS    OF THAT CONTEXTS\n");
        for process in living(snapshot) {
            let Some(held) = process.devices.iter().find(|view| view.device == device.index) else {
                continue;
            };
            text.push_str(&format!(
                "  {} {:<20} {:>9}    {:>16}\n",
                process_id(process, own_namespace),
                cut(&process.identity.name, 20),
                size::text(held.used_bytes),
                size::text(held.overhead_bytes),
            ));
        }
        let held: u64 = living(snapshot).map(|process| process.used_bytes(device.index)).sum();
        if device.used_bytes > held {
            let rest = size::text(device.used_bytes - held);
            text.push_str(&format!("             {rest} of ended processes, free again when next needed\n"));
        }
    }
    for process in living(snapshot).filter(|process| process.devices.is_empty()) {
        let name = cut(&process.identity.name, 20);
        text.push_str(&format!("  {} {name} holds nothing\n", process_id(process, own_namespace)));
    }
    text
}

/// Right-aligned, with a mark where it means nothing here.
fn process_id(process: &ProcessView, own_namespace: u64) -> String {
    format!("{:>9}{}", process.identity.pid, if is_elsewhere(process, own_namespace) { '*' } else { ' ' })
}

/// As much of the UUID as tells the device from the others, which other tools take for it as well. All of it
/// needs a line of its own.
fn name_of(device: &DeviceView, all: &[&DeviceView]) -> String {
    const SHORT: usize = "GPU-".len() + 8;
    let full = device.uuid.to_string();
    let start = full.get(..SHORT).unwrap_or(&full);
    let is_shared = all.iter().filter(|other| other.uuid.to_string().starts_with(start)).count() > 1;
    if is_shared { format!("{full}\n   ") } else { start.to_owned() }
}

/// `982 MiB of 4.00 GiB (23 %), peak 2.10 GiB, 3 refused`.
fn of_quota(device: &DeviceView) -> String {
    let mut text = size::text(device.used_bytes);
    match device.limit_bytes {
        Some(limit) => {
            let percent = u128::from(device.used_bytes) * 100 / u128::from(limit.max(1));
            text.push_str(&format!(" of {} ({percent} %)", size::text(limit)));
        }
        None => text.push_str(", no limit"),
    }
    text.push_str(&format!(", peak {}", size::text(device.peak_bytes)));
    if device.refused_count > 0 {
        text.push_str(&format!(", {} refused", device.refused_count));
    }
    text
}

fn is_elsewhere(process: &ProcessView, own_namespace: u64) -> bool {
    process.identity.pid_namespace != 0 && process.identity.pid_namespace != own_namespace
}

fn cut(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use vcuda_core::device::{DeviceIndex, Uuid};
    use vcuda_core::identity::Identity;
    use vcuda_core::snapshot::{ComputeView, HoldingView};

    const MIB: u64 = 1 << 20;

    fn device(index: usize, first: u8) -> DeviceView {
        let mut uuid = [0x20; 16];
        uuid[0] = first;
        DeviceView {
            index: DeviceIndex::new(index).unwrap(),
            uuid: Uuid::gpu(uuid),
            limit_bytes: Some(4096 * MIB),
            physical_bytes: 81920 * MIB,
            used_bytes: 1024 * MIB,
            peak_bytes: 2150 * MIB,
            refused_count: 3,
            context_bytes_learned: 0,
            compute: ComputeView::default(),
        }
    }

    fn process(pid: u32, name: &str, alive: bool, used_bytes: u64) -> ProcessView {
        let identity = Identity { pid, name: name.to_owned(), pid_namespace: 1, ..Identity::default() };
        let held = HoldingView {
            device: DeviceIndex::new(0).unwrap(),
            used_bytes,
            overhead_bytes: used_bytes / 2,
            busy_ns: 0,
            work_count: 0,
            throttled_ns: 0,
        };
        ProcessView { slot: 0, identity, alive: Some(alive), devices: vec![held] }
    }

    fn snapshot(devices: Vec<DeviceView>, processes: Vec<ProcessView>) -> Snapshot {
        let path = "/dev/shm/vcuda-0/run-4711".into();
        Snapshot { path, created_unix_ns: 0, at_path: true, devices, processes }
    }

    #[test]
    fn the_table_fits_a_terminal_and_adds_up() {
        let processes = vec![
            process(1234567, "a program with a very long name", true, 700 * MIB),
            process(22, "python3", true, 200 * MIB),
            process(23, "dead", false, 124 * MIB),
        ];
        let text = as_text(&[snapshot(vec![device(0, 0xaa)], processes)], 1);
        assert_eq!(
            text,
            "/dev/shm/vcuda-0/run-4711\n\
             \x20 GPU-aa202020  1.00 GiB of 4.00 GiB (25 %), peak 2.10 GiB, 3 refused\n\
             \x20       PID  PROCESS                  HOLDS    OF THAT CONTEXTS\n\
             \x20   1234567  a program with a ve…   700 MiB             350 MiB\n\
             \x20        22  python3                200 MiB             100 MiB\n\
             \x20            124 MiB of ended processes, free again when next needed\n"
        );
        assert!(text.lines().all(|line| line.chars().count() <= 80));
    }

    #[test]
    fn similar_uuids_are_shown_in_full() {
        let text =
            as_text(&[snapshot(vec![device(0, 1), device(1, 1)], vec![process(1, "a", true, MIB)])], 1);
        assert!(text.contains("  GPU-01202020-2020-2020-2020-202020202020\n     1.00 GiB of"), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    }

    #[test]
    fn only_what_is_held_is_shown() {
        let mut idle = device(1, 2);
        idle.used_bytes = 0;
        let mut waiting = process(8, "waiting", true, 0);
        waiting.devices.clear();
        let text =
            as_text(&[snapshot(vec![device(0, 1), idle], vec![process(7, "a", true, MIB), waiting])], 1);
        assert!(!text.contains("GPU-02"), "{text}");
        assert_eq!(text.matches("waiting").count(), 1, "{text}");
        assert!(text.ends_with("          8  waiting holds nothing\n"), "{text}");
    }

    #[test]
    fn process_ids_of_other_namespaces_are_marked() {
        let text = as_text(&[snapshot(vec![device(0, 1)], vec![process(7, "a", true, MIB)])], 2);
        assert!(text.contains("        7* a"), "{text}");
        assert!(text.ends_with("\n* process id in another PID namespace\n"));
    }

    #[test]
    fn slices_without_living_processes_are_not_shown() {
        let idle = snapshot(vec![device(0, 1)], vec![process(7, "dead", false, MIB)]);
        assert!(
            as_text(std::slice::from_ref(&idle), 1).starts_with("No program is running under a limit.\n")
        );
        let json = as_json(&[idle]);
        assert_eq!(json["slices"][0]["devices"][0]["limit_bytes"], 4096 * MIB);
        assert_eq!(json["slices"][0]["devices"][0]["processes"].as_array().unwrap().len(), 0);
    }
}
