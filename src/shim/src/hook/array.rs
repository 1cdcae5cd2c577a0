//! CUDA arrays of every kind, charged in bytes as the driver lays them out.
//!
//! What an array takes depends on tiling that is the driver's secret (measured: a 1D array of 1 MiB takes 8,
//! a 100 x 100 x 100 float array 6), so the driver is asked: a twin with deferred mapping has no memory but
//! a stated size, which is what the real one takes, rounded up to 2 MiB. It costs 10 us beside the 40 to
//! 80 us of a creation; equal shapes are asked once.

use crate::driver;
use crate::edge::{In, Out};
use crate::hook::linear::{credit, limited_here};
use crate::ledger::{Charge, Entry, Kind};
use crate::quota::{Quota, mapped_pages};
use crate::slice::{self, Slice};
use vcuda_driver::cuda::types::*;
use vcuda_driver::result::CUresult;

/// Largest array that the driver packs with others, in bytes.
const SMALL_BYTES: u64 = 1 << 20;
/// Smallest block of the driver's tiling: 64 bytes by 8 rows.
const TILE_WIDTH_BYTES: u64 = 64;
const TILE_HEIGHT: u64 = 8;

/// Runs `driver` with an array of `shape` charged.
fn charged(
    slice: &Slice,
    quota: &Quota,
    shape: &CUDA_ARRAY3D_DESCRIPTOR,
    kind: Kind,
    stated_bytes: u64,
    driver: impl Fn() -> CUresult,
    made: impl Fn() -> Option<u64>,
) -> CUresult {
    let without_memory = CUDA_ARRAY3D_SPARSE | CUDA_ARRAY3D_DEFERRED_MAPPING;
    if shape.Flags & without_memory != 0 {
        return driver();
    }
    quota.count_context()?;
    let context = driver::current_context().unwrap_or_default();
    let enter = |charge| {
        if let Some(handle) = made() {
            slice.ledger.enter(
                kind,
                handle,
                Entry { device: quota.ordinal, context, charge, entered_at: slice.ledger.now() },
            );
        }
    };
    if stated_bytes <= SMALL_BYTES {
        let _in_flight = quota.begin();
        let bytes = packed_bytes(shape).min(stated_bytes);
        quota.small_arrays.add(quota, bytes)?;
        driver().inspect_err(|_| quota.small_arrays.remove(quota, bytes))?;
        enter(Charge::SmallArray { bytes });
    } else {
        let reservation = quota.reserve(mapped_pages(stated_bytes))?;
        driver()?;
        let pages = reservation.keep_attributed();
        enter(Charge::Own { pages });
    }
    // What tiling lost beyond the stated size, if anything.
    quota.mark_stale();
    Ok(())
}

/// Bytes of a small array in the driver's tiles.
fn packed_bytes(shape: &CUDA_ARRAY3D_DESCRIPTOR) -> u64 {
    let row = (shape.Width as u64).saturating_mul(element_bytes(shape));
    let width = row.div_ceil(TILE_WIDTH_BYTES).saturating_mul(TILE_WIDTH_BYTES);
    let height = (shape.Height as u64).max(1).div_ceil(TILE_HEIGHT).saturating_mul(TILE_HEIGHT);
    width.saturating_mul(height).saturating_mul((shape.Depth as u64).max(1))
}

/// Bytes of one element; block-compressed and planar formats count as their widest plane.
fn element_bytes(shape: &CUDA_ARRAY3D_DESCRIPTOR) -> u64 {
    let channel = match shape.Format {
        CU_AD_FORMAT_UNSIGNED_INT8 | CU_AD_FORMAT_SIGNED_INT8 => 1,
        CU_AD_FORMAT_UNSIGNED_INT16 | CU_AD_FORMAT_SIGNED_INT16 | CU_AD_FORMAT_HALF => 2,
        _ => 4,
    };
    u64::from(shape.NumChannels).max(1) * channel
}

/// What the driver states for a shape; a generous guess where it can't be asked (before CUDA 11.6).
fn stated_bytes(shape: &CUDA_ARRAY3D_DESCRIPTOR, levels: Option<u32>, device: CUdevice) -> u64 {
    let stated = match levels {
        None => driver::array_bytes(shape, device),
        Some(levels) => driver::mipmapped_array_bytes(shape, levels, device),
    };
    stated.unwrap_or_else(|_| {
        // A mipmap's levels sum to at most a third more than the first (half more in one dimension).
        let base = packed_bytes(shape);
        if levels.is_some() { base.saturating_add(base / 2) } else { base }
    })
}

fn create_shape(
    driver: impl Fn() -> CUresult,
    array: Out<CUarray>,
    shape: Option<CUDA_ARRAY3D_DESCRIPTOR>,
) -> CUresult {
    let (Some((slice, quota)), Some(shape)) = (limited_here()?, shape) else { return driver() };
    let stated = stated_bytes(&shape, None, quota.ordinal);
    charged(slice, quota, &shape, Kind::Array, stated, driver, || array.get().map(|array| array.as_u64()))
}

fn flat(width: usize, height: usize, format: CUarray_format, channels: u32) -> CUDA_ARRAY3D_DESCRIPTOR {
    CUDA_ARRAY3D_DESCRIPTOR {
        Width: width,
        Height: height,
        Depth: 0,
        Format: format,
        NumChannels: channels,
        Flags: 0,
    }
}

/// `cuArrayCreate_v2`.
pub fn create(
    driver: impl Fn() -> CUresult,
    array: Out<CUarray>,
    shape: In<CUDA_ARRAY_DESCRIPTOR>,
) -> CUresult {
    let shape = shape.get().map(|s| flat(s.Width, s.Height, s.Format, s.NumChannels));
    create_shape(driver, array, shape)
}

/// The 32-bit form of CUDA before 3.2.
pub fn create_v1(
    driver: impl Fn() -> CUresult,
    array: Out<CUarray>,
    shape: In<CUDA_ARRAY_DESCRIPTOR_v1>,
) -> CUresult {
    let shape = shape.get().map(|s| flat(s.Width as usize, s.Height as usize, s.Format, s.NumChannels));
    create_shape(driver, array, shape)
}

/// `cuArray3DCreate_v2`: 1D to 3D, layered, cube maps.
pub fn create_3d(
    driver: impl Fn() -> CUresult,
    array: Out<CUarray>,
    shape: In<CUDA_ARRAY3D_DESCRIPTOR>,
) -> CUresult {
    create_shape(driver, array, shape.get())
}

/// The 32-bit form of CUDA before 3.2.
pub fn create_3d_v1(
    driver: impl Fn() -> CUresult,
    array: Out<CUarray>,
    shape: In<CUDA_ARRAY3D_DESCRIPTOR_v1>,
) -> CUresult {
    let shape = shape.get().map(|s| CUDA_ARRAY3D_DESCRIPTOR {
        Depth: s.Depth as usize,
        Flags: s.Flags,
        ..flat(s.Width as usize, s.Height as usize, s.Format, s.NumChannels)
    });
    create_shape(driver, array, shape)
}

/// `cuMipmappedArrayCreate`.
pub fn create_mipmapped(
    driver: impl Fn() -> CUresult,
    array: Out<CUmipmappedArray>,
    shape: In<CUDA_ARRAY3D_DESCRIPTOR>,
    levels: u32,
) -> CUresult {
    let (Some((slice, quota)), Some(shape)) = (limited_here()?, shape.get()) else { return driver() };
    let stated = stated_bytes(&shape, Some(levels), quota.ordinal);
    let made = || array.get().map(|array| array.as_u64());
    charged(slice, quota, &shape, Kind::MipmappedArray, stated, driver, made)
}

fn destroy_handle(driver: impl Fn() -> CUresult, kind: Kind, handle: u64) -> CUresult {
    let Some(slice) = slice::current()? else { return driver() };
    let Some(entry) = slice.ledger.take(kind, handle) else { return driver() };
    let _in_flight = slice.quota(entry.device).map(Quota::begin);
    if let Err(error) = driver() {
        slice.ledger.enter(kind, handle, entry);
        return Err(error);
    }
    credit(slice, entry);
    Ok(())
}

/// `cuArrayDestroy`.
pub fn destroy(driver: impl Fn() -> CUresult, array: CUarray) -> CUresult {
    destroy_handle(driver, Kind::Array, array.as_u64())
}

/// `cuMipmappedArrayDestroy`.
pub fn destroy_mipmapped(driver: impl Fn() -> CUresult, array: CUmipmappedArray) -> CUresult {
    destroy_handle(driver, Kind::MipmappedArray, array.as_u64())
}
