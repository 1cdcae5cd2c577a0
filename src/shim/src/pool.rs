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
use vcuda_driver::cuda::types::{CUmemoryPool, CUstream};
use vcuda_driver::result::CUerror;

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
    /// Large blocks freed in stream order and not used again: the stream and the bytes of each.
    freed: Mutex<Vec<(CUstream, u64)>>,
    /// Whether there are any.
    any_freed: AtomicBool,
}

/// Most freed blocks that are remembered.
const MOST_FREED: usize = 64;

/// Whether an allocation is worth remembering: one that may make the pool grow by more than a step.
pub fn is_large(bytes: u64) -> bool {
    bytes > STEP_BYTES
}

/// How an allocation may go ahead.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// Whatever the pool may grow by is charged.
    Charged,
    /// The quota has no room for growth, but a block that this stream freed is there to be used again. Undo if
    /// the pool grew all the same.
    Freed,
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
                freed: Mutex::new(Vec::new()),
                any_freed: AtomicBool::new(false),
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

    /// Puts a pool back that was forgotten and lives on.
    pub fn restore(&self, handle: CUmemoryPool, place: Place) {
        self.places.write().insert(handle, place);
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
    /// Prepares an allocation of `bytes` on `stream`. End it with [`Pool::finish`].
    pub fn prepare(&self, quota: &Quota, bytes: u64, stream: CUstream) -> Result<Room, CUerror> {
        let step = growth_pages(bytes);
        let growing = self.growing.fetch_add(step, Ordering::AcqRel) + step;
        let reserved = self.reserved.load(Ordering::Acquire);
        if self.charged.load(Ordering::Acquire) >= reserved.saturating_add(growing) {
            return Ok(Room::Charged);
        }
        self.charge_ahead(quota, bytes, stream).inspect_err(|_| {
            self.growing.fetch_sub(step, Ordering::AcqRel);
        })
    }

    #[cold]
    fn charge_ahead(&self, quota: &Quota, bytes: u64, stream: CUstream) -> Result<Room, CUerror> {
        if self.try_charge_ahead(quota) {
            return Ok(Room::Charged);
        }
        self.refresh(quota);
        if self.try_charge_ahead(quota) {
            return Ok(Room::Charged);
        }
        if self.takes_freed(bytes, stream) {
            return Ok(Room::Freed);
        }
        // Room may be made elsewhere, by this very pool being trimmed too: nothing of ours is locked here.
        let missing = self.missing_pages();
        match quota.reserve(missing) {
            Ok(reservation) => {
                let _charging = self.charging.lock();
                self.charged.fetch_add(missing, Ordering::AcqRel);
                reservation.keep();
                return Ok(Room::Charged);
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
                return Ok(Room::Charged);
            }
        }
        Err(CUerror::OUT_OF_MEMORY)
    }

    /// Notes that `stream` freed a large block of the pool: until the pool shrinks, an allocation on that stream
    /// gets it again at once.
    pub fn note_freed(&self, stream: CUstream, bytes: u64) {
        let mut freed = self.freed.lock();
        if freed.len() < MOST_FREED {
            freed.push((stream, bytes));
            self.any_freed.store(true, Ordering::Release);
        }
    }

    /// Takes the smallest block freed by `stream` that `bytes` fit into. Which of several the driver would take
    /// is its own affair, so only equal ones are still known to be free afterwards.
    fn takes_freed(&self, bytes: u64, stream: CUstream) -> bool {
        let mut freed = self.freed.lock();
        let fitting = freed.iter().enumerate().filter(|(_, (by, size))| *by == stream && *size >= bytes);
        let Some((position, taken)) =
            fitting.min_by_key(|(_, (_, size))| *size).map(|(at, block)| (at, *block))
        else {
            return false;
        };
        freed.swap_remove(position);
        freed.retain(|block| *block == taken);
        self.any_freed.store(!freed.is_empty(), Ordering::Release);
        true
    }

    /// Notes that an allocation may have been served from any freed block: none is known to be free.
    fn forget_freed(&self) {
        if self.any_freed.swap(false, Ordering::AcqRel) {
            self.freed.lock().clear();
        }
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
    /// is charged as well, and the answer is false.
    pub fn finish(&self, quota: &Quota, bytes: u64, room: Room) -> bool {
        if room == Room::Charged && self.any_freed.load(Ordering::Acquire) {
            self.forget_freed();
        }
        let now = driver::pool_reserved_bytes(self.handle).map_or(0, pages);
        if now > self.reserved.load(Ordering::Acquire) {
            self.reserved.fetch_max(now, Ordering::AcqRel);
        }
        self.growing.fetch_sub(growth_pages(bytes), Ordering::AcqRel);
        if now <= self.charged.load(Ordering::Acquire) {
            return true;
        }
        let _charging = self.charging.lock();
        let over = now.saturating_sub(self.charged.load(Ordering::Acquire));
        quota.charge_taken(over);
        self.charged.fetch_add(over, Ordering::AcqRel);
        over == 0
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
            if pages(before) < self.reserved.swap(pages(before), Ordering::AcqRel) {
                // What was free is no longer there to be used again.
                self.forget_freed();
            }
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
