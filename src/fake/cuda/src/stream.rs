//! Streams: lines of work on the machine's time line.

use crate::capture::{self, StreamCapture};
use crate::context::{CONTEXTS, Context};
use crate::driver::driver;
use crate::edge::{FromC, Out};
use crate::event::Event;
use crate::lines::Role;
use crate::settings::settings;
use crate::slab::{Slab, handle_of};
use crate::work::Work;
use crate::{cost, event, gate};
use parking_lot::Mutex;
use std::cell::RefCell;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, AtomicUsize};
use vcuda_driver::cuda::types::*;
use vcuda_driver::result::{CUerror, CUresult};
use vcuda_fake_machine::{Engine, Length, LineId, Mark, Timeline, Unit};

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
    /// The stream's line on the time line, as a word; 0 until there is work.
    line: AtomicU64,
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
        stream.line.store(0, Relaxed);
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

    fn role(&self) -> Role {
        match (self.is_legacy(), self.is_blocking()) {
            (true, _) => Role::Legacy,
            (false, true) => Role::Blocking,
            (false, false) => Role::Independent,
        }
    }

    fn line(&self) -> Option<LineId> {
        LineId::from_word(self.line.load(Acquire))
    }

    fn open_line(&self, context: &Context, timeline: &mut Timeline) -> Result<LineId, CUerror> {
        if let Some(line) = self.line() {
            return Ok(line);
        }
        let line = context.lines.open(timeline, context.device().gpu, self.role())?;
        self.line.store(line.to_word(), Release);
        Ok(line)
    }

    /// Queues a unit behind everything that the stream waits for, and tells its place before anything else can
    /// happen. `unit.earliest_ns` counts from the end of the call. Blocks while too much is pending.
    pub fn queue(&self, unit: Unit, queued: impl Fn(Mark)) -> CUresult {
        if settings().is_null {
            return Ok(());
        }
        let context = self.context()?;
        let member = &driver().member;
        loop {
            let full = member.timeline(|timeline| {
                let line = self.open_line(context, timeline)?;
                if !context.lines.wait_for_others(timeline, line, self.role()) {
                    return Ok(timeline.head(line));
                }
                let earliest_ns = timeline.now_ns().max(cost::end_ns()) + unit.earliest_ns;
                let mark = timeline.append(line, Unit { earliest_ns, ..unit }, event::settle);
                queued(mark.ok_or(CUerror::UNKNOWN)?);
                Ok(None)
            })?;
            match full {
                None => return Ok(()),
                Some(head) => member.wait_for(head),
            }
        }
    }

    /// Queues work for an engine.
    pub fn queue_work(&self, engine: Engine, duration_ns: u64) -> CUresult {
        let earliest_ns = settings().times.launch_delay_ns;
        self.queue(Unit { engine, length: Length::Fixed(duration_ns), earliest_ns, ..Unit::MARK }, |_| {})
    }

    /// Makes whatever comes later wait for a place.
    pub fn wait_for(&self, mark: Mark) -> CUresult {
        if driver().member.timeline(|timeline| timeline.is_over(mark)) {
            return Ok(());
        }
        self.queue(Unit::wait(mark), |_| {})
    }

    /// The end of the work queued so far.
    pub fn tail(&self) -> Mark {
        match self.line() {
            Some(line) => driver().member.timeline(|timeline| timeline.tail(line)),
            None => Mark::NONE,
        }
    }

    /// The ends of all that waiting for the stream waits for: the default stream stands for others too.
    fn tails(&self) -> Result<Vec<Mark>, CUerror> {
        if !self.is_legacy() {
            return Ok(vec![self.tail()]);
        }
        let lines = &self.context()?.lines;
        Ok(driver().member.timeline(|timeline| lines.default_tails(timeline)))
    }

    /// Waits until the work queued so far is done.
    pub fn wait(&self) -> CUresult {
        let context = self.context()?;
        self.tails()?.into_iter().for_each(|tail| driver().member.wait_for(tail));
        crate::callback::wait_for_stream(self);
        crate::pool::release_surplus(context.device(), Some(self));
        context.check()
    }

    /// Whether the work queued so far is done.
    pub fn is_done(&self) -> Result<bool, CUerror> {
        self.context()?.check()?;
        if self.pending.load(Acquire) > 0 {
            return Ok(false);
        }
        let tails = self.tails()?;
        Ok(driver().member.timeline(|timeline| tails.into_iter().all(|tail| timeline.is_over(tail))))
    }

    /// Ends the stream. Work queued on it is still done.
    fn destroy(&'static self, context: &Context) {
        capture::abandon(self);
        if let Some(line) = LineId::from_word(self.line.swap(0, AcqRel)) {
            driver().member.timeline(|timeline| context.lines.leave(timeline, line));
        }
        STREAMS.remove(self);
    }
}

/// The streams of a context.
pub fn all_of_context(context: &Context) -> Vec<&'static Stream> {
    let context_id = context.id.load(Relaxed);
    let mut streams = STREAMS.live();
    streams.retain(|stream| stream.context_id.load(Relaxed) == context_id);
    streams
}

/// Ends the streams of a context that ended, which had this id.
pub fn destroy_of_context(context: &Context, context_id: u64) {
    for stream in STREAMS.live() {
        if stream.context_id.load(Relaxed) == context_id {
            stream.destroy(context);
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
    let context = stream.context()?;
    {
        let mut held = context.holdings.lock();
        held.streams = held.streams.saturating_sub(1);
    }
    stream.destroy(context);
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

/// Flag: in a capture, the wait is a node of the graph and not a dependency.
const EXTERNAL: u32 = 1;

pub fn wait_event(stream: &'static Stream, event: &'static Event, flags: u32) -> CUresult {
    if flags & EXTERNAL != 0 && capture::is_captured(stream) {
        return Work::WaitEvent(handle_of(event)).submit(stream);
    }
    if capture::join_by_event(stream, event)? {
        return Ok(());
    }
    event.pending().map_or(Ok(()), |mark| stream.wait_for(mark))
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
