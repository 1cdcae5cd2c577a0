//! Whether a share fits beside the others of its GPU: what is promised of memory and of time is at most what there is.
//!
//! A share without a limit is promised nothing of that sort: it gets what there is.

use crate::error::ShareError;
use crate::share::Share;
use crate::wanted::Wanted;
use vcuda_core::device::Uuid;
use vcuda_core::limits::Amount;
use vcuda_core::share::Share as Cores;

/// Fails unless `wanted` fits into a GPU of `physical_bytes` that `others` have shares of.
pub(crate) fn check(wanted: &Wanted, physical_bytes: u64, others: &[Share]) -> Result<(), ShareError> {
    let granted: Vec<(&str, u64, u64)> = others
        .iter()
        .filter(|other| other.wanted.gpu_uuid == wanted.gpu_uuid && other.name() != wanted.name)
        .map(|other| {
            // What a limits file that is just wrong would say is what it was made with.
            let asked = (other.wanted.memory_bytes, other.wanted.cores);
            let (memory, cores) = other.granted().unwrap_or(asked);
            (other.name(), memory.unwrap_or(0).min(physical_bytes), cores.map_or(0, ppm))
        })
        .collect();
    let memory: Vec<(&str, u64)> = granted.iter().map(|(name, memory, _)| (*name, *memory)).collect();
    let cores: Vec<(&str, u64)> = granted.iter().map(|(name, _, cores)| (*name, *cores)).collect();
    let gpu = wanted.gpu_uuid;
    let asked = wanted.memory_bytes.unwrap_or(0);
    fits(gpu, "memory", physical_bytes, asked, &memory, |bytes| Amount::Bytes(bytes).to_string())?;
    let asked = wanted.cores.map_or(0, ppm);
    fits(gpu, "time", ppm(Cores::WHOLE), asked, &cores, |ppm| {
        let share = u32::try_from(ppm).ok().and_then(Cores::from_ppm);
        share.map_or("0 %".to_owned(), |share| share.to_string())
    })
}

fn ppm(cores: Cores) -> u64 {
    u64::from(cores.ppm())
}

fn fits(
    gpu: Uuid,
    kind: &str,
    whole: u64,
    asked: u64,
    promised: &[(&str, u64)],
    shown: impl Fn(u64) -> String,
) -> Result<(), ShareError> {
    let sum: u64 = promised.iter().map(|(_, amount)| *amount).sum();
    let left = whole.saturating_sub(sum);
    if asked <= left {
        return Ok(());
    }
    let listed: Vec<String> = promised
        .iter()
        .filter(|(_, amount)| *amount > 0)
        .map(|(name, amount)| format!("{name} has {}", shown(*amount)))
        .collect();
    Err(ShareError::OverPromised {
        gpu,
        what: format!("{} of {kind}", shown(whole)),
        left: if left == 0 { "nothing".to_owned() } else { shown(left) },
        asked: shown(asked),
        promised: if listed.is_empty() { "it has no other shares".to_owned() } else { listed.join(", ") },
    })
}
