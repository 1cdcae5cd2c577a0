//! What the GPUs really have, as the management library tells it.
//!
//! Owns the only calls into `libnvidia-ml.so.1`. Must not be used in a process that itself is limited: it would be told
//! its slice.
#![allow(unsafe_code)]

use libloading::Library;
use std::ffi::{CStr, c_char};
use vcuda_core::device::Uuid;
use vcuda_driver::nvml::types::{NVML_VALUE_NOT_AVAILABLE, nvmlMemory_t, nvmlProcessInfo_t};
use vcuda_driver::result::{NvmlError, NvmlResult};

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

/// The management library, initialised until dropped.
pub struct Nvml {
    library: Library,
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
    ///
    /// # Errors
    /// Why it can't be used, in words.
    pub fn open() -> Result<Nvml, String> {
        // SAFETY: the driver's initialisers are those every program runs that opens it.
        let library = unsafe { Library::new("libnvidia-ml.so.1") }.map_err(|error| error.to_string())?;
        let nvml = Nvml { library };
        call!(nvml, "nvmlInit_v2", ()).map_err(|error| error.to_string())?;
        Ok(nvml)
    }

    /// The processes that a GPU works for, as this process would name them; `None` if that can't be told.
    pub fn process_ids(&self, gpu: Uuid) -> Option<Vec<u32>> {
        let processes = self.processes(self.handle(gpu).ok()?).ok()?;
        Some(processes.iter().map(|process| process.pid).collect())
    }

    fn handle(&self, gpu: Uuid) -> Result<usize, NvmlError> {
        let mut text: Vec<c_char> = gpu.to_string().bytes().map(|byte| byte as c_char).collect();
        text.push(0);
        let mut handle = 0usize;
        let found = call!(self, "nvmlDeviceGetHandleByUUID",
            (text.as_ptr() => *const c_char, &raw mut handle => *mut usize));
        found.or_else(|_| self.search(gpu, &mut handle))?;
        Ok(handle)
    }

    /// For drivers that take no UUID as we write it.
    fn search(&self, gpu: Uuid, handle: &mut usize) -> NvmlResult {
        let mut count = 0u32;
        call!(self, "nvmlDeviceGetCount_v2", (&raw mut count => *mut u32))?;
        for index in 0..count {
            call!(self, "nvmlDeviceGetHandleByIndex_v2",
                (index => u32, std::ptr::from_mut(handle) => *mut usize))?;
            let mut text = [0 as c_char; 96];
            call!(self, "nvmlDeviceGetUUID",
                (*handle => usize, text.as_mut_ptr() => *mut c_char, text.len() as u32 => u32))?;
            if string(&text).parse() == Ok(gpu) {
                return Ok(());
            }
        }
        Err(NvmlError::NOT_FOUND)
    }

    fn processes(&self, handle: usize) -> Result<Vec<nvmlProcessInfo_t>, NvmlError> {
        let none = nvmlProcessInfo_t { pid: 0, usedGpuMemory: 0, gpuInstanceId: 0, computeInstanceId: 0 };
        let mut room = vec![none; 64];
        loop {
            let mut count = room.len() as u32;
            match call!(self, "nvmlDeviceGetComputeRunningProcesses_v3",
                (handle => usize, &raw mut count => *mut u32, room.as_mut_ptr() => *mut nvmlProcessInfo_t))
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
}

impl DeviceMemory for Nvml {
    fn memory(&self, gpu: Uuid) -> Option<GpuMemory> {
        let mut memory = nvmlMemory_t { total: 0, free: 0, used: 0 };
        call!(self, "nvmlDeviceGetMemoryInfo",
            (self.handle(gpu).ok()? => usize, &raw mut memory => *mut nvmlMemory_t))
        .ok()?;
        Some(GpuMemory { total_bytes: memory.total, free_bytes: memory.free })
    }

    fn process_bytes(&self, gpu: Uuid, pid: u32) -> Option<u64> {
        let processes = self.processes(self.handle(gpu).ok()?).ok()?;
        let mut own =
            processes.iter().filter(|process| process.pid == pid).map(|process| process.usedGpuMemory);
        own.try_fold(0u64, |sum, bytes| {
            (bytes != NVML_VALUE_NOT_AVAILABLE).then(|| sum.saturating_add(bytes))
        })
    }

    fn is_split(&self, gpu: Uuid) -> bool {
        let (mut current, mut pending) = (0u32, 0u32);
        let Ok(handle) = self.handle(gpu) else { return false };
        call!(self, "nvmlDeviceGetMigMode",
            (handle => usize, &raw mut current => *mut u32, &raw mut pending => *mut u32))
        .is_ok()
            && current == 1
    }

    fn release(&self) -> Option<u32> {
        let mut text = [0 as c_char; 80];
        call!(self, "nvmlSystemGetDriverVersion",
            (text.as_mut_ptr() => *mut c_char, text.len() as u32 => u32))
        .ok()?;
        string(&text).split('.').next()?.parse().ok()
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
