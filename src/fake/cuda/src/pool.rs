//! Memory pools: stream-ordered allocations from memory that a pool takes of the device in steps of 32 MiB
//! and gives back when streams are waited for, down to its release threshold.

use crate::backing::{Ranges, window};
use crate::device::Device;
use crate::driver::driver;
use crate::edge::{FromC, Items, Out, Value};
use crate::pool_memory::{Freed, PoolMemory, STEP_BYTES, UNSETTLED};
use crate::slab::{Slab, handle_of};
use crate::space::{self, Allocation, Kind};
use crate::stream::Stream;
use crate::{capture, graph_memory};
use parking_lot::Mutex;
use std::ffi::c_void;
use std::sync::atomic::Ordering::Relaxed;
use vcuda_driver::cuda::types::*;
use vcuda_driver::result::{CUerror, CUresult};
use vcuda_fake_machine::Mark;

pub static POOLS: Slab<Pool> = Slab::new();

/// A pool.
#[derive(Default)]
pub struct Pool {
    pub memory: Mutex<PoolMemory>,
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
        *pool.memory.lock() = PoolMemory {
            ordinal: device.ordinal,
            base,
            room_bytes,
            free: Some(Ranges::new(base, room_bytes)),
            max_bytes: properties.maxSize as u64,
            reuse: [1; 3],
            is_default,
            ..PoolMemory::default()
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
        let mut memory = self.memory.lock();
        let address = memory.take(bytes as u64, handle_of(stream))?;
        let ordinal = memory.ordinal;
        drop(memory);
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

    /// Takes an allocation back, for others once `ready` was passed.
    fn free(&'static self, address: u64, stream: usize, ready: Mark) {
        let mut memory = self.memory.lock();
        let Some(bytes) = memory.live.remove(&address) else { return };
        let used = memory.used.now - bytes;
        memory.used.set(used);
        memory.freed.push(Freed { address, bytes, stream, ready });
        memory.mark_unsettled();
        if memory.is_destroyed && memory.live.is_empty() {
            drop(memory);
            self.end();
        }
    }

    /// Gives everything back, once nothing is allocated any more.
    fn end(&'static self) {
        let mut memory = self.memory.lock();
        memory.settle_all();
        memory.shrink_to(0);
        memory.unmark_unsettled();
        let (base, room_bytes) = (memory.base, memory.room_bytes);
        drop(memory);
        if POOLS.remove(self)
            && let Some(window) = window()
        {
            window.give(base, room_bytes);
        }
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
    for pool in POOLS.live() {
        let mut memory = pool.memory.lock();
        if memory.ordinal != ordinal || !memory.is_unsettled {
            continue;
        }
        let freed_before = memory.freed.len();
        memory.settle(|freed| stream.is_none_or(|stream| freed.stream == stream) && freed.is_over());
        if memory.freed.len() == freed_before && stream.is_some() {
            continue;
        }
        let keep_bytes = memory.release_threshold;
        memory.shrink_to(keep_bytes);
        if memory.freed.is_empty() {
            memory.unmark_unsettled();
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
        pool.free(address, 0, Mark::NONE);
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
                pool.free(address.0, handle_of(stream), stream.tail());
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
        let mut memory = pool.memory.lock();
        if memory.is_default {
            return Err(CUerror::INVALID_VALUE);
        }
        memory.is_destroyed = true;
        let device = memory.device();
        let handle = handle_of(pool);
        let _ = device.current_pool.compare_exchange(handle, 0, Relaxed, Relaxed);
        memory.live.is_empty()
    };
    if is_empty {
        pool.end();
    }
    Ok(())
}

pub fn trim_to(pool: &'static Pool, keep_bytes: usize) -> CUresult {
    capture::forbid_unsafe()?;
    let mut memory = pool.memory.lock();
    memory.settle(Freed::is_over);
    memory.shrink_to(keep_bytes as u64);
    Ok(())
}

pub fn get_attribute(pool: &'static Pool, attribute: u32, out: Out<c_void>) -> CUresult {
    let memory = pool.memory.lock();
    let (number, wide) = (out.cast::<u32>(), out.cast::<u64>());
    match attribute {
        1..=3 => number.set(memory.reuse[attribute as usize - 1]),
        CU_MEMPOOL_ATTR_RELEASE_THRESHOLD => wide.set(memory.release_threshold),
        CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT => wide.set(memory.reserved.now),
        CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH => wide.set(memory.reserved.high),
        CU_MEMPOOL_ATTR_USED_MEM_CURRENT => wide.set(memory.used.now),
        CU_MEMPOOL_ATTR_USED_MEM_HIGH => wide.set(memory.used.high),
        _ => return Err(CUerror::INVALID_VALUE),
    }
    Ok(())
}

/// Peaks can only be started over, by setting them to 0.
pub fn set_attribute(pool: &'static Pool, attribute: u32, value: Out<c_void>) -> CUresult {
    let mut memory = pool.memory.lock();
    let (number, wide) = (value.cast::<u32>(), value.cast::<u64>());
    match attribute {
        1..=3 => memory.reuse[attribute as usize - 1] = number.get(),
        CU_MEMPOOL_ATTR_RELEASE_THRESHOLD => memory.release_threshold = wide.get(),
        CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH if wide.get() == 0 => memory.reserved.high = memory.reserved.now,
        CU_MEMPOOL_ATTR_USED_MEM_HIGH if wide.get() == 0 => memory.used.high = memory.used.now,
        _ => return Err(CUerror::INVALID_VALUE),
    }
    Ok(())
}

/// All simulated GPUs reach each other's memory.
pub fn set_access(pool: &'static Pool, access: Items<CUmemAccessDesc>, count: usize) -> CUresult {
    let owner = pool.memory.lock().ordinal as i32;
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
    if pool.memory.lock().ordinal != device.ordinal {
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
