//! Prints the state of the simulated machine as JSON, resets its peaks, or lets faults befall its GPUs.

use serde_json::{Value, json};
use std::io::Write;
use std::process::ExitCode;
use std::sync::atomic::Ordering::Relaxed;
use vcuda_fake_machine::{Incident, Machine, MachineError, Scene};

const HELP: &str = "\
Prints what the simulated machine's GPUs and processes hold, as JSON with sizes in bytes.

Usage: vcuda-fake-state [--reset | --xid GPU=NUMBER | --double-bit GPU]

  --reset           start the peaks over at what is in use now, then print
  --xid GPU=NUMBER  let the critical error NUMBER befall the GPU of this index, such as 0=79; GPU/G/C is
                    compute instance C of its GPU instance G
  --double-bit GPU  let an error in its memory befall it that can't be corrected

The machine is that of VCUDA_FAKE_STATE and VCUDA_FAKE_GPUS, as for the programs that use it.";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let befalls = match words.as_slice() {
        [] | ["--reset"] => None,
        ["--help" | "-h"] => return print(HELP),
        ["--xid", text] => xid(text),
        ["--double-bit", text] => scene(text).map(|scene| (scene, Incident::DoubleBitEcc)),
        _ => None,
    };
    if befalls.is_none() && !matches!(words.as_slice(), [] | ["--reset"]) {
        eprintln!("vcuda-fake-state: unknown arguments; see --help");
        return ExitCode::from(2);
    }
    let done = match befalls {
        Some((scene, incident)) => befall(scene, incident),
        None => state(!words.is_empty()).map(|state| Some(format!("{state:#}"))),
    };
    match done {
        Ok(Some(text)) => print(&text),
        Ok(None) => ExitCode::SUCCESS,
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

/// `GPU=NUMBER`.
fn xid(text: &str) -> Option<(Scene, Incident)> {
    let (place, number) = text.split_once('=')?;
    Some((scene(place)?, Incident::Xid(number.parse().ok()?)))
}

/// `GPU`, or `GPU/G/C`.
fn scene(text: &str) -> Option<Scene> {
    let parts: Vec<&str> = text.split('/').collect();
    let instance = match parts.as_slice() {
        [_] => None,
        [_, gpu_instance, compute_instance] => {
            Some((gpu_instance.parse().ok()?, compute_instance.parse().ok()?))
        }
        _ => return None,
    };
    Some(Scene { gpu: parts[0].parse().ok()?, instance })
}

fn befall(scene: Scene, incident: Incident) -> Result<Option<String>, MachineError> {
    let machine = Machine::from_environment()?;
    if scene.gpu >= machine.gpus().len() {
        eprintln!("vcuda-fake-state: the machine has {} GPUs only; nothing happened", machine.gpus().len());
    } else {
        machine.befall(scene, incident);
    }
    Ok(None)
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
