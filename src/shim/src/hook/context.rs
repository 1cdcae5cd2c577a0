//! Contexts: what creating one takes is reserved by estimate and then measured, and what dies with one is
//! credited.

use crate::compute;
use crate::driver;
use crate::edge::Out;
use crate::hook::linear::credit;
use crate::hook::module::load;
use crate::quota::{Quota, mapped_pages};
use crate::slice::{self, Slice};
use std::ffi::c_void;
use std::sync::atomic::Ordering;
use vcuda_driver::cuda::types::*;
use vcuda_driver::result::CUresult;

/// Runs `driver`, which makes a context on the device of `quota`, with its expected memory reserved.
fn charged(quota: &Quota, driver: impl Fn() -> CUresult) -> CUresult {
    let first = quota.overhead_pages() == 0;
    {
        let expected = quota.context_pages.load(Ordering::Relaxed);
        let reservation = quota.reserve(expected)?;
        driver()?;
        reservation.keep_as_overhead();
    }
    quota.measure();
    if first && quota.truth.is_proven() {
        quota.learn_context(quota.overhead_pages());
    }
    Ok(())
}

/// Runs `driver`, which makes a context on `device`, and remembers where it is.
fn created(device: CUdevice, context: Out<CUcontext>, driver: impl Fn() -> CUresult) -> CUresult {
    let Some(slice) = slice::current()? else { return driver() };
    let Some(quota) = slice.quota(device) else { return driver() };
    charged(quota, driver)?;
    if let Some(context) = context.get() {
        slice.contexts.lock().insert(context, device);
    }
    Ok(())
}

/// `cuCtxCreate`, `cuCtxCreate_v2`, and `cuGLCtxCreate`.
pub fn create(
    driver: impl Fn() -> CUresult,
    context: Out<CUcontext>,
    _flags: u32,
    device: CUdevice,
) -> CUresult {
    created(device, context, driver)
}

/// `cuVDPAUCtxCreate`.
pub fn create_vdpau(
    driver: impl Fn() -> CUresult,
    context: Out<CUcontext>,
    _flags: u32,
    device: CUdevice,
    _vdpau_device: u32,
    _vdpau_lookup: Out<c_void>,
) -> CUresult {
    created(device, context, driver)
}

/// `cuCtxCreate_v3`, with execution affinity.
pub fn create_v3(
    driver: impl Fn() -> CUresult,
    context: Out<CUcontext>,
    _affinity: Out<CUexecAffinityParam>,
    _affinity_count: i32,
    _flags: u32,
    device: CUdevice,
) -> CUresult {
    created(device, context, driver)
}

/// `cuCtxCreate_v4`, with creation parameters.
pub fn create_v4(
    driver: impl Fn() -> CUresult,
    context: Out<CUcontext>,
    _parameters: Out<CUctxCreateParams>,
    _flags: u32,
    device: CUdevice,
) -> CUresult {
    created(device, context, driver)
}

/// `cuGreenCtxCreate`: stands on the primary context, which it may bring about.
pub fn create_green(
    driver: impl Fn() -> CUresult,
    context: Out<CUgreenCtx>,
    _resources: CUdevResourceDesc,
    device: CUdevice,
    _flags: u32,
) -> CUresult {
    let Some(quota) = slice::current()?.and_then(|slice| slice.quota(device)) else { return driver() };
    if driver::primary_context_is_active(device) == Ok(false) {
        return charged(quota, driver);
    }
    // What one takes is not known before the first; from then on it is set aside.
    let before = quota.overhead_pages();
    let reservation = quota.reserve(quota.green_context_pages.load(Ordering::Relaxed))?;
    let undo = || {
        if let Some(context) = context.get() {
            // One that can't be destroyed stays charged.
            let _ = driver::destroy_green_context(context);
        }
    };
    load(
        || {
            driver()?;
            reservation.keep_as_overhead();
            Ok(())
        },
        undo,
    )?;
    quota.green_context_pages.fetch_max(quota.overhead_pages().saturating_sub(before), Ordering::Relaxed);
    Ok(())
}

/// `cuDevicePrimaryCtxRetain`: charged when it brings the context about.
pub fn retain_primary(driver: impl Fn() -> CUresult, context: Out<CUcontext>, device: CUdevice) -> CUresult {
    let Some(slice) = slice::current()? else { return driver() };
    retain_charged(slice, driver, context, device)?;
    if let (Some(context), Some(pace)) = (context.get(), slice.pace(device)) {
        pace.primary_context.store(context.as_u64(), Ordering::Release);
    }
    Ok(())
}

fn retain_charged(
    slice: &Slice,
    driver: impl Fn() -> CUresult,
    context: Out<CUcontext>,
    device: CUdevice,
) -> CUresult {
    let Some(quota) = slice.quota(device) else { return driver() };
    if driver::primary_context_is_active(device) == Ok(true) {
        driver()?;
    } else {
        charged(quota, &driver)?;
    }
    if let Some(context) = context.get() {
        quota.primary_context.store(context.as_u64(), Ordering::Release);
    }
    Ok(())
}

/// Runs `driver`, after which everything of `context` is gone if `is_gone` says so. `device` is where the
/// context was made, if that was seen.
fn ending(
    slice: &Slice,
    context: CUcontext,
    device: Option<CUdevice>,
    driver: impl Fn() -> CUresult,
    is_gone: impl Fn() -> bool,
) -> CUresult {
    let _in_flight = slice.begin_everywhere();
    // Afterwards the context's handle may be another's; and until it is known to be gone, other threads may
    // free what lies in it.
    let mark = slice.ledger.mark();
    driver()?;
    if !is_gone() {
        return Ok(());
    }
    for entry in slice.ledger.take_context(context, mark) {
        credit(slice, entry);
    }
    if let Some(quota) = device.and_then(|device| slice.quota(device))
        && !quota.truth.is_proven()
    {
        quota.drop_overhead(quota.context_pages.load(Ordering::Relaxed));
    }
    slice.measure_everywhere();
    Ok(())
}

/// `cuCtxDestroy`, `cuCtxDestroy_v2`, `cuCtxDetach`.
pub fn destroy(driver: impl Fn() -> CUresult, context: CUcontext) -> CUresult {
    let Some(slice) = slice::current()? else { return driver() };
    compute::forget_context(slice, context);
    let device = slice.contexts.lock().remove(&context);
    let ended = ending(slice, context, device, driver, || true);
    if let (Err(_), Some(device)) = (ended, device) {
        slice.contexts.lock().insert(context, device);
    }
    ended
}

/// `cuDevicePrimaryCtxRelease` and `cuDevicePrimaryCtxReset`, all versions.
pub fn end_primary(driver: impl Fn() -> CUresult, device: CUdevice) -> CUresult {
    let Some(slice) = slice::current()? else { return driver() };
    if let Some(pace) = slice.pace(device) {
        compute::forget_context(slice, CUcontext(pace.primary_context.load(Ordering::Acquire) as usize));
    }
    let Some(quota) = slice.quota(device) else { return driver() };
    let context = CUcontext(quota.primary_context.load(Ordering::Acquire) as usize);
    let is_gone = || driver::primary_context_is_active(device) == Ok(false);
    ending(slice, context, Some(device), driver, is_gone)
}

/// `cuCtxSetLimit`. A stack limit takes its bytes times every resident thread at once (measured: 8 KiB take
/// 1848 MiB on an H200), so it is reserved before.
pub fn set_limit(driver: impl Fn() -> CUresult, limit: CUlimit, value: usize) -> CUresult {
    let Some(slice) = slice::current()? else { return driver() };
    let Some(quota) = slice.current_quota()? else { return driver() };
    if limit == CU_LIMIT_STACK_SIZE {
        let before = driver::context_limit(limit)?;
        let grown = (value as u64).saturating_sub(before).saturating_mul(quota.resident_threads);
        let reservation = quota.reserve(mapped_pages(grown))?;
        driver()?;
        reservation.keep_as_overhead();
    } else {
        driver()?;
    }
    quota.measure();
    Ok(())
}
