//! What GPUs say about themselves.

use crate::edge::{Out, Text};
use crate::library::{Device, machine};
use std::ffi::c_char;
use std::sync::atomic::Ordering::Relaxed;
use vcuda_driver::nvml::types::*;
use vcuda_driver::result::{NvmlError, NvmlResult};
use vcuda_fake_machine::Gpu;

/// An H200's identifiers on the PCI bus.
const PCI_DEVICE: u32 = 0x2335_10de;
const PCI_SUBSYSTEM: u32 = 0x18be_10de;

pub fn count(out: Out<u32>) -> NvmlResult {
    out.set(machine()?.gpus().len() as u32);
    Ok(())
}

pub fn by_index(index: u32, out: Out<nvmlDevice_t>) -> NvmlResult {
    let index = index as usize;
    if index >= machine()?.gpus().len() {
        return Err(NvmlError::INVALID_ARGUMENT);
    }
    let device = Device { index };
    device.gpu()?;
    out.set(device.handle());
    Ok(())
}

fn find(out: &Out<nvmlDevice_t>, is_it: impl Fn(&Gpu) -> bool) -> NvmlResult {
    let index = machine()?.gpus().iter().position(is_it).ok_or(NvmlError::NOT_FOUND)?;
    out.set(Device { index }.handle());
    Ok(())
}

pub fn by_uuid(uuid: Text, out: Out<nvmlDevice_t>) -> NvmlResult {
    find(&out, |gpu| gpu.uuid_text() == uuid.0)
}

pub fn by_pci_bus_id(text: Text, out: Out<nvmlDevice_t>) -> NvmlResult {
    let wanted = text.0.to_ascii_lowercase();
    find(&out, |gpu| {
        let full = pci_text(gpu);
        // The domain may be written with four digits, with eight, or not at all.
        full == wanted || full[4..] == wanted || full["00000000:".len()..] == wanted
    })
}

pub fn index(device: Device, out: Out<u32>) -> NvmlResult {
    out.set(device.index as u32);
    Ok(())
}

pub fn name(device: Device, out: Out<c_char>, room: u32) -> NvmlResult {
    out.set_text(device.gpu()?.name(), room)
}

pub fn uuid(device: Device, out: Out<c_char>, room: u32) -> NvmlResult {
    out.set_text(&device.gpu()?.uuid_text(), room)
}

fn pci_text(gpu: &Gpu) -> String {
    format!("00000000:{:02x}:00.0", gpu.pci_bus)
}

fn padded<const N: usize>(text: &str) -> [u8; N] {
    let mut bytes = [0; N];
    for (to, from) in bytes.iter_mut().take(N - 1).zip(text.bytes()) {
        *to = from;
    }
    bytes
}

pub fn pci(device: Device, out: Out<nvmlPciInfo_t>) -> NvmlResult {
    let gpu = device.gpu()?;
    let text = pci_text(gpu).to_ascii_uppercase();
    out.set(nvmlPciInfo_t {
        busIdLegacy: padded(&text[4..]),
        domain: 0,
        bus: gpu.pci_bus,
        device: 0,
        pciDeviceId: PCI_DEVICE,
        pciSubSystemId: PCI_SUBSYSTEM,
        busId: padded(&text),
    });
    Ok(())
}

pub fn memory(device: Device, out: Out<nvmlMemory_t>) -> NvmlResult {
    machine()?.reap();
    let gpu = device.gpu()?;
    let used = gpu.used_bytes.load(Relaxed);
    let total = gpu.total_bytes + gpu.reserved_bytes;
    out.set(nvmlMemory_t {
        total,
        free: gpu.total_bytes.saturating_sub(used),
        used: used + gpu.reserved_bytes,
    });
    Ok(())
}

pub fn memory_v2(device: Device, out: Out<nvmlMemory_v2_t>) -> NvmlResult {
    if out.get().version != nvmlMemory_v2 {
        return Err(NvmlError::ARGUMENT_VERSION_MISMATCH);
    }
    machine()?.reap();
    let gpu = device.gpu()?;
    let used = gpu.used_bytes.load(Relaxed);
    out.set(nvmlMemory_v2_t {
        version: nvmlMemory_v2,
        total: gpu.total_bytes + gpu.reserved_bytes,
        reserved: gpu.reserved_bytes,
        free: gpu.total_bytes.saturating_sub(used),
        used,
    });
    Ok(())
}

/// A window as large as the memory, of which contexts use a little.
pub fn bar1(device: Device, out: Out<nvmlBAR1Memory_t>) -> NvmlResult {
    let total = device.gpu()?.total_bytes.next_power_of_two();
    let used = 2 << 20;
    out.set(nvmlBAR1Memory_t { bar1Total: total, bar1Free: total - used, bar1Used: used });
    Ok(())
}

pub fn utilisation(device: Device, out: Out<nvmlUtilization_t>) -> NvmlResult {
    let gpu = machine()?.utilisation_percent(device.index);
    out.set(nvmlUtilization_t { gpu, memory: gpu / 2 });
    Ok(())
}

pub fn compute_capability(device: Device, major: Out<i32>, minor: Out<i32>) -> NvmlResult {
    let gpu = device.gpu()?;
    major.set(gpu.compute_major as i32);
    minor.set(gpu.compute_minor as i32);
    Ok(())
}

/// NVML's number of the architecture.
pub fn architecture(device: Device, out: Out<u32>) -> NvmlResult {
    let gpu = device.gpu()?;
    out.set(match (gpu.compute_major, gpu.compute_minor) {
        (7, 5) => 6,
        (8, 9) => 8,
        (8, _) => 7,
        _ => 9,
    });
    Ok(())
}

pub fn core_count(device: Device, out: Out<u32>) -> NvmlResult {
    out.set(device.gpu()?.multiprocessors * 128);
    Ok(())
}

/// No MIG: off now and after the next reset.
pub fn mig_mode(_device: Device, current: Out<u32>, pending: Out<u32>) -> NvmlResult {
    current.set(NVML_FEATURE_DISABLED);
    pending.set(NVML_FEATURE_DISABLED);
    Ok(())
}

pub fn ecc_mode(device: Device, current: Out<u32>, pending: Out<u32>) -> NvmlResult {
    mig_mode(device, current, pending)?;
    Ok(())
}

pub fn is_mig_handle(_device: Device, out: Out<u32>) -> NvmlResult {
    out.set(0);
    Ok(())
}

pub fn enabled(_device: Device, out: Out<u32>) -> NvmlResult {
    out.set(NVML_FEATURE_ENABLED);
    Ok(())
}

pub fn zero(_device: Device, out: Out<u32>) -> NvmlResult {
    out.set(0);
    Ok(())
}

/// Degrees Celsius.
pub fn temperature(_device: Device, sensor: u32, out: Out<u32>) -> NvmlResult {
    if sensor != 0 {
        return Err(NvmlError::INVALID_ARGUMENT);
    }
    out.set(40);
    Ok(())
}

/// Milliwatts: more when busy.
pub fn power(device: Device, out: Out<u32>) -> NvmlResult {
    out.set(80_000 + 6_000 * machine()?.utilisation_percent(device.index));
    Ok(())
}

pub fn power_limit(_device: Device, out: Out<u32>) -> NvmlResult {
    out.set(700_000);
    Ok(())
}

pub fn power_limits(_device: Device, least: Out<u32>, most: Out<u32>) -> NvmlResult {
    least.set(200_000);
    most.set(700_000);
    Ok(())
}

/// Megahertz: memory's clock is another one.
pub fn clock(_device: Device, kind: u32, out: Out<u32>) -> NvmlResult {
    out.set(match kind {
        0 | 1 | 3 => 1980,
        2 => 3201,
        _ => return Err(NvmlError::INVALID_ARGUMENT),
    });
    Ok(())
}

pub fn bus_width(_device: Device, out: Out<u32>) -> NvmlResult {
    out.set(6016);
    Ok(())
}

pub fn board_serial(device: Device, out: Out<c_char>, room: u32) -> NvmlResult {
    out.set_text(&format!("{:013}", 1_650_000_000_000_u64 + device.index as u64), room)
}

pub fn vbios(_device: Device, out: Out<c_char>, room: u32) -> NvmlResult {
    out.set_text("96.00.00.00.01", room)
}

/// Between two GPUs, everything works; of one with itself, nothing is asked.
pub fn peer_status(_one: Device, _other: Device, _capability: u32, out: Out<u32>) -> NvmlResult {
    out.set(0);
    Ok(())
}

/// All on one host bridge.
pub fn common_ancestor(_one: Device, _other: Device, out: Out<u32>) -> NvmlResult {
    out.set(30);
    Ok(())
}
