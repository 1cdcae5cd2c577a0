//! Whether programs can be suspended here.

use super::driver::is_mapped;
use super::finding::Finding;
use vcuda_suspend::driver::{Unavailable, support};
use vcuda_suspend::memory::{DeviceMemory, Nvml};
use vcuda_suspend::preflight::{Host, of_machine};

/// One finding; none without a driver, which is told elsewhere.
pub fn examine() -> Vec<Finding> {
    let release = Nvml::open().ok().and_then(|nvml| nvml.release());
    if is_mapped("/libvcuda.so") {
        return vec![Finding::note("suspend and resume work from outside of a slice only")];
    }
    match (support(), of_machine(release, Host::here())) {
        (Err(Unavailable::NoDriver(_)), _) => Vec::new(),
        (Err(reason), _) => vec![Finding::note(format!("programs can't be suspended: {reason}"))],
        (Ok(_), Some(reason)) => vec![Finding::note(format!("programs can't be suspended: {reason}"))],
        (Ok(_), None) => vec![Finding::good(format!(
            "programs can be suspended, but those with managed memory{} or on a MIG instance",
            if release.is_some_and(|release| release >= 610) { "" } else { ", memory shared by CUDA IPC" }
        ))],
    }
}
