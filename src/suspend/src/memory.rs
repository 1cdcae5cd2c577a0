//! What the GPUs really have, as the management library tells it.
//!
//! Must not be used in a process that itself is limited: it would be told its slice.

pub use crate::nvml::Nvml;
use vcuda_core::device::Uuid;
use vcuda_driver::nvml::types::NVML_VALUE_NOT_AVAILABLE;

/// Memory of one GPU in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GpuMemory {
    /// All of it.
    pub total_bytes: u64,
    /// What nobody has.
    pub free_bytes: u64,
}

/// What has to be known of the machine's GPUs.
pub trait DeviceMemory {
    /// What a GPU has; `None` if that can't be told.
    fn memory(&self, gpu: Uuid) -> Option<GpuMemory>;

    /// What a process has of a GPU in bytes; `None` if that can't be told, 0 if it has nothing.
    fn process_bytes(&self, gpu: Uuid, pid: u32) -> Option<u64>;

    /// Whether a GPU is split into instances.
    fn is_split(&self, gpu: Uuid) -> bool;

    /// The driver's release, such as 580; `None` if that can't be told.
    fn release(&self) -> Option<u32>;
}

impl DeviceMemory for Nvml {
    fn memory(&self, gpu: Uuid) -> Option<GpuMemory> {
        let memory = Nvml::memory(self, self.find(gpu).ok()?).ok()?;
        Some(GpuMemory { total_bytes: memory.total, free_bytes: memory.free })
    }

    fn process_bytes(&self, gpu: Uuid, pid: u32) -> Option<u64> {
        let processes = self.processes(self.find(gpu).ok()?).ok()?;
        let mut own =
            processes.iter().filter(|process| process.pid == pid).map(|process| process.usedGpuMemory);
        own.try_fold(0u64, |sum, bytes| {
            (bytes != NVML_VALUE_NOT_AVAILABLE).then(|| sum.saturating_add(bytes))
        })
    }

    fn is_split(&self, gpu: Uuid) -> bool {
        self.find(gpu).is_ok_and(|device| self.is_mig_enabled(device))
    }

    fn release(&self) -> Option<u32> {
        self.driver_version().ok()?.split('.').next()?.parse().ok()
    }
}
