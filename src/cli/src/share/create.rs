//! `vcuda share create`.

use super::Where;
use crate::agent::is_limited;
use crate::run::find_library;
use crate::sharing::SharingOptions;
use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use std::path::PathBuf;
use std::process::ExitCode;
use vcuda_core::device::{Uuid, UuidKind};
use vcuda_core::limits::{Amount, Gpu, Limits, Overrides, Selector, parse_span};
use vcuda_shares::{MadeBy, Share, Wanted};
use vcuda_suspend::nvml::Nvml;

/// Arguments of `vcuda share create`.
#[derive(Args)]
pub struct Create {
    /// What the share is called: vcuda set and vcuda ps know it by that, too
    #[arg(value_name = "NAME")]
    name: String,
    /// Of which GPU: its number in nvidia-smi, or its UUID, of which the start will do
    #[arg(long, value_name = "GPU")]
    gpu: String,
    /// How much of its memory: 12GiB or 50%
    #[arg(short, long, value_name = "LIMIT")]
    memory: Option<String>,
    /// How much of its time, in percent: 50 or 12.5
    #[arg(long, value_name = "LIMIT")]
    cores: Option<String>,
    #[command(flatten)]
    sharing: SharingOptions,
    /// Let programs that were idle for so long be put aside for others: 60s. Never, if not given
    #[arg(long, value_name = "TIME")]
    idle_release: Option<String>,
    /// Promise it even if the GPU has less left than that
    #[arg(long)]
    overcommit: bool,
    /// For images with an /etc/ld.so.preload of their own: add the library to it, rather than hide it. Runs vcuda as a
    /// hook at each start of a container
    #[arg(long)]
    merge_preload: bool,
    #[command(flatten)]
    places: Where,
}

impl Create {
    /// Makes the share and says how to use it.
    pub fn execute(&self) -> Result<ExitCode> {
        if is_limited() {
            bail!(
                "this shell is inside of a slice, where GPUs look smaller than they are; make shares outside of it"
            );
        }
        let gpu = self.gpu()?;
        let limits = self.limits()?;
        for warning in &limits.warnings {
            eprintln!("vcuda: {warning}");
        }
        let memory = limits.memory().first().map(|entry| entry.value);
        let memory_bytes = match (memory, gpu.physical_bytes) {
            (Some(Amount::Bytes(bytes)), _) => Some(bytes),
            (Some(Amount::Share(_)), None) => {
                bail!(
                    "--memory: how much memory {} has is not known here; write it in bytes: 12GiB",
                    self.gpu
                )
            }
            (Some(part), Some(physical_bytes)) => Some(part.of(physical_bytes)),
            (None, _) => None,
        };
        let idle_release =
            self.idle_release.as_deref().map(|text| parse_span("--idle-release", text)).transpose()?;
        let wanted = Wanted {
            memory_bytes,
            cores: limits.cores().first().map(|entry| entry.value).filter(|cores| !cores.is_whole()),
            elastic: limits.elastic().first().is_some_and(|entry| entry.value),
            weight: limits.weights().first().map(|entry| entry.value.get()),
            priority: limits.priorities().first().map(|entry| entry.value),
            idle_release,
            physical_bytes: gpu.physical_bytes.filter(|_| !self.overcommit),
            merge_with: self.merge_with()?,
            ..Wanted::new(&self.name, gpu.uuid, MadeBy::Cli)
        };
        let share = self.places.store(&find_library()?)?.create(&wanted)?;
        print!("{}", told(&share, &gpu)?);
        Ok(ExitCode::SUCCESS)
    }

    /// The limits, of which each must be one amount.
    fn limits(&self) -> Result<Limits> {
        let overrides = Overrides {
            memory: self.memory.as_deref().map(|text| ("--memory", text)),
            cores: self.cores.as_deref().map(|text| ("--cores", text)),
            ..Overrides::default()
        };
        let overrides = self.sharing.beside(overrides);
        // Of the variables here nothing is meant.
        let limits = Limits::from_overrides(&overrides, &|_| None)?;
        let memory = limits.memory().iter().map(|entry| (&entry.selector, "--memory", "12GiB"));
        let cores = limits.cores().iter().map(|entry| (&entry.selector, "--cores", "50"));
        let elastic = limits.elastic().iter().map(|entry| (&entry.selector, "--elastic", ""));
        let weight = limits.weights().iter().map(|entry| (&entry.selector, "--weight", "30"));
        let priority = limits.priorities().iter().map(|entry| (&entry.selector, "--priority", "high"));
        let mut all = memory.chain(cores).chain(elastic).chain(weight).chain(priority);
        match all.find(|(selector, ..)| **selector != Selector::Every) {
            Some((_, option, right)) => {
                bail!("{option}: a share is of the one GPU of --gpu; write {option} {right}")
            }
            None => Ok(limits),
        }
    }

    fn merge_with(&self) -> Result<Option<PathBuf>> {
        let command = || std::env::current_exe().context("--merge-preload: can't tell where this command is");
        self.merge_preload.then(command).transpose()
    }

    fn gpu(&self) -> Result<Found> {
        // MIG instances are not listed with the GPUs.
        if let Ok(uuid) = self.gpu.parse::<Uuid>()
            && uuid.kind() == UuidKind::Mig
        {
            return Ok(Found { uuid, index: None, physical_bytes: None });
        }
        let selector = Selector::parse("--gpu", &self.gpu)?;
        let gpus = gpus().map_err(|reason| {
            anyhow!("--gpu: the GPUs here can't be asked for: {reason}; vcuda doctor says more")
        })?;
        let gpu = gpus.get(selector.find("--gpu", &gpus)?).context("--gpu: no such GPU")?;
        Ok(Found { uuid: gpu.uuid, index: Some(gpu.index), physical_bytes: Some(gpu.physical_bytes) })
    }
}

/// The GPU that is meant.
struct Found {
    uuid: Uuid,
    index: Option<u32>,
    physical_bytes: Option<u64>,
}

fn gpus() -> Result<Vec<Gpu>, String> {
    let nvml = Nvml::open()?;
    let wrong = |error: vcuda_driver::result::NvmlError| error.to_string();
    let devices = nvml.devices().map_err(wrong)?;
    let describe = |(index, device)| {
        let uuid = nvml.uuid(device).map_err(wrong)?.parse().map_err(|error| format!("{error}"))?;
        Ok(Gpu { index, uuid, physical_bytes: nvml.usable_bytes(device).map_err(wrong)? })
    };
    (0u32..).zip(devices).map(describe).collect()
}

/// What there is now, and how a container gets it.
fn told(share: &Share, gpu: &Found) -> Result<String> {
    let number = gpu.index.map_or(gpu.uuid.to_string(), |index| index.to_string());
    let limits = super::list::limits_text(share.granted()?);
    Ok(format!(
        "{}: {limits} of {}\n\n  docker run --device nvidia.com/gpu={number} --device {} IMAGE\n\n",
        share.name(),
        gpu.uuid,
        share.cdi_id()
    ))
}
