//! What works beside slices without the library, on those GPUs of whose time slices have shares.
//!
//! Asks the management library, and only where some slice has a share and a living process: then the driver is at work
//! anyhow, and answers at once.

use crate::ps::living;
use vcuda_core::device::Uuid;
use vcuda_core::snapshot::{DeviceView, Snapshot};
use vcuda_slices::neighbours::{Lookout, Neighbours, has_library};
use vcuda_suspend::nvml::Nvml;

/// What was found on one GPU.
#[derive(Clone, Debug)]
pub struct OnGpu {
    pub gpu: Uuid,
    pub neighbours: Neighbours,
}

/// What that means for shares.
pub const MEANING: &str = "shares of its time are best effort";

/// Looks again and again.
#[derive(Default)]
pub struct Watch {
    /// Opened when first needed; `None` within if it can't be.
    nvml: Option<Option<Nvml>>,
    lookout: Lookout,
}

impl Watch {
    /// What there is beside `slices`, on GPUs of whose time they have shares; nothing of a GPU where all is in order.
    pub fn look(&mut self, slices: &[Snapshot]) -> Vec<OnGpu> {
        self.look_at(&shared_gpus(slices))
    }

    /// The same on these GPUs.
    pub fn look_at(&mut self, gpus: &[Uuid]) -> Vec<OnGpu> {
        if gpus.is_empty() {
            return Vec::new();
        }
        // Inside a slice the list of processes is the slice's.
        let open = || if has_library() { None } else { Nvml::open().ok() };
        let Some(nvml) = self.nvml.get_or_insert_with(open) else { return Vec::new() };
        let listed = gpus.iter().filter_map(|gpu| Some((*gpu, nvml.process_ids(*gpu)?)));
        let found = listed.map(|(gpu, pids)| OnGpu { gpu, neighbours: self.lookout.look(pids) });
        found.filter(|found| found.neighbours != Neighbours::default()).collect()
    }
}

/// The GPUs of whose time a slice with a living process has a share, or takes its turn there with others, each once.
pub fn shared_gpus(slices: &[Snapshot]) -> Vec<Uuid> {
    let in_use = slices.iter().filter(|slice| living(slice).next().is_some());
    let has_part =
        |device: &&DeviceView| device.compute.share_ppm.is_some() || device.compute.sharing.is_some();
    let shares = in_use.flat_map(|slice| &slice.devices).filter(has_part);
    let mut gpus: Vec<Uuid> = Vec::new();
    for device in shares {
        if !gpus.contains(&device.uuid) {
            gpus.push(device.uuid);
        }
    }
    gpus
}

#[cfg(test)]
mod tests {
    use super::*;
    use vcuda_core::control::Control;

    #[test]
    fn only_gpus_with_shares_in_use_are_looked_at() {
        let directory = tempfile::tempdir().unwrap();
        let control = Control::open_or_create(directory.path().join("control")).unwrap();
        let [first, second] = [1, 2].map(|byte| control.device(Uuid::gpu([byte; 16])).unwrap());
        control.set_limit_bytes(first, Some(1 << 30)).unwrap();
        control.claim("earlier").unwrap().compute_account(second).open().0.set_share_ppm(300_000);
        assert_eq!(shared_gpus(&[control.snapshot().unwrap()]), [], "nobody lives in it");
        let _slot = control.claim("program").unwrap();
        let both = [control.snapshot().unwrap(), control.snapshot().unwrap()];
        assert_eq!(shared_gpus(&both), [Uuid::gpu([2; 16])]);
        assert!(Watch::default().look(&[]).is_empty());
    }
}
