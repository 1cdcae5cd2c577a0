//! Linear memory: on the device, managed, and pinned on the host.

use crate::backing::{STEP_BYTES, window};
use crate::capture;
use crate::chunk::SMALL_BYTES;
use crate::context::{self, Context};
use crate::device::Device;
use crate::driver::driver;
use crate::edge::Out;
use crate::settings::settings;
use crate::space::{self, Allocation, Kind};
use crate::{backing, graph_memory, pool, raw};
use std::ffi::c_void;
use std::sync::atomic::Ordering::Relaxed;
use vcuda_driver::cuda::types::CUdeviceptr;
use vcuda_driver::result::{CUerror, CUresult};
use vcuda_fake_machine::Bytes;

/// Rows of pitched memory begin at multiples of this.
const PITCH_BYTES: usize = 512;

/// The current context, if memory may be allocated now.
fn context_for_allocation(bytes: usize) -> Result<&'static Context, CUerror> {
    let context = Context::current()?;
    context.check()?;
    capture::forbid_unsafe()?;
    if bytes == 0 { Err(CUerror::INVALID_VALUE) } else { Ok(context) }
}

/// Memory for `bytes`, as it is mapped: in steps of 2 MiB.
fn mapped(bytes: u64) -> Result<u64, CUerror> {
    bytes.checked_next_multiple_of(STEP_BYTES).ok_or(CUerror::OUT_OF_MEMORY)
}

fn take_addresses(bytes: u64) -> Result<u64, CUerror> {
    window().and_then(|window| window.take(bytes)).ok_or(CUerror::OUT_OF_MEMORY)
}

fn give_addresses(address: u64, bytes: u64) {
    if let Some(window) = window() {
        window.give(address, bytes);
    }
}

/// Takes device memory of whole steps, with addresses for it.
pub fn take_mapped(device: &Device, bytes: u64) -> Result<u64, CUerror> {
    let bytes = mapped(bytes)?;
    device.take(bytes)?;
    take_addresses(bytes).inspect_err(|_| device.give(bytes))
}

/// Gives back what `take_mapped` took.
pub fn give_mapped(device: &Device, address: u64, bytes: u64) {
    give_addresses(address, bytes);
    device.give(bytes.next_multiple_of(STEP_BYTES));
}

/// Gives a chunk of small allocations back.
pub fn give_chunk(device: &Device, start: u64) {
    give_mapped(device, start, STEP_BYTES);
}

fn allocate(context: &Context, bytes: u64) -> Result<u64, CUerror> {
    let device = context.device();
    let (address, kind) = if bytes > SMALL_BYTES {
        (take_mapped(device, bytes)?, Kind::Large)
    } else {
        let chunks = &mut context.holdings.lock().chunks;
        let address = match chunks.take(bytes) {
            Some(address) => address,
            None => {
                chunks.add(take_mapped(device, STEP_BYTES)?);
                chunks.take(bytes).ok_or(CUerror::OUT_OF_MEMORY)?
            }
        };
        (address, Kind::Small)
    };
    enter(context, address, bytes, kind, 0);
    Ok(address)
}

fn enter(context: &Context, address: u64, bytes: u64, kind: Kind, flags: u32) {
    let id = space::next_id();
    let (ordinal, context_id) = (context.device().ordinal, context.id.load(Relaxed));
    space::insert(Allocation { address, bytes, ordinal, context_id, kind, flags, id });
}

pub fn alloc(out: Out<CUdeviceptr>, bytes: usize) -> CUresult {
    let context = context_for_allocation(bytes)?;
    // A program that doesn't look at the result is left with a null pointer.
    out.set(CUdeviceptr::NULL);
    out.set(CUdeviceptr(allocate(context, bytes as u64)?));
    Ok(())
}

pub fn alloc_pitch(
    out: Out<CUdeviceptr>,
    pitch_out: Out<usize>,
    width_bytes: usize,
    height: usize,
    element_bytes: u32,
) -> CUresult {
    if !matches!(element_bytes, 4 | 8 | 16) || width_bytes == 0 {
        return Err(CUerror::INVALID_VALUE);
    }
    let pitch = width_bytes.checked_next_multiple_of(PITCH_BYTES).ok_or(CUerror::INVALID_VALUE)?;
    let bytes = pitch.checked_mul(height).ok_or(CUerror::OUT_OF_MEMORY)?;
    alloc(out, bytes)?;
    pitch_out.set(pitch);
    Ok(())
}

/// Managed memory takes nothing of the device until the device touches it.
pub fn alloc_managed(out: Out<CUdeviceptr>, bytes: usize, flags: u32) -> CUresult {
    let context = context_for_allocation(bytes)?;
    if !matches!(flags, 1 | 2) {
        return Err(CUerror::INVALID_VALUE);
    }
    let address = take_addresses(mapped(bytes as u64)?)?;
    enter(context, address, bytes as u64, Kind::Managed(false), flags);
    out.set(CUdeviceptr(address));
    Ok(())
}

/// Notes that the device works on memory: managed memory moves there.
pub fn touch(address: u64) {
    if !space::is_any_managed() {
        return;
    }
    let Some(found) = space::find(address).filter(|found| found.kind == Kind::Managed(false)) else { return };
    let device = &driver().devices[found.ordinal];
    let bytes = Bytes { device: found.bytes.next_multiple_of(STEP_BYTES), process: 0 };
    // Without room there, it stays on the host and the device reaches over.
    if device.take_as(bytes).is_ok() && !space::mark_touched(found.address) {
        device.give_as(bytes);
    }
}

pub fn free(address: CUdeviceptr) -> CUresult {
    capture::forbid_unsafe()?;
    if address.is_null() {
        return Ok(());
    }
    let context = Context::current()?;
    let is_free_here = |found: &Allocation| {
        matches!(found.kind, Kind::Small | Kind::Large | Kind::Managed(_) | Kind::Pooled(_) | Kind::Graph)
    };
    let found = space::find(address.0).filter(is_free_here).filter(|found| found.address == address.0);
    let found = found.ok_or(CUerror::INVALID_VALUE)?;
    if !settings().is_null {
        // Work that may still use the memory ends first.
        context.wait();
    }
    match found.kind {
        Kind::Pooled(_) => return pool::free_now(address.0),
        Kind::Graph => return graph_memory::free(address.0),
        _ => {}
    }
    let removed = space::remove_if(address.0, |now| now.id == found.id).ok_or(CUerror::INVALID_VALUE)?;
    let is_ours = context.id.load(Relaxed) == removed.context_id;
    let owner = if is_ours { Some(context) } else { context::find_by_id(removed.context_id) };
    give_back(&removed, owner);
    Ok(())
}

/// Gives back what an allocation took; without its context where that gives back all its chunks.
pub fn give_back(allocation: &Allocation, context: Option<&Context>) {
    let device = &driver().devices[allocation.ordinal];
    match allocation.kind {
        Kind::Small => {
            let Some(context) = context else { return };
            let emptied = context.holdings.lock().chunks.give(allocation.address, allocation.bytes);
            if let Some(start) = emptied {
                give_chunk(device, start);
            }
        }
        Kind::Large => give_mapped(device, allocation.address, allocation.bytes),
        Kind::Managed(is_touched) => {
            give_addresses(allocation.address, allocation.bytes);
            if is_touched {
                device.give_as(Bytes { device: allocation.bytes.next_multiple_of(STEP_BYTES), process: 0 });
            }
        }
        Kind::Host => backing::unmap(allocation.address, allocation.bytes),
        Kind::Imported => crate::ipc::unmap(allocation),
        Kind::Registered | Kind::Pooled(_) | Kind::Graph | Kind::Mapped(_) | Kind::Global => {}
    }
}

/// Either figure may be left out.
pub fn get_info(free: Option<Out<usize>>, total: Option<Out<usize>>) -> CUresult {
    let (free_bytes, total_bytes) = info()?;
    if let Some(free) = free {
        free.set(free_bytes as usize);
    }
    if let Some(total) = total {
        total.set(total_bytes as usize);
    }
    Ok(())
}

/// Before CUDA 3.2, memory was counted in 32 bits.
pub fn get_info_v1(free: Out<u32>, total: Out<u32>) -> CUresult {
    let (free_bytes, total_bytes) = info()?;
    free.set(free_bytes.try_into().unwrap_or(u32::MAX));
    total.set(total_bytes.try_into().unwrap_or(u32::MAX));
    Ok(())
}

fn info() -> Result<(u64, u64), CUerror> {
    let device = Context::current()?.device();
    if !settings().is_null {
        driver().member.machine().reap();
    }
    Ok((driver().member.free_bytes(device.gpu), device.facts().total_bytes))
}

pub fn get_address_range(
    base: Option<Out<CUdeviceptr>>,
    bytes: Option<Out<usize>>,
    address: CUdeviceptr,
) -> CUresult {
    Context::current()?;
    let found = space::find(address.0).ok_or(CUerror::NOT_FOUND)?;
    if let Some(base) = base {
        base.set(CUdeviceptr(found.address));
    }
    if let Some(out) = bytes {
        out.set(found.bytes as usize);
    }
    Ok(())
}

pub fn alloc_host(out: Out<*mut c_void>, bytes: usize) -> CUresult {
    host_alloc(out, bytes, 0)
}

pub fn alloc_host_v1(out: Out<*mut c_void>, bytes: u32) -> CUresult {
    host_alloc(out, bytes as usize, 0)
}

pub fn host_alloc(out: Out<*mut c_void>, bytes: usize, flags: u32) -> CUresult {
    let context = context_for_allocation(bytes)?;
    let bytes = bytes.checked_next_multiple_of(4096).ok_or(CUerror::OUT_OF_MEMORY)?;
    let address = raw::reserve(bytes);
    if address == 0 {
        return Err(CUerror::OUT_OF_MEMORY);
    }
    enter(context, address as u64, bytes as u64, Kind::Host, flags);
    out.set(address as *mut c_void);
    Ok(())
}

pub fn free_host(address: *mut c_void) -> CUresult {
    let context = Context::current()?;
    if address.is_null() {
        return Ok(());
    }
    let removed = space::remove_if(address as u64, |found| found.kind == Kind::Host);
    let removed = removed.ok_or(CUerror::INVALID_VALUE)?;
    context.wait();
    backing::unmap(removed.address, removed.bytes);
    Ok(())
}

pub fn host_register(address: *mut c_void, bytes: usize, flags: u32) -> CUresult {
    let context = context_for_allocation(bytes)?;
    if address.is_null() {
        return Err(CUerror::INVALID_VALUE);
    }
    if space::find(address as u64).is_some() {
        return Err(CUerror::HOST_MEMORY_ALREADY_REGISTERED);
    }
    enter(context, address as u64, bytes as u64, Kind::Registered, flags);
    Ok(())
}

pub fn host_unregister(address: *mut c_void) -> CUresult {
    Context::current()?;
    space::remove_if(address as u64, |found| found.kind == Kind::Registered)
        .map(|_| ())
        .ok_or(CUerror::HOST_MEMORY_NOT_REGISTERED)
}

fn host_allocation(address: *mut c_void) -> Result<Allocation, CUerror> {
    Context::current()?;
    space::find(address as u64).filter(|found| found.kind.is_host()).ok_or(CUerror::INVALID_VALUE)
}

pub fn host_device_pointer(out: Out<CUdeviceptr>, address: *mut c_void, _flags: u32) -> CUresult {
    host_allocation(address)?;
    out.set(CUdeviceptr(address as u64));
    Ok(())
}

pub fn host_flags(out: Out<u32>, address: *mut c_void) -> CUresult {
    out.set(host_allocation(address)?.flags);
    Ok(())
}
