//! The GPUs of this container, as limits name them: by `nvidia-smi`'s index and by UUID.
//!
//! `CUDA_VISIBLE_DEVICES` changes what a program sees and in which order, but not which GPU a limit is for:
//! the management library's list is used where there is one.

use crate::driver::{self, DeviceFacts};
use vcuda_core::device::Uuid;
use vcuda_core::limits::Gpu;
use vcuda_driver::nvml::types::nvmlDevice_t;

/// A GPU and how the management library knows it.
pub struct Found {
    /// The GPU as limits name it.
    pub gpu: Gpu,
    /// The management library's handle.
    pub managed: Option<nvmlDevice_t>,
}

/// The container's GPUs: all that the management library lists, and after them what only CUDA does (MIG
/// instances, or everything where there is no management library).
pub fn gpus(seen_by_cuda: &[DeviceFacts]) -> Vec<Found> {
    let mut found = managed();
    for device in seen_by_cuda {
        if !found.iter().any(|known| known.gpu.uuid.bytes() == device.uuid) {
            let index = found.len() as u32;
            // MIG instances are numbered after the GPUs; a limit names them by UUID.
            let gpu = Gpu { index, uuid: Uuid::gpu(device.uuid), physical_bytes: device.physical_bytes };
            found.push(Found { gpu, managed: None });
        }
    }
    // CUDA's own figure is what its programs are told, where both know the device.
    for known in &mut found {
        if let Some(device) = seen_by_cuda.iter().find(|device| device.uuid == known.gpu.uuid.bytes()) {
            known.gpu.physical_bytes = device.physical_bytes;
        }
    }
    found
}

/// The GPUs that the management library lists; none if there is no such library.
pub fn managed() -> Vec<Found> {
    if driver::management_init().is_err() {
        return Vec::new();
    }
    let handles = driver::managed_devices().unwrap_or_default();
    let describe = |(index, handle): (usize, nvmlDevice_t)| {
        let uuid = driver::managed_device_uuid(handle).ok()?.parse::<Uuid>().ok()?;
        let physical_bytes = driver::managed_device_bytes(handle).unwrap_or(u64::MAX);
        Some(Found { gpu: Gpu { index: index as u32, uuid, physical_bytes }, managed: Some(handle) })
    };
    handles.into_iter().enumerate().filter_map(describe).collect()
}
