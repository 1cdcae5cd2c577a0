//! This process's part of the slice: which limits hold here, its part of each control file, and one quota per limited
//! device.
//!
//! Comes into being in `cuInit` and lasts as long as the process. Without limits there is none, and every
//! hook lets its calls pass. With limits that can't be put into force there is none either, and every hook
//! refuses: a program is never left silently unlimited. A forked child makes its own.

use crate::compute::{Directory, Pace};
use crate::container::Found;
use crate::driver::DeviceFacts;
use crate::graph_memory::AllocatingGraphs;
use crate::hash::{WordMap, WordSet};
use crate::leaked::Leaked;
use crate::ledger::Ledger;
use crate::part::Part;
use crate::physical_memory::PhysicalMemory;
use crate::pool::PoolDirectory;
use crate::quota::{InFlight, Quota, QuotaFacts, mapped_pages};
use crate::truth::Truth;
use crate::{container, driver, fork, log, mode, suspension};
use parking_lot::Mutex;
use std::cell::Cell;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};
use vcuda_core::control::Control;
use vcuda_core::device::{DeviceIndex, Uuid};
use vcuda_core::error::{ControlError, Lost};
use vcuda_core::limits::{Gpu, Limits, LimitsError, LogLevel, SHARES_DIRECTORY, Source};
use vcuda_core::location::default_arbiter_path;
use vcuda_core::slots::Slot;
use vcuda_driver::cuda::types::{CUcontext, CUdevice, CUstream};
use vcuda_driver::result::CUerror;

/// What a process gets that can't be limited as asked: "operation not permitted".
const REFUSED: CUerror = CUerror::NOT_PERMITTED;

/// Device memory that a context takes per multiprocessor, until one was measured: 518 MiB on an H200 with
/// 132 of them, rounded up.
const CONTEXT_BYTES_PER_MULTIPROCESSOR: u64 = 4 << 20;

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

    fn new(limits: &'static Limits) -> Result<Slice, StartError> {
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

/// Where this process stands.
enum Standing {
    /// Limits are in force.
    Limited(Box<Slice>),
    /// Limits can't be put into force: every call is refused.
    Refused,
}

static STANDING: Leaked<Standing> = Leaked::new();

/// The slice, if this process is limited. `Ok(None)` if it isn't, or if CUDA isn't initialised: then a call
/// is the driver's own affair. An error if limits can't be enforced.
#[inline]
pub fn current() -> Result<Option<&'static Slice>, CUerror> {
    match STANDING.get() {
        Some(Standing::Limited(slice)) if fork::is_owner() => Ok(Some(slice)),
        Some(Standing::Refused) => Err(REFUSED),
        _ => not_started(),
    }
}

/// A hook ran in a process where `cuInit` was not seen: it failed, it never ran, or it ran in a parent.
#[cold]
fn not_started() -> Result<Option<&'static Slice>, CUerror> {
    if driver::devices().is_err() {
        return Ok(None);
    }
    start()?;
    match STANDING.get() {
        Some(Standing::Limited(slice)) => Ok(Some(slice)),
        Some(Standing::Refused) => Err(REFUSED),
        None => Ok(None),
    }
}

/// Puts the limits into force, once the driver is initialised. Does nothing if that is done already.
pub fn start() -> Result<(), CUerror> {
    let seen = STANDING.get();
    match seen {
        Some(Standing::Limited(_)) if fork::is_owner() => return Ok(()),
        Some(Standing::Refused) => return Err(REFUSED),
        _ => {}
    }
    let standing = match configured() {
        Ok(None) => {
            mode::set_unlimited();
            return Ok(());
        }
        Ok(Some(limits)) => {
            fork::take_ownership();
            Slice::new(limits).map(|slice| Standing::Limited(Box::new(slice)))
        }
        Err(error) => Err(StartError::Configuration(error)),
    };
    let standing = standing.unwrap_or_else(|error| {
        log::error!("{error}; CUDA is refused to this process");
        Standing::Refused
    });
    match STANDING.publish(seen, standing) {
        Standing::Limited(slice) => {
            mode::set_limited(slice.paces().next().is_some(), slice.has_idle_release);
            Ok(())
        }
        Standing::Refused => Err(REFUSED),
    }
}

/// Puts limits into force that were changed since, if it is time to look. True if so.
#[inline]
pub fn look_at_limits() -> bool {
    let Some(slice) = started() else { return false };
    let due = slice.parts.iter().filter(|part| part.lookout.is_due());
    due.fold(false, |has_changed, part| has_changed | look_now(slice, part))
}

#[cold]
fn look_now(slice: &Slice, part: &Part) -> bool {
    let has_changed = Cell::new(false);
    let take = |limits: &Limits| {
        slice.take(part, limits)?;
        has_changed.set(true);
        Ok(())
    };
    if let Some(mistake) = part.lookout.look(&take) {
        log::error!("{mistake}; the limits of this program stay as they are");
    }
    has_changed.get()
}

/// The limits as configured: `Ok(None)` if there are none.
pub fn configured() -> Result<Option<&'static Limits>, &'static LimitsError> {
    static CONFIGURED: Leaked<Result<Limits, LimitsError>> = Leaked::new();
    let configured = CONFIGURED.get_or_make(|| {
        let limits = Limits::of_this_process();
        let (level, _) = LogLevel::from_environment(&|name| std::env::var(name).ok());
        log::set_level(level);
        if let Ok(limits) = &limits {
            for warning in &limits.warnings {
                log::warning!("{warning}");
            }
            for note in &limits.notes {
                log::info!("{note}");
            }
        }
        limits
    });
    configured.as_ref().map(|limits| (!limits.is_unlimited()).then_some(limits))
}

/// Whether this process is known to have no limits, before anything of CUDA ran.
pub fn is_unlimited() -> bool {
    let unlimited = matches!(configured(), Ok(None));
    if unlimited {
        mode::set_unlimited();
    }
    unlimited
}

/// Takes over what dead processes of the container left. Returns how many are being torn down just now:
/// dead, but their device memory not all given back.
pub fn reap() -> u32 {
    started().map_or(0, |slice| slice.reap().1)
}

/// The slice, if limits are in force in this process already.
pub fn started() -> Option<&'static Slice> {
    match STANDING.get() {
        Some(Standing::Limited(slice)) if fork::is_owner() => Some(slice),
        _ => None,
    }
}

/// Why limits couldn't be put into force.
pub enum StartError {
    /// What is configured is wrong.
    Configuration(&'static LimitsError),
    /// It does not go with the GPUs here.
    Limits(LimitsError),
    /// A control file can't be used.
    Control(ControlError),
    /// A control file can't be used any more.
    Lost(Lost),
    /// The driver fails.
    Driver(CUerror),
    /// A share comes without its control file.
    NotMounted(&'static Path),
    /// The container has shares, and none of this GPU.
    NotShared(Uuid),
}

impl std::fmt::Display for StartError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            StartError::Configuration(error) => write!(formatter, "{error}"),
            StartError::Limits(error) => write!(formatter, "{error}"),
            StartError::Control(error) => write!(formatter, "{error}"),
            StartError::Lost(error) => write!(formatter, "control file {error}"),
            StartError::Driver(CUerror::NOT_FOUND) => formatter.write_str(
                "the driver is too old: it lacks calls that limits stand on; use one for CUDA 11.4 or newer (470)",
            ),
            StartError::NotMounted(path) => write!(
                formatter,
                "{}: is not mounted, as the share's limits are; start the container with --device vcuda.dev/share=NAME",
                path.display()
            ),
            StartError::NotShared(uuid) => write!(
                formatter,
                "{SHARES_DIRECTORY}: has no share of {uuid}, which is not this container's, then; start it with a share of \
                 each GPU that it sees"
            ),
            StartError::Driver(error) => {
                write!(formatter, "the driver does not describe its devices (CUDA error {})", error.code())
            }
        }
    }
}
