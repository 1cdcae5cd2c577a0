//! Memory pools: stream-ordered allocations from memory that a pool takes of the device in steps of 32 MiB
//! and gives back when streams are waited for, down to its release threshold.

use crate::backing::{Ranges, window};
use crate::device::Device;
use crate::driver::driver;
use crate::edge::{FromC, Items, Out, Value};
use crate::slab::{Slab, handle_of};
use crate::space::{self, Allocation, Kind};
use crate::stream::Stream;
use crate::{capture, graph_memory};
use parking_lot::Mutex;
use std::collections::{BTreeSet, HashMap};
use std::ffi::c_void;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use vcuda_driver::cuda::types::*;
use vcuda_driver::result::{CUerror, CUresult};
use vcuda_fake_machine::{now_ns, sleep_until};

/// What a pool grows by.
pub const STEP_BYTES: u64 = 32 << 20;
const UNIT_BYTES: u64 = 512;

pub static POOLS: Slab<Pool> = Slab::new();
/// Pools that may have memory to give back at the next wait.
static UNSETTLED: AtomicU32 = AtomicU32::new(0);

/// A pool.
#[derive(Default)]
pub struct Pool(Mutex<State>);

#[derive(Default)]
struct State {
    ordinal: usize,
    /// The addresses that the pool allocates from, lasting as long as the pool.
    base: u64,
    room_bytes: u64,
    /// Free addresses, with or without memory.
    free: Option<Ranges>,
    /// Numbers of the steps from `base` on that there is memory for.
    steps: BTreeSet<u64>,
    live: HashMap<u64, u64>,
    freed: Vec<Freed>,
    used: Gauge,
    reserved: Gauge,
    release_threshold: u64,
    max_bytes: u64,
    reuse: [u32; 3],
    is_default: bool,
    is_destroyed: bool,
    is_unsettled: bool,
}

/// Memory that the program freed: its stream can have it again at once, others when it is over there.
struct Freed {
    address: u64,
    bytes: u64,
    stream: usize,
    ready_ns: u64,
}

/// A figure and the most that it ever was.
#[derive(Clone, Copy, Default)]
struct Gauge {
    now: u64,
    high: u64,
}

impl Gauge {
    fn set(&mut self, now: u64) {
        self.now = now;
        self.high = self.high.max(now);
    }
}

impl FromC<CUmemoryPool> for &'static Pool {
    unsafe fn from_c(value: CUmemoryPool) -> Result<&'static Pool, CUerror> {
        POOLS.get(value.0).ok_or(CUerror::INVALID_VALUE)
    }
}

impl Pool {
    fn create(
        device: &Device,
        properties: &CUmemPoolProps,
        is_default: bool,
    ) -> Result<&'static Pool, CUerror> {
        // Half as much again as there is memory, for holes.
        let room_bytes = (device.facts().total_bytes * 3 / 2).next_multiple_of(STEP_BYTES);
        let window = window().ok_or(CUerror::OUT_OF_MEMORY)?;
        let base = window.take(room_bytes).ok_or(CUerror::OUT_OF_MEMORY)?;
        let pool =
            POOLS.add().ok_or(CUerror::OUT_OF_MEMORY).inspect_err(|_| window.give(base, room_bytes))?;
        *pool.0.lock() = State {
            ordinal: device.ordinal,
            base,
            room_bytes,
            free: Some(Ranges::new(base, room_bytes)),
            max_bytes: properties.maxSize as u64,
            reuse: [1; 3],
            is_default,
            ..State::default()
        };
        Ok(pool)
    }

    /// Allocates for work that is queued on `stream` later.
    fn allocate(&'static self, bytes: usize, stream: &'static Stream) -> Result<u64, CUerror> {
        let context = stream.context()?;
        context.check()?;
        if bytes == 0 {
            return Err(CUerror::INVALID_VALUE);
        }
        let mut state = self.0.lock();
        let address = state.take(bytes as u64, handle_of(stream))?;
        let ordinal = state.ordinal;
        drop(state);
        space::insert(Allocation {
            address,
            bytes: bytes as u64,
            ordinal,
            context_id: 0,
            kind: Kind::Pooled(handle_of(self)),
            flags: 0,
            id: space::next_id(),
        });
        Ok(address)
    }

    /// Takes an allocation back, for others from `ready_ns` on.
    fn free(&'static self, address: u64, stream: usize, ready_ns: u64) {
        let mut state = self.0.lock();
        let Some(bytes) = state.live.remove(&address) else { return };
        let used = state.used.now - bytes;
        state.used.set(used);
        state.freed.push(Freed { address, bytes, stream, ready_ns });
        state.mark_unsettled();
        if state.is_destroyed && state.live.is_empty() {
            drop(state);
            self.end();
        }
    }

    /// Gives everything back, once nothing is allocated any more.
    fn end(&'static self) {
        let mut state = self.0.lock();
        state.settle_all();
        state.shrink_to(0);
        state.unmark_unsettled();
        let (base, room_bytes) = (state.base, state.room_bytes);
        drop(state);
        if POOLS.remove(self)
            && let Some(window) = window()
        {
            window.give(base, room_bytes);
        }
    }
}

impl State {
    fn device(&self) -> &'static Device {
        &driver().devices[self.ordinal]
    }

    fn mark_unsettled(&mut self) {
        if !std::mem::replace(&mut self.is_unsettled, true) {
            UNSETTLED.fetch_add(1, Relaxed);
        }
    }

    fn unmark_unsettled(&mut self) {
        if std::mem::replace(&mut self.is_unsettled, false) {
            UNSETTLED.fetch_sub(1, Relaxed);
        }
    }

    fn take(&mut self, bytes: u64, stream: usize) -> Result<u64, CUerror> {
        let bytes = bytes.checked_next_multiple_of(UNIT_BYTES).ok_or(CUerror::OUT_OF_MEMORY)?;
        let now = now_ns();
        self.settle(|freed| freed.stream == stream || freed.ready_ns <= now);
        let address = match self.find_backed(bytes) {
            Some(address) => address,
            None => self.grow_for(bytes)?,
        };
        if let Some(free) = &mut self.free {
            free.take_at(address, bytes);
        }
        self.live.insert(address, bytes);
        let used = self.used.now + bytes;
        self.used.set(used);
        Ok(address)
    }

    /// Makes freed memory free for all that `is_over` says so of.
    fn settle(&mut self, is_over: impl Fn(&Freed) -> bool) {
        let Some(free) = &mut self.free else { return };
        self.freed.retain(|freed| {
            let over = is_over(freed);
            if over {
                free.give(freed.address, freed.bytes);
            }
            !over
        });
    }

    /// Waits for whatever still uses freed memory.
    fn settle_all(&mut self) {
        let last_ns = self.freed.iter().map(|freed| freed.ready_ns).max().unwrap_or(0);
        sleep_until(last_ns);
        self.settle(|_| true);
    }

    fn steps_of(&self, address: u64, bytes: u64) -> std::ops::Range<u64> {
        let first = (address - self.base) / STEP_BYTES;
        first..(address + bytes - self.base).div_ceil(STEP_BYTES)
    }

    /// The first free place whose memory is there already.
    fn find_backed(&self, bytes: u64) -> Option<u64> {
        let free = self.free.as_ref()?;
        free.iter().filter(|&(_, length)| length >= bytes).find_map(|(start, length)| {
            let mut address = start;
            while address + bytes <= start + length {
                match self.steps_of(address, bytes).rfind(|step| !self.steps.contains(step)) {
                    None => return Some(address),
                    Some(missing) => {
                        // Behind the last step with memory there is nothing to look at.
                        self.steps.range(missing..).next()?;
                        address = self.base + (missing + 1) * STEP_BYTES;
                    }
                }
            }
            None
        })
    }

    /// The free place that takes the least memory, with that taken.
    fn grow_for(&mut self, bytes: u64) -> Result<u64, CUerror> {
        match self.try_grow_for(bytes) {
            Err(CUerror::OUT_OF_MEMORY) => {}
            result => return result,
        }
        // What is freed but not over is waited for, and what other pools have to spare is taken from them.
        self.settle_all();
        if let Some(address) = self.find_backed(bytes) {
            return Ok(address);
        }
        self.shrink_to(0);
        for pool in POOLS.live() {
            if let Some(mut other) = pool.0.try_lock()
                && other.ordinal == self.ordinal
            {
                other.settle_all();
                other.shrink_to(0);
            }
        }
        self.try_grow_for(bytes)
    }

    fn try_grow_for(&mut self, bytes: u64) -> Result<u64, CUerror> {
        let free = self.free.as_ref().ok_or(CUerror::INVALID_VALUE)?;
        let missing = |address| {
            self.steps_of(address, bytes).filter(|step| !self.steps.contains(step)).collect::<Vec<u64>>()
        };
        let places = free.iter().filter(|&(_, length)| length >= bytes).map(|(address, _)| address);
        let (address, missing) = places
            .map(|address| (address, missing(address)))
            .min_by_key(|(_, missing)| missing.len())
            .ok_or(CUerror::OUT_OF_MEMORY)?;
        let more = missing.len() as u64 * STEP_BYTES;
        if self.max_bytes != 0 && self.reserved.now + more > self.max_bytes.next_multiple_of(STEP_BYTES) {
            return Err(CUerror::OUT_OF_MEMORY);
        }
        self.device().take(more)?;
        self.steps.extend(missing);
        self.reserved.set(self.steps.len() as u64 * STEP_BYTES);
        Ok(address)
    }

    /// Gives free memory back until no more than `keep_bytes` is left, or nothing to give.
    fn shrink_to(&mut self, keep_bytes: u64) {
        let Some(free) = &self.free else { return };
        let mut surplus = self.reserved.now.saturating_sub(keep_bytes).div_ceil(STEP_BYTES);
        let mut given = Vec::new();
        for (start, length) in free.iter() {
            let first = (start - self.base).div_ceil(STEP_BYTES);
            let end = (start + length - self.base) / STEP_BYTES;
            if first < end {
                let here = self.steps.range(first..end).copied().take(surplus as usize);
                given.extend(here);
                surplus =
                    self.reserved.now.saturating_sub(keep_bytes).div_ceil(STEP_BYTES) - given.len() as u64;
            }
        }
        for step in &given {
            self.steps.remove(step);
            if let Some(window) = window() {
                window.discard(self.base + step * STEP_BYTES, STEP_BYTES);
            }
        }
        self.device().give(given.len() as u64 * STEP_BYTES);
        self.reserved.set(self.steps.len() as u64 * STEP_BYTES);
    }
}

/// At a wait for a stream, or for all of them: what was freed there is over, and pools give back what they
/// hold beyond their release threshold.
#[inline]
pub fn release_surplus(device: &Device, stream: Option<&Stream>) {
    if UNSETTLED.load(Relaxed) > 0 {
        release_surplus_of(device.ordinal, stream.map(handle_of));
    }
}

#[cold]
fn release_surplus_of(ordinal: usize, stream: Option<usize>) {
    let now = now_ns();
    for pool in POOLS.live() {
        let mut state = pool.0.lock();
        if state.ordinal != ordinal || !state.is_unsettled {
            continue;
        }
        let freed_before = state.freed.len();
        state.settle(|freed| freed.ready_ns <= now && stream.is_none_or(|stream| freed.stream == stream));
        if state.freed.len() == freed_before && stream.is_some() {
            continue;
        }
        let keep_bytes = state.release_threshold;
        state.shrink_to(keep_bytes);
        if state.freed.is_empty() {
            state.unmark_unsettled();
        }
    }
}

/// Frees an allocation of a pool whose work is over.
pub fn free_now(address: u64) -> CUresult {
    let removed = space::remove_if(address, |found| matches!(found.kind, Kind::Pooled(_)));
    let Some(Allocation { kind: Kind::Pooled(pool), ordinal, .. }) = removed else {
        return Err(CUerror::INVALID_VALUE);
    };
    if let Some(pool) = POOLS.get(pool) {
        pool.free(address, 0, 0);
        release_surplus(&driver().devices[ordinal], None);
    }
    Ok(())
}

/// The pool that allocations without one come from.
fn current_pool(device: &Device) -> Result<&'static Pool, CUerror> {
    match POOLS.get(device.current_pool_handle()) {
        Some(pool) => Ok(pool),
        None => default_pool(device),
    }
}

fn default_pool(device: &Device) -> Result<&'static Pool, CUerror> {
    static MAKING: Mutex<()> = Mutex::new(());
    if let Some(pool) = POOLS.get(device.default_pool.load(Relaxed)) {
        return Ok(pool);
    }
    let _making = MAKING.lock();
    if let Some(pool) = POOLS.get(device.default_pool.load(Relaxed)) {
        return Ok(pool);
    }
    let pool = Pool::create(device, &CUmemPoolProps::default(), true)?;
    device.default_pool.store(handle_of(pool), Relaxed);
    Ok(pool)
}

pub fn alloc_async(out: Out<CUdeviceptr>, bytes: usize, stream: &'static Stream) -> CUresult {
    let pool = current_pool(stream.context()?.device())?;
    alloc_from_pool_async(out, bytes, pool, stream)
}

pub fn alloc_from_pool_async(
    out: Out<CUdeviceptr>,
    bytes: usize,
    pool: &'static Pool,
    stream: &'static Stream,
) -> CUresult {
    if let Some(address) = capture::add_alloc(stream, bytes as u64)? {
        out.set(CUdeviceptr(address));
        return Ok(());
    }
    capture::forbid_unsafe()?;
    out.set(CUdeviceptr(pool.allocate(bytes, stream)?));
    Ok(())
}

pub fn free_async(address: CUdeviceptr, stream: &'static Stream) -> CUresult {
    if address.is_null() {
        return Ok(());
    }
    if capture::add_free(stream, address.0)? {
        return Ok(());
    }
    capture::forbid_unsafe()?;
    let found = space::find(address.0).filter(|found| found.address == address.0);
    match found.map(|found| found.kind) {
        Some(Kind::Pooled(pool)) => {
            let removed = space::remove_if(address.0, |found| found.kind == Kind::Pooled(pool));
            removed.ok_or(CUerror::INVALID_VALUE)?;
            if let Some(pool) = POOLS.get(pool) {
                pool.free(address.0, handle_of(stream), stream.end_ns()?);
            }
            Ok(())
        }
        Some(Kind::Graph) => graph_memory::free(address.0),
        // Plain allocations may be freed in stream order too.
        Some(Kind::Small | Kind::Large) => crate::memory::free(address),
        _ => Err(CUerror::INVALID_VALUE),
    }
}

pub fn create(out: Out<CUmemoryPool>, properties: Value<CUmemPoolProps>) -> CUresult {
    let properties = properties.0;
    if properties.allocType != CU_MEM_ALLOCATION_TYPE_PINNED {
        return Err(CUerror::INVALID_VALUE);
    }
    if properties.location.type_ != CU_MEM_LOCATION_TYPE_DEVICE {
        return Err(CUerror::NOT_SUPPORTED);
    }
    let device = driver().device(properties.location.id)?;
    out.set(CUmemoryPool(handle_of(Pool::create(device, &properties, false)?)));
    Ok(())
}

pub fn destroy(pool: &'static Pool) -> CUresult {
    let is_empty = {
        let mut state = pool.0.lock();
        if state.is_default {
            return Err(CUerror::INVALID_VALUE);
        }
        state.is_destroyed = true;
        let device = state.device();
        let handle = handle_of(pool);
        let _ = device.current_pool.compare_exchange(handle, 0, Relaxed, Relaxed);
        state.live.is_empty()
    };
    if is_empty {
        pool.end();
    }
    Ok(())
}

pub fn trim_to(pool: &'static Pool, keep_bytes: usize) -> CUresult {
    capture::forbid_unsafe()?;
    let mut state = pool.0.lock();
    let now = now_ns();
    state.settle(|freed| freed.ready_ns <= now);
    state.shrink_to(keep_bytes as u64);
    Ok(())
}

pub fn get_attribute(pool: &'static Pool, attribute: u32, out: Out<c_void>) -> CUresult {
    let state = pool.0.lock();
    let (number, wide) = (out.cast::<u32>(), out.cast::<u64>());
    match attribute {
        1..=3 => number.set(state.reuse[attribute as usize - 1]),
        CU_MEMPOOL_ATTR_RELEASE_THRESHOLD => wide.set(state.release_threshold),
        CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT => wide.set(state.reserved.now),
        CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH => wide.set(state.reserved.high),
        CU_MEMPOOL_ATTR_USED_MEM_CURRENT => wide.set(state.used.now),
        CU_MEMPOOL_ATTR_USED_MEM_HIGH => wide.set(state.used.high),
        _ => return Err(CUerror::INVALID_VALUE),
    }
    Ok(())
}

/// Peaks can only be started over, by setting them to 0.
pub fn set_attribute(pool: &'static Pool, attribute: u32, value: Out<c_void>) -> CUresult {
    let mut state = pool.0.lock();
    let (number, wide) = (value.cast::<u32>(), value.cast::<u64>());
    match attribute {
        1..=3 => state.reuse[attribute as usize - 1] = number.get(),
        CU_MEMPOOL_ATTR_RELEASE_THRESHOLD => state.release_threshold = wide.get(),
        CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH if wide.get() == 0 => state.reserved.high = state.reserved.now,
        CU_MEMPOOL_ATTR_USED_MEM_HIGH if wide.get() == 0 => state.used.high = state.used.now,
        _ => return Err(CUerror::INVALID_VALUE),
    }
    Ok(())
}

/// All simulated GPUs reach each other's memory.
pub fn set_access(pool: &'static Pool, access: Items<CUmemAccessDesc>, count: usize) -> CUresult {
    let owner = pool.0.lock().ordinal as i32;
    for wanted in access.first(count) {
        driver().device(wanted.location.id)?;
        if wanted.location.id == owner && wanted.flags != CU_MEM_ACCESS_FLAGS_PROT_READWRITE {
            return Err(CUerror::INVALID_DEVICE);
        }
    }
    Ok(())
}

pub fn get_access(out: Out<u32>, _pool: &'static Pool, location: Value<CUmemLocation>) -> CUresult {
    driver().device(location.0.id)?;
    out.set(CU_MEM_ACCESS_FLAGS_PROT_READWRITE);
    Ok(())
}

pub fn get_default(out: Out<CUmemoryPool>, device: CUdevice) -> CUresult {
    out.set(CUmemoryPool(handle_of(default_pool(driver().device(device)?)?)));
    Ok(())
}

pub fn get_current(out: Out<CUmemoryPool>, device: CUdevice) -> CUresult {
    out.set(CUmemoryPool(handle_of(current_pool(driver().device(device)?)?)));
    Ok(())
}

pub fn set_current(device: CUdevice, pool: &'static Pool) -> CUresult {
    let device = driver().device(device)?;
    if pool.0.lock().ordinal != device.ordinal {
        return Err(CUerror::INVALID_DEVICE);
    }
    device.current_pool.store(handle_of(pool), Relaxed);
    Ok(())
}

fn device_of(location: &CUmemLocation, kind: u32) -> Result<i32, CUerror> {
    if kind != CU_MEM_ALLOCATION_TYPE_PINNED || location.type_ != CU_MEM_LOCATION_TYPE_DEVICE {
        return Err(CUerror::NOT_SUPPORTED);
    }
    Ok(location.id)
}

pub fn get_default_at(out: Out<CUmemoryPool>, location: Value<CUmemLocation>, kind: u32) -> CUresult {
    get_default(out, device_of(&location.0, kind)?)
}

pub fn get_current_at(out: Out<CUmemoryPool>, location: Value<CUmemLocation>, kind: u32) -> CUresult {
    get_current(out, device_of(&location.0, kind)?)
}

pub fn set_current_at(location: Value<CUmemLocation>, kind: u32, pool: &'static Pool) -> CUresult {
    set_current(device_of(&location.0, kind)?, pool)
}
