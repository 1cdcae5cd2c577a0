//! Linear device memory: `cuMemAlloc`, pitched and managed allocations, and `cuMemFree`.

use crate::chunk::SMALL_BYTES;
use crate::driver;
use crate::edge::Out;
use crate::hook::pool::take_block;
use crate::ledger::{Charge, Entry, Kind};
use crate::quota::{Quota, mapped_pages, pages};
use crate::slice::{self, Slice};
use vcuda_driver::cuda::types::{CUdeviceptr, CUdeviceptr_v1};
use vcuda_driver::result::{CUerror, CUresult};

/// Alignment of pitched rows on every GPU so far (CU_DEVICE_ATTRIBUTE_TEXTURE_PITCH_ALIGNMENT is at most
/// this); only a first guess, the driver's own pitch decides.
const PITCH_ALIGNMENT_BYTES: u64 = 512;

/// Runs `driver` with `bytes` of linear memory charged, and enters what it made.
///
/// `made` gives the pointer and, where only the driver knows it, the true size.
fn charged(
    slice: &Slice,
    quota: &Quota,
    bytes: u64,
    driver: impl Fn() -> CUresult,
    made: impl Fn() -> (Option<u64>, u64),
) -> CUresult {
    quota.count_context()?;
    if bytes != 0 && bytes <= SMALL_BYTES {
        let _in_flight = quota.begin();
        quota.chunks.prepare(quota)?;
        driver().inspect_err(|_| quota.chunks.failed())?;
        let Some(address) = made().0 else { return Ok(()) };
        let chunk = quota.chunks.opened(address);
        enter(slice, quota, address, Charge::InChunk { chunk });
        return Ok(());
    }
    let mut reservation = quota.reserve(mapped_pages(bytes))?;
    driver()?;
    let (Some(address), true_bytes) = made() else { return Ok(()) };
    if let Err(error) = reservation.resize(mapped_pages(true_bytes)) {
        // The program hasn't seen the pointer; a failed free would leave the memory to be measured.
        let _ = driver::free(CUdeviceptr(address));
        quota.mark_stale();
        return Err(error);
    }
    let pages = reservation.keep_attributed();
    enter(slice, quota, address, Charge::Own { pages });
    Ok(())
}

fn enter(slice: &Slice, quota: &Quota, address: u64, charge: Charge) {
    let context = driver::current_context().unwrap_or_default();
    let entry = Entry { device: quota.ordinal, context, charge, entered_at: slice.ledger.now() };
    if let Some(stale) = slice.ledger.enter(Kind::Pointer, address, entry) {
        // The driver gives an address out twice only after something freed it behind our back.
        credit(slice, stale);
    }
}

/// Credits an entry whose memory the driver has taken back.
pub fn credit(slice: &Slice, entry: Entry) {
    let Some(quota) = slice.quota(entry.device) else { return };
    match entry.charge {
        Charge::Own { pages } => {
            quota.take_attributed(pages);
            quota.give_back(pages);
        }
        Charge::Unattributed { pages } => {
            slice.count_managed(-1);
            quota.give_back(pages);
        }
        Charge::ByPool { .. } => {}
        Charge::InChunk { chunk } => quota.chunks.closed(quota, chunk),
        Charge::SmallArray { bytes } => quota.small_arrays.remove(quota, bytes),
    }
}

/// The slice and the current device's quota; `None` where the driver alone decides.
pub fn limited_here() -> Result<Option<(&'static Slice, &'static Quota)>, CUerror> {
    let Some(slice) = slice::current()? else { return Ok(None) };
    Ok(slice.current_quota()?.map(|quota| (slice, quota)))
}

/// `cuMemAlloc_v2`.
pub fn alloc(driver: impl Fn() -> CUresult, pointer: Out<CUdeviceptr>, bytes: usize) -> CUresult {
    let Some((slice, quota)) = limited_here()? else { return driver() };
    charged(slice, quota, bytes as u64, driver, || (pointer.get().map(|p| p.0), bytes as u64))
}

/// The 32-bit form of CUDA before 3.2.
pub fn alloc_v1(driver: impl Fn() -> CUresult, pointer: Out<CUdeviceptr_v1>, bytes: u32) -> CUresult {
    let Some((slice, quota)) = limited_here()? else { return driver() };
    charged(slice, quota, bytes.into(), driver, || (pointer.get().map(|p| p.0.into()), bytes.into()))
}

fn pitch_guess(width_bytes: u64) -> u64 {
    width_bytes.div_ceil(PITCH_ALIGNMENT_BYTES).saturating_mul(PITCH_ALIGNMENT_BYTES)
}

/// `cuMemAllocPitch_v2`.
pub fn alloc_pitch(
    driver: impl Fn() -> CUresult,
    pointer: Out<CUdeviceptr>,
    pitch: Out<usize>,
    width_bytes: usize,
    height: usize,
    _element_bytes: u32,
) -> CUresult {
    let Some((slice, quota)) = limited_here()? else { return driver() };
    let guess = pitch_guess(width_bytes as u64).saturating_mul(height as u64);
    let made = || {
        let pitch_bytes = pitch.get().unwrap_or_default() as u64;
        (pointer.get().map(|p| p.0), pitch_bytes.saturating_mul(height as u64))
    };
    charged(slice, quota, guess, driver, made)
}

/// The 32-bit form of CUDA before 3.2.
pub fn alloc_pitch_v1(
    driver: impl Fn() -> CUresult,
    pointer: Out<CUdeviceptr_v1>,
    pitch: Out<u32>,
    width_bytes: u32,
    height: u32,
    _element_bytes: u32,
) -> CUresult {
    let Some((slice, quota)) = limited_here()? else { return driver() };
    let guess = pitch_guess(width_bytes.into()).saturating_mul(height.into());
    let made = || {
        let pitch_bytes = u64::from(pitch.get().unwrap_or_default());
        (pointer.get().map(|p| p.0.into()), pitch_bytes.saturating_mul(height.into()))
    };
    charged(slice, quota, guess, driver, made)
}

/// `cuMemAllocManaged`: charged in full, since a device may come to hold all of it; the driver attributes it
/// to no process.
pub fn alloc_managed(
    driver: impl Fn() -> CUresult,
    pointer: Out<CUdeviceptr>,
    bytes: usize,
    _flags: u32,
) -> CUresult {
    let Some(slice) = slice::current()? else { return driver() };
    let Some(quota) = slice.current_quota()? else {
        driver()?;
        // Not in the ledger, so it counts for good.
        slice.count_managed(1);
        return Ok(());
    };
    quota.count_context()?;
    let charge = pages(bytes as u64);
    let reservation = quota.reserve(charge)?;
    driver()?;
    let Some(address) = pointer.get() else { return Ok(()) };
    reservation.keep();
    slice.count_managed(1);
    enter(slice, quota, address.0, Charge::Unattributed { pages: charge });
    Ok(())
}

/// Frees through the driver and credits, if it was charged here; any other pointer is the driver's affair.
fn free_at(driver: impl Fn() -> CUresult, address: u64) -> CUresult {
    let Some(slice) = slice::current()? else { return driver() };
    let Some(entry) = slice.ledger.take(Kind::Pointer, address) else {
        // Memory of a pool may be freed this way too: its stream has nothing to use again then.
        take_block(slice, address);
        return driver();
    };
    let _in_flight = slice.quota(entry.device).map(Quota::begin);
    if let Err(error) = driver() {
        slice.ledger.enter(Kind::Pointer, address, entry);
        return Err(error);
    }
    credit(slice, entry);
    Ok(())
}

/// `cuMemFree_v2`.
pub fn free(driver: impl Fn() -> CUresult, pointer: CUdeviceptr) -> CUresult {
    free_at(driver, pointer.0)
}

/// The 32-bit form of CUDA before 3.2.
pub fn free_v1(driver: impl Fn() -> CUresult, pointer: CUdeviceptr_v1) -> CUresult {
    free_at(driver, pointer.0.into())
}
