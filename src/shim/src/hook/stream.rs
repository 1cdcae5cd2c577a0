//! Streams: creating many takes device memory (measured: 64 take 34 MiB, 128 take 70), a 2 MiB chunk now and
//! then; and what is measured of one ends with it.

use crate::compute::{self, DefaultStream};
use crate::edge::{In, Out};
use crate::hook::linear::limited_here;
use crate::hook::module::unsettling;
use crate::quota::MAPPING_PAGES;
use crate::slice;
use std::ffi::c_void;
use vcuda_driver::cuda::types::{
    CUcontext, CUevent, CUexternalSemaphore, CUgraphicsResource, CUgreenCtx, CUstream,
};
use vcuda_driver::result::CUresult;

/// Every way to create a stream: a chunk is set aside, and what was really taken is measured.
pub fn create(driver: impl Fn() -> CUresult) -> CUresult {
    let Some((_, quota)) = limited_here()? else { return driver() };
    let reservation = quota.reserve(MAPPING_PAGES)?;
    driver()?;
    if quota.truth.is_proven() {
        reservation.keep_as_overhead();
        quota.measure();
    }
    Ok(())
}

/// `cuStreamDestroy`: no event of ours may be recorded on it from here on.
pub fn destroy(driver: impl Fn() -> CUresult, stream: CUstream) -> CUresult {
    if let Some(slice) = slice::current()? {
        slice.streams.forget_stream(slice, stream);
    }
    unsettling(driver)
}

/// `cuStreamSynchronize`.
pub fn synchronize<D: DefaultStream>(driver: impl Fn() -> CUresult, stream: CUstream) -> CUresult {
    compute::synchronize(D::name(stream), driver)
}

/// `cuCtxSynchronize`.
pub fn synchronize_context(driver: impl Fn() -> CUresult) -> CUresult {
    synchronize_a_context(driver, CUcontext::NULL)
}

/// `cuCtxSynchronize_v2`.
pub fn synchronize_a_context(driver: impl Fn() -> CUresult, context: CUcontext) -> CUresult {
    compute::synchronize_context(context, driver)
}

/// `cuEventSynchronize`.
pub fn synchronize_event(driver: impl Fn() -> CUresult, _event: CUevent) -> CUresult {
    compute::synchronize_somehow(driver)
}

/// Whatever a stream may have to wait for, other than its own work: other streams, other devices, the host.
pub fn wait<D: DefaultStream>(driver: impl Fn() -> CUresult, stream: CUstream) -> CUresult {
    compute::interrupt(D::name(stream), driver)
}

/// `cuCtxWaitEvent`: all streams of the context wait.
pub fn wait_in_context(driver: impl Fn() -> CUresult, context: CUcontext, _event: CUevent) -> CUresult {
    compute::interrupt_all(|place| place.context == context, driver)
}

/// `cuGreenCtxWaitEvent`: all streams of the green context wait, and which those are is not known here.
pub fn wait_in_green_context(
    driver: impl Fn() -> CUresult,
    _context: CUgreenCtx,
    _event: CUevent,
) -> CUresult {
    compute::interrupt_all(|_| true, driver)
}

/// `cuWaitExternalSemaphoresAsync`.
pub fn wait_for_semaphores<D: DefaultStream>(
    driver: impl Fn() -> CUresult,
    _semaphores: In<CUexternalSemaphore>,
    _parameters: In<c_void>,
    _count: u32,
    stream: CUstream,
) -> CUresult {
    compute::interrupt(D::name(stream), driver)
}

/// `cuGraphicsMapResources`: the stream waits for the other API's work.
pub fn wait_for_graphics<D: DefaultStream>(
    driver: impl Fn() -> CUresult,
    _count: u32,
    _resources: Out<CUgraphicsResource>,
    stream: CUstream,
) -> CUresult {
    compute::interrupt(D::name(stream), driver)
}
