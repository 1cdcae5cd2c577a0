//! How a slice comes into being: the GPUs here, what each of them is limited to, and its place in the files that are shared
//! with others.

use super::{Slice, StartError};
use crate::compute::{Directory, Pace};
use crate::container::Found;
use crate::driver::DeviceFacts;
use crate::graph_memory::AllocatingGraphs;
use crate::ledger::Ledger;
use crate::part::Part;
use crate::physical_memory::PhysicalMemory;
use crate::pool::PoolDirectory;
use crate::quota::{Quota, QuotaFacts, mapped_pages};
use crate::truth::Truth;
use crate::{container, driver, log, suspension};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use vcuda_core::control::Control;
use vcuda_core::device::{DeviceIndex, Uuid};
use vcuda_core::error::Lost;
use vcuda_core::limits::{Gpu, Limits, Source};
use vcuda_core::location::default_arbiter_path;
use vcuda_core::slots::Slot;
use vcuda_driver::result::CUerror;

/// Device memory that a context takes per multiprocessor, until one was measured: 518 MiB on an H200 with
/// 132 of them, rounded up.
const CONTEXT_BYTES_PER_MULTIPROCESSOR: u64 = 4 << 20;

impl Slice {
    /// The slice of a process with these limits.
    pub(super) fn new(limits: &'static Limits) -> Result<Slice, StartError> {
        let own_limits = limits;
        let devices = driver::devices().map_err(StartError::Driver)?;
        let found = container::gpus(&devices);
        let gpus: Vec<Gpu> = found.iter().map(|found| found.gpu.clone()).collect();
        let limits_here = limits.resolve(&gpus).map_err(StartError::Limits)?;
        let parts = limits.parts().iter().map(Part::take).collect::<Result<Vec<_>, _>>()?;
        let idle_release = suspension::declare(&parts, limits.parts()).map_err(StartError::Lost)?;
        let place = |device: &DeviceFacts| gpus.iter().position(|gpu| gpu.uuid.bytes() == device.uuid);
        let places = devices.iter().map(place).collect();
        let mut quotas = Vec::with_capacity(devices.len());
        let mut paces = Vec::with_capacity(devices.len());
        let mut arbiter = None;
        for device in &devices {
            let here = found.iter().zip(&limits_here);
            let mut here = here.filter(|(found, _)| found.gpu.uuid.bytes() == device.uuid);
            let Some((found, limits)) = here.next() else {
                quotas.push(None);
                paces.push(None);
                continue;
            };
            let Some(part) = parts.iter().find(|part| part.is_of(found.gpu.uuid)) else {
                return Err(StartError::NotShared(found.gpu.uuid));
            };
            let (control, slot) = (&part.control, &part.slot);
            if limits.memory_bytes.is_none() && limits.sharing.is_none() {
                quotas.push(None);
                paces.push(None);
                continue;
            }
            let index = control.device(found.gpu.uuid).map_err(StartError::Control)?;
            describe(control, index, limits.memory_bytes, found.gpu.physical_bytes)
                .map_err(StartError::Lost)?;
            quotas.push(match limits.memory_bytes {
                Some(limit_bytes) => Some(quota(control, slot, index, device, found, limit_bytes)?),
                None => None,
            });
            paces.push(limits.sharing.map(|sharing| {
                let arbiter = arbiter.get_or_insert_with(|| open_arbiter(own_limits));
                let seat = arbiter.as_ref().and_then(|arbiter| seat(arbiter, found.gpu.uuid));
                Pace::new(slot.compute_account(index), control, seat, limits.share, sharing)
            }));
        }
        Ok(Slice {
            parts,
            places,
            gpus,
            quotas,
            paces,
            streams: Directory::new(),
            last_reap: Mutex::new(None),
            ledger: Ledger::new(),
            loaded: Mutex::default(),
            contexts: Mutex::default(),
            pools: PoolDirectory::default(),
            large_pool_blocks: AtomicU64::new(0),
            physical: PhysicalMemory::default(),
            graphs: AllocatingGraphs::default(),
            has_idle_release: idle_release.is_some(),
            managed: Mutex::default(),
        })
    }
}

/// The memory quota of one device.
fn quota(
    control: &Arc<Control>,
    slot: &Slot,
    index: DeviceIndex,
    device: &DeviceFacts,
    found: &Found,
    limit_bytes: u64,
) -> Result<Quota, StartError> {
    let expected = mapped_pages(device.multiprocessors * CONTEXT_BYTES_PER_MULTIPROCESSOR);
    let learned = control.context_pages_learned(index).map_err(StartError::Lost)?;
    let Some(account) = slot.account(index).map_err(StartError::Lost)? else {
        // Two ordinals of one GPU: CUDA doesn't list a device twice.
        return Err(StartError::Driver(CUerror::INVALID_DEVICE));
    };
    let facts = QuotaFacts {
        ordinal: device.ordinal,
        limit_bytes,
        context_pages: learned.unwrap_or(expected),
        resident_threads: device.multiprocessors * device.threads_per_multiprocessor,
    };
    Ok(Quota::new(facts, Arc::clone(control), account, Truth::new(found.managed)))
}

/// The file in which containers take turns. Without it shares hold as they do for a container by itself.
fn open_arbiter(limits: &Limits) -> Option<Arc<Control>> {
    let path = limits.arbiter_file.clone().map_or_else(default_arbiter_path, Ok);
    let opened = path.and_then(|path| match limits.source() {
        // One made here would be this container's alone.
        Source::Shares => Control::open_existing(path),
        _ => Control::open_or_create(path),
    });
    if let Err(error) = &opened {
        log::warning!(
            "{error}; this program takes no turns with other containers, and elastic shares are hard ones"
        );
    }
    opened.ok()
}

/// The place of a device in the file in which containers take turns.
fn seat(arbiter: &Arc<Control>, device: Uuid) -> Option<(Arc<Control>, DeviceIndex)> {
    let index = arbiter.device(device);
    if let Err(error) = &index {
        log::warning!("{error}; this program takes no turns on GPU {device} with other containers");
    }
    Some((Arc::clone(arbiter), index.ok()?))
}

/// Writes down what a device is limited to, for others to read.
fn describe(
    control: &Control,
    index: DeviceIndex,
    limit_bytes: Option<u64>,
    physical_bytes: u64,
) -> Result<(), Lost> {
    control.set_limit_bytes(index, limit_bytes)?;
    control.set_physical_bytes(index, physical_bytes)
}
