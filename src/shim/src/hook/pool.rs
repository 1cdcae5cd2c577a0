//! Stream-ordered allocation and memory pools.

use crate::capture;
use crate::driver;
use crate::edge::{In, Out};
use crate::ledger::{Charge, Entry, Kind};
use crate::pool::{Place, Pool, Room, is_large};
use crate::quota::Quota;
use crate::slice::{self, Slice};
use std::ffi::c_void;
use std::sync::atomic::Ordering;
use vcuda_driver::cuda::types::*;
use vcuda_driver::result::{CUerror, CUresult};

/// Where pointers that stream-ordered allocations give are to be found.
type Made = Out<CUdeviceptr>;

/// Runs an allocation of `bytes` with the pool's growth charged.
fn charged(
    slice: &Slice,
    quota: &Quota,
    (handle, pool): (CUmemoryPool, &Pool),
    (bytes, stream, made): (u64, CUstream, Made),
    driver: impl Fn() -> CUresult,
) -> CUresult {
    quota.count_context()?;
    let room = pool.prepare(quota, bytes, stream)?;
    let answer = driver();
    let foreseen = pool.finish(quota, bytes, room);
    answer?;
    let Some(address) = made.get() else { return Ok(()) };
    if room == Room::Freed && !foreseen {
        // The block that was freed did not do. The program hasn't seen the pointer.
        let _ = driver::free_async(address, stream);
        pool.trim(quota);
        quota.count_refusal();
        return Err(CUerror::OUT_OF_MEMORY);
    }
    if is_large(bytes) {
        let charge = Charge::ByPool { pool: handle, bytes };
        let context = driver::current_context().unwrap_or_default();
        let entry = Entry { device: quota.ordinal, context, charge, entered_at: slice.ledger.now() };
        enter_block(slice, address.0, entry);
        // What was set aside for growth that did not happen is too much to keep for the next time.
        pool.refresh(quota);
    }
    Ok(())
}

/// `cuMemFreeAsync`: a large block may be used again by its stream, whatever room the quota has.
pub fn free(driver: impl Fn() -> CUresult, address: CUdeviceptr, stream: CUstream) -> CUresult {
    let Some(slice) = slice::current()? else { return driver() };
    // Taken out first: afterwards the address may be another block's.
    let Some(entry) = take_block(slice, address.0) else { return driver() };
    if let Err(error) = driver() {
        enter_block(slice, address.0, entry);
        return Err(error);
    }
    if let Charge::ByPool { pool, bytes } = entry.charge
        && let Some(Place::Limited(pool)) = slice.pools.find(pool)
    {
        pool.note_freed(stream, bytes);
    }
    Ok(())
}

fn enter_block(slice: &Slice, address: u64, entry: Entry) {
    if slice.ledger.enter(Kind::PoolBlock, address, entry).is_none() {
        slice.large_pool_blocks.fetch_add(1, Ordering::Relaxed);
    }
}

/// Takes a large block out of the ledger. One load in programs that make none.
pub fn take_block(slice: &Slice, address: u64) -> Option<Entry> {
    if slice.large_pool_blocks.load(Ordering::Relaxed) == 0 {
        return None;
    }
    let entry = slice.ledger.take(Kind::PoolBlock, address)?;
    slice.large_pool_blocks.fetch_sub(1, Ordering::Relaxed);
    Some(entry)
}

/// Where a pool lies. One that nobody made or imported here is a device's default pool.
fn place_of(slice: &Slice, handle: CUmemoryPool, stream: CUstream) -> Result<Place, CUerror> {
    if let Some(place) = slice.pools.find(handle) {
        return Ok(place);
    }
    let owner = slice.quotas().find(|quota| driver::default_pool(quota.ordinal) == Ok(handle));
    let owner = if owner.is_some() { owner } else { slice.stream_quota(stream)? };
    Ok(match owner {
        Some(quota) => slice.pools.open(handle, quota),
        None => Place::Uncharged,
    })
}

/// `cuMemAllocAsync`: from the current pool of the stream's device.
pub fn alloc(driver: impl Fn() -> CUresult, pointer: Made, bytes: usize, stream: CUstream) -> CUresult {
    let Some(slice) = slice::current()? else { return driver() };
    // What a captured stream allocates is charged when the graph is launched.
    if capture::is_capturing(stream) {
        return driver();
    }
    let Some(quota) = slice.stream_quota(stream)? else { return driver() };
    let handle = driver::current_pool(quota.ordinal)?;
    allocate(slice, handle, bytes, stream, pointer, driver)
}

/// `cuMemAllocFromPoolAsync`.
pub fn alloc_from(
    driver: impl Fn() -> CUresult,
    pointer: Made,
    bytes: usize,
    handle: CUmemoryPool,
    stream: CUstream,
) -> CUresult {
    let Some(slice) = slice::current()? else { return driver() };
    if capture::is_capturing(stream) {
        return driver();
    }
    allocate(slice, handle, bytes, stream, pointer, driver)
}

fn allocate(
    slice: &Slice,
    handle: CUmemoryPool,
    bytes: usize,
    stream: CUstream,
    pointer: Made,
    driver: impl Fn() -> CUresult,
) -> CUresult {
    let Place::Limited(pool) = place_of(slice, handle, stream)? else { return driver() };
    let Some(quota) = slice.quota(pool.device) else { return driver() };
    charged(slice, quota, (handle, pool), (bytes as u64, stream, pointer), driver)
}

/// `cuMemPoolCreate`: notes which device the pool will take from.
pub fn create(
    driver: impl Fn() -> CUresult,
    handle: Out<CUmemoryPool>,
    properties: In<CUmemPoolProps>,
) -> CUresult {
    driver()?;
    let Some(slice) = slice::current()? else { return Ok(()) };
    let (Some(handle), Some(properties)) = (handle.get(), properties.get()) else { return Ok(()) };
    let quota = match properties.location.type_ {
        CU_MEM_LOCATION_TYPE_DEVICE => slice.quota(properties.location.id),
        // Managed pools name no place or a preferred one, and may come to lie on the current device.
        CU_MEM_LOCATION_TYPE_NONE => slice.current_quota().unwrap_or(None),
        _ => None,
    };
    match quota {
        Some(quota) => {
            slice.pools.open(handle, quota);
        }
        None => slice.pools.note_uncharged(handle),
    }
    Ok(())
}

/// `cuMemPoolDestroy`.
pub fn destroy(driver: impl Fn() -> CUresult, handle: CUmemoryPool) -> CUresult {
    let Some(slice) = slice::current()? else { return driver() };
    // Taken out first: afterwards the handle may be another pool's.
    let Some(place) = slice.pools.forget(handle) else { return driver() };
    if let Err(error) = driver() {
        slice.pools.restore(handle, place);
        return Err(error);
    }
    if let Place::Limited(pool) = place
        && let Some(quota) = slice.quota(pool.device)
    {
        quota.pools.close(quota, pool);
        quota.measure();
    }
    Ok(())
}

/// `cuMemPoolTrimTo`.
pub fn trim(driver: impl Fn() -> CUresult, handle: CUmemoryPool, _kept_bytes: usize) -> CUresult {
    driver()?;
    if let Some(slice) = slice::current()?
        && let Some(Place::Limited(pool)) = slice.pools.find(handle)
        && let Some(quota) = slice.quota(pool.device)
    {
        pool.refresh(quota);
    }
    Ok(())
}

/// `cuMemPoolImportFromShareableHandle`: the exporter pays.
pub fn import(
    driver: impl Fn() -> CUresult,
    handle: Out<CUmemoryPool>,
    _shareable: Out<c_void>,
    _kind: u32,
    _flags: u64,
) -> CUresult {
    driver()?;
    if let (Some(slice), Some(handle)) = (slice::current()?, handle.get()) {
        slice.note_shared();
        slice.pools.note_uncharged(handle);
    }
    Ok(())
}

/// The program shares memory or an event with another process, by whichever call: the driver can't suspend it then.
pub fn share(driver: impl Fn() -> CUresult) -> CUresult {
    driver()?;
    if let Some(slice) = slice::current()? {
        slice.note_shared();
    }
    Ok(())
}
