//! `cuMemGetInfo` and `cuDeviceTotalMem`: in the slice, the slice is the GPU.

use crate::edge::Out;
use crate::slice;
use vcuda_driver::cuda::types::CUdevice;
use vcuda_driver::result::{CUerror, CUresult};

/// Free and total bytes of the current device's slice; `None` for the driver's own answer.
fn slice_memory() -> Result<Option<(u64, u64)>, CUerror> {
    let Some(slice) = slice::current()? else { return Ok(None) };
    let Some(quota) = slice.current_quota()? else { return Ok(None) };
    slice::look_at_limits();
    let Some(limit_bytes) = quota.limit_bytes() else { return Ok(None) };
    // Pools shrink behind our back when streams pass synchronisation points.
    quota.pools.refresh(quota);
    let mut used_bytes = quota.used_bytes()?;
    if quota.is_shared(used_bytes) && slice.reap_if_due() {
        used_bytes = quota.used_bytes()?;
    }
    Ok(Some((limit_bytes.saturating_sub(used_bytes), limit_bytes)))
}

/// `cuMemGetInfo_v2`. Null pointers are skipped, as the driver does.
pub fn memory(driver: impl Fn() -> CUresult, free: Out<usize>, total: Out<usize>) -> CUresult {
    let Some((free_bytes, total_bytes)) = slice_memory()? else { return driver() };
    free.set(free_bytes as usize);
    total.set(total_bytes as usize);
    Ok(())
}

/// The 32-bit form of CUDA before 3.2: saturates.
pub fn memory_v1(driver: impl Fn() -> CUresult, free: Out<u32>, total: Out<u32>) -> CUresult {
    let Some((free_bytes, total_bytes)) = slice_memory()? else { return driver() };
    free.set(u32::try_from(free_bytes).unwrap_or(u32::MAX));
    total.set(u32::try_from(total_bytes).unwrap_or(u32::MAX));
    Ok(())
}

/// A device's memory limit now; `None` for the driver's own answer.
fn limit_bytes(device: CUdevice) -> Result<Option<u64>, CUerror> {
    let Some(quota) = slice::current()?.and_then(|slice| slice.quota(device)) else { return Ok(None) };
    slice::look_at_limits();
    Ok(quota.limit_bytes())
}

/// `cuDeviceTotalMem_v2`.
pub fn total(driver: impl Fn() -> CUresult, bytes: Out<usize>, device: CUdevice) -> CUresult {
    driver()?;
    if let Some(limit_bytes) = limit_bytes(device)? {
        bytes.set(limit_bytes as usize);
    }
    Ok(())
}

/// The 32-bit form of CUDA before 3.2: saturates.
pub fn total_v1(driver: impl Fn() -> CUresult, bytes: Out<u32>, device: CUdevice) -> CUresult {
    driver()?;
    if let Some(limit_bytes) = limit_bytes(device)? {
        bytes.set(u32::try_from(limit_bytes).unwrap_or(u32::MAX));
    }
    Ok(())
}
