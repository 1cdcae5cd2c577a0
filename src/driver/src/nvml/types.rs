//! The management library's C types, as far as this project reads or writes them. Names are NVIDIA's.
#![allow(non_camel_case_types, non_snake_case, non_upper_case_globals)]

use crate::layout::{c_constants, c_structs, handles};

handles! {
    /// A GPU, or a MIG slice of one.
    nvmlDevice_t(usize);
    /// A MIG GPU instance.
    nvmlGpuInstance_t(usize);
    /// A MIG compute instance.
    nvmlComputeInstance_t(usize);
    /// A chassis of GPUs.
    nvmlUnit_t(usize);
    /// A set of events to wait for.
    nvmlEventSet_t(usize);
    /// A set of system events to wait for.
    nvmlSystemEventSet_t(usize);
    /// A sample of performance counters.
    nvmlGpmSample_t(usize);
}

c_structs! {
    /// Device memory, in bytes.
    #[derive(Eq, Hash)]
    struct nvmlMemory_t [24] {
        [0] total: u64,
        [8] free: u64,
        [16] used: u64,
    }

    /// Device memory, in bytes, with what the driver keeps for itself told apart.
    #[derive(Eq, Hash)]
    struct nvmlMemory_v2_t [40] {
        [0] version: u32,
        [8] total: u64,
        [16] reserved: u64,
        [24] free: u64,
        [32] used: u64,
    }

    /// The window that the host sees of device memory, in bytes.
    #[derive(Eq, Hash)]
    struct nvmlBAR1Memory_t [24] {
        [0] bar1Total: u64,
        [8] bar1Free: u64,
        [16] bar1Used: u64,
    }

    /// A process on a GPU.
    #[derive(Eq, Hash)]
    struct nvmlProcessInfo_v1_t [16] {
        [0] pid: u32,
        /// Bytes, or [`NVML_VALUE_NOT_AVAILABLE`].
        [8] usedGpuMemory: u64,
    }

    /// A process on a GPU or on a MIG slice.
    #[derive(Eq, Hash)]
    struct nvmlProcessInfo_v2_t [24] {
        [0] pid: u32,
        /// Bytes, or [`NVML_VALUE_NOT_AVAILABLE`].
        [8] usedGpuMemory: u64,
        /// [`NVML_INSTANCE_NOT_AVAILABLE`] where the GPU is whole.
        [16] gpuInstanceId: u32,
        [20] computeInstanceId: u32,
    }

    /// A process on a GPU, with its protected memory told apart.
    #[derive(Eq, Hash)]
    struct nvmlProcessDetail_v1_t [32] {
        [0] pid: u32,
        /// Bytes, or [`NVML_VALUE_NOT_AVAILABLE`].
        [8] usedGpuMemory: u64,
        [16] gpuInstanceId: u32,
        [20] computeInstanceId: u32,
        [24] usedGpuCcProtectedMemory: u64,
    }

    /// Room for processes, and how many there are.
    #[derive(Eq)]
    struct nvmlProcessDetailList_v1_t [24] {
        [0] version: u32,
        [4] mode: u32,
        [8] numProcArrayEntries: u32,
        [16] procArray: *mut nvmlProcessDetail_v1_t,
    }

    /// How busy a GPU is, in percent.
    #[derive(Eq, Hash)]
    struct nvmlUtilization_t [8] {
        [0] gpu: u32,
        [4] memory: u32,
    }

    /// How busy a process keeps a GPU, in percent.
    #[derive(Eq, Hash)]
    struct nvmlProcessUtilizationSample_t [32] {
        [0] pid: u32,
        /// Microseconds since the epoch.
        [8] timeStamp: u64,
        [16] smUtil: u32,
        [20] memUtil: u32,
        [24] encUtil: u32,
        [28] decUtil: u32,
    }

    /// How busy a process keeps a GPU, in percent, with all its engines.
    #[derive(Eq, Hash)]
    struct nvmlProcessUtilizationInfo_v1_t [40] {
        /// Microseconds since the epoch.
        [0] timeStamp: u64,
        [8] pid: u32,
        [12] smUtil: u32,
        [16] memUtil: u32,
        [20] encUtil: u32,
        [24] decUtil: u32,
        [28] jpgUtil: u32,
        [32] ofaUtil: u32,
    }

    /// Room for samples, and how many there are.
    #[derive(Eq)]
    struct nvmlProcessesUtilizationInfo_v1_t [24] {
        [0] version: u32,
        [4] processSamplesCount: u32,
        [8] lastSeenTimeStamp: u64,
        [16] procUtilArray: *mut nvmlProcessUtilizationInfo_v1_t,
    }

    /// What a process used over its life.
    #[derive(Eq, Hash)]
    struct nvmlAccountingStats_t [56] {
        [0] gpuUtilization: u32,
        [4] memoryUtilization: u32,
        /// Bytes.
        [8] maxMemoryUsage: u64,
        /// Milliseconds.
        [16] time: u64,
        /// Microseconds since the epoch.
        [24] startTime: u64,
        [32] isRunning: u32,
        [36] reserved: [u32; 5],
    }

    /// Something that happened to a GPU.
    #[derive(Eq, Hash)]
    struct nvmlEventData_t [32] {
        [0] device: nvmlDevice_t,
        [8] eventType: u64,
        /// Of a critical XID error: its number.
        [16] eventData: u64,
        /// Of one that one MIG slice has: which. [`NVML_INSTANCE_NOT_AVAILABLE`] where the whole GPU has it.
        [24] gpuInstanceId: u32,
        [28] computeInstanceId: u32,
    }

    /// Where a GPU is on the PCI bus. Texts end with a zero byte.
    #[derive(Eq, Hash)]
    struct nvmlPciInfo_t [68] {
        [0] busIdLegacy: [u8; 16],
        [16] domain: u32,
        [20] bus: u32,
        [24] device: u32,
        [28] pciDeviceId: u32,
        [32] pciSubSystemId: u32,
        [36] busId: [u8; 32],
    }

    /// Where a GPU is on the PCI bus, with its class.
    #[derive(Eq, Hash)]
    struct nvmlPciInfoExt_v1_t [64] {
        [0] version: u32,
        [4] domain: u32,
        [8] bus: u32,
        [12] device: u32,
        [16] pciDeviceId: u32,
        [20] pciSubSystemId: u32,
        [24] baseClass: u32,
        [28] subClass: u32,
        [32] busId: [u8; 32],
    }
}

/// What the newest functions mean by a process.
pub type nvmlProcessInfo_t = nvmlProcessInfo_v2_t;
/// What the newest functions mean by a list of processes.
pub type nvmlProcessDetailList_t = nvmlProcessDetailList_v1_t;

/// In a process entry: the driver can't say how much memory the process has.
pub const NVML_VALUE_NOT_AVAILABLE: u64 = u64::MAX;
/// In a process entry: the process is not on a MIG slice.
pub const NVML_INSTANCE_NOT_AVAILABLE: u32 = u32::MAX;

c_constants! {
    /// Whether something is on.
    nvmlEnableState_t: u32 {
        NVML_FEATURE_DISABLED = 0,
        NVML_FEATURE_ENABLED = 1,
    }

    /// Which processes are asked for.
    nvmlProcessMode_t: u32 {
        NVML_PROCESS_MODE_COMPUTE = 0,
        NVML_PROCESS_MODE_GRAPHICS = 1,
        NVML_PROCESS_MODE_MPS = 2,
        NVML_PROCESS_MODE_ALL = 3,
    }

    /// What samples are asked for.
    nvmlSamplingType_t: u32 {
        NVML_TOTAL_POWER_SAMPLES = 0,
        NVML_GPU_UTILIZATION_SAMPLES = 1,
        NVML_MEMORY_UTILIZATION_SAMPLES = 2,
    }

    /// The type of a sample's value.
    nvmlValueType_t: u32 {
        NVML_VALUE_TYPE_DOUBLE = 0,
        NVML_VALUE_TYPE_UNSIGNED_INT = 1,
        NVML_VALUE_TYPE_UNSIGNED_LONG = 2,
        NVML_VALUE_TYPE_UNSIGNED_LONG_LONG = 3,
    }

    /// What can happen to a GPU: a sum of these.
    nvmlEventTypes_t: u64 {
        nvmlEventTypeSingleBitEccError = 1,
        nvmlEventTypeDoubleBitEccError = 2,
        nvmlEventTypeXidCriticalError = 8,
    }

    /// Sizes of the texts that the library gives, in bytes with the zero at the end.
    nvmlTextSize_t: u32 {
        NVML_DEVICE_NAME_V2_BUFFER_SIZE = 96,
        NVML_DEVICE_PCI_BUS_ID_BUFFER_SIZE = 32,
        NVML_DEVICE_PCI_BUS_ID_BUFFER_V2_SIZE = 16,
        NVML_DEVICE_SERIAL_BUFFER_SIZE = 30,
        NVML_DEVICE_UUID_V2_BUFFER_SIZE = 96,
        NVML_DEVICE_VBIOS_VERSION_BUFFER_SIZE = 32,
        NVML_SYSTEM_DRIVER_VERSION_BUFFER_SIZE = 80,
        NVML_SYSTEM_NVML_VERSION_BUFFER_SIZE = 80,
    }

    /// Values of the `version` field of versioned structs: the size in bytes and, from bit 24 on, the number.
    nvmlStructVersion_t: u32 {
        nvmlMemory_v2 = struct_version::<nvmlMemory_v2_t>(2),
        nvmlProcessDetailList_v1 = struct_version::<nvmlProcessDetailList_v1_t>(1),
        nvmlProcessesUtilizationInfo_v1 = struct_version::<nvmlProcessesUtilizationInfo_v1_t>(1),
        nvmlPciInfoExt_v1 = struct_version::<nvmlPciInfoExt_v1_t>(1),
    }
}

/// The `version` value of struct `T`, version `number`.
const fn struct_version<T>(number: u32) -> u32 {
    size_of::<T>() as u32 | number << 24
}

/// Layouts of every type declared here.
#[cfg(test)]
pub(crate) const LAYOUTS: &[&[crate::layout::Layout]] = &[HANDLES, STRUCTS];
