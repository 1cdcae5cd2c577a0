//! The management library: the few questions that are asked of it, as safe calls.
//!
//! Owns the only calls into `libnvidia-ml.so.1`. In a process that is limited itself, the answers are those of its slice.
#![allow(unsafe_code)]

use libloading::Library;
use std::error::Error;
use std::ffi::{CStr, c_char};
use vcuda_core::device::Uuid;
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
    ///
    /// # Errors
    /// Why it can't be used, in words, with what that comes from.
    pub fn open() -> Result<Nvml, String> {
        // SAFETY: the driver's initialisers are those every program runs that opens it.
        let library = unsafe { Library::new("libnvidia-ml.so.1") }.map_err(|error| with_causes(&error))?;
        let nvml = Nvml { library };
        call!(nvml, "nvmlInit_v2", ()).map_err(|error| error.to_string())?;
        Ok(nvml)
    }

    /// Version of the installed driver, such as `580.159.04`.
    ///
    /// # Errors
    /// The library's.
    pub fn driver_version(&self) -> Result<String, NvmlError> {
        let mut text = [0 as c_char; 80];
        call!(self, "nvmlSystemGetDriverVersion",
            (text.as_mut_ptr() => *mut c_char, text.len() as u32 => u32))?;
        Ok(string(&text))
    }

    /// All devices, in the order of `nvidia-smi`.
    ///
    /// # Errors
    /// The library's.
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

    /// The device of this UUID.
    ///
    /// # Errors
    /// The library's.
    pub fn find(&self, gpu: Uuid) -> Result<Device, NvmlError> {
        let mut text: Vec<c_char> = gpu.to_string().bytes().map(|byte| byte as c_char).collect();
        text.push(0);
        let mut handle = 0usize;
        let found = call!(self, "nvmlDeviceGetHandleByUUID",
            (text.as_ptr() => *const c_char, &raw mut handle => *mut usize));
        // Some drivers take no UUID as we write it.
        let search = || {
            let mut all = self.devices()?.into_iter();
            all.find(|device| self.uuid(*device).is_ok_and(|text| text.parse() == Ok(gpu)))
                .ok_or(NvmlError::NOT_FOUND)
        };
        found.map(|()| Device(handle)).or_else(|_| search())
    }

    /// The product name.
    ///
    /// # Errors
    /// The library's.
    pub fn name(&self, device: Device) -> Result<String, NvmlError> {
        let mut text = [0 as c_char; 96];
        call!(self, "nvmlDeviceGetName",
            (device.0 => usize, text.as_mut_ptr() => *mut c_char, text.len() as u32 => u32))?;
        Ok(string(&text))
    }

    /// The UUID as text.
    ///
    /// # Errors
    /// The library's.
    pub fn uuid(&self, device: Device) -> Result<String, NvmlError> {
        let mut text = [0 as c_char; 96];
        call!(self, "nvmlDeviceGetUUID",
            (device.0 => usize, text.as_mut_ptr() => *mut c_char, text.len() as u32 => u32))?;
        Ok(string(&text))
    }

    /// Memory of the device in bytes, as a program here is told it.
    ///
    /// # Errors
    /// The library's.
    pub fn memory(&self, device: Device) -> Result<nvmlMemory_t, NvmlError> {
        let mut memory = nvmlMemory_t { total: 0, free: 0, used: 0 };
        call!(self, "nvmlDeviceGetMemoryInfo",
            (device.0 => usize, &raw mut memory => *mut nvmlMemory_t))?;
        Ok(memory)
    }

    /// Memory that CUDA programs can have of the device, in bytes: without what the driver keeps for itself.
    ///
    /// # Errors
    /// The library's.
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

    /// The processes that have a context on the device.
    ///
    /// # Errors
    /// The library's.
    pub fn processes(&self, device: Device) -> Result<Vec<nvmlProcessInfo_t>, NvmlError> {
        let none = nvmlProcessInfo_t { pid: 0, usedGpuMemory: 0, gpuInstanceId: 0, computeInstanceId: 0 };
        let mut room = vec![none; 64];
        loop {
            let mut count = room.len() as u32;
            match call!(self, "nvmlDeviceGetComputeRunningProcesses_v3",
                (device.0 => usize, &raw mut count => *mut u32, room.as_mut_ptr() => *mut nvmlProcessInfo_t))
            {
                Ok(()) => {
                    room.truncate(count as usize);
                    return Ok(room);
                }
                Err(NvmlError::INSUFFICIENT_SIZE) if room.len() < 1 << 16 => {
                    room.resize(2 * room.len(), none)
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The ids of the processes that a GPU works for, as this process would name them; `None` if that can't be told.
    pub fn process_ids(&self, gpu: Uuid) -> Option<Vec<u32>> {
        let processes = self.processes(self.find(gpu).ok()?).ok()?;
        Some(processes.iter().map(|process| process.pid).collect())
    }

    /// Whether the driver tells what each process holds, as far as that can be seen with those that are there.
    ///
    /// # Errors
    /// The library's.
    pub fn tells_process_memory(&self, device: Device) -> Result<bool, NvmlError> {
        let processes = self.processes(device)?;
        Ok(processes.iter().all(|process| process.usedGpuMemory != NVML_VALUE_NOT_AVAILABLE))
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

/// An error and what it comes from.
fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}
