//! Prints the state of the simulated machine as JSON, or resets its peaks.

use serde_json::{Value, json};
use std::io::Write;
use std::process::ExitCode;
use std::sync::atomic::Ordering::Relaxed;
use vcuda_fake_machine::{Machine, MachineError};

const HELP: &str = "\
Prints what the simulated machine's GPUs and processes hold, as JSON with sizes in bytes.

Usage: vcuda-fake-state [--reset]

  --reset   start the peaks over at what is in use now, then print

The machine is that of VCUDA_FAKE_STATE and VCUDA_FAKE_GPUS, as for the programs that use it.";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let reset = match words.as_slice() {
        [] => false,
        ["--reset"] => true,
        ["--help" | "-h"] => return print(HELP),
        _ => {
            eprintln!("vcuda-fake-state: unknown arguments; see --help");
            return ExitCode::from(2);
        }
    };
    match state(reset) {
        Ok(state) => print(&format!("{state:#}")),
        Err(error) => {
            eprintln!("vcuda-fake-state: {error}");
            ExitCode::FAILURE
        }
    }
}

fn print(text: &str) -> ExitCode {
    match writeln!(std::io::stdout(), "{text}") {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn state(reset: bool) -> Result<Value, MachineError> {
    let machine = Machine::from_environment()?;
    if reset {
        machine.reset_peaks();
    }
    let gpus: Vec<Value> = (0..machine.gpus().len())
        .map(|index| {
            // Asking for the users first takes back what dead processes held.
            let users = machine.users(index);
            let gpu = &machine.gpus()[index];
            let processes: Vec<Value> = users
                .iter()
                .map(|user| {
                    json!({
                        "pid": user.pid,
                        "contexts": user.contexts,
                        "used": user.bytes.process,
                        "device_used": user.bytes.device,
                        "busy_ns": user.busy_ns,
                    })
                })
                .collect();
            let busy = machine.busy(index);
            let ended: Vec<Value> =
                busy.ended.iter().map(|(pid, busy_ns)| json!({ "pid": pid, "busy_ns": busy_ns })).collect();
            json!({
                "index": index,
                "name": gpu.name(),
                "uuid": gpu.uuid_text(),
                "total": gpu.total_bytes,
                "used": gpu.used_bytes.load(Relaxed),
                "peak": gpu.peak_bytes.load(Relaxed),
                "at_ns": busy.at_ns,
                "busy_ns": busy.busy_ns,
                "unit_count": busy.unit_count,
                "utilisation_percent": machine.utilisation_percent(index),
                "processes": processes,
                "ended": ended,
                "ended_busy_ns": busy.ended_busy_ns,
            })
        })
        .collect();
    Ok(json!({ "path": machine.path(), "gpus": gpus }))
}
