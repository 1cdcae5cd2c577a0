//! The library as a whole: how often it is initialised, and which machine it tells of.

use crate::edge::{FromC, Out};
use parking_lot::Mutex;
use std::ffi::{CString, c_char};
use std::path::PathBuf;
use std::sync::OnceLock;
use vcuda_driver::nvml::types::nvmlDevice_t;
use vcuda_driver::result::{NvmlError, NvmlResult, to_raw};
use vcuda_fake_machine::{Gpu, Machine};

/// CUDA version told unless the environment says otherwise, as the simulated driver does.
const DRIVER_VERSION: i32 = 13_000;
const DRIVER_RELEASE: &str = "580.159.04";
/// Handles are numbers from here on.
const FIRST_HANDLE: usize = 0x6e76_6d6c_0000;

static INITIALISED: Mutex<u32> = Mutex::new(0);

/// A GPU of the machine.
#[derive(Clone, Copy)]
pub struct Device {
    pub index: usize,
}

/// How the library misbehaves, by `VCUDA_FAKE_NVML`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    Usual,
    /// It can't be initialised, as where the driver isn't loaded.
    Absent,
    /// Processes are listed without their memory.
    NoProcessMemory,
    /// Processes are listed by ids that they don't know themselves by.
    HostPids,
}

/// The variant that the environment asks for.
pub fn variant() -> Variant {
    static VARIANT: OnceLock<Variant> = OnceLock::new();
    *VARIANT.get_or_init(|| match std::env::var("VCUDA_FAKE_NVML").as_deref() {
        Ok("absent") => Variant::Absent,
        Ok("no-process-memory") => Variant::NoProcessMemory,
        Ok("host-pids") => Variant::HostPids,
        Ok("") | Err(_) => Variant::Usual,
        Ok(other) => {
            eprintln!(
                "simulated NVML: VCUDA_FAKE_NVML: '{other}' left out; write absent, no-process-memory or host-pids"
            );
            Variant::Usual
        }
    })
}

/// Whether the GPU is lost at this time: its number is a line of the file that `VCUDA_FAKE_LOST` names.
fn is_lost(index: usize) -> bool {
    static FILE: OnceLock<Option<PathBuf>> = OnceLock::new();
    let file = FILE.get_or_init(|| std::env::var_os("VCUDA_FAKE_LOST").map(PathBuf::from));
    let text = file.as_ref().and_then(|path| std::fs::read_to_string(path).ok()).unwrap_or_default();
    text.lines().any(|line| line.trim().parse() == Ok(index))
}

/// The machine, opened when first asked for.
pub fn machine() -> Result<&'static Machine, NvmlError> {
    static MACHINE: OnceLock<Option<Machine>> = OnceLock::new();
    let machine = MACHINE.get_or_init(|| {
        Machine::from_environment().inspect_err(|error| eprintln!("simulated NVML: {error}")).ok()
    });
    machine.as_ref().ok_or(NvmlError::DRIVER_NOT_LOADED)
}

/// Fails unless the library is initialised.
pub fn check() -> NvmlResult {
    if *INITIALISED.lock() > 0 { Ok(()) } else { Err(NvmlError::UNINITIALIZED) }
}

impl FromC<nvmlDevice_t> for Device {
    unsafe fn from_c(value: nvmlDevice_t) -> Result<Device, NvmlError> {
        let index = value.0.wrapping_sub(FIRST_HANDLE);
        if index < machine()?.gpus().len() { Ok(Device { index }) } else { Err(NvmlError::INVALID_ARGUMENT) }
    }
}

impl Device {
    pub fn handle(self) -> nvmlDevice_t {
        nvmlDevice_t(FIRST_HANDLE + self.index)
    }

    pub fn gpu(self) -> Result<&'static Gpu, NvmlError> {
        if is_lost(self.index) {
            return Err(NvmlError::GPU_IS_LOST);
        }
        machine()?.gpus().get(self.index).ok_or(NvmlError::GPU_IS_LOST)
    }
}

pub fn initialise() -> NvmlResult {
    initialise_with_flags(0)
}

pub fn initialise_with_flags(_flags: u32) -> NvmlResult {
    if variant() == Variant::Absent {
        return Err(NvmlError::DRIVER_NOT_LOADED);
    }
    machine()?;
    *INITIALISED.lock() += 1;
    Ok(())
}

pub fn shut_down() -> NvmlResult {
    let mut count = INITIALISED.lock();
    *count = count.checked_sub(1).ok_or(NvmlError::UNINITIALIZED)?;
    Ok(())
}

pub fn cuda_version(out: Out<i32>) -> NvmlResult {
    let wanted = std::env::var("VCUDA_FAKE_DRIVER_VERSION").ok();
    out.set(wanted.and_then(|text| text.trim().parse().ok()).unwrap_or(DRIVER_VERSION));
    Ok(())
}

fn release() -> String {
    std::env::var("VCUDA_FAKE_DRIVER_RELEASE").unwrap_or_else(|_| DRIVER_RELEASE.to_owned())
}

pub fn driver_release(out: Out<c_char>, room: u32) -> NvmlResult {
    out.set_text(&release(), room)
}

pub fn library_release(out: Out<c_char>, room: u32) -> NvmlResult {
    out.set_text(&format!("13.{}", release()), room)
}

pub fn process_name(pid: u32, out: Out<c_char>, room: u32) -> NvmlResult {
    let path = std::fs::read_link(format!("/proc/{pid}/exe")).map_err(|_| NvmlError::NOT_FOUND)?;
    let path = path.to_string_lossy();
    let fitting: String = path.chars().take((room as usize).saturating_sub(1)).collect();
    out.set_text(&fitting, room)
}

/// The text that describes a result; it lives as long as the library.
pub fn describe(result: NvmlResult) -> *const c_char {
    static TEXTS: OnceLock<Vec<(u32, CString)>> = OnceLock::new();
    let texts = TEXTS.get_or_init(|| {
        let named = NvmlError::NAMED.iter().map(|&(error, name)| {
            let words = name.trim_start_matches("NVML_ERROR_").to_ascii_lowercase().replace('_', " ");
            (error.code(), words)
        });
        let all = std::iter::once((0, "success".to_owned())).chain(named);
        all.map(|(code, text)| (code, CString::new(text).unwrap_or_default())).collect()
    });
    let code = to_raw(result);
    let known = texts.iter().find(|(other, _)| *other == code);
    known.map_or(c"unknown error".as_ptr(), |(_, text)| text.as_ptr())
}
