//! The management library's view of a limited GPU: its memory is the slice, its processes are the
//! container's own.
//!
//! Works in a process that never starts CUDA, such as `nvidia-smi`: then the control file is only looked
//! at, never created, and costs one open per question. How busy the GPU is, is told in
//! [`nvml_utilization`](crate::hook::nvml_utilization).

use crate::edge::Out;
use crate::leaked::Leaked;
use crate::live::Lookout;
use crate::part::control_path_to_read;
use crate::{container, driver, slice};
use parking_lot::Mutex;
use std::sync::Arc;
use vcuda_core::control::Control;
use vcuda_core::device::Uuid;
use vcuda_core::identity::pid_namespace_of_this_process;
use vcuda_core::limits::{DeviceLimits, Gpu, Limits};
use vcuda_core::snapshot::{ProcessView, Snapshot};
use vcuda_driver::nvml::types::*;
use vcuda_driver::result::{NvmlError, NvmlResult};

/// One limited GPU and what its slice holds.
struct View {
    limit_bytes: u64,
    used_bytes: u64,
    uuid: Uuid,
    snapshot: Option<Snapshot>,
}

/// A process of the container and its device memory.
struct Process {
    pid: u32,
    bytes: u64,
}

impl View {
    /// The container's processes that hold memory of this GPU, of the asker's PID namespace.
    fn processes(&self) -> Vec<Process> {
        let Some(snapshot) = &self.snapshot else { return Vec::new() };
        let Some(device) = snapshot.devices.iter().find(|device| device.uuid.bytes() == self.uuid.bytes())
        else {
            return Vec::new();
        };
        let holding = |process: &ProcessView| {
            let bytes = process.used_bytes(device.index);
            (bytes > 0).then_some(Process { pid: process.identity.pid, bytes })
        };
        visible(snapshot).filter_map(holding).collect()
    }
}

/// The container's processes that live, as far as the asker has a name for them.
pub fn visible(snapshot: &Snapshot) -> impl Iterator<Item = &ProcessView> {
    let here = pid_namespace_of_this_process();
    let is_visible =
        move |process: &&ProcessView| process.alive != Some(false) && process.identity.pid_namespace == here;
    snapshot.processes.iter().filter(is_visible)
}

/// The limits of the container's GPUs as a process knows them that need not use CUDA.
struct Known {
    gpus: Vec<Gpu>,
    /// By place in `gpus`.
    limits: Mutex<Vec<DeviceLimits>>,
    lookouts: Vec<(&'static Limits, Lookout)>,
}

/// The limits of the GPU `uuid` now.
fn limits_of(uuid: Uuid) -> Result<DeviceLimits, NvmlError> {
    static KNOWN: Leaked<Known> = Leaked::new();
    let known = match KNOWN.get() {
        Some(known) => known,
        None => {
            let limits = match slice::configured() {
                Ok(Some(limits)) => limits,
                Ok(None) => return Ok(DeviceLimits::default()),
                // Said by `cuInit` to programs that use the GPU; a monitor is refused the figures that would be wrong.
                Err(_) => return Err(NvmlError::NO_PERMISSION),
            };
            let gpus: Vec<Gpu> = container::managed().into_iter().map(|found| found.gpu).collect();
            let resolved = limits.resolve(&gpus).map_err(|_| NvmlError::NO_PERMISSION)?;
            let lookouts = limits.parts().iter().map(|part| (part, Lookout::new(part))).collect();
            KNOWN.publish(None, Known { gpus, limits: Mutex::new(resolved), lookouts })
        }
    };
    for (part, lookout) in known.lookouts.iter().filter(|(_, lookout)| lookout.is_due()) {
        let take = |limits: &Limits| {
            let resolved = limits.resolve(&known.gpus)?;
            let mut now = known.limits.lock();
            let gpus = known.gpus.iter().zip(now.iter_mut().zip(resolved));
            gpus.filter(|(gpu, _)| part.is_of(gpu.uuid)).for_each(|(_, (now, new))| *now = new);
            Ok(())
        };
        // A mistake in the file is told to programs that use the GPU.
        let _ = lookout.look(&take);
    }
    let place = known.gpus.iter().position(|gpu| gpu.uuid.bytes() == uuid.bytes());
    Ok(place.and_then(|place| known.limits.lock().get(place).copied()).unwrap_or_default())
}

/// The control file that the GPU `uuid` counts in, with what dead processes left taken out: this process's own, or
/// whatever is at its place.
pub fn control(uuid: Uuid) -> Option<Arc<Control>> {
    if let Some(slice) = slice::started() {
        slice.reap_if_due();
        return slice.part_of(uuid).map(|part| Arc::clone(&part.control));
    }
    let limits = slice::configured().ok()??.parts().iter().find(|part| part.is_of(uuid))?;
    let control = Control::open_existing(control_path_to_read(limits)).ok()?;
    // A file that this process may only read is cleaned by others.
    let _ = control.reap();
    Some(control)
}

/// A GPU that has a limit of some kind, and its limits; `None` where it has none or the management library doesn't
/// know the handle: then the answer is its own.
pub fn limited(device: nvmlDevice_t) -> Result<Option<(Uuid, DeviceLimits)>, NvmlError> {
    if slice::is_unlimited() {
        return Ok(None);
    }
    let Some(uuid) = driver::managed_device_uuid(device).ok().and_then(|text| text.parse::<Uuid>().ok())
    else {
        return Ok(None);
    };
    let limits = limits_of(uuid)?;
    Ok((limits.memory_bytes.is_some() || limits.share.is_some()).then_some((uuid, limits)))
}

/// The view of a GPU, with its processes if `with_processes`; `None` where its memory is not limited.
fn view(device: nvmlDevice_t, with_processes: bool) -> Result<Option<View>, NvmlError> {
    let Some((uuid, DeviceLimits { memory_bytes: Some(limit_bytes), .. })) = limited(device)? else {
        return Ok(None);
    };
    let snapshot = control(uuid).and_then(|control| control.snapshot().ok());
    let used_bytes = snapshot
        .iter()
        .flat_map(|snapshot| &snapshot.devices)
        .find(|device| device.uuid.bytes() == uuid.bytes())
        .map_or(0, |device| device.used_bytes);
    Ok(Some(View { limit_bytes, used_bytes, uuid, snapshot: snapshot.filter(|_| with_processes) }))
}

/// `nvmlDeviceGetMemoryInfo`.
pub fn memory(
    driver: impl Fn() -> NvmlResult,
    device: nvmlDevice_t,
    memory: Out<nvmlMemory_t>,
) -> NvmlResult {
    driver()?;
    if let Some(view) = view(device, false)? {
        let used = view.used_bytes.min(view.limit_bytes);
        memory.set(nvmlMemory_t { total: view.limit_bytes, free: view.limit_bytes - used, used });
    }
    Ok(())
}

/// `nvmlDeviceGetMemoryInfo_v2`.
pub fn memory_v2(
    driver: impl Fn() -> NvmlResult,
    device: nvmlDevice_t,
    memory: Out<nvmlMemory_v2_t>,
) -> NvmlResult {
    driver()?;
    if let (Some(view), Some(physical)) = (view(device, false)?, memory.get()) {
        let used = view.used_bytes.min(view.limit_bytes);
        let (total, free) = (view.limit_bytes, view.limit_bytes - used);
        memory.set(nvmlMemory_v2_t { total, reserved: 0, free, used, ..physical });
    }
    Ok(())
}

/// Writes a list of processes by the management library's protocol: the caller says how many fit and is
/// told how many there are.
fn write_list<T: Copy>(
    processes: &[Process],
    count: Out<u32>,
    list: Out<T>,
    entry: impl Fn(&Process) -> T,
) -> NvmlResult {
    let Some(room) = count.get() else { return Err(NvmlError::INVALID_ARGUMENT) };
    count.set(processes.len() as u32);
    if processes.is_empty() {
        return Ok(());
    }
    if list.is_null() || (room as usize) < processes.len() {
        return Err(NvmlError::INSUFFICIENT_SIZE);
    }
    list.fill(processes.iter().map(entry), room);
    Ok(())
}

fn entry_v1(process: &Process) -> nvmlProcessInfo_v1_t {
    nvmlProcessInfo_v1_t { pid: process.pid, usedGpuMemory: process.bytes }
}

fn entry(process: &Process) -> nvmlProcessInfo_t {
    const NO_INSTANCE: u32 = u32::MAX;
    nvmlProcessInfo_t {
        pid: process.pid,
        usedGpuMemory: process.bytes,
        gpuInstanceId: NO_INSTANCE,
        computeInstanceId: NO_INSTANCE,
    }
}

/// `nvmlDeviceGetComputeRunningProcesses` as first published.
pub fn processes_v1(
    driver: impl Fn() -> NvmlResult,
    device: nvmlDevice_t,
    count: Out<u32>,
    list: Out<nvmlProcessInfo_v1_t>,
) -> NvmlResult {
    match view(device, true)? {
        Some(view) => write_list(&view.processes(), count, list, entry_v1),
        None => driver(),
    }
}

/// `nvmlDeviceGetComputeRunningProcesses_v2` and `_v3`.
pub fn processes(
    driver: impl Fn() -> NvmlResult,
    device: nvmlDevice_t,
    count: Out<u32>,
    list: Out<nvmlProcessInfo_t>,
) -> NvmlResult {
    match view(device, true)? {
        Some(view) => write_list(&view.processes(), count, list, entry),
        None => driver(),
    }
}

/// Lists that hold none of the container's compute processes a second time: graphics, and MPS clients, which
/// are in the compute list as well.
pub fn no_processes_v1(
    driver: impl Fn() -> NvmlResult,
    device: nvmlDevice_t,
    count: Out<u32>,
    list: Out<nvmlProcessInfo_v1_t>,
) -> NvmlResult {
    match view(device, false)? {
        Some(_) => write_list(&[], count, list, entry_v1),
        None => driver(),
    }
}

/// As [`no_processes_v1`], for later versions.
pub fn no_processes(
    driver: impl Fn() -> NvmlResult,
    device: nvmlDevice_t,
    count: Out<u32>,
    list: Out<nvmlProcessInfo_t>,
) -> NvmlResult {
    match view(device, false)? {
        Some(_) => write_list(&[], count, list, entry),
        None => driver(),
    }
}

/// `nvmlDeviceGetRunningProcessDetailList`.
pub fn process_details(
    driver: impl Fn() -> NvmlResult,
    device: nvmlDevice_t,
    list: Out<nvmlProcessDetailList_t>,
) -> NvmlResult {
    const COMPUTE: u32 = 0;
    let Some(view) = view(device, true)? else { return driver() };
    let Some(mut asked) = list.get() else { return Err(NvmlError::INVALID_ARGUMENT) };
    let processes = if asked.mode == COMPUTE { view.processes() } else { Vec::new() };
    let room = asked.numProcArrayEntries;
    asked.numProcArrayEntries = processes.len() as u32;
    list.set(asked);
    if processes.is_empty() {
        return Ok(());
    }
    if asked.procArray.is_null() || (room as usize) < processes.len() {
        return Err(NvmlError::INSUFFICIENT_SIZE);
    }
    let detail = |process: &Process| nvmlProcessDetail_v1_t {
        pid: process.pid,
        usedGpuMemory: process.bytes,
        gpuInstanceId: u32::MAX,
        computeInstanceId: u32::MAX,
        usedGpuCcProtectedMemory: 0,
    };
    Out::of_caller(asked.procArray).fill(processes.iter().map(detail), room);
    Ok(())
}
