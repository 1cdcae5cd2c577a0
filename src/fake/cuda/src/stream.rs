//! Streams: lines of work on a virtual time line. Queuing work computes when it will be over; waiting for it
//! sleeps until then.

use crate::capture::{self, StreamCapture};
use crate::context::{CONTEXTS, Context};
use crate::driver::driver;
use crate::edge::{FromC, Out};
use crate::event::Event;
use crate::gate;
use crate::settings::settings;
use crate::slab::{Slab, handle_of};
use parking_lot::Mutex;
use std::cell::RefCell;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, AtomicUsize};
use vcuda_driver::cuda::types::*;
use vcuda_driver::result::{CUerror, CUresult};
use vcuda_fake_machine::{now_ns, sleep_until};

pub static STREAMS: Slab<Stream> = Slab::new();

/// A stream.
#[derive(Default)]
pub struct Stream {
    pub id: AtomicU64,
    context: AtomicUsize,
    context_id: AtomicU64,
    flags: AtomicU32,
    priority: AtomicI32,
    kind: AtomicU32,
    /// When all work queued so far is done.
    pub tail_ns: AtomicU64,
    /// Host functions and writes that are still to happen.
    pub pending: AtomicU32,
    pub is_capturing: AtomicBool,
    pub capture: Mutex<Option<StreamCapture>>,
}

const CREATED: u32 = 0;
const LEGACY: u32 = 1;
const PER_THREAD: u32 = 2;

thread_local! {
    /// This thread's own default streams: context id and stream.
    static OWN: RefCell<Vec<(u64, &'static Stream)>> = const { RefCell::new(Vec::new()) };
}

impl FromC<CUstream> for &'static Stream {
    #[inline]
    unsafe fn from_c(value: CUstream) -> Result<&'static Stream, CUerror> {
        find(value)
    }
}

/// The stream of a handle; 0, 1 and 2 name default streams of the current context.
#[inline]
pub fn find(handle: CUstream) -> Result<&'static Stream, CUerror> {
    match handle {
        CUstream::NULL if gate::is_default_stream_per_thread() => per_thread_stream(),
        CUstream::NULL | CU_STREAM_LEGACY => Context::current()?.legacy_stream(),
        CU_STREAM_PER_THREAD => per_thread_stream(),
        CUstream(handle) => STREAMS.get(handle).ok_or(CUerror::INVALID_HANDLE),
    }
}

#[cold]
fn per_thread_stream() -> Result<&'static Stream, CUerror> {
    let context = Context::current()?;
    let id = context.id.load(Relaxed);
    OWN.with_borrow_mut(|own| {
        if let Some(&(_, stream)) = own.iter().find(|&&(context_id, _)| context_id == id) {
            return Ok(stream);
        }
        let stream = Stream::make(context, 0, 0, PER_THREAD)?;
        own.push((id, stream));
        Ok(stream)
    })
}

impl Stream {
    fn make(context: &Context, flags: u32, priority: i32, kind: u32) -> Result<&'static Stream, CUerror> {
        static NEXT_ID: AtomicU64 = AtomicU64::new(7);
        let stream = STREAMS.add().ok_or(CUerror::OUT_OF_MEMORY)?;
        stream.id.store(NEXT_ID.fetch_add(1, Relaxed), Relaxed);
        stream.context.store(handle_of(context), Relaxed);
        stream.context_id.store(context.id.load(Relaxed), Relaxed);
        stream.flags.store(flags, Relaxed);
        stream.priority.store(priority.clamp(-5, 0), Relaxed);
        stream.kind.store(kind, Relaxed);
        stream.tail_ns.store(0, Relaxed);
        stream.pending.store(0, Relaxed);
        stream.is_capturing.store(false, Relaxed);
        *stream.capture.lock() = None;
        Ok(stream)
    }

    /// The default stream of a new context.
    pub fn create_default(context: &Context) -> Result<&'static Stream, CUerror> {
        Stream::make(context, 0, 0, LEGACY)
    }

    /// A stream for the program.
    pub fn create(context: &Context, flags: u32, priority: i32) -> Result<&'static Stream, CUerror> {
        if flags & !CU_STREAM_NON_BLOCKING != 0 {
            return Err(CUerror::INVALID_VALUE);
        }
        context.holdings.lock().take_stream(context.device())?;
        Stream::make(context, flags, priority, CREATED)
    }

    /// The context, if it still lives.
    #[inline]
    pub fn context(&self) -> Result<&'static Context, CUerror> {
        CONTEXTS
            .get(self.context.load(Relaxed))
            .filter(|context| context.id.load(Relaxed) == self.context_id.load(Relaxed))
            .ok_or(CUerror::CONTEXT_IS_DESTROYED)
    }

    pub fn is_legacy(&self) -> bool {
        self.kind.load(Relaxed) == LEGACY
    }

    /// Whether the default stream waits for this one and the other way round.
    pub fn is_blocking(&self) -> bool {
        self.flags.load(Relaxed) & CU_STREAM_NON_BLOCKING == 0
    }

    /// When work queued now can begin.
    fn start_ns(&self, context: &Context) -> u64 {
        let other = if self.is_legacy() {
            context.blocking_tail_ns.load(Acquire)
        } else if self.is_blocking() {
            context.legacy_stream().map_or(0, |legacy| legacy.tail_ns.load(Acquire))
        } else {
            0
        };
        now_ns().max(self.tail_ns.load(Acquire)).max(other)
    }

    /// Makes whatever comes later wait until `end_ns`.
    pub fn wait_until(&self, end_ns: u64) -> CUresult {
        let context = self.context()?;
        self.tail_ns.fetch_max(end_ns, AcqRel);
        context.tail_ns.fetch_max(end_ns, AcqRel);
        if self.is_blocking() && !self.is_legacy() {
            context.blocking_tail_ns.fetch_max(end_ns, AcqRel);
        }
        Ok(())
    }

    /// Queues work for the GPU's processors, which all streams of all processes share.
    #[inline]
    pub fn queue_kernel(&self, duration_ns: u64) -> CUresult {
        if settings().is_null {
            return Ok(());
        }
        let context = self.context()?;
        let start_ns = self.start_ns(context);
        let span = driver().member.queue(context.device().gpu, start_ns, duration_ns);
        self.wait_until(span.end_ns)
    }

    /// Queues work that leaves the processors alone, such as a copy. Returns when it ends.
    pub fn queue_copy(&self, duration_ns: u64) -> Result<u64, CUerror> {
        if settings().is_null {
            return Ok(0);
        }
        let end_ns = self.start_ns(self.context()?) + duration_ns;
        self.wait_until(end_ns)?;
        Ok(end_ns)
    }

    /// When the work queued so far is done: later than now, or in the past.
    pub fn end_ns(&self) -> Result<u64, CUerror> {
        if settings().is_null { Ok(0) } else { Ok(self.start_ns(self.context()?)) }
    }

    /// Waits until the work queued so far is done.
    pub fn wait(&self) -> CUresult {
        let context = self.context()?;
        sleep_until(self.end_ns()?);
        crate::callback::wait_for_stream(self);
        crate::pool::release_surplus(context.device(), Some(self));
        context.check()
    }

    /// Whether the work queued so far is done.
    pub fn is_done(&self) -> Result<bool, CUerror> {
        self.context()?.check()?;
        Ok(self.pending.load(Acquire) == 0 && (settings().is_null || self.tail_ns.load(Acquire) <= now_ns()))
    }

    /// Ends the stream. Work queued on it is still done.
    fn destroy(&'static self) {
        capture::abandon(self);
        STREAMS.remove(self);
    }
}

/// Ends the streams of a context that ended.
pub fn destroy_of_context(context_id: u64) {
    for stream in STREAMS.live() {
        if stream.context_id.load(Relaxed) == context_id {
            stream.destroy();
        }
    }
}

pub fn create(out: Out<CUstream>, flags: u32) -> CUresult {
    create_with_priority(out, flags, 0)
}

pub fn create_with_priority(out: Out<CUstream>, flags: u32, priority: i32) -> CUresult {
    let stream = Stream::create(Context::current()?, flags, priority)?;
    out.set(CUstream(handle_of(stream)));
    Ok(())
}

pub fn destroy(handle: CUstream) -> CUresult {
    let stream = STREAMS.get(handle.0).ok_or(CUerror::INVALID_HANDLE)?;
    if stream.kind.load(Relaxed) != CREATED {
        return Err(CUerror::INVALID_HANDLE);
    }
    if let Ok(context) = stream.context() {
        let mut held = context.holdings.lock();
        held.streams = held.streams.saturating_sub(1);
    }
    stream.destroy();
    Ok(())
}

pub fn synchronize(stream: &'static Stream) -> CUresult {
    capture::forbid_on(stream)?;
    capture::forbid_unsafe()?;
    stream.wait()
}

pub fn query(stream: &'static Stream) -> CUresult {
    capture::forbid_on(stream)?;
    capture::forbid_unsafe()?;
    if stream.is_done()? { Ok(()) } else { Err(CUerror::NOT_READY) }
}

pub fn wait_event(stream: &'static Stream, event: &'static Event, _flags: u32) -> CUresult {
    if capture::join_by_event(stream, event)? {
        return Ok(());
    }
    stream.wait_until(event.time_ns.load(Acquire))
}

pub fn get_flags(stream: &'static Stream, out: Out<u32>) -> CUresult {
    out.set(stream.flags.load(Relaxed));
    Ok(())
}

pub fn get_priority(stream: &'static Stream, out: Out<i32>) -> CUresult {
    out.set(stream.priority.load(Relaxed));
    Ok(())
}

pub fn get_id(stream: &'static Stream, out: Out<u64>) -> CUresult {
    out.set(stream.id.load(Relaxed));
    Ok(())
}

pub fn get_context(stream: &'static Stream, out: Out<CUcontext>) -> CUresult {
    out.set(stream.context()?.handle());
    Ok(())
}

pub fn get_context_v2(
    stream: &'static Stream,
    out: Out<CUcontext>,
    green: Option<Out<CUgreenCtx>>,
) -> CUresult {
    if let Some(green) = green {
        green.set(CUgreenCtx::NULL);
    }
    get_context(stream, out)
}

pub fn get_device(stream: &'static Stream, out: Out<CUdevice>) -> CUresult {
    out.set(stream.context()?.device().ordinal as CUdevice);
    Ok(())
}

/// Streams keep no attributes here: whatever is set reads as zero.
pub fn get_attribute(_stream: &'static Stream, _attribute: u32, out: Out<std::ffi::c_void>) -> CUresult {
    out.cast::<[u64; 8]>().set([0; 8]);
    Ok(())
}

pub fn set_attribute(_stream: &'static Stream, _attribute: u32, _value: *const std::ffi::c_void) -> CUresult {
    Ok(())
}

pub fn copy_attributes(_to: &'static Stream, _from: &'static Stream) -> CUresult {
    Ok(())
}

/// Managed memory is reachable from everywhere here.
pub fn attach_memory(
    _stream: &'static Stream,
    _address: CUdeviceptr,
    _bytes: usize,
    _flags: u32,
) -> CUresult {
    Ok(())
}
