//! Who holds what, for people and tools: one reading of the whole file.
//!
//! Owns the views and nothing in the file. It must never write, and never wait for writers: a reading taken while they
//! work is made consistent by trying again, and is taken as it is when they do not pause.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![deny(clippy::arithmetic_side_effects)]

use std::path::PathBuf;

use crate::abi::{self, ControlFile, UNLIMITED};
use crate::aside;
use crate::atomic::Ordering;
use crate::bucket::Bucket;
use crate::compute::monotonic_ns;
use crate::control::{Control, entry};
use crate::coverage::Coverage;
use crate::device::{DeviceIndex, Uuid, UuidKind};
use crate::error::Lost;
use crate::identity::{self, Identity};
use crate::liveness;
use crate::quota::{Holding, Quota, bytes_of_pages};
use crate::region::Access;
use crate::sharing::Sharing;
use crate::slots::ever_claimed;
use crate::suspension::{self, Suspension};

/// One reading of a control file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Where the file was found.
    pub path: PathBuf,
    /// When the file was made, in nanoseconds since 1970.
    pub created_unix_ns: u64,
    /// Whether the path still names this file. If not, nobody can tell who is alive.
    pub at_path: bool,
    /// All devices any process has used, by index.
    pub devices: Vec<DeviceView>,
    /// All slots in use, by slot. The dead are among them until somebody takes back what they hold.
    pub processes: Vec<ProcessView>,
}

/// One device in a [`Snapshot`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceView {
    /// Its place in the file.
    pub index: DeviceIndex,
    /// Its name.
    pub uuid: Uuid,
    /// The limit last enforced, `None` if none is.
    pub limit_bytes: Option<u64>,
    /// The device's memory, 0 while unknown.
    pub physical_bytes: u64,
    /// In use by all processes but suspended ones.
    pub used_bytes: u64,
    /// Held by suspended processes, which leave room for others.
    pub set_aside_bytes: u64,
    /// The most ever in use.
    pub peak_bytes: u64,
    /// Reservations refused so far.
    pub refused_count: u64,
    /// What a primary context was last measured to take, 0 while unknown.
    pub context_bytes_learned: u64,
    /// The compute share.
    pub compute: ComputeView,
}

/// The compute share of one device in a [`Snapshot`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ComputeView {
    /// The share last enforced, in parts per million of the device's time; `None` if none is.
    pub share_ppm: Option<u32>,
    /// How it was last shared with others; `None` if nothing is said of its time.
    pub sharing: Option<Sharing>,
    /// GPU time used so far, by all processes that ever were.
    pub busy_ns: u64,
    /// Launches, graphs, copies and fills so far.
    pub work_count: u64,
    /// Time that calls were held back, summed over all threads.
    pub throttled_ns: u64,
    /// How often a call was held back.
    pub throttled_count: u64,
    /// Wall time until all that was used is paid for.
    pub debt_ns: u64,
    /// GPU time used in the last [`RECENT_NS`].
    pub recent_busy_ns: u64,
}

/// The window of [`ComputeView::recent_busy_ns`], in nanoseconds. Ends a little before now, since work is measured only
/// when it is done.
pub const RECENT_NS: u64 = 100_000_000;

/// How long after work ends its measurement may arrive.
const SETTLING_NS: u64 = 25_000_000;

/// One process in a [`Snapshot`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessView {
    /// Its slot.
    pub slot: u16,
    /// How it described itself when it claimed the slot.
    pub identity: Identity,
    /// Whether it lives; `None` if that cannot be asked (see [`Snapshot::at_path`]).
    pub alive: Option<bool>,
    /// Whether it is suspended, and what has to be known for that.
    pub suspension: Suspension,
    /// What it holds, by device; devices of which it holds nothing are left out.
    pub devices: Vec<HoldingView>,
}

impl ProcessView {
    /// Bytes it holds of `device`.
    pub fn used_bytes(&self, device: DeviceIndex) -> u64 {
        self.devices.iter().filter(|view| view.device == device).map(|view| view.used_bytes).sum()
    }
}

/// What one process holds of one device in a [`Snapshot`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HoldingView {
    /// The device.
    pub device: DeviceIndex,
    /// All it holds.
    pub used_bytes: u64,
    /// Of that, what contexts and modules take.
    pub overhead_bytes: u64,
    /// GPU time used so far.
    pub busy_ns: u64,
    /// Launches, graphs, copies and fills so far.
    pub work_count: u64,
    /// Time that calls were held back, summed over its threads.
    pub throttled_ns: u64,
}

impl Control {
    /// Reads the whole file. On each device the processes' holdings add up to the device's use, unless operations kept
    /// coming throughout eight readings.
    ///
    /// # Errors
    /// [`Lost`].
    pub fn snapshot(&self) -> Result<Snapshot, Lost> {
        let locks = self.region.reopen(self.path(), Access::ReadOnly).ok();
        let file = self.region.check()?;
        let mut processes: Vec<ProcessView> = ever_claimed(file)
            .filter_map(|(slot, words)| {
                let identity = identity::read(words)?;
                let alive = locks.as_ref().and_then(|locks| liveness::is_locked(locks, slot).ok());
                Some(ProcessView {
                    slot,
                    identity,
                    alive,
                    suspension: suspension::of(words),
                    devices: Vec::new(),
                })
            })
            .collect();
        let mut devices = Vec::new();
        for index in DeviceIndex::all() {
            let device = entry(file, index)?;
            let high = device.uuid_high.load(Ordering::Acquire);
            let low = device.uuid_low.load(Ordering::Acquire);
            match (high, low) {
                (0, _) => break,
                (_, 0) => continue,
                _ => devices.push(view_device(file, index, (high, low), &mut processes)?),
            }
        }
        Ok(Snapshot {
            path: self.path().to_owned(),
            created_unix_ns: file.header.created_unix_ns.load(Ordering::Relaxed),
            at_path: locks.is_some(),
            devices,
            processes,
        })
    }
}

impl Control {
    /// Reads the compute share of one device, and nothing else.
    ///
    /// # Errors
    /// [`Lost`].
    pub fn compute_view(&self, device: DeviceIndex) -> Result<ComputeView, Lost> {
        view_compute(self.region.check()?, device)
    }
}

/// Reads one device and adds what each process holds of it.
fn view_device(
    file: &ControlFile,
    index: DeviceIndex,
    (high, low): (u64, u64),
    processes: &mut [ProcessView],
) -> Result<DeviceView, Lost> {
    let device = entry(file, index)?;
    let mut quota = Quota::unpack(device.quota.load(Ordering::Acquire));
    let mut holdings = Vec::new();
    for _ in 0..8 {
        holdings = processes.iter().map(|process| holding_of(file, process.slot, index, quota)).collect();
        let again = Quota::unpack(device.quota.load(Ordering::Acquire));
        if again == quota {
            break;
        }
        quota = again;
    }
    for (process, (held, overhead_pages)) in processes.iter_mut().zip(holdings) {
        let Some(words) = slot_words(file, process.slot, index) else { continue };
        let work_count = words.work_count.load(Ordering::Relaxed);
        if held.used_pages > 0 || work_count > 0 {
            process.devices.push(HoldingView {
                device: index,
                used_bytes: bytes_of_pages(held.used_pages),
                overhead_bytes: bytes_of_pages(overhead_pages),
                busy_ns: words.busy_ns.load(Ordering::Relaxed),
                work_count,
                throttled_ns: words.throttled_ns.load(Ordering::Relaxed),
            });
        }
    }
    let set_aside = aside::pages(device);
    let limit_bytes = device.limit_bytes.load(Ordering::Relaxed);
    let kind = match device.kind.load(Ordering::Relaxed) {
        abi::DEVICE_MIG => UuidKind::Mig,
        _ => UuidKind::Gpu,
    };
    Ok(DeviceView {
        index,
        uuid: Uuid::from_halves(high, low, kind),
        limit_bytes: (limit_bytes != UNLIMITED).then_some(limit_bytes),
        physical_bytes: device.physical_bytes.load(Ordering::Relaxed),
        used_bytes: bytes_of_pages(quota.used_pages.saturating_sub(set_aside)),
        set_aside_bytes: bytes_of_pages(set_aside),
        peak_bytes: bytes_of_pages(device.peak_pages.load(Ordering::Relaxed)),
        refused_count: device.refused_count.load(Ordering::Relaxed),
        context_bytes_learned: bytes_of_pages(device.context_pages_learned.load(Ordering::Relaxed)),
        compute: view_compute(file, index)?,
    })
}

/// Reads the compute share of one device.
fn view_compute(file: &ControlFile, index: DeviceIndex) -> Result<ComputeView, Lost> {
    let words = &entry(file, index)?.compute;
    let record = file.coverage.get(index.get()).ok_or(Lost::Contradictory)?;
    let now_ns = monotonic_ns();
    let share_ppm = u32::try_from(words.share_ppm.load(Ordering::Relaxed)).unwrap_or(0);
    // Work counts in the record when it was measured, a few milliseconds after it ran.
    let upto_ns = now_ns.saturating_sub(SETTLING_NS);
    Ok(ComputeView {
        share_ppm: (share_ppm != 0).then_some(share_ppm),
        sharing: Sharing::from_word(words.sharing.load(Ordering::Relaxed)),
        busy_ns: words.busy_ns.load(Ordering::Relaxed),
        work_count: words.work_count.load(Ordering::Relaxed),
        throttled_ns: words.throttled_ns.load(Ordering::Relaxed),
        throttled_count: words.throttled_count.load(Ordering::Relaxed),
        debt_ns: Bucket::new(&words.deadline_ns).debt_ns(now_ns),
        recent_busy_ns: Coverage::new(&record.slots).busy_ns(upto_ns.saturating_sub(RECENT_NS), upto_ns),
    })
}

fn slot_words(file: &ControlFile, slot: u16, device: DeviceIndex) -> Option<&abi::SlotDevice> {
    file.slots.get(usize::from(slot))?.devices.get(device.get())
}

/// What a slot holds, counting the operation that `quota` names even if it is not settled yet.
fn holding_of(file: &ControlFile, slot: u16, device: DeviceIndex, quota: Quota) -> (Holding, u64) {
    let Some(words) = slot_words(file, slot, device) else { return Default::default() };
    let overhead_pages = words.overhead_pages.load(Ordering::Relaxed);
    let settled = Holding::unpack(words.settled.load(Ordering::Acquire));
    let proposed = Holding::unpack(words.proposed.load(Ordering::Acquire));
    let held = if quota.slot == slot && quota.names(settled, proposed) { proposed } else { settled };
    (held, overhead_pages)
}
