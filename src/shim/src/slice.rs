//! This process's part of the slice: which limits hold here, its part of each control file, and one quota per limited
//! device.
//!
//! Comes into being in `cuInit` and lasts as long as the process. Without limits there is none, and every
//! hook lets its calls pass. With limits that can't be put into force there is none either, and every hook
//! refuses: a program is never left silently unlimited. A forked child makes its own.

mod making;
mod standing;
mod start_error;

pub use standing::{configured, current, is_unlimited, look_at_limits, reap, start, started};
pub use start_error::StartError;

use crate::compute::{Directory, Pace};
use crate::graph_memory::AllocatingGraphs;
use crate::hash::{WordMap, WordSet};
use crate::ledger::Ledger;
use crate::part::Part;
use crate::physical_memory::PhysicalMemory;
use crate::pool::PoolDirectory;
use crate::quota::{InFlight, Quota};
use crate::{driver, log, mode};
use parking_lot::Mutex;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};
use vcuda_core::device::Uuid;
use vcuda_core::limits::{Gpu, Limits, LimitsError};
use vcuda_driver::cuda::types::{CUcontext, CUdevice, CUstream};
use vcuda_driver::result::CUerror;

/// How often answers about free memory look for processes that have died.
const REAP_INTERVAL: Duration = Duration::from_millis(250);

/// The limits in force in this process.
pub struct Slice {
    /// One for each control file that this process counts in: of all GPUs, or of a share each.
    parts: Vec<Part>,
    /// The GPUs of the container, against which limits are resolved.
    gpus: Vec<Gpu>,
    /// By ordinal: where in `gpus` the device is.
    places: Vec<Option<usize>>,
    /// By ordinal; `None` for a device without a memory limit.
    quotas: Vec<Option<Quota>>,
    /// By ordinal; `None` for a device of whose time nothing is told.
    paces: Vec<Option<Pace>>,
    /// Streams that were given work on devices with a compute share.
    pub streams: Directory,
    last_reap: Mutex<Option<Instant>>,
    /// What this process holds, allocation by allocation.
    pub ledger: Ledger,
    /// Functions, kernels and variables that the program was given, by handle or address.
    pub loaded: Mutex<WordSet<u64>>,
    /// The contexts that this process made on limited devices, primary ones apart.
    pub contexts: Mutex<WordMap<CUcontext, CUdevice>>,
    /// The memory pools of this process.
    pub pools: PoolDirectory,
    /// Live large blocks of pools, of those that are in the ledger.
    pub large_pool_blocks: AtomicU64,
    /// The physical allocations of this process and where they are mapped.
    pub physical: PhysicalMemory,
    /// Executable graphs that allocate.
    pub graphs: AllocatingGraphs,
    /// Whether this process may be put aside when idle.
    has_idle_release: bool,
    /// Live allocations of managed memory.
    pub managed: Mutex<i64>,
}

impl Slice {
    /// Where this process counts.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// Where what is done on the GPU `uuid` counts.
    pub fn part_of(&self, uuid: Uuid) -> Option<&Part> {
        self.parts.iter().find(|part| part.is_of(uuid))
    }

    /// The quota of a device; `None` if it has no limit.
    pub fn quota(&self, device: CUdevice) -> Option<&Quota> {
        self.quotas.get(usize::try_from(device).ok()?)?.as_ref()
    }

    /// The quota of the calling thread's current device; `None` if that has no limit.
    pub fn current_quota(&self) -> Result<Option<&Quota>, CUerror> {
        Ok(self.quota(driver::current_device()?))
    }

    /// The quota of the device that a stream belongs to; `None` if that has no limit.
    pub fn stream_quota(&self, stream: CUstream) -> Result<Option<&Quota>, CUerror> {
        // Where there is one device it is the stream's.
        if let [only] = self.quotas.as_slice() {
            return Ok(only.as_ref());
        }
        Ok(self.quota(driver::stream_device(stream)?))
    }

    /// All quotas.
    pub fn quotas(&self) -> impl Iterator<Item = &Quota> {
        self.quotas.iter().flatten()
    }

    /// The compute share of a device; `None` if it has none.
    pub fn pace(&self, device: CUdevice) -> Option<&Pace> {
        self.pace_at(usize::try_from(device).ok()?)
    }

    /// As [`Slice::pace`], by place in the program's order.
    pub fn pace_at(&self, position: usize) -> Option<&Pace> {
        self.paces.get(position)?.as_ref()
    }

    /// All compute shares.
    pub fn paces(&self) -> impl Iterator<Item = &Pace> {
        self.paces.iter().flatten()
    }

    /// Marks a call under way on every limited device: which one it concerns is known only afterwards.
    pub fn begin_everywhere(&self) -> Vec<InFlight<'_>> {
        self.quotas().map(Quota::begin).collect()
    }

    /// Measures every limited device now.
    pub fn measure_everywhere(&self) {
        self.quotas().for_each(Quota::measure);
    }

    /// Has the next launch measure every limited device.
    pub fn mark_stale_everywhere(&self) {
        self.quotas().for_each(Quota::mark_stale);
    }

    /// Measures the devices on which something unasked may have happened, each if its last time is long
    /// enough ago.
    pub fn measure_stale(&self) {
        mode::clear_pending();
        for quota in self.quotas().filter(|quota| quota.is_stale()) {
            if quota.truth.is_due() { quota.measure() } else { mode::set_pending() }
        }
    }

    /// Puts other limits into force as far as that can be done in a running process: a limit can be changed and taken
    /// away. What a process held and ran before there was any is not known, so a limit of a sort that a device did not
    /// have when the process started holds for later ones.
    fn take(&self, part: &Part, limits: &Limits) -> Result<(), LimitsError> {
        let limits_here = limits.resolve(&self.gpus)?;
        let devices = self.places.iter().zip(self.quotas.iter().zip(&self.paces)).enumerate();
        for (ordinal, (place, (quota, pace))) in devices {
            let here = place.and_then(|place| self.gpus.get(place).zip(limits_here.get(place)));
            let Some((_, limits)) = here.filter(|(gpu, _)| part.is_of(gpu.uuid)) else { continue };
            if let Some(quota) = quota {
                quota.set_limit_bytes(limits.memory_bytes);
            }
            if let Some(pace) = pace {
                pace.set(limits.share, limits.sharing);
            }
            if quota.is_none() && limits.memory_bytes.is_some() || pace.is_none() && limits.sharing.is_some()
            {
                log::warning!(
                    "device {ordinal} has a limit now of a sort that it had not when this program started: it holds for \
                     programs started from now on"
                );
            }
        }
        self.change_idle_release(limits.idle_release);
        // For the tools; lost with the file, which every charge reports.
        let _ = part.slot.note_limits(limits.digest());
        Ok(())
    }

    /// Takes over what dead processes left, unless that was done a moment ago. True if it gave something
    /// back.
    pub fn reap_if_due(&self) -> bool {
        {
            let Some(mut last) = self.last_reap.try_lock() else { return false };
            if last.is_some_and(|last| last.elapsed() < REAP_INTERVAL) {
                return false;
            }
            *last = Some(Instant::now());
        }
        self.reap().0 > 0
    }

    /// Takes over what dead processes left: how many pages, and how many processes are being torn down just now.
    fn reap(&self) -> (u64, u32) {
        let reaped = self.parts.iter().filter_map(|part| part.control.reap().ok());
        reaped.fold((0, 0), |(pages, dying), reaped| (pages + reaped.pages, dying + reaped.dying))
    }
}
