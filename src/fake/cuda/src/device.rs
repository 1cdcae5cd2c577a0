//! Devices: which GPUs the program sees, in which order, and what they say about themselves.

use crate::attributes;
use crate::driver::driver;
use crate::edge::{Out, Text};
use crate::graph_memory::GraphMemory;
use crate::primary::Primary;
use parking_lot::Mutex;
use std::ffi::c_char;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use vcuda_driver::cuda::types::{CUdevice, CUdevice_attribute, CUdevprop, CUuuid};
use vcuda_driver::result::{CUerror, CUresult};
use vcuda_fake_machine::{Bytes, Gpu, Member};

/// A GPU as this program sees it.
pub struct Device {
    /// Its number for this program.
    pub ordinal: usize,
    /// Its number in the machine.
    pub gpu: usize,
    pub primary: Mutex<Primary>,
    /// Handle of the pool that comes with the device; 0 until it is asked for.
    pub default_pool: AtomicUsize,
    /// Handle of the pool that allocations without one come from; 0: the default one.
    pub current_pool: AtomicUsize,
    pub graph_memory: Mutex<GraphMemory>,
}

impl Device {
    fn new(ordinal: usize, gpu: usize) -> Device {
        Device {
            ordinal,
            gpu,
            primary: Mutex::new(Primary::new()),
            default_pool: AtomicUsize::new(0),
            current_pool: AtomicUsize::new(0),
            graph_memory: Mutex::new(GraphMemory::new()),
        }
    }

    /// The GPU itself.
    pub fn facts(&self) -> &'static Gpu {
        &driver().member.gpus()[self.gpu]
    }

    /// Takes memory, put down to the process.
    pub fn take(&self, bytes: u64) -> CUresult {
        self.take_as(Bytes::of_process(bytes))
    }

    /// Takes memory.
    pub fn take_as(&self, bytes: Bytes) -> CUresult {
        driver().member.take(self.gpu, bytes).map_err(|_| CUerror::OUT_OF_MEMORY)
    }

    /// Gives memory back that was put down to the process.
    pub fn give(&self, bytes: u64) {
        self.give_as(Bytes::of_process(bytes));
    }

    /// Gives memory back.
    pub fn give_as(&self, bytes: Bytes) {
        driver().member.give(self.gpu, bytes);
    }
}

/// The GPUs that `CUDA_VISIBLE_DEVICES` leaves, in its order: numbers and beginnings of UUIDs, up to the
/// first that names no GPU. A GPU named twice leaves none at all.
pub fn visible(member: &Member, wanted: Option<&str>) -> Vec<Device> {
    let gpus = member.gpus();
    let Some(wanted) = wanted else {
        return (0..gpus.len()).map(|gpu| Device::new(gpu, gpu)).collect();
    };
    let uuids: Vec<String> = gpus.iter().map(Gpu::uuid_text).collect();
    let mut chosen: Vec<usize> = Vec::new();
    for name in wanted.split(',').map(str::trim) {
        let Some(gpu) = find_by_name(name, &uuids) else { break };
        if chosen.contains(&gpu) {
            return Vec::new();
        }
        chosen.push(gpu);
    }
    chosen.into_iter().enumerate().map(|(ordinal, gpu)| Device::new(ordinal, gpu)).collect()
}

fn find_by_name(name: &str, uuids: &[String]) -> Option<usize> {
    if let Ok(index) = name.parse::<usize>() {
        return (index < uuids.len()).then_some(index);
    }
    if !name.starts_with("GPU-") {
        return None;
    }
    let mut fitting = uuids.iter().enumerate().filter(|(_, uuid)| uuid.starts_with(name));
    match (fitting.next(), fitting.next()) {
        (Some((index, _)), None) => Some(index),
        _ => None,
    }
}

pub fn count(count: Out<i32>) -> CUresult {
    count.set(driver().devices.len() as i32);
    Ok(())
}

pub fn get(device: Out<CUdevice>, ordinal: i32) -> CUresult {
    driver().device(ordinal)?;
    device.set(ordinal);
    Ok(())
}

pub fn name(name: Out<c_char>, room: i32, device: CUdevice) -> CUresult {
    let device = driver().device(device)?;
    name.set_text(device.facts().name(), usize::try_from(room).map_err(|_| CUerror::INVALID_VALUE)?);
    Ok(())
}

pub fn uuid(uuid: Out<CUuuid>, device: CUdevice) -> CUresult {
    uuid.set(CUuuid { bytes: driver().device(device)?.facts().uuid });
    Ok(())
}

pub fn total_memory(bytes: Out<usize>, device: CUdevice) -> CUresult {
    bytes.set(driver().device(device)?.facts().total_bytes as usize);
    Ok(())
}

/// Before CUDA 3.2, memory was counted in 32 bits.
pub fn total_memory_v1(bytes: Out<u32>, device: CUdevice) -> CUresult {
    bytes.set(driver().device(device)?.facts().total_bytes.try_into().unwrap_or(u32::MAX));
    Ok(())
}

pub fn attribute(value: Out<i32>, attribute: CUdevice_attribute, device: CUdevice) -> CUresult {
    let device = driver().device(device)?;
    value.set(attributes::of_gpu(device.facts(), attribute).ok_or(CUerror::INVALID_VALUE)?);
    Ok(())
}

pub fn compute_capability(major: Out<i32>, minor: Out<i32>, device: CUdevice) -> CUresult {
    let facts = driver().device(device)?.facts();
    major.set(facts.compute_major as i32);
    minor.set(facts.compute_minor as i32);
    Ok(())
}

pub fn properties(properties: Out<CUdevprop>, device: CUdevice) -> CUresult {
    let facts = driver().device(device)?.facts();
    let ask = |attribute| attributes::of_gpu(facts, attribute).unwrap_or(0);
    properties.set(CUdevprop {
        maxThreadsPerBlock: ask(1),
        maxThreadsDim: [ask(2), ask(3), ask(4)],
        maxGridSize: [ask(5), ask(6), ask(7)],
        sharedMemPerBlock: ask(8),
        totalConstantMemory: ask(9),
        SIMDWidth: ask(10),
        memPitch: ask(11),
        regsPerBlock: ask(12),
        clockRate: ask(13),
        textureAlign: ask(14),
    });
    Ok(())
}

pub fn pci_bus_id(text: Out<c_char>, room: i32, device: CUdevice) -> CUresult {
    let device = driver().device(device)?;
    text.set_text(&pci_text(device.facts()), usize::try_from(room).map_err(|_| CUerror::INVALID_VALUE)?);
    Ok(())
}

pub fn by_pci_bus_id(device: Out<CUdevice>, text: Text) -> CUresult {
    let wanted = text.0.to_ascii_lowercase();
    let found = driver().devices.iter().find(|device| {
        let full = pci_text(device.facts());
        full == wanted || full.trim_start_matches("0000:") == wanted || full.trim_end_matches(".0") == wanted
    });
    device.set(found.ok_or(CUerror::INVALID_DEVICE)?.ordinal as CUdevice);
    Ok(())
}

fn pci_text(gpu: &Gpu) -> String {
    format!("0000:{:02x}:00.0", gpu.pci_bus)
}

pub fn can_access_peer(can: Out<i32>, device: CUdevice, peer: CUdevice) -> CUresult {
    driver().device(device)?;
    driver().device(peer)?;
    can.set(i32::from(device != peer));
    Ok(())
}

/// Performance rank, access, native atomics, arrays: all alike between simulated GPUs.
pub fn peer_attribute(value: Out<i32>, attribute: u32, device: CUdevice, peer: CUdevice) -> CUresult {
    driver().device(device)?;
    driver().device(peer)?;
    if device == peer {
        return Err(CUerror::INVALID_DEVICE);
    }
    value.set(match attribute {
        1 => 0,
        2..=4 => 1,
        _ => return Err(CUerror::INVALID_VALUE),
    });
    Ok(())
}

/// Only the number of multiprocessors can be asked for.
pub fn exec_affinity_support(supported: Out<i32>, kind: u32, device: CUdevice) -> CUresult {
    driver().device(device)?;
    supported.set(i32::from(kind == 0));
    Ok(())
}

pub fn texture_1d_linear_width(width: Out<usize>, format: u32, channels: u32, device: CUdevice) -> CUresult {
    driver().device(device)?;
    let element = crate::format::element_bytes(format, channels).ok_or(CUerror::INVALID_VALUE)?;
    width.set((1 << 30) / element as usize);
    Ok(())
}

impl Device {
    /// Handle of the pool that allocations without one come from.
    pub fn current_pool_handle(&self) -> usize {
        self.current_pool.load(Relaxed)
    }
}
