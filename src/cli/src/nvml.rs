//! The few questions that commands ask the management library, as safe calls.
#![allow(unsafe_code)]

use libloading::Library;
use std::ffi::{CStr, c_char};
use vcuda_driver::nvml::types::{
    NVML_VALUE_NOT_AVAILABLE, nvmlMemory_t, nvmlMemory_v2, nvmlMemory_v2_t, nvmlProcessInfo_t,
};
use vcuda_driver::result::{NvmlError, NvmlResult};

/// The opened library, initialised until dropped.
pub struct Nvml {
    library: Library,
}

/// A device as the library names it; valid while the library is initialised.
#[derive(Clone, Copy)]
pub struct Device(usize);

/// Whether processes' memory can be asked for.
pub enum ProcessMemory {
    /// Yes, or nobody is there whom it could be seen with.
    Available,
    /// Processes are listed, but not what they hold.
    Unknown,
}

/// Looks up a function and calls it; a driver without it answers as one that doesn't support it.
macro_rules! call {
    ($nvml:expr, $name:literal, ($($argument:expr => $type:ty),*)) => {{
        type Function = unsafe extern "C" fn($($type),*) -> NvmlResult;
        // SAFETY: the type is the function's own, as NVIDIA's header declares it.
        let function = unsafe { $nvml.library.get::<Function>(concat!($name, "\0")) };
        match function {
            Ok(function) => {
                // SAFETY: every pointer is to a local of the right size that outlives the call.
                unsafe { function($($argument),*) }
            }
            Err(_) => Err(NvmlError::FUNCTION_NOT_FOUND),
        }
    }};
}

impl Nvml {
    /// Opens and initialises the library.
    pub fn open() -> Result<Nvml, String> {
        // SAFETY: the driver's initialisers are those every program runs that opens it.
        let library = unsafe { Library::new("libnvidia-ml.so.1") }
            .map_err(|error| format!("{:#}", anyhow::Error::from(error)))?;
        let nvml = Nvml { library };
        call!(nvml, "nvmlInit_v2", ()).map_err(|error| error.to_string())?;
        Ok(nvml)
    }

    /// Version of the installed driver, such as `580.159.04`.
    pub fn driver_version(&self) -> Result<String, NvmlError> {
        let mut text = [0 as c_char; 80];
        call!(self, "nvmlSystemGetDriverVersion",
            (text.as_mut_ptr() => *mut c_char, text.len() as u32 => u32))?;
        Ok(string(&text))
    }

    /// All devices, in the order of `nvidia-smi`.
    pub fn devices(&self) -> Result<Vec<Device>, NvmlError> {
        let mut count = 0u32;
        call!(self, "nvmlDeviceGetCount_v2", (&raw mut count => *mut u32))?;
        (0..count)
            .map(|index| {
                let mut handle = 0usize;
                call!(self, "nvmlDeviceGetHandleByIndex_v2", (index => u32, &raw mut handle => *mut usize))?;
                Ok(Device(handle))
            })
            .collect()
    }

    /// The product name.
    pub fn name(&self, device: Device) -> Result<String, NvmlError> {
        let mut text = [0 as c_char; 96];
        call!(self, "nvmlDeviceGetName",
            (device.0 => usize, text.as_mut_ptr() => *mut c_char, text.len() as u32 => u32))?;
        Ok(string(&text))
    }

    /// The UUID as text.
    pub fn uuid(&self, device: Device) -> Result<String, NvmlError> {
        let mut text = [0 as c_char; 96];
        call!(self, "nvmlDeviceGetUUID",
            (device.0 => usize, text.as_mut_ptr() => *mut c_char, text.len() as u32 => u32))?;
        Ok(string(&text))
    }

    /// Memory of the device in bytes, as a program here is told it.
    pub fn memory(&self, device: Device) -> Result<nvmlMemory_t, NvmlError> {
        let mut memory = nvmlMemory_t { total: 0, free: 0, used: 0 };
        call!(self, "nvmlDeviceGetMemoryInfo",
            (device.0 => usize, &raw mut memory => *mut nvmlMemory_t))?;
        Ok(memory)
    }

    /// Memory that CUDA programs can have of the device, in bytes: without what the driver keeps for itself.
    pub fn usable_bytes(&self, device: Device) -> Result<u64, NvmlError> {
        let mut memory = nvmlMemory_v2_t { version: nvmlMemory_v2, total: 0, reserved: 0, free: 0, used: 0 };
        let answer = call!(self, "nvmlDeviceGetMemoryInfo_v2",
            (device.0 => usize, &raw mut memory => *mut nvmlMemory_v2_t));
        match answer {
            Ok(()) => Ok(memory.total.saturating_sub(memory.reserved)),
            // Drivers before 510.
            Err(_) => self.memory(device).map(|memory| memory.total),
        }
    }

    /// Whether the device is split into MIG instances.
    pub fn is_mig_enabled(&self, device: Device) -> bool {
        let (mut current, mut pending) = (0u32, 0u32);
        call!(self, "nvmlDeviceGetMigMode",
            (device.0 => usize, &raw mut current => *mut u32, &raw mut pending => *mut u32))
        .is_ok()
            && current == 1
    }

    /// Whether the driver tells what each process holds.
    pub fn process_memory(&self, device: Device) -> Result<ProcessMemory, NvmlError> {
        const ROOM: usize = 64;
        let none = nvmlProcessInfo_t { pid: 0, usedGpuMemory: 0, gpuInstanceId: 0, computeInstanceId: 0 };
        let mut processes = [none; ROOM];
        let mut count = ROOM as u32;
        match call!(self, "nvmlDeviceGetComputeRunningProcesses_v3",
            (device.0 => usize, &raw mut count => *mut u32, processes.as_mut_ptr() => *mut nvmlProcessInfo_t))
        {
            Ok(()) => {}
            // There are more processes than room: they are listed, then.
            Err(NvmlError::INSUFFICIENT_SIZE) => return Ok(ProcessMemory::Available),
            Err(error) => return Err(error),
        }
        let listed = processes.iter().take(count as usize);
        let unknown = listed.filter(|process| process.usedGpuMemory == NVML_VALUE_NOT_AVAILABLE).count();
        Ok(if unknown > 0 { ProcessMemory::Unknown } else { ProcessMemory::Available })
    }
}

impl Drop for Nvml {
    fn drop(&mut self) {
        // Nothing is left to do about an error.
        let _ = call!(self, "nvmlShutdown", ());
    }
}

fn string(text: &[c_char]) -> String {
    let bytes: Vec<u8> = text.iter().map(|character| *character as u8).collect();
    CStr::from_bytes_until_nul(&bytes).map(|text| text.to_string_lossy().into_owned()).unwrap_or_default()
}
