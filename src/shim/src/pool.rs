//! Memory pools: a pool is charged what it *reserves* of the device, whatever its allocations use.
//!
//! Before each allocation a whole growth step is reserved ahead, and what the pool really took is asked
//! afterwards (27 ns on an H200), so the charge is never below the truth, no stream is synchronised, and
//! steady state touches no shared word. Pools shrink when streams pass synchronisation points; that is
//! noticed whenever somebody needs the room or the overhead is measured.

use crate::driver;
use crate::hash::WordMap;
use crate::leaked::Latest;
use crate::quota::{PAGE_BYTES, Quota, pages};
use parking_lot::{Mutex, RwLock};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use vcuda_driver::cuda::types::CUmemoryPool;
use vcuda_driver::result::{CUerror, CUresult};

/// Pools grow by multiples of this (measured: 100 MiB takes 128, 33 MiB takes 64, 5 MiB takes 32).
const STEP_BYTES: u64 = 32 << 20;

/// How long an allocation waits on a full quota for streams to pass the points at which the pool's memory
/// was freed.
const PASSING_WAIT: Duration = Duration::from_millis(50);
const PASSING_POLL: Duration = Duration::from_micros(200);

/// Pages by which a pool may grow to serve `bytes`.
fn growth_pages(bytes: u64) -> u64 {
    pages(bytes.div_ceil(STEP_BYTES).max(1).saturating_mul(STEP_BYTES))
}

/// One pool that lies on a limited device.
pub struct Pool {
    handle: CUmemoryPool,
    /// Ordinal of the device.
    pub device: i32,
    /// Pages known to be reserved by the pool.
    reserved: AtomicU64,
    /// Pages charged: at least what is reserved plus all growth under way.
    charged: AtomicU64,
    /// Pages by which the allocations under way may grow the pool.
    growing: AtomicU64,
    /// Held to change `charged`.
    charging: Mutex<()>,
}

/// Where a pool's memory lies.
#[derive(Clone, Copy)]
pub enum Place {
    /// On a limited device: charged.
    Limited(&'static Pool),
    /// Elsewhere (host memory, a device without a limit) or somebody else's (imported: the exporter pays).
    Uncharged,
}

/// All pools of this process by handle. Books live as long as the process, which opens few.
#[derive(Default)]
pub struct PoolDirectory {
    places: RwLock<WordMap<CUmemoryPool, Place>>,
    /// Programs use one pool as a rule; it is found without a lock.
    latest: Latest<Pool>,
}

impl PoolDirectory {
    /// Where a pool lies, if it is known.
    #[inline]
    pub fn find(&self, handle: CUmemoryPool) -> Option<Place> {
        if let Some(pool) = self.latest.get().filter(|pool| pool.handle == handle) {
            return Some(Place::Limited(pool));
        }
        // Remembered under the lock, so that no pool is remembered that was forgotten meanwhile.
        let places = self.places.read();
        let place = places.get(&handle).copied();
        if let Some(Place::Limited(pool)) = place {
            self.latest.set(Some(pool));
        }
        place
    }

    /// Opens the books of a pool on a limited device, or gives those that are open.
    pub fn open(&self, handle: CUmemoryPool, quota: &Quota) -> Place {
        *self.places.write().entry(handle).or_insert_with(|| {
            let pool: &'static Pool = Box::leak(Box::new(Pool {
                handle,
                device: quota.ordinal,
                reserved: AtomicU64::new(0),
                charged: AtomicU64::new(0),
                growing: AtomicU64::new(0),
                charging: Mutex::new(()),
            }));
            quota.pools.list.write().push(pool);
            quota.pools.any.store(true, Ordering::Release);
            Place::Limited(pool)
        })
    }

    /// Notes a pool that is not charged here.
    pub fn note_uncharged(&self, handle: CUmemoryPool) {
        self.places.write().insert(handle, Place::Uncharged);
    }

    /// Forgets a destroyed pool and gives its place; the caller closes it.
    pub fn forget(&self, handle: CUmemoryPool) -> Option<Place> {
        let mut places = self.places.write();
        self.latest.set(None);
        places.remove(&handle)
    }
}

/// The pools of one device.
#[derive(Default)]
pub struct Pools {
    list: RwLock<Vec<&'static Pool>>,
    /// Whether there ever was one.
    any: AtomicBool,
}

impl Pools {
    /// Closes a destroyed pool's books. What its live allocations still hold is found by measuring.
    pub fn close(&self, quota: &Quota, pool: &'static Pool) {
        self.list.write().retain(|&known| !std::ptr::eq(known, pool));
        let _charging = pool.charging.lock();
        pool.reserved.store(0, Ordering::Release);
        quota.give_back(pool.charged.swap(0, Ordering::AcqRel));
        quota.mark_stale();
    }

    fn all(&self) -> Vec<&'static Pool> {
        self.list.read().clone()
    }

    /// Notices what pools have given back, and gives back what is reserved ahead for nothing.
    pub fn refresh(&self, quota: &Quota) {
        if !self.any.load(Ordering::Acquire) {
            return;
        }
        for pool in self.all() {
            pool.refresh(quota);
        }
    }

    /// Has every pool of this process give back what nothing uses; true if there was any pool.
    pub fn trim(&self, quota: &Quota) -> bool {
        let pools = self.all();
        for pool in &pools {
            pool.trim(quota);
        }
        !pools.is_empty()
    }

    /// Whether an allocation from one of the pools is under way.
    pub fn any_growing(&self) -> bool {
        self.list.read().iter().any(|pool| pool.growing.load(Ordering::Acquire) != 0)
    }

    /// Pages that the pools hold, as last seen.
    pub fn reserved_pages(&self) -> u64 {
        self.list.read().iter().map(|pool| pool.reserved.load(Ordering::Acquire)).sum()
    }
}

impl Pool {
    /// Prepares an allocation of `bytes`: whatever the pool may grow by is charged. End it with
    /// [`Pool::finish`].
    pub fn prepare(&self, quota: &Quota, bytes: u64) -> CUresult {
        let step = growth_pages(bytes);
        let growing = self.growing.fetch_add(step, Ordering::AcqRel) + step;
        let reserved = self.reserved.load(Ordering::Acquire);
        if self.charged.load(Ordering::Acquire) >= reserved.saturating_add(growing) {
            return Ok(());
        }
        self.charge_ahead(quota, bytes).inspect_err(|_| {
            self.growing.fetch_sub(step, Ordering::AcqRel);
        })
    }

    #[cold]
    fn charge_ahead(&self, quota: &Quota, bytes: u64) -> CUresult {
        if self.try_charge_ahead(quota) {
            return Ok(());
        }
        // Room may be made elsewhere, by this very pool being trimmed too: nothing of ours is locked here.
        let missing = self.missing_pages();
        match quota.reserve(missing) {
            Ok(reservation) => {
                let _charging = self.charging.lock();
                self.charged.fetch_add(missing, Ordering::AcqRel);
                reservation.keep();
                return Ok(());
            }
            Err(error) if !self.has_free(bytes) => return Err(error),
            Err(_) => {}
        }
        // The pool has the memory, freed in stream order and not passed by its stream yet, or in pieces. Only
        // the driver knows whether it will do, so it can't be let try: trimming gives it back to the quota as
        // streams get on.
        let start = Instant::now();
        while start.elapsed() < PASSING_WAIT {
            thread::sleep(PASSING_POLL);
            self.trim(quota);
            if self.try_charge_ahead(quota) {
                return Ok(());
            }
        }
        Err(CUerror::OUT_OF_MEMORY)
    }

    /// Pages that the allocations under way may need beyond what is charged.
    fn missing_pages(&self) -> u64 {
        let wanted = self.reserved.load(Ordering::Acquire) + self.growing.load(Ordering::Acquire);
        wanted.saturating_sub(self.charged.load(Ordering::Acquire))
    }

    fn try_charge_ahead(&self, quota: &Quota) -> bool {
        let _charging = self.charging.lock();
        let missing = self.missing_pages();
        let fits = quota.try_reserve(missing).is_ok();
        if fits {
            self.charged.fetch_add(missing, Ordering::AcqRel);
        }
        fits
    }

    /// Whether the pool holds `bytes` that nothing uses.
    fn has_free(&self, bytes: u64) -> bool {
        let free = driver::pool_reserved_bytes(self.handle)
            .and_then(|reserved| Ok(reserved.saturating_sub(driver::pool_used_bytes(self.handle)?)));
        free.is_ok_and(|free| free >= bytes)
    }

    /// Ends an allocation of `bytes`: asks what the pool holds now. Should it be more than was foreseen, that
    /// is charged as well.
    pub fn finish(&self, quota: &Quota, bytes: u64) {
        let now = driver::pool_reserved_bytes(self.handle).map_or(0, pages);
        if now > self.reserved.load(Ordering::Acquire) {
            self.reserved.fetch_max(now, Ordering::AcqRel);
        }
        self.growing.fetch_sub(growth_pages(bytes), Ordering::AcqRel);
        if now > self.charged.load(Ordering::Acquire) {
            let _charging = self.charging.lock();
            let over = now.saturating_sub(self.charged.load(Ordering::Acquire));
            quota.charge_taken(over);
            self.charged.fetch_add(over, Ordering::AcqRel);
        }
    }

    /// Has the pool give back what nothing uses, and credits it.
    pub fn trim(&self, quota: &Quota) {
        // A pool that can't be trimmed keeps its charge.
        let _ = driver::trim_pool(self.handle);
        self.refresh(quota);
    }

    /// Notices what the pool has given back, and credits it and what is reserved ahead for nothing.
    pub fn refresh(&self, quota: &Quota) {
        let surplus = {
            let _charging = self.charging.lock();
            let Ok(before) = driver::pool_reserved_bytes(self.handle) else { return };
            self.reserved.store(pages(before), Ordering::Release);
            // An allocation that ends between the two questions is in the second answer; one that is still
            // under way when `growing` is read is in `growing`.
            let growing = self.growing.load(Ordering::Acquire);
            let Ok(now) = driver::pool_reserved_bytes(self.handle) else { return };
            self.reserved.fetch_max(pages(now), Ordering::AcqRel);
            let kept = pages(before.max(now)).saturating_add(growing);
            let surplus = self.charged.load(Ordering::Acquire).saturating_sub(kept);
            self.charged.fetch_sub(surplus, Ordering::AcqRel);
            // One that began meanwhile may have counted on it.
            let wanted = self.reserved.load(Ordering::Acquire) + self.growing.load(Ordering::Acquire);
            let short = wanted.saturating_sub(self.charged.load(Ordering::Acquire)).min(surplus);
            self.charged.fetch_add(short, Ordering::AcqRel);
            surplus - short
        };
        quota.give_back(surplus);
    }
}

const _: () = assert!(STEP_BYTES.is_multiple_of(PAGE_BYTES));
