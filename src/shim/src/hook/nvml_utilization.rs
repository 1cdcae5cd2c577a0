//! The management library's view of how busy a GPU is: by the container, in percent of the whole GPU.
//!
//! Only where the container has a share of the GPU's time is its work measured, so without one the library's own
//! figures stand: the whole GPU's, and each process's. Either way no process outside the container is shown.
//!
//! Works in a process that never starts CUDA, like [`nvml`](crate::hook::nvml), by reading the control file.

use crate::edge::Out;
use crate::hash::WordMap;
use crate::hook::nvml::{control, limited, visible};
use parking_lot::Mutex;
use std::ffi::c_void;
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use vcuda_core::device::Uuid;
use vcuda_core::snapshot::{ComputeView, RECENT_NS};
use vcuda_driver::nvml::types::*;
use vcuda_driver::result::{NvmlError, NvmlResult};

fn percent(busy_ns: u64, passed_ns: u64) -> u32 {
    let rounded = busy_ns.saturating_mul(100).saturating_add(passed_ns / 2) / passed_ns.max(1);
    rounded.min(100) as u32
}

/// Microseconds since 1970, as samples are dated.
fn now_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_micros() as u64)
}

/// What the container lately did to a GPU that it has a share of; `None` if it has none.
fn shared(device: nvmlDevice_t) -> Result<Option<u32>, NvmlError> {
    let Some((uuid, limits)) = limited(device)? else { return Ok(None) };
    Ok(limits.share.map(|_| percent(compute(uuid).recent_busy_ns, RECENT_NS)))
}

/// What the control file says of a GPU's time; nothing yet, if there is none.
fn compute(uuid: Uuid) -> ComputeView {
    let read = || {
        let control = control(uuid)?;
        control.compute_view(control.find_device(uuid).ok()??).ok()
    };
    read().unwrap_or_default()
}

/// The part of `whole` that goes with `own` of `gpu` percent.
fn part(whole: u32, own: u32, gpu: u32) -> u32 {
    (whole.saturating_mul(own) / gpu.max(own).max(1)).min(100)
}

/// `nvmlDeviceGetUtilizationRates`. How busy the memory is, is known of the whole GPU only: the slice is given its
/// part of that.
pub fn rates(
    driver: impl Fn() -> NvmlResult,
    device: nvmlDevice_t,
    rates: Out<nvmlUtilization_t>,
) -> NvmlResult {
    driver()?;
    if let (Some(own), Some(whole)) = (shared(device)?, rates.get()) {
        rates.set(nvmlUtilization_t { gpu: own, memory: part(whole.memory, own, whole.gpu) });
    }
    Ok(())
}

/// `nvmlDeviceGetDynamicPstatesInfo`, which tells the same by domain.
pub fn domains(driver: impl Fn() -> NvmlResult, device: nvmlDevice_t, domains: Out<c_void>) -> NvmlResult {
    /// Flags; then for each domain whether it is there, percent, and two thresholds.
    type Domains = [u32; 33];
    driver()?;
    let domains = domains.seen_as::<Domains>();
    if let (Some(own), Some(mut told)) = (shared(device)?, domains.get()) {
        let [_, _, gpu, _, _, _, memory, ..] = &mut told;
        (*gpu, *memory) = (own, part(*memory, own, *gpu));
        domains.set(told);
    }
    Ok(())
}

/// `nvmlDeviceGetSamples`. Of how busy the GPU is there is one sample: the container's, of the last tenth of a
/// second. Of what else is sampled, the whole GPU's are passed on.
pub fn samples(
    driver: impl Fn() -> NvmlResult,
    device: nvmlDevice_t,
    kind: nvmlSamplingType_t,
    last_seen_us: u64,
    value_type: Out<nvmlValueType_t>,
    count: Out<u32>,
    samples: Out<c_void>,
) -> NvmlResult {
    /// When, and how much.
    type Sample = [u64; 2];
    let room = count.get().unwrap_or(0);
    // Also says how much room samples need, and refuses what is wrong.
    let told = driver();
    let is_told = matches!(told, Ok(()) | Err(NvmlError::NOT_FOUND));
    if kind != NVML_GPU_UTILIZATION_SAMPLES || samples.is_null() || room == 0 || !is_told {
        return told;
    }
    let Some(own) = shared(device)? else { return told };
    let samples = samples.seen_as::<Sample>();
    if told.is_ok() {
        // The whole GPU's.
        let written = count.get().map_or(0, |written| written.min(room));
        samples.fill((0..written).map(|_| Sample::default()), written);
    }
    let now_us = now_us();
    let is_new = now_us > last_seen_us;
    count.set(u32::from(is_new));
    if !is_new {
        return Err(NvmlError::NOT_FOUND);
    }
    value_type.set(NVML_VALUE_TYPE_UNSIGNED_INT);
    samples.set([now_us, u64::from(own)]);
    Ok(())
}

/// A process of the container and for how much of the time it kept the GPU busy.
struct Worker {
    pid: u32,
    percent: u32,
}

/// What was known of a process when it was last looked at.
#[derive(Clone, Copy)]
struct Seen {
    at: Instant,
    busy_ns: u64,
    percent: u32,
}

/// Processes that were looked at before, by GPU and id.
static SEEN: Mutex<Option<WordMap<(usize, u32), Seen>>> = Mutex::new(None);

/// The container's processes that use a GPU, of the asker's PID namespace: how busy each kept it since it was last
/// looked at, or, at first sight, its part of what all did lately.
fn workers(uuid: Uuid) -> Vec<Worker> {
    let Some(snapshot) = control(uuid).and_then(|control| control.snapshot().ok()) else { return Vec::new() };
    let Some(device) = snapshot.devices.iter().find(|device| device.uuid.bytes() == uuid.bytes()) else {
        return Vec::new();
    };
    let (index, now) = (device.index.get(), Instant::now());
    let busy: Vec<(u32, u64)> = visible(&snapshot)
        .filter_map(|process| {
            let held = process.devices.iter().find(|held| held.device == device.index)?;
            Some((process.identity.pid, held.busy_ns))
        })
        .collect();
    let together_ns = busy.iter().map(|&(_, busy_ns)| busy_ns).sum::<u64>().max(1);
    let mut seen = SEEN.lock();
    let seen = seen.get_or_insert_default();
    seen.retain(|&(gpu, pid), _| gpu != index || busy.iter().any(|&(living, _)| living == pid));
    let look = |(pid, busy_ns): (u32, u64)| {
        let before = seen.get(&(index, pid)).filter(|before| before.busy_ns <= busy_ns).copied();
        let passed_ns = before.map_or(0, |before| now.duration_since(before.at).as_nanos() as u64);
        let percent = match before {
            // Work counts when it was measured: of too short a time there is nothing to say.
            Some(before) if passed_ns < RECENT_NS => return Worker { pid, percent: before.percent },
            Some(before) => percent(busy_ns - before.busy_ns, passed_ns),
            None => {
                let lately = u128::from(device.compute.recent_busy_ns) * u128::from(busy_ns);
                percent((lately / u128::from(together_ns)) as u64, RECENT_NS)
            }
        };
        seen.insert((index, pid), Seen { at: now, busy_ns, percent });
        Worker { pid, percent }
    };
    busy.into_iter().map(look).collect()
}

/// What is told of one process.
trait ProcessSample: Copy + Default {
    fn pid(&self) -> u32;
    /// The same process, as the container's own record has it.
    fn with(self, worker: &Worker, now_us: u64) -> Self;
}

macro_rules! process_samples {
    ($($type:ident)*) => { $(
        impl ProcessSample for $type {
            fn pid(&self) -> u32 {
                self.pid
            }
            fn with(self, worker: &Worker, now_us: u64) -> Self {
                $type { pid: worker.pid, timeStamp: now_us, smUtil: worker.percent, ..self }
            }
        }
    )* };
}

process_samples! { nvmlProcessUtilizationSample_t nvmlProcessUtilizationInfo_v1_t }

/// Where a program has samples of processes written.
struct Room<S> {
    samples: Out<S>,
    /// How many fit.
    count: u32,
    last_seen_us: u64,
}

/// Leaves the container's own of the samples that the library `told`, each with what the container itself knows better;
/// returns how many there are. `None` if the library's answer stands as it is.
fn own_samples<S: ProcessSample>(
    device: nvmlDevice_t,
    told: Result<u32, NvmlError>,
    room: &Room<S>,
) -> Result<Option<u32>, NvmlError> {
    let Some((uuid, limits)) = limited(device)? else { return Ok(None) };
    let given = match told {
        Ok(given) => room.samples.values(given.min(room.count) as usize),
        Err(NvmlError::NOT_FOUND | NvmlError::INSUFFICIENT_SIZE) => Vec::new(),
        Err(_) => return Ok(None),
    };
    let workers = workers(uuid);
    let own: Vec<S> = if limits.share.is_some() {
        let now_us = now_us();
        let told_of = |pid| given.iter().find(|sample| sample.pid() == pid).copied().unwrap_or_default();
        let sample = |worker: &Worker| told_of(worker.pid).with(worker, now_us);
        workers.iter().filter(|_| now_us > room.last_seen_us).map(sample).collect()
    } else if told.is_ok() {
        let is_own = |sample: &&S| workers.iter().any(|worker| worker.pid == sample.pid());
        given.iter().filter(is_own).copied().collect()
    } else {
        return Ok(None);
    };
    if !room.samples.is_null() && own.len() <= room.count as usize {
        // Nothing of the others stays behind.
        let rest = given.len().saturating_sub(own.len());
        let all = own.iter().copied().chain((0..rest).map(|_| S::default()));
        room.samples.fill(all, room.count);
    }
    Ok(Some(own.len() as u32))
}

/// What the library says to a program that has room for `room` samples (none without a place) when there are `count`.
fn answer(count: u32, room: u32, has_place: bool) -> NvmlResult {
    match count {
        0 if has_place => Err(NvmlError::NOT_FOUND),
        _ if !has_place || count > room => Err(NvmlError::INSUFFICIENT_SIZE),
        _ => Ok(()),
    }
}

/// `nvmlDeviceGetProcessUtilization`.
pub fn processes(
    driver: impl Fn() -> NvmlResult,
    device: nvmlDevice_t,
    samples: Out<nvmlProcessUtilizationSample_t>,
    count: Out<u32>,
    last_seen_us: u64,
) -> NvmlResult {
    let room = Room { samples, count: count.get().unwrap_or(0), last_seen_us };
    let told = driver();
    match own_samples(device, told.map(|()| count.get().unwrap_or(0)), &room)? {
        Some(own) => {
            count.set(own);
            answer(own, room.count, !samples.is_null())
        }
        None => told,
    }
}

/// `nvmlDeviceGetProcessesUtilizationInfo`.
pub fn processes_info(
    driver: impl Fn() -> NvmlResult,
    device: nvmlDevice_t,
    list: Out<nvmlProcessesUtilizationInfo_v1_t>,
) -> NvmlResult {
    let Some(asked) = list.get() else { return driver() };
    let room = Room {
        samples: Out::of_caller(asked.procUtilArray),
        count: asked.processSamplesCount,
        last_seen_us: asked.lastSeenTimeStamp,
    };
    let told = driver();
    let given = told.map(|()| list.get().map_or(0, |list| list.processSamplesCount));
    match own_samples(device, given, &room)? {
        Some(own) => {
            list.set(nvmlProcessesUtilizationInfo_v1_t { processSamplesCount: own, ..asked });
            answer(own, room.count, !asked.procUtilArray.is_null())
        }
        None => told,
    }
}
