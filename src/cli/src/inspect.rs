//! `vcuda inspect`: all that is known of one slice.

use crate::ps::state::ProcessState;
use crate::{duration, ps, size};
use anyhow::{Context, Result};
use clap::Args;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};
use vcuda_core::control::Control;
use vcuda_core::identity::pid_namespace_of_this_process;
use vcuda_core::limits::{Entry, Limits};
use vcuda_core::snapshot::{ProcessView, Snapshot};
use vcuda_slices::limits_file::{self, LimitsFile, LimitsFileError, user_name};
use vcuda_slices::{Found, find_named, shown_name, truncation};

/// Arguments of `vcuda inspect`.
#[derive(Args)]
pub struct Inspect {
    /// The slice: its name or a process in it as vcuda ps shows them, its control file, or a limits file
    #[arg(value_name = "SLICE")]
    slice: String,
    /// Print JSON, with amounts in bytes and nanoseconds
    #[arg(long)]
    json: bool,
}

/// A limits file and what it says.
struct Source {
    file: LimitsFile,
    said: Result<Limits, LimitsFileError>,
}

impl Inspect {
    /// Prints what the slice's files say.
    pub fn execute(&self) -> Result<ExitCode> {
        // Other people's files are looked at, see there. Without it, we read all the same.
        let _ = truncation::survive();
        let path = match find_named(&self.slice)? {
            Found::Slice(path) => path,
            Found::Limits(path) => control_file_of(path)?,
        };
        let control = Control::open_existing(&path)?;
        // What dead processes left; a file that may only be read is cleaned by others.
        let _ = control.reap();
        let snapshot = control.snapshot()?;
        let sources: Vec<Source> =
            limits_file::of_slice(&path).into_iter().map(|file| Source { said: file.read(), file }).collect();
        if self.json {
            println!("{:#}", as_json(&snapshot, &sources));
        } else {
            print!("{}", as_text(&snapshot, &sources));
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The control file that a limits file names.
pub fn control_file_of(limits_file: PathBuf) -> Result<PathBuf> {
    let limits = LimitsFile::at(&limits_file).read()?;
    limits.control_file.with_context(|| {
        format!("{} names no control file, so it may hold for many slices; name one", limits_file.display())
    })
}

/// Whether the process goes by what the limits files say now; `None` if its limits come from variables.
fn is_up_to_date(process: &ProcessView, sources: &[Source]) -> Option<bool> {
    let digest = process.identity.limits_digest;
    let said = sources.iter().filter_map(|source| source.said.as_ref().ok());
    (digest != 0).then(|| said.into_iter().any(|limits| limits.digest() == digest))
}

fn as_json(snapshot: &Snapshot, sources: &[Source]) -> Value {
    let mut all = ps::json::slice(snapshot);
    let processes: Vec<Value> = ps::living(snapshot)
        .map(|process| {
            json!({ "pid": process.identity.pid, "name": process.identity.name,
                    "state": ProcessState::from(process).word(),
                    "has_current_limits": is_up_to_date(process, sources) })
        })
        .collect();
    all["processes"] = processes.into();
    all["limits_files"] = sources.iter().map(source_as_json).collect();
    all
}

fn source_as_json(source: &Source) -> Value {
    let (owner, mode) = source.file.owner_and_mode().unzip_or_none();
    let mut value = json!({ "path": source.file.path.to_string_lossy(), "owner_uid": owner, "mode": mode });
    match &source.said {
        Ok(limits) => {
            value["memory"] = entries(limits.memory(), |amount| amount.to_string().into());
            value["cores_ppm"] = entries(limits.cores(), |share| share.ppm().into());
            value["elastic"] = entries(limits.elastic(), |elastic| (*elastic).into());
            value["weight"] = entries(limits.weights(), |weight| weight.get().into());
            value["priority"] = entries(limits.priorities(), |priority| priority.name().into());
            value["idle_release_ns"] = limits.idle_release.map(|after| after.as_nanos() as u64).into();
            value["digest"] = format!("{:016x}", limits.digest()).into();
        }
        Err(error) => value["error"] = error.to_string().into(),
    }
    value
}

fn entries<T>(entries: &[Entry<T>], value: impl Fn(&T) -> Value) -> Value {
    entries
        .iter()
        .map(|entry| json!({ "gpu": entry.selector.to_string(), "limit": value(&entry.value) }))
        .collect()
}

/// Both or neither.
trait UnzipOrNone<A, B> {
    fn unzip_or_none(self) -> (Option<A>, Option<B>);
}

impl<A, B, E> UnzipOrNone<A, B> for Result<(A, B), E> {
    fn unzip_or_none(self) -> (Option<A>, Option<B>) {
        self.ok().unzip()
    }
}

fn as_text(snapshot: &Snapshot, sources: &[Source]) -> String {
    let name = shown_name(&snapshot.path);
    let now_ns = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos() as u64);
    let age = |since_ns: u64| duration::text(now_ns.saturating_sub(since_ns));
    let mut text = format!(
        "{name}\n  control file  {}, {} old\n",
        snapshot.path.display(),
        age(snapshot.created_unix_ns)
    );
    if !snapshot.at_path {
        text.push_str("                was removed or replaced: programs started from now on count apart\n");
    }
    text.push_str(&limits_text(&name, sources));
    let own_namespace = pid_namespace_of_this_process();
    for device in &snapshot.devices {
        let physical =
            if device.physical_bytes > 0 { size::text(device.physical_bytes) } else { String::new() };
        text.push_str(&format!("\n{}  {physical}\n", device.uuid));
        text.push_str(&format!("  memory  {}", ps::text::of_quota(device)));
        if device.context_bytes_learned > 0 {
            text.push_str(&format!(", a context takes {}", size::text(device.context_bytes_learned)));
        }
        text.push('\n');
        if ps::text::has_compute(device) {
            let compute = &device.compute;
            text.push_str(&format!("  cores   {}\n", ps::text::of_share(device)));
            if let Some(sharing) = ps::text::sharing_text(compute) {
                text.push_str(&format!("          {sharing}\n"));
            }
            text.push_str(&format!(
                "          {} calls, {} of them held back\n",
                compute.work_count, compute.throttled_count
            ));
        }
        text.push_str(&ps::text::holders(snapshot, device, own_namespace));
    }
    if ps::living(snapshot).next().is_some() {
        text.push_str("\n        PID  PROCESS           USER             SINCE  LIMITS\n");
    } else {
        text.push_str("\nNo program is running in it.\n");
    }
    for process in ps::living(snapshot) {
        let identity = &process.identity;
        let mark = if ps::text::is_elsewhere(process, own_namespace) { '*' } else { ' ' };
        let limits = match is_up_to_date(process, sources) {
            None => "from variables, until it is started again",
            Some(true) => "as the file says",
            Some(false) => "another text's: the file's from its next CUDA call on",
        };
        let user = user_name(identity.uid);
        let state = match ProcessState::from(process) {
            ProcessState::Running => String::new(),
            state => format!("{:13}{}\n", "", state.text()),
        };
        let line = format!(
            "  {:>9}{mark} {:<16}  {:<12} {:>9}  {limits}\n{state}",
            identity.pid,
            ps::text::cut(&identity.name, 16),
            ps::text::cut(&user, 12),
            age(identity.started_unix_ns)
        );
        text.push_str(&line);
    }
    text
}

fn limits_text(name: &str, sources: &[Source]) -> String {
    if sources.is_empty() {
        return "  limits        of variables, or in a file that does not name this slice: they can't be changed by its name\n"
            .to_owned();
    }
    let mut text = String::new();
    for Source { file, said } in sources {
        let owner = match file.owner_and_mode() {
            Ok((owner, mode)) => format!(", {}'s, mode {mode:03o}", user_name(owner)),
            Err(_) => String::new(),
        };
        text.push_str(&format!("  limits file   {}{owner}\n", file.path.display()));
        match said {
            Ok(limits) => {
                text.push_str(&format!("    memory      {}\n", limits.memory_text()));
                text.push_str(&format!("    cores       {}\n", limits.cores_text()));
                let sharing = [
                    ("elastic", limits.elastic_text(), limits.elastic().is_empty()),
                    ("weight", limits.weight_text(), limits.weights().is_empty()),
                    ("priority", limits.priority_text(), limits.priorities().is_empty()),
                ];
                for (key, said, _) in sharing.iter().filter(|(_, _, is_empty)| !is_empty) {
                    text.push_str(&format!("    {key:<10}  {said}\n"));
                }
                if let Some(after) = limits.idle_release {
                    let after = duration::text(after.as_nanos() as u64);
                    text.push_str(&format!(
                        "    put aside   once idle for {after}, if others need its memory\n"
                    ));
                }
            }
            Err(error) => text.push_str(&format!("                {error}\n")),
        }
    }
    text.push_str(&format!("  change with   vcuda set {name} --memory 6GiB --cores 50\n"));
    text
}
