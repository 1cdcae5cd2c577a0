//! What a pointer is: attributes, hints and prefetching.

use crate::context;
use crate::edge::{Items, Out};
use crate::space::{self, Allocation, Kind};
use crate::stream::Stream;
use crate::{driver, memory};
use std::ffi::c_void;
use vcuda_driver::cuda::types::*;
use vcuda_driver::result::{CUerror, CUresult};

fn context_handle(found: &Allocation) -> usize {
    context::find_by_id(found.context_id).map_or(0, |context| context.handle().0)
}

/// Writes one attribute of an address within an allocation, in the type that the manual gives for it.
fn give(out: &Out<c_void>, attribute: u32, address: CUdeviceptr, found: &Allocation) -> CUresult {
    let wide = |value: u64| out.cast::<u64>().set(value);
    let number = |value: u32| out.cast::<u32>().set(value);
    let truth = |value: bool| out.cast::<u8>().set(u8::from(value));
    let is_managed = matches!(found.kind, Kind::Managed(_));
    match attribute {
        CU_POINTER_ATTRIBUTE_CONTEXT => wide(context_handle(found) as u64),
        CU_POINTER_ATTRIBUTE_MEMORY_TYPE => {
            number(if found.kind.is_host() { CU_MEMORYTYPE_HOST } else { CU_MEMORYTYPE_DEVICE });
        }
        CU_POINTER_ATTRIBUTE_DEVICE_POINTER => wide(address.0),
        CU_POINTER_ATTRIBUTE_HOST_POINTER if is_managed || found.kind.is_host() => wide(address.0),
        CU_POINTER_ATTRIBUTE_P2P_TOKENS => out.cast::<[u64; 2]>().set([0, 0]),
        CU_POINTER_ATTRIBUTE_SYNC_MEMOPS => truth(false),
        CU_POINTER_ATTRIBUTE_BUFFER_ID | CU_POINTER_ATTRIBUTE_MEMORY_BLOCK_ID => wide(found.id),
        CU_POINTER_ATTRIBUTE_IS_MANAGED => number(u32::from(is_managed)),
        CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL => number(found.ordinal as u32),
        CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE => {
            truth(matches!(found.kind, Kind::Small | Kind::Large));
        }
        CU_POINTER_ATTRIBUTE_RANGE_START_ADDR => wide(found.address),
        CU_POINTER_ATTRIBUTE_RANGE_SIZE => wide(found.bytes),
        CU_POINTER_ATTRIBUTE_MAPPED => truth(true),
        CU_POINTER_ATTRIBUTE_ALLOWED_HANDLE_TYPES => wide(0),
        CU_POINTER_ATTRIBUTE_IS_GPU_DIRECT_RDMA_CAPABLE => truth(!found.kind.is_host()),
        CU_POINTER_ATTRIBUTE_ACCESS_FLAGS => number(CU_MEM_ACCESS_FLAGS_PROT_READWRITE),
        CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE => match found.kind {
            Kind::Pooled(pool) => wide(pool as u64),
            _ => wide(0),
        },
        CU_POINTER_ATTRIBUTE_MAPPING_SIZE => wide(found.bytes.next_multiple_of(2 << 20)),
        CU_POINTER_ATTRIBUTE_MAPPING_BASE_ADDR => wide(found.address & !((2 << 20) - 1)),
        CU_POINTER_ATTRIBUTE_IS_HW_DECOMPRESS_CAPABLE => truth(false),
        _ => return Err(CUerror::INVALID_VALUE),
    }
    Ok(())
}

pub fn get_attribute(out: Out<c_void>, attribute: u32, address: CUdeviceptr) -> CUresult {
    let found = space::find(address.0).ok_or(CUerror::INVALID_VALUE)?;
    give(&out, attribute, address, &found)
}

/// Attributes of a pointer that isn't known read as zero.
pub fn get_attributes(
    count: u32,
    attributes: Items<CUpointer_attribute>,
    data: Items<*mut c_void>,
    address: CUdeviceptr,
) -> CUresult {
    let found = space::find(address.0);
    let count = count as usize;
    for (attribute, place) in attributes.first(count).into_iter().zip(data.first(count)) {
        let Some(out) = Out::at(place) else { return Err(CUerror::INVALID_VALUE) };
        match &found {
            Some(found) if give(&out, attribute, address, found).is_ok() => {}
            _ => match attribute {
                CU_POINTER_ATTRIBUTE_MEMORY_TYPE
                | CU_POINTER_ATTRIBUTE_IS_MANAGED
                | CU_POINTER_ATTRIBUTE_ACCESS_FLAGS => out.cast::<u32>().set(0),
                CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL => out.cast::<i32>().set(-2),
                CU_POINTER_ATTRIBUTE_SYNC_MEMOPS
                | CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE
                | CU_POINTER_ATTRIBUTE_MAPPED
                | CU_POINTER_ATTRIBUTE_IS_GPU_DIRECT_RDMA_CAPABLE
                | CU_POINTER_ATTRIBUTE_IS_HW_DECOMPRESS_CAPABLE => out.cast::<u8>().set(0),
                _ => out.cast::<u64>().set(0),
            },
        }
    }
    Ok(())
}

/// Only whether copies wait can be set, and they always do what is asked.
pub fn set_attribute(_value: *const c_void, attribute: u32, address: CUdeviceptr) -> CUresult {
    space::find(address.0).ok_or(CUerror::INVALID_VALUE)?;
    if attribute == CU_POINTER_ATTRIBUTE_SYNC_MEMOPS { Ok(()) } else { Err(CUerror::INVALID_VALUE) }
}

fn managed(address: CUdeviceptr, bytes: usize) -> CUresult {
    space::check(address.0, bytes as u64)?;
    match space::find(address.0).map(|found| found.kind) {
        Some(Kind::Managed(_)) => Ok(()),
        _ => Err(CUerror::INVALID_VALUE),
    }
}

/// Hints change nothing here.
pub fn advise(address: CUdeviceptr, bytes: usize, _advice: u32, _device: CUdevice) -> CUresult {
    managed(address, bytes)
}

/// Hints change nothing here.
pub fn advise_v2(address: CUdeviceptr, bytes: usize, _advice: u32, _location: CUmemLocation) -> CUresult {
    managed(address, bytes)
}

/// To a device, this is the touch that brings managed memory there.
pub fn prefetch(address: CUdeviceptr, bytes: usize, device: CUdevice, _stream: &'static Stream) -> CUresult {
    managed(address, bytes)?;
    if device == CU_DEVICE_CPU {
        return Ok(());
    }
    driver::driver().device(device)?;
    memory::touch(address.0);
    Ok(())
}

/// As `prefetch`.
pub fn prefetch_v2(
    address: CUdeviceptr,
    bytes: usize,
    location: CUmemLocation,
    _flags: u32,
    stream: &'static Stream,
) -> CUresult {
    let device = if location.type_ == CU_MEM_LOCATION_TYPE_DEVICE { location.id } else { CU_DEVICE_CPU };
    prefetch(address, bytes, device, stream)
}
