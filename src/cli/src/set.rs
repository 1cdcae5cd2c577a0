//! `vcuda set`: changes the limits of a slice while programs run in it.
//!
//! Rewrites the slice's limits file, which its programs watch; who may do that is whoever may write to the file. Never
//! touches the programs, nor the control file, where they could write anything.

use crate::sharing::SharingOptions;
use crate::{duration, ps, size};
use anyhow::{Result, bail};
use clap::Args;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;
use vcuda_core::control::Control;
use vcuda_core::limits::{Amount, Entry, Limits, Overrides, Selector, parse_span};
use vcuda_core::snapshot::{DeviceView, ProcessView, Snapshot};
use vcuda_slices::limits_file::{self, LimitsFile};
use vcuda_slices::{Found, find_named, shown_name, truncation};

/// In the place of a memory limit, for none.
const NONE: &str = "none";
/// In the place of a time, for no idle release.
const NEVER: &str = "never";

/// Arguments of `vcuda set`.
#[derive(Args)]
pub struct Set {
    /// The slice: its name or a process in it as vcuda ps shows them, its control file, or a limits file
    #[arg(value_name = "SLICE")]
    slice: String,
    /// New GPU memory limit: 4GiB or 50% for every GPU, 0=4GiB,GPU-8932f937=50% for single ones, or none
    #[arg(short, long, value_name = "LIMIT")]
    memory: Option<String>,
    /// New GPU time limit in percent: 30 for every GPU, 0=30,GPU-8932f937=12.5 for single ones; 100 is no limit
    #[arg(long, value_name = "LIMIT")]
    cores: Option<String>,
    #[command(flatten)]
    sharing: SharingOptions,
    /// Once idle for how long programs may be put aside if others need the memory: 60s, 5m, or never
    #[arg(long, value_name = "TIME")]
    idle_release: Option<String>,
}

impl Set {
    /// Changes the limits and says what that means for the programs that run.
    pub fn execute(&self) -> Result<ExitCode> {
        let (change, idle_release) = (self.change()?, self.idle_release()?);
        // Other people's files are looked at, see there. Without it, we read all the same.
        let _ = truncation::survive();
        let (name, files, snapshot) = match find_named(&self.slice)? {
            Found::Slice(path) => {
                let snapshot = Control::open_existing(&path)?.snapshot()?;
                (shown_name(&path), files_of(&path)?, Some(snapshot))
            }
            Found::Limits(path) => {
                let file = LimitsFile::at(&path);
                let control = file.read()?.control_file;
                let snapshot = control.and_then(|path| Control::open_existing(path).ok()?.snapshot().ok());
                (path.display().to_string(), vec![file], snapshot)
            }
        };
        for file in &files {
            let (before, after) = file.change(|limits| {
                limits.change(&change)?;
                if self.memory.as_deref() == Some(NONE) {
                    limits.remove_memory();
                }
                if let Some(idle_release) = idle_release {
                    limits.idle_release = idle_release;
                }
                Ok(())
            })?;
            for warning in after.warnings.iter().chain(&change.warnings) {
                eprintln!("vcuda: {warning}");
            }
            print!("{}", changes(&name, &before, &after));
            if let Some(snapshot) = &snapshot {
                print!("{}", consequences(snapshot, &before, &after));
            }
        }
        Ok(ExitCode::SUCCESS)
    }

    /// What is to be changed, checked for form.
    fn change(&self) -> Result<Limits> {
        let is_limit_given = self.memory.is_some() || self.cores.is_some() || self.sharing.is_given();
        if !is_limit_given && self.idle_release.is_none() {
            bail!("nothing to change: say what, such as --memory 6GiB or --cores 50");
        }
        let memory = self.memory.as_deref().filter(|text| *text != NONE);
        let overrides = self.sharing.beside(Overrides {
            memory: memory.map(|text| ("--memory", text)),
            cores: self.cores.as_deref().map(|text| ("--cores", text)),
            ..Overrides::default()
        });
        // Of the variables here nothing is meant.
        Ok(Limits::from_overrides(&overrides, &|_| None)?)
    }

    /// What idle release is to be, if it is to be changed.
    fn idle_release(&self) -> Result<Option<Option<Duration>>> {
        Ok(match self.idle_release.as_deref() {
            None => None,
            Some(NEVER) => Some(None),
            Some(text) => Some(Some(parse_span("--idle-release", text)?)),
        })
    }
}

/// The files that say what the slice's limits are.
fn files_of(control_file: &Path) -> Result<Vec<LimitsFile>> {
    let files = limits_file::of_slice(control_file);
    if files.is_empty() {
        bail!(
            "{}: no limits file names this slice, so its programs take their limits from variables or from a file that \
             is not known here: start them with vcuda run to be able to change that, or name the file: vcuda set \
             /path/limits.json",
            shown_name(control_file)
        );
    }
    Ok(files)
}

/// What was changed, a line for each kind of limit.
fn changes(name: &str, before: &Limits, after: &Limits) -> String {
    let kinds = [
        ("memory", before.memory_text(), after.memory_text()),
        ("cores", before.cores_text(), after.cores_text()),
        ("elastic", before.elastic_text(), after.elastic_text()),
        ("weight", before.weight_text(), after.weight_text()),
        ("priority", before.priority_text(), after.priority_text()),
        ("idle release", idle_release_text(before), idle_release_text(after)),
    ];
    let changed: String = kinds
        .iter()
        .filter(|(_, before, after)| before != after)
        .map(|(kind, before, after)| format!("{name}: {kind} {after} (was {before})\n"))
        .collect();
    if changed.is_empty() { format!("{name}: these are its limits already\n") } else { changed }
}

fn idle_release_text(limits: &Limits) -> String {
    let after = limits.idle_release.map(|after| duration::text(after.as_nanos() as u64));
    after.map_or(NEVER.to_owned(), |after| format!("after {after}"))
}

/// What the programs that run will make of it, where that is not plain.
fn consequences(snapshot: &Snapshot, before: &Limits, after: &Limits) -> String {
    let mut text = String::new();
    let living = || snapshot.processes.iter().filter(|process| process.alive != Some(false));
    let by_variables = |process: &&ProcessView| process.identity.limits_digest == 0;
    for process in living().filter(by_variables) {
        text.push_str(&format!(
            "  process {} ({}) takes its limits from variables and keeps them until it is started again\n",
            process.identity.pid, process.identity.name
        ));
    }
    let count = living().filter(|process| !by_variables(process)).count();
    if count == 0 {
        return text;
    }
    let gains = [
        ("memory", before.memory().is_empty() && !after.memory().is_empty()),
        ("compute", !before.has_compute() && after.has_compute()),
    ];
    for (kind, _) in gains.iter().filter(|(_, gains)| *gains) {
        text.push_str(&format!(
            "  there was no {kind} limit: those of its {count} running processes that started without one go on \
             without\n"
        ));
    }
    if before.idle_release.is_none() && after.idle_release.is_some() {
        text.push_str(
            "  there was no idle release: programs see it when they next ask for memory, or about it\n",
        );
    }
    for device in &snapshot.devices {
        if let Some(limit_bytes) = memory_of(device, after).filter(|limit| device.used_bytes > *limit) {
            text.push_str(&format!(
                "  {}: {} in use, over {}: nothing more is given out until enough is given back\n",
                ps::text::short_name(device),
                size::text(device.used_bytes),
                size::text(limit_bytes)
            ));
        }
    }
    text
}

/// The memory limit of a device, as far as the file tells without the GPUs' numbers.
fn memory_of(device: &DeviceView, limits: &Limits) -> Option<u64> {
    let uuid = device.uuid.to_string();
    let is_named = |entry: &&Entry<Amount>| match &entry.selector {
        Selector::Uuid(start) => {
            uuid.split_once('-').is_some_and(|(_, uuid)| uuid.starts_with(start.as_str()))
        }
        _ => false,
    };
    let has_numbers = limits.memory().iter().any(|entry| matches!(entry.selector, Selector::Index(_)));
    let every = || limits.memory().iter().find(|entry| entry.selector == Selector::Every && !has_numbers);
    let entry = limits.memory().iter().find(is_named).or_else(every)?;
    Some(entry.value.of(if device.physical_bytes > 0 { device.physical_bytes } else { u64::MAX }))
}
