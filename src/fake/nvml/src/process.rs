//! Lists of processes: who has how much of a GPU.

use crate::edge::Out;
use crate::library::{Device, Variant, machine, variant};
use crate::samples::wall_clock_us;
use parking_lot::Mutex;
use std::collections::HashMap;
use vcuda_driver::nvml::types::*;
use vcuda_driver::result::{NvmlError, NvmlResult};
use vcuda_fake_machine::{ProcessUse, now_ns};

/// With `VCUDA_FAKE_NVML=host-pids`, processes are listed by their id plus this.
const HOST_PID_OFFSET: u32 = 1_000_000;

fn users(device: Device) -> Result<Vec<ProcessUse>, NvmlError> {
    let mut users = machine()?.users(device.index);
    users.retain(|user| user.contexts > 0);
    Ok(users)
}

fn shown_pid(user: &ProcessUse) -> u32 {
    if variant() == Variant::HostPids { user.pid + HOST_PID_OFFSET } else { user.pid }
}

fn shown_bytes(user: &ProcessUse) -> u64 {
    if variant() == Variant::NoProcessMemory { NVML_VALUE_NOT_AVAILABLE } else { user.bytes.process }
}

/// Gives the entries, or says how much room they need.
fn give<T: Copy>(entries: &[T], count: &Out<u32>, room: Option<Out<T>>) -> NvmlResult {
    let available = count.get() as usize;
    count.set(entries.len() as u32);
    if entries.len() > available {
        return Err(NvmlError::INSUFFICIENT_SIZE);
    }
    let Some(room) = room else { return Ok(()) };
    for (index, &entry) in entries.iter().enumerate() {
        room.set_at(index, entry);
    }
    Ok(())
}

pub fn compute_v1(device: Device, count: Out<u32>, room: Option<Out<nvmlProcessInfo_v1_t>>) -> NvmlResult {
    let entry =
        |user: &ProcessUse| nvmlProcessInfo_v1_t { pid: shown_pid(user), usedGpuMemory: shown_bytes(user) };
    let entries: Vec<_> = users(device)?.iter().map(entry).collect();
    give(&entries, &count, room)
}

pub fn compute(device: Device, count: Out<u32>, room: Option<Out<nvmlProcessInfo_v2_t>>) -> NvmlResult {
    let entry = |user: &ProcessUse| nvmlProcessInfo_v2_t {
        pid: shown_pid(user),
        usedGpuMemory: shown_bytes(user),
        gpuInstanceId: NVML_INSTANCE_NOT_AVAILABLE,
        computeInstanceId: NVML_INSTANCE_NOT_AVAILABLE,
    };
    let entries: Vec<_> = users(device)?.iter().map(entry).collect();
    give(&entries, &count, room)
}

/// Nothing draws here, and nothing goes through a daemon.
pub fn none_v1(_device: Device, count: Out<u32>, room: Option<Out<nvmlProcessInfo_v1_t>>) -> NvmlResult {
    give(&[], &count, room)
}

/// As `none_v1`.
pub fn none(_device: Device, count: Out<u32>, room: Option<Out<nvmlProcessInfo_v2_t>>) -> NvmlResult {
    give(&[], &count, room)
}

pub fn details(device: Device, list: Out<nvmlProcessDetailList_v1_t>) -> NvmlResult {
    let mut wanted = list.get();
    if wanted.version != nvmlProcessDetailList_v1 {
        return Err(NvmlError::ARGUMENT_VERSION_MISMATCH);
    }
    let entry = |user: &ProcessUse| nvmlProcessDetail_v1_t {
        pid: shown_pid(user),
        usedGpuMemory: shown_bytes(user),
        gpuInstanceId: NVML_INSTANCE_NOT_AVAILABLE,
        computeInstanceId: NVML_INSTANCE_NOT_AVAILABLE,
        usedGpuCcProtectedMemory: 0,
    };
    let entries: Vec<_> = match wanted.mode {
        NVML_PROCESS_MODE_COMPUTE | NVML_PROCESS_MODE_ALL => users(device)?.iter().map(entry).collect(),
        NVML_PROCESS_MODE_GRAPHICS | NVML_PROCESS_MODE_MPS => Vec::new(),
        _ => return Err(NvmlError::INVALID_ARGUMENT),
    };
    let available = if wanted.procArray.is_null() { 0 } else { wanted.numProcArrayEntries as usize };
    wanted.numProcArrayEntries = entries.len() as u32;
    list.set(wanted);
    if entries.len() > available {
        return Err(NvmlError::INSUFFICIENT_SIZE);
    }
    if let Some(room) = Out::at(wanted.procArray) {
        for (index, entry) in entries.into_iter().enumerate() {
            room.set_at(index, entry);
        }
    }
    Ok(())
}

/// What was seen of a process before: when, and how long it had kept the GPU busy by then.
type Seen = HashMap<(usize, u32), (u64, u64)>;

/// Percent of the time since the last look that each process kept the GPU busy.
fn utilisations(device: Device) -> Result<Vec<(ProcessUse, u32)>, NvmlError> {
    static SEEN: Mutex<Option<Seen>> = Mutex::new(None);
    let now = now_ns();
    let mut seen = SEEN.lock();
    let seen = seen.get_or_insert_default();
    let share = |user: ProcessUse| {
        let (then, busy) = seen.insert((device.index, user.pid), (now, user.busy_ns)).unwrap_or((now, 0));
        let passed = now.saturating_sub(then).max(1);
        // At first sight there is no time to compare with: whoever worked at all is fully busy.
        let percent = user.busy_ns.saturating_sub(busy).saturating_mul(100) / passed;
        (user, percent.min(100) as u32)
    };
    Ok(users(device)?.into_iter().map(share).collect())
}

pub fn utilisation(
    device: Device,
    room: Option<Out<nvmlProcessUtilizationSample_t>>,
    count: Out<u32>,
    _last_seen_us: u64,
) -> NvmlResult {
    let Some(room) = room else {
        count.set(users(device)?.len() as u32);
        return Err(NvmlError::INSUFFICIENT_SIZE);
    };
    let sample = |(user, percent): &(ProcessUse, u32)| nvmlProcessUtilizationSample_t {
        pid: shown_pid(user),
        timeStamp: wall_clock_us(now_ns()),
        smUtil: *percent,
        memUtil: percent / 2,
        encUtil: 0,
        decUtil: 0,
    };
    let samples: Vec<_> = utilisations(device)?.iter().map(sample).collect();
    if samples.is_empty() {
        return Err(NvmlError::NOT_FOUND);
    }
    give(&samples, &count, Some(room))
}

pub fn utilisation_info(device: Device, list: Out<nvmlProcessesUtilizationInfo_v1_t>) -> NvmlResult {
    let mut wanted = list.get();
    if wanted.version != nvmlProcessesUtilizationInfo_v1 {
        return Err(NvmlError::ARGUMENT_VERSION_MISMATCH);
    }
    let Some(room) = Out::at(wanted.procUtilArray) else {
        wanted.processSamplesCount = users(device)?.len() as u32;
        list.set(wanted);
        return Err(NvmlError::INSUFFICIENT_SIZE);
    };
    let samples = utilisations(device)?;
    let available = wanted.processSamplesCount as usize;
    wanted.processSamplesCount = samples.len() as u32;
    list.set(wanted);
    if samples.len() > available {
        return Err(NvmlError::INSUFFICIENT_SIZE);
    }
    for (index, (user, percent)) in samples.iter().enumerate() {
        room.set_at(
            index,
            nvmlProcessUtilizationInfo_v1_t {
                timeStamp: wall_clock_us(now_ns()),
                pid: shown_pid(user),
                smUtil: *percent,
                memUtil: percent / 2,
                encUtil: 0,
                decUtil: 0,
                jpgUtil: 0,
                ofaUtil: 0,
            },
        );
    }
    Ok(())
}
