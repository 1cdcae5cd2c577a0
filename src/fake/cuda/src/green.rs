//! Green contexts: contexts on a part of a device's multiprocessors, on which kernels take as much longer.

use crate::context::Context;
use crate::driver::driver;
use crate::edge::{FromC, Out};
use crate::primary;
use crate::raw;
use crate::slab::{Slab, handle_of};
use crate::stream::Stream;
use std::ffi::c_void;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use vcuda_driver::cuda::types::*;
use vcuda_driver::result::{CUerror, CUresult};

/// The kind of resource that multiprocessors are.
const MULTIPROCESSORS: u32 = 1;
/// Parts are multiples of this many.
const PART: u32 = 8;

/// A device resource: its kind, and behind a gap the number of multiprocessors.
#[repr(C)]
#[derive(Clone, Copy)]
struct Resource {
    kind: u32,
    padding: [u8; 92],
    count: u32,
    smallest_part: u32,
    alignment: u32,
    flags: u32,
    unused: [u32; 6],
    next: u64,
}

const _: () = assert!(size_of::<Resource>() == 144);

impl Resource {
    fn of(count: u32) -> Resource {
        Resource {
            kind: MULTIPROCESSORS,
            padding: [0; 92],
            count,
            smallest_part: PART,
            alignment: PART,
            flags: 0,
            unused: [0; 6],
            next: 0,
        }
    }
}

/// What a green context is to be made of.
#[derive(Default)]
pub struct Description(AtomicU32);

/// A green context: its ordinary side.
#[derive(Default)]
pub struct Green(AtomicUsize);

static DESCRIPTIONS: Slab<Description> = Slab::new();
static GREENS: Slab<Green> = Slab::new();

impl FromC<CUgreenCtx> for &'static Green {
    unsafe fn from_c(value: CUgreenCtx) -> Result<&'static Green, CUerror> {
        GREENS.get(value.0).ok_or(CUerror::INVALID_HANDLE)
    }
}

impl Green {
    fn context(&self) -> Result<&'static Context, CUerror> {
        crate::context::CONTEXTS.get(self.0.load(Relaxed)).ok_or(CUerror::CONTEXT_IS_DESTROYED)
    }
}

fn give(out: &Out<c_void>, kind: u32, count: u32) -> CUresult {
    if kind != MULTIPROCESSORS {
        return Err(CUerror::NOT_SUPPORTED);
    }
    out.cast::<Resource>().set(Resource::of(count));
    Ok(())
}

pub fn device_resource(device: CUdevice, out: Out<c_void>, kind: u32) -> CUresult {
    give(&out, kind, driver().device(device)?.facts().multiprocessors)
}

pub fn context_resource(context: &'static Context, out: Out<c_void>, kind: u32) -> CUresult {
    let part = context.multiprocessors.load(Relaxed);
    give(&out, kind, if part == 0 { context.device().facts().multiprocessors } else { part })
}

pub fn green_resource(green: &'static Green, out: Out<c_void>, kind: u32) -> CUresult {
    context_resource(green.context()?, out, kind)
}

/// Splits into as many equal parts as are asked for and fit; without a place for them, says how many fit.
pub fn split_by_count(
    parts: Option<Out<c_void>>,
    count: Out<u32>,
    whole: *const c_void,
    rest: Option<Out<c_void>>,
    _flags: u32,
    smallest: u32,
) -> CUresult {
    if whole.is_null() {
        return Err(CUerror::INVALID_VALUE);
    }
    let whole: Resource = raw::read(whole as u64);
    let part = smallest.max(1).next_multiple_of(PART);
    let fitting = whole.count / part;
    if whole.kind != MULTIPROCESSORS || fitting == 0 {
        return Err(CUerror::INVALID_RESOURCE_CONFIGURATION);
    }
    let Some(parts) = parts else {
        count.set(fitting);
        return Ok(());
    };
    let made = count.get().min(fitting);
    for index in 0..made {
        parts.cast::<Resource>().set_at(index as usize, Resource::of(part));
    }
    if let Some(rest) = rest {
        rest.cast::<Resource>().set(Resource::of(whole.count - made * part));
    }
    count.set(made);
    Ok(())
}

pub fn describe(out: Out<CUdevResourceDesc>, resources: *mut c_void, count: u32) -> CUresult {
    if resources.is_null() || count == 0 {
        return Err(CUerror::INVALID_VALUE);
    }
    let size = size_of::<Resource>() as u64;
    let multiprocessors =
        (0..u64::from(count)).map(|index| raw::read::<Resource>(resources as u64 + index * size).count).sum();
    let description = DESCRIPTIONS.add().ok_or(CUerror::OUT_OF_MEMORY)?;
    description.0.store(multiprocessors, Relaxed);
    out.set(CUdevResourceDesc(handle_of(description)));
    Ok(())
}

/// Lives within the device's primary context, which it retains.
pub fn create(
    out: Out<CUgreenCtx>,
    description: CUdevResourceDesc,
    device: CUdevice,
    _flags: u32,
) -> CUresult {
    let device = driver().device(device)?;
    let description = DESCRIPTIONS.get(description.0).ok_or(CUerror::INVALID_RESOURCE_CONFIGURATION)?;
    let around = primary::retained(device)?;
    let made = around.holdings.lock().take_green(device).and_then(|()| {
        let green = GREENS.add().ok_or(CUerror::OUT_OF_MEMORY)?;
        let context = Context::create_green(device, description.0.load(Relaxed))?;
        green.0.store(handle_of(context), Relaxed);
        Ok(green)
    });
    let green = made.inspect_err(|_| {
        let _ = primary::released(device);
    })?;
    out.set(CUgreenCtx(handle_of(green)));
    Ok(())
}

pub fn destroy(green: &'static Green) -> CUresult {
    let context = green.context()?;
    let device = context.device();
    GREENS.remove(green);
    context.destroy();
    primary::give_up_green(device)
}

pub fn as_context(out: Out<CUcontext>, green: &'static Green) -> CUresult {
    out.set(green.context()?.handle());
    Ok(())
}

pub fn get_id(green: &'static Green, out: Out<u64>) -> CUresult {
    out.set(green.context()?.id.load(Relaxed));
    Ok(())
}

pub fn create_stream(out: Out<CUstream>, green: &'static Green, flags: u32, priority: i32) -> CUresult {
    let stream = Stream::create(green.context()?, flags | CU_STREAM_NON_BLOCKING, priority)?;
    out.set(CUstream(handle_of(stream)));
    Ok(())
}
