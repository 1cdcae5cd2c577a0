//! One device's quota as this process sees it: reserve before the driver is asked, commit or roll back
//! after, credit on free.
//!
//! Owns the process's account in the control file and the books that make up its charge:
//! allocations entered in the ledger, 2 MiB chunks shared by small allocations, pools, graph memory, and
//! `overhead`, which is everything the driver took without being asked by name (contexts, modules,
//! streams, stacks), known by measuring (`truth`). Must never call the driver while the account is locked.

use crate::chunk::Chunks;
use crate::graph_memory::GraphMemory;
use crate::pool::Pools;
use crate::small_array::SmallArrays;
use crate::truth::Truth;
use crate::{driver, idle, log, mode, slice, suspension};
use parking_lot::Mutex;
use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;
use vcuda_core::abi::UNLIMITED;
use vcuda_core::account::Account;
use vcuda_core::control::Control;
use vcuda_core::device::DeviceIndex;
use vcuda_core::error::ReserveError;
pub use vcuda_core::quota::{PAGE_BYTES, pages_for_charge as pages};
use vcuda_core::quota::{bytes_of_pages, pages_within_limit};
use vcuda_driver::result::CUerror;

/// Granularity in which the driver maps device memory.
pub const MAPPING_BYTES: u64 = 2 << 20;
/// [`MAPPING_BYTES`] in pages.
pub const MAPPING_PAGES: u64 = MAPPING_BYTES / PAGE_BYTES;

/// How often it is looked whether allocations may go on while a process is restored.
const HELD_POLL: Duration = Duration::from_millis(5);

/// One call begun, in [`Quota::calls`].
const CALL_BEGUN: u64 = 1 << 32;

/// `bytes` in pages, rounded up to what the driver maps.
pub const fn mapped_pages(bytes: u64) -> u64 {
    bytes.div_ceil(MAPPING_BYTES).saturating_mul(MAPPING_PAGES)
}

/// A limited device.
pub struct Quota {
    /// Ordinal in the program's order.
    pub ordinal: i32,
    /// The limit in bytes, as asked for and at most the device's memory; [`UNLIMITED`] since it was taken away.
    limit_bytes: AtomicU64,
    /// What one context is expected to take, until one was measured.
    pub context_pages: AtomicU64,
    /// Bytes of local memory per byte of stack limit: resident threads of the whole device.
    pub resident_threads: u64,
    /// The device's primary context, once retained; 0 before.
    pub primary_context: AtomicU64,
    /// What a green context was seen to take at most; 0 before the first.
    pub green_context_pages: AtomicU64,
    control: Arc<Control>,
    index: DeviceIndex,
    account: Mutex<Account>,
    /// Pages the account holds, for readers that need no exactness.
    own_pages: AtomicU64,
    /// Pages of ledger entries that the driver attributes to this process.
    attributed: AtomicI64,
    /// Pages charged for what the driver took unasked.
    overhead: AtomicU64,
    /// Calls between their reservation (or the start of a free) and their end, in the low half; and how many
    /// ever began, in the high half, which may wrap.
    calls: AtomicU64,
    /// Something happened whose cost only measuring can tell.
    stale: AtomicBool,
    /// How the driver's own count is read.
    pub truth: Truth,
    /// Small linear allocations.
    pub chunks: Chunks,
    /// Small arrays.
    pub small_arrays: SmallArrays,
    /// Memory pools.
    pub pools: Pools,
    /// Memory held for graphs.
    pub graphs: GraphMemory,
}

/// Facts a quota is made from.
pub struct QuotaFacts {
    /// Ordinal in the program's order.
    pub ordinal: i32,
    /// The limit in bytes.
    pub limit_bytes: u64,
    /// What one context is expected to take, in pages.
    pub context_pages: u64,
    /// Threads resident on the whole device.
    pub resident_threads: u64,
}

impl Quota {
    /// A quota with nothing charged yet, on this process's account.
    pub fn new(facts: QuotaFacts, control: Arc<Control>, account: Account, truth: Truth) -> Quota {
        Quota {
            ordinal: facts.ordinal,
            limit_bytes: AtomicU64::new(facts.limit_bytes),
            context_pages: AtomicU64::new(facts.context_pages),
            resident_threads: facts.resident_threads,
            primary_context: AtomicU64::new(0),
            green_context_pages: AtomicU64::new(0),
            control,
            index: account.device(),
            account: Mutex::new(account),
            own_pages: AtomicU64::new(0),
            attributed: AtomicI64::new(0),
            overhead: AtomicU64::new(0),
            calls: AtomicU64::new(0),
            stale: AtomicBool::new(false),
            truth,
            chunks: Chunks::default(),
            small_arrays: SmallArrays::default(),
            pools: Pools::default(),
            graphs: GraphMemory::default(),
        }
    }

    /// The limit in bytes; `None` since it was taken away.
    pub fn limit_bytes(&self) -> Option<u64> {
        Some(self.limit_bytes.load(Ordering::Relaxed)).filter(|&bytes| bytes != UNLIMITED)
    }

    /// The limit in whole pages.
    pub fn limit_pages(&self) -> u64 {
        pages_within_limit(self.limit_bytes.load(Ordering::Relaxed))
    }

    /// Another limit from now on, or none. What is beyond it stays, and nothing more is given out until it fits.
    pub fn set_limit_bytes(&self, limit_bytes: Option<u64>) {
        let before = self.limit_bytes.swap(limit_bytes.unwrap_or(UNLIMITED), Ordering::Relaxed);
        // For the tools; lost with the file, which every charge reports.
        let _ = self.control.set_limit_bytes(self.index, limit_bytes);
        let used_mib = self.used_bytes().unwrap_or(0) >> 20;
        match limit_bytes {
            Some(bytes) if bytes == before => {}
            Some(bytes) if self.is_over() => log::warning!(
                "the memory limit of device {} is {} MiB now, and {used_mib} MiB are in use: nothing more is given out \
                 until enough is given back",
                self.ordinal,
                bytes >> 20,
            ),
            Some(bytes) => {
                log::info!("the memory limit of device {} is {} MiB now", self.ordinal, bytes >> 20)
            }
            None => log::info!("device {} has no memory limit any more", self.ordinal),
        }
    }

    /// Bytes charged to the whole container on this device.
    pub fn used_bytes(&self) -> Result<u64, CUerror> {
        let pages = self.control.used_pages(self.index).map_err(|_| lost())?;
        Ok(bytes_of_pages(pages))
    }

    /// Whether the container holds more than its limit, by what drivers took unasked.
    pub fn is_over(&self) -> bool {
        let limit_bytes = self.limit_bytes.load(Ordering::Relaxed);
        self.used_bytes().is_ok_and(|used_bytes| used_bytes > limit_bytes)
    }

    /// Whether anything is charged to another process than this one.
    pub fn is_shared(&self, used_bytes: u64) -> bool {
        used_bytes > bytes_of_pages(self.own_pages.load(Ordering::Relaxed))
    }

    /// Marks a call that changes what the driver holds; measuring waits for none to be under way.
    pub fn begin(&self) -> InFlight<'_> {
        self.calls.fetch_add(CALL_BEGUN | 1, Ordering::AcqRel);
        OWN_IN_FLIGHT.set(OWN_IN_FLIGHT.get() + 1);
        InFlight { quota: self, _same_thread: PhantomData }
    }

    /// Reserves `pages`, making room if need be and possible; `CUDA_ERROR_OUT_OF_MEMORY` otherwise.
    pub fn reserve(&self, pages: u64) -> Result<Reservation<'_>, CUerror> {
        let in_flight = self.begin();
        match self.try_reserve(pages) {
            Ok(()) => {}
            Err(Refusal::Lost) => return Err(lost()),
            Err(Refusal::Full) => crate::relief::reserve_after_relief(self, pages)?,
        }
        Ok(Reservation { _in_flight: in_flight, quota: self, pages })
    }

    /// Reserves `pages` if they fit now.
    pub fn try_reserve(&self, pages: u64) -> Result<(), Refusal> {
        if pages == 0 {
            return Ok(());
        }
        slice::look_at_limits();
        loop {
            let mut account = self.account.lock();
            match account.reserve(pages, self.limit_pages()) {
                Ok(()) => {
                    self.own_pages.store(account.used_pages(), Ordering::Relaxed);
                    idle::note_reserved(self.index, pages);
                    return Ok(());
                }
                Err(ReserveError::Refused(_)) => return Err(Refusal::Full),
                Err(ReserveError::Lost(_)) => return Err(Refusal::Lost),
                // A process is being restored; a memory that is taken meanwhile might be what it lacks.
                Err(ReserveError::Held) => {
                    drop(account);
                    std::thread::sleep(HELD_POLL);
                }
            }
        }
    }

    /// Charges `pages` that the driver has taken already, beyond the limit if need be.
    pub fn charge_taken(&self, pages: u64) {
        if pages == 0 {
            return;
        }
        log::debug!("{} KiB charged that the driver took unasked on device {}", pages * 4, self.ordinal);
        let mut account = self.account.lock();
        if account.force(pages).is_err() {
            // Said once by `lost`; what the driver has taken cannot be undone here.
            lost();
        }
        self.own_pages.store(account.used_pages(), Ordering::Relaxed);
    }

    /// Gives `pages` back to the container.
    pub fn give_back(&self, pages: u64) {
        if pages == 0 {
            return;
        }
        let mut account = self.account.lock();
        if account.release(pages).is_err() {
            lost();
        }
        self.own_pages.store(account.used_pages(), Ordering::Relaxed);
    }

    /// Counts a refusal, for the tools.
    pub fn count_refusal(&self) {
        idle::note_refused();
        // Lost with the file, which every charge reports.
        let _ = self.account.lock().count_refusal();
    }

    /// Records what a context was measured to take, for this process and later ones.
    pub fn learn_context(&self, pages: u64) {
        self.context_pages.store(pages, Ordering::Relaxed);
        // Lost with the file, which every charge reports.
        let _ = self.account.lock().learn_context_pages(pages);
    }

    /// Counts a context that came about unseen (through one of the driver's private tables), before the
    /// first allocation on it. Costs one load once any context is counted.
    #[inline]
    pub fn count_context(&self) -> Result<(), CUerror> {
        if self.overhead_pages() == 0 { self.count_unseen_context() } else { Ok(()) }
    }

    #[cold]
    fn count_unseen_context(&self) -> Result<(), CUerror> {
        self.measure();
        if self.overhead_pages() > 0 || self.truth.is_proven() {
            return Ok(());
        }
        // Nothing can be measured: an allocation is possible only in a context, so there is one.
        if driver::current_device() == Ok(self.ordinal) {
            let _in_flight = self.begin();
            self.reserve(self.context_pages.load(Ordering::Relaxed))?.keep_as_overhead();
        }
        Ok(())
    }

    /// Adds to what the driver should be attributing to this process for ledger entries.
    pub fn add_attributed(&self, pages: u64) {
        self.attributed.fetch_add(pages as i64, Ordering::AcqRel);
    }

    /// Takes from what the driver should be attributing to this process for ledger entries.
    pub fn take_attributed(&self, pages: u64) {
        self.attributed.fetch_sub(pages as i64, Ordering::AcqRel);
    }

    /// Pages the driver is expected to attribute to this process for what it was asked for by name.
    pub fn attributed_pages(&self) -> u64 {
        let ledger = self.attributed.load(Ordering::Acquire).max(0) as u64;
        ledger
            .saturating_add(self.chunks.held_pages())
            .saturating_add(self.small_arrays.held_pages())
            .saturating_add(self.pools.reserved_pages())
            .saturating_add(self.graphs.charged_pages())
    }

    /// Pages charged for what the driver took unasked.
    pub fn overhead_pages(&self) -> u64 {
        self.overhead.load(Ordering::Acquire)
    }

    /// Says that the driver may have taken or given back something unasked: the next opportunity measures.
    pub fn mark_stale(&self) {
        self.stale.store(true, Ordering::Release);
        mode::set_pending();
    }

    /// Whether a measurement is due.
    pub fn is_stale(&self) -> bool {
        self.stale.load(Ordering::Acquire)
    }

    /// Brings `overhead` to what the driver says it took, less what was asked for by name. While other
    /// threads' calls are under way the two cannot be compared: then it stays stale and is tried again.
    /// The calling thread must not have asked the driver for anything that isn't entered yet.
    pub fn measure(&self) {
        let Some(_measuring) = self.truth.exclusive() else { return };
        self.stale.store(false, Ordering::Release);
        self.pools.refresh(self);
        self.graphs.refresh(self);
        let calls = self.calls.load(Ordering::Acquire);
        let quiet = calls & (CALL_BEGUN - 1) <= OWN_IN_FLIGHT.get() && !self.pools.any_growing();
        let attributed = self.attributed_pages();
        if !quiet {
            return self.mark_stale();
        }
        let Some(taken_bytes) = self.truth.taken_bytes() else { return };
        // Off the device, it has nothing there, but will again.
        if suspension::is_suspended() {
            return self.mark_stale();
        }
        let unchanged = self.calls.load(Ordering::Acquire) == calls
            && !self.pools.any_growing()
            && self.attributed_pages() == attributed;
        if !unchanged {
            return self.mark_stale();
        }
        self.set_overhead(pages(taken_bytes).saturating_sub(attributed));
    }

    /// Sets the charge for what the driver took unasked.
    pub fn set_overhead(&self, pages: u64) {
        let before = self.overhead.swap(pages, Ordering::AcqRel);
        if pages > before {
            self.charge_taken(pages - before);
        } else {
            self.give_back(before - pages);
        }
        // For the tools; lost with the file, which every charge reports.
        let _ = self.account.lock().set_overhead_pages(pages);
    }

    /// Counts `pages` that are charged already as overhead, to be corrected by measuring.
    pub fn add_overhead(&self, pages: u64) {
        self.overhead.fetch_add(pages, Ordering::AcqRel);
    }

    /// Takes back an estimate of overhead that turned out to be gone, where nothing can be measured.
    pub fn drop_overhead(&self, pages: u64) {
        let taken = self.overhead.fetch_update(Ordering::AcqRel, Ordering::Acquire, |overhead| {
            Some(overhead.saturating_sub(pages))
        });
        self.give_back(taken.unwrap_or(0).min(pages));
    }
}

/// Why a reservation did not fit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// The quota is full.
    Full,
    /// The control file was truncated or overwritten under us.
    Lost,
}

/// The error for a control file that is gone, said once on standard error.
pub fn lost() -> CUerror {
    static SAID: AtomicBool = AtomicBool::new(false);
    if !SAID.swap(true, Ordering::Relaxed) {
        log::error!(
            "the control file was truncated or overwritten while in use: no more device memory is given out; \
             restart the container's CUDA programs"
        );
    }
    CUerror::OPERATING_SYSTEM
}

thread_local! {
    /// Calls of this thread that are under way, on any device.
    static OWN_IN_FLIGHT: Cell<u64> = const { Cell::new(0) };
}

/// A call under way that changes what the driver holds.
pub struct InFlight<'quota> {
    quota: &'quota Quota,
    _same_thread: PhantomData<*const ()>,
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        OWN_IN_FLIGHT.set(OWN_IN_FLIGHT.get().saturating_sub(1));
        self.quota.calls.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Quota set aside for a call to come; given back unless one of the `keep` methods keeps it.
#[must_use = "a dropped reservation is given back"]
pub struct Reservation<'quota> {
    quota: &'quota Quota,
    pages: u64,
    _in_flight: InFlight<'quota>,
}

impl Reservation<'_> {
    /// Keeps the charge: somebody's books hold it now.
    pub fn keep(mut self) {
        self.pages = 0;
    }

    /// Keeps `pages` of it and gives the rest back.
    pub fn keep_only(mut self, pages: u64) {
        self.pages = self.pages.saturating_sub(pages);
    }

    /// Keeps it for pages the driver attributes to this process.
    pub fn keep_attributed(self) -> u64 {
        let pages = self.pages;
        self.quota.add_attributed(pages);
        self.keep();
        pages
    }

    /// Keeps it as overhead, to be corrected by the next measurement.
    pub fn keep_as_overhead(self) {
        self.quota.add_overhead(self.pages);
        self.quota.mark_stale();
        self.keep();
    }

    /// Changes the reservation to `pages`, if they fit.
    pub fn resize(&mut self, pages: u64) -> Result<(), CUerror> {
        if pages > self.pages {
            match self.quota.try_reserve(pages - self.pages) {
                Ok(()) => {}
                Err(Refusal::Full) => return Err(CUerror::OUT_OF_MEMORY),
                Err(Refusal::Lost) => return Err(lost()),
            }
        } else {
            self.quota.give_back(self.pages - pages);
        }
        self.pages = pages;
        Ok(())
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        self.quota.give_back(self.pages);
    }
}
