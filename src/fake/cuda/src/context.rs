//! Contexts: what a program has on one device, and each thread's stack of current ones.

use crate::device::Device;
use crate::driver::driver;
use crate::edge::{FromC, Out};
use crate::event;
use crate::holdings::Holdings;
use crate::lines::Lines;
use crate::settings::settings;
use crate::slab::{Slab, handle_of};
use crate::stream::{self, Stream};
use crate::{memory, space};
use parking_lot::Mutex;
use std::cell::{Cell, RefCell};
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize};
use vcuda_driver::cuda::types::{CUcontext, CUdevice};
use vcuda_driver::result::{CUerror, CUresult};
use vcuda_fake_machine::{Bytes, Mark, Unit};

/// What a context takes of a GPU with 132 multiprocessors: on the process, and on top of that.
const PROCESS_BYTES: u64 = 518 << 20;
const DEVICE_ONLY_BYTES: u64 = 89 << 16;
const USUAL_MULTIPROCESSORS: u64 = 132;

pub static CONTEXTS: Slab<Context> = Slab::new();

/// A context. One that was destroyed has id 0.
#[derive(Default)]
pub struct Context {
    pub id: AtomicU64,
    ordinal: AtomicUsize,
    pub flags: AtomicU32,
    pub api_version: AtomicU32,
    /// Code of the error that every further call gets, or 0.
    pub broken: AtomicU32,
    /// Multiprocessors of a green context; 0: all of them.
    pub multiprocessors: AtomicU32,
    /// Whether this is a device's primary context, whose handle comes to life again when it is retained.
    is_primary: AtomicBool,
    /// What its streams have on the time line.
    pub lines: Lines,
    legacy_stream: AtomicUsize,
    pub holdings: Mutex<Holdings>,
}

thread_local! {
    /// The current context and the id it had when it became current.
    static CURRENT: Cell<Option<(&'static Context, u64)>> = const { Cell::new(None) };
    /// The contexts below it.
    static BELOW: RefCell<Vec<Option<(&'static Context, u64)>>> = const { RefCell::new(Vec::new()) };
}

impl FromC<CUcontext> for &'static Context {
    unsafe fn from_c(value: CUcontext) -> Result<&'static Context, CUerror> {
        CONTEXTS.get(value.0).ok_or(CUerror::INVALID_CONTEXT)
    }
}

/// Null means none.
impl FromC<CUcontext> for Option<&'static Context> {
    unsafe fn from_c(value: CUcontext) -> Result<Option<&'static Context>, CUerror> {
        if value.is_null() {
            return Ok(None);
        }
        CONTEXTS.get(value.0).map(Some).ok_or(CUerror::INVALID_CONTEXT)
    }
}

impl Context {
    /// The calling thread's context, if it can be used.
    #[inline]
    pub fn current() -> Result<&'static Context, CUerror> {
        match CURRENT.get() {
            None => Err(CUerror::INVALID_CONTEXT),
            Some((context, id)) if context.id.load(Acquire) == id => Ok(context),
            Some((context, _)) => context.revived(),
        }
    }

    /// The primary context, if it was destroyed but lives again.
    #[cold]
    fn revived(&'static self) -> Result<&'static Context, CUerror> {
        let lives = self.is_primary.load(Relaxed) && self.id.load(Acquire) != 0;
        if lives { Ok(self) } else { Err(CUerror::CONTEXT_IS_DESTROYED) }
    }

    /// Makes a context on a device, or nothing.
    pub fn create(device: &Device, flags: u32) -> Result<&'static Context, CUerror> {
        let context = CONTEXTS.add().ok_or(CUerror::OUT_OF_MEMORY)?;
        let opened = context.open(device, flags, base_bytes(device));
        opened.inspect_err(|_| {
            CONTEXTS.remove(context);
        })?;
        Ok(context)
    }

    /// Makes a context on some of the multiprocessors, within the device's primary one.
    pub fn create_green(device: &Device, multiprocessors: u32) -> Result<&'static Context, CUerror> {
        let context = CONTEXTS.add().ok_or(CUerror::OUT_OF_MEMORY)?;
        let opened = context.open(device, 0, Bytes::default());
        opened.inspect_err(|_| {
            CONTEXTS.remove(context);
        })?;
        context.multiprocessors.store(multiprocessors, Relaxed);
        Ok(context)
    }

    /// A handle for a device's primary context, not alive yet.
    pub fn create_primary_handle() -> Result<&'static Context, CUerror> {
        let context = CONTEXTS.add().ok_or(CUerror::OUT_OF_MEMORY)?;
        context.is_primary.store(true, Relaxed);
        context.id.store(0, Release);
        Ok(context)
    }

    /// Brings a primary context to life.
    pub fn open_primary(&'static self, device: &Device, flags: u32) -> CUresult {
        self.open(device, flags, base_bytes(device))
    }

    fn open(&'static self, device: &Device, flags: u32, base: Bytes) -> CUresult {
        static NEXT_ID: AtomicU64 = AtomicU64::new(1);
        device.take_as(base)?;
        self.ordinal.store(device.ordinal, Relaxed);
        self.flags.store(flags, Relaxed);
        self.api_version.store(3020, Relaxed);
        self.broken.store(0, Relaxed);
        self.multiprocessors.store(0, Relaxed);
        *self.holdings.lock() = Holdings::of_context(base);
        self.id.store(NEXT_ID.fetch_add(1, Relaxed), Release);
        let legacy = Stream::create_default(self).inspect_err(|_| {
            self.id.store(0, Release);
            device.give_as(base);
        })?;
        self.legacy_stream.store(handle_of(legacy), Release);
        driver().member.count_contexts(device.gpu, 1);
        Ok(())
    }

    /// Ends a context with everything in it; false if it was over already.
    pub fn destroy(&'static self) -> bool {
        self.wait();
        let id = self.id.swap(0, Release);
        if id == 0 {
            return false;
        }
        let device = self.device();
        for allocation in space::remove_of_context(id) {
            memory::give_back(&allocation, None);
        }
        crate::array::destroy_of_context(id);
        crate::module::unload_of_context(id);
        stream::destroy_of_context(self, id);
        self.wait_for_lines();
        driver().member.timeline(|timeline| self.lines.close(timeline));
        let mut held = std::mem::take(&mut *self.holdings.lock());
        for start in held.chunks.drain().into_iter().chain(held.array_chunks.drain()) {
            memory::give_chunk(device, start);
        }
        device.give_as(held.base);
        device.give(held.taken_bytes(device));
        driver().member.count_contexts(device.gpu, -1);
        if !self.is_primary() {
            CONTEXTS.remove(self);
        }
        true
    }

    /// The device the context is on.
    #[inline]
    pub fn device(&self) -> &'static Device {
        &driver().devices[self.ordinal.load(Relaxed)]
    }

    pub fn handle(&self) -> CUcontext {
        CUcontext(handle_of(self))
    }

    /// The default stream that all threads share.
    #[inline]
    pub fn legacy_stream(&self) -> Result<&'static Stream, CUerror> {
        stream::STREAMS.get(self.legacy_stream.load(Acquire)).ok_or(CUerror::CONTEXT_IS_DESTROYED)
    }

    /// Waits until all work queued so far is done.
    pub fn wait(&self) {
        self.wait_for_lines();
        crate::callback::wait_for_context(self.id.load(Relaxed));
    }

    fn wait_for_lines(&self) {
        let member = &driver().member;
        for tail in member.timeline(|timeline| self.lines.tails(timeline)) {
            member.wait_for(tail);
        }
    }

    /// Marks the end of all work queued so far, for an event.
    pub fn mark_whole(&self, tag: u64) -> Result<Mark, CUerror> {
        driver().member.timeline(|timeline| {
            let line = self.lines.whole(timeline, self.device().gpu)?;
            for tail in self.lines.tails(timeline) {
                timeline.append(line, Unit::wait(tail), event::settle);
            }
            let earliest_ns = timeline.now_ns() + settings().times.record_delay_ns;
            timeline
                .append(line, Unit { earliest_ns, tag, ..Unit::MARK }, event::settle)
                .ok_or(CUerror::OUT_OF_MEMORY)
        })
    }

    /// Fails if an earlier kernel broke the context.
    #[inline]
    pub fn check(&self) -> CUresult {
        match CUerror::new(self.broken.load(Relaxed)) {
            None => Ok(()),
            Some(error) => Err(error),
        }
    }

    /// Makes every further call fail with `error`, as a bad kernel does.
    pub fn break_with(&self, error: CUerror) {
        self.broken.store(error.code(), Relaxed);
    }

    /// Whether this is a device's primary context.
    pub fn is_primary(&self) -> bool {
        self.is_primary.load(Relaxed)
    }

    /// Whether the context can be used.
    pub fn is_alive(&self) -> bool {
        self.id.load(Acquire) != 0
    }
}

fn base_bytes(device: &Device) -> Bytes {
    let scale = |bytes: u64| bytes * u64::from(device.facts().multiprocessors) / USUAL_MULTIPROCESSORS;
    let process = settings().context_bytes.unwrap_or_else(|| scale(PROCESS_BYTES)).next_multiple_of(1 << 16);
    Bytes { device: process + scale(DEVICE_ONLY_BYTES).next_multiple_of(1 << 16), process }
}

/// The live context of an id.
pub fn find_by_id(id: u64) -> Option<&'static Context> {
    CONTEXTS.live().into_iter().find(|context| id != 0 && context.id.load(Relaxed) == id)
}

fn set_current(context: Option<&'static Context>) {
    CURRENT.set(context.map(|context| (context, context.id.load(Acquire))));
}

pub fn create(out: Out<CUcontext>, flags: u32, device: CUdevice) -> CUresult {
    if flags & !0xff != 0 {
        return Err(CUerror::INVALID_VALUE);
    }
    let context = Context::create(driver().device(device)?, flags)?;
    push(context)?;
    out.set(context.handle());
    Ok(())
}

/// The affinity is taken note of by nobody: simulated kernels don't depend on it.
pub fn create_v3(
    out: Out<CUcontext>,
    _affinity: *mut Affinity,
    _count: i32,
    flags: u32,
    device: CUdevice,
) -> CUresult {
    create(out, flags, device)
}

/// As for `create_v3`.
pub fn create_v4(out: Out<CUcontext>, _params: *mut Params, flags: u32, device: CUdevice) -> CUresult {
    create(out, flags, device)
}

type Affinity = vcuda_driver::cuda::types::CUexecAffinityParam;
type Params = vcuda_driver::cuda::types::CUctxCreateParams;

pub fn destroy(context: &'static Context) -> CUresult {
    if context.is_primary() {
        return Err(CUerror::INVALID_CONTEXT);
    }
    let is_current = CURRENT.get().is_some_and(|(current, _)| std::ptr::eq(current, context));
    if !context.destroy() {
        return Err(CUerror::CONTEXT_IS_DESTROYED);
    }
    if is_current {
        CURRENT.set(BELOW.with_borrow_mut(|below| below.pop().flatten()));
    }
    Ok(())
}

pub fn push(context: &'static Context) -> CUresult {
    BELOW.with_borrow_mut(|below| below.push(CURRENT.get()));
    set_current(Some(context));
    Ok(())
}

pub fn pop(out: Option<Out<CUcontext>>) -> CUresult {
    let (context, _) = CURRENT.get().ok_or(CUerror::INVALID_CONTEXT)?;
    CURRENT.set(BELOW.with_borrow_mut(|below| below.pop().flatten()));
    if let Some(out) = out {
        out.set(context.handle());
    }
    Ok(())
}

pub fn set(context: Option<&'static Context>) -> CUresult {
    set_current(context);
    Ok(())
}

/// A destroyed context stays current, and stays told, until it is popped.
pub fn get(out: Out<CUcontext>) -> CUresult {
    out.set(CURRENT.get().map_or(CUcontext::NULL, |(context, _)| context.handle()));
    Ok(())
}

pub fn get_device(out: Out<CUdevice>) -> CUresult {
    out.set(Context::current()?.device().ordinal as CUdevice);
    Ok(())
}

pub fn get_device_of(out: Out<CUdevice>, context: Option<&'static Context>) -> CUresult {
    let context = context.map_or_else(Context::current, Ok)?;
    out.set(context.device().ordinal as CUdevice);
    Ok(())
}

pub fn get_id(context: Option<&'static Context>, out: Out<u64>) -> CUresult {
    let context = context.map_or_else(Context::current, Ok)?;
    out.set(context.id.load(Relaxed));
    Ok(())
}

pub fn get_api_version(context: Option<&'static Context>, out: Out<u32>) -> CUresult {
    let context = context.map_or_else(Context::current, Ok)?;
    out.set(context.api_version.load(Relaxed));
    Ok(())
}

pub fn synchronize() -> CUresult {
    synchronize_of(None)
}

pub fn synchronize_of(context: Option<&'static Context>) -> CUresult {
    let context = context.map_or_else(Context::current, Ok)?;
    crate::capture::forbid_in(context)?;
    context.wait();
    crate::pool::release_surplus(context.device(), None);
    context.check()
}

/// Contexts were counted once; now attaching is no more than looking.
pub fn attach(out: Out<CUcontext>, flags: u32) -> CUresult {
    if flags != 0 {
        return Err(CUerror::INVALID_VALUE);
    }
    out.set(Context::current()?.handle());
    Ok(())
}
