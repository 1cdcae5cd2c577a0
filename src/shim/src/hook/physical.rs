//! The virtual memory API: physical allocations, their handles and their mappings.

use crate::edge::{In, Out};
use crate::physical_memory::{Credit, End};
use crate::quota::mapped_pages;
use crate::slice::{self, Slice};
use std::ffi::c_void;
use vcuda_driver::cuda::types::*;
use vcuda_driver::result::CUresult;

/// `cuMemCreate`: charged to the device that the properties name, not to the current one.
pub fn create(
    driver: impl Fn() -> CUresult,
    handle: Out<CUmemGenericAllocationHandle>,
    bytes: usize,
    properties: In<CUmemAllocationProp>,
    _flags: u64,
) -> CUresult {
    let Some(slice) = slice::current()? else { return driver() };
    let location = properties.get().map(|properties| properties.location);
    let quota = match location {
        Some(location) if location.type_ == CU_MEM_LOCATION_TYPE_DEVICE => slice.quota(location.id),
        _ => None,
    };
    let Some(quota) = quota else {
        driver()?;
        if let Some(handle) = handle.get() {
            slice.physical.created(handle, None);
        }
        return Ok(());
    };
    let reservation = quota.reserve(mapped_pages(bytes as u64))?;
    driver()?;
    if let Some(handle) = handle.get() {
        let pages = reservation.keep_attributed();
        slice.physical.created(handle, Some(Credit { device: quota.ordinal, pages, exported: false }));
    }
    Ok(())
}

fn credit(slice: &Slice, ends: impl IntoIterator<Item = End>) {
    for end in ends {
        let End::Charged(credit) = end else {
            // If it was exported by this very process, its exporter's charge may end with it.
            slice.measure_everywhere();
            continue;
        };
        let Some(quota) = slice.quota(credit.device) else { continue };
        quota.take_attributed(credit.pages);
        if credit.exported {
            // Stays charged unless the driver no longer counts it.
            quota.add_overhead(credit.pages);
            quota.measure();
        } else {
            quota.give_back(credit.pages);
        }
    }
}

/// `cuMemRelease`.
pub fn release(driver: impl Fn() -> CUresult, handle: CUmemGenericAllocationHandle) -> CUresult {
    let Some(slice) = slice::current()? else { return driver() };
    let _in_flight = slice.begin_everywhere();
    driver()?;
    credit(slice, slice.physical.released(handle));
    Ok(())
}

/// `cuMemMap`.
pub fn map(
    driver: impl Fn() -> CUresult,
    address: CUdeviceptr,
    bytes: usize,
    _offset: usize,
    handle: CUmemGenericAllocationHandle,
    _flags: u64,
) -> CUresult {
    driver()?;
    if let Some(slice) = slice::current()? {
        slice.physical.mapped(handle, address.0, bytes as u64);
    }
    Ok(())
}

/// `cuMemUnmap`.
pub fn unmap(driver: impl Fn() -> CUresult, address: CUdeviceptr, bytes: usize) -> CUresult {
    let Some(slice) = slice::current()? else { return driver() };
    let _in_flight = slice.begin_everywhere();
    driver()?;
    credit(slice, slice.physical.unmapped(address.0, bytes as u64));
    Ok(())
}

/// `cuMemRetainAllocationHandle`: one more reference to what is mapped at the address.
pub fn retain(
    driver: impl Fn() -> CUresult,
    handle: Out<CUmemGenericAllocationHandle>,
    address: Out<c_void>,
) -> CUresult {
    driver()?;
    if let (Some(slice), Some(handle)) = (slice::current()?, handle.get()) {
        slice.physical.retained(handle, address.address());
    }
    Ok(())
}

/// `cuMemExportToShareableHandle`.
pub fn export(
    driver: impl Fn() -> CUresult,
    _shareable: Out<c_void>,
    handle: CUmemGenericAllocationHandle,
    _kind: u32,
    _flags: u64,
) -> CUresult {
    driver()?;
    if let Some(slice) = slice::current()? {
        slice.note_shared();
        slice.physical.exported(handle);
    }
    Ok(())
}

/// `cuMemImportFromShareableHandle`: known so that its mappings and releases can be told from others', and
/// not charged: the exporter pays.
pub fn import(
    driver: impl Fn() -> CUresult,
    handle: Out<CUmemGenericAllocationHandle>,
    _shareable: Out<c_void>,
    _kind: u32,
) -> CUresult {
    driver()?;
    if let (Some(slice), Some(handle)) = (slice::current()?, handle.get()) {
        slice.note_shared();
        if slice.physical.knows(handle) {
            slice.physical.referenced(handle);
        } else {
            slice.physical.created(handle, None);
        }
    }
    Ok(())
}
