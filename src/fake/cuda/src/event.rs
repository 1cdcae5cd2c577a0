//! Events: marks on a stream's time line.

use crate::capture::{self, Capture};
use crate::context::Context;
use crate::edge::{FromC, Out};
use crate::settings::settings;
use crate::slab::{Slab, handle_of};
use crate::stream::Stream;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize};
use vcuda_driver::cuda::types::{CU_EVENT_DISABLE_TIMING, CUevent};
use vcuda_driver::result::{CUerror, CUresult};
use vcuda_fake_machine::{now_ns, sleep_until};

pub static EVENTS: Slab<Event> = Slab::new();

/// An event.
#[derive(Default)]
pub struct Event {
    flags: AtomicU32,
    is_recorded: AtomicBool,
    /// When the work before it is done.
    pub time_ns: AtomicU64,
    /// Handle of the stream it was last recorded on.
    stream: AtomicUsize,
    is_captured: AtomicBool,
    /// The capture it was recorded in, and the nodes it stands for.
    pub captured: Mutex<Option<(Arc<Capture>, Vec<usize>)>>,
}

impl FromC<CUevent> for &'static Event {
    unsafe fn from_c(value: CUevent) -> Result<&'static Event, CUerror> {
        EVENTS.get(value.0).ok_or(CUerror::INVALID_HANDLE)
    }
}

impl Event {
    fn is_timed(&self) -> bool {
        self.flags.load(Relaxed) & CU_EVENT_DISABLE_TIMING == 0
    }

    fn is_done(&self) -> bool {
        if self.time_ns.load(Acquire) > now_ns() {
            return false;
        }
        let stream = crate::stream::STREAMS.get(self.stream.load(Relaxed));
        stream.is_none_or(|stream| stream.pending.load(Acquire) == 0)
    }

    /// Marks the end of the work queued on a stream so far.
    pub fn record_on(&self, stream: &Stream) -> CUresult {
        let end_ns = stream.end_ns()?;
        self.is_captured.store(false, Relaxed);
        self.stream.store(handle_of(stream), Relaxed);
        self.time_ns.store(end_ns, Release);
        self.is_recorded.store(true, Release);
        Ok(())
    }

    /// Marks a place in a capture.
    pub fn record_in(&self, capture: Arc<Capture>, nodes: Vec<usize>) {
        *self.captured.lock() = Some((capture, nodes));
        self.is_captured.store(true, Release);
    }

    /// The place in a running capture that the event stands for.
    pub fn captured(&self) -> Option<(Arc<Capture>, Vec<usize>)> {
        if !self.is_captured.load(Acquire) {
            return None;
        }
        self.captured.lock().clone().filter(|(capture, _)| capture.is_running())
    }

    fn check_not_captured(&self) -> CUresult {
        match self.captured() {
            Some((capture, _)) => {
                capture.invalidate();
                Err(CUerror::CAPTURED_EVENT)
            }
            None => Ok(()),
        }
    }
}

pub fn create(out: Out<CUevent>, flags: u32) -> CUresult {
    Context::current()?;
    if flags & !7 != 0 {
        return Err(CUerror::INVALID_VALUE);
    }
    let event = EVENTS.add().ok_or(CUerror::OUT_OF_MEMORY)?;
    event.flags.store(flags, Relaxed);
    event.is_recorded.store(false, Relaxed);
    event.is_captured.store(false, Relaxed);
    event.time_ns.store(0, Relaxed);
    event.stream.store(0, Relaxed);
    *event.captured.lock() = None;
    out.set(CUevent(handle_of(event)));
    Ok(())
}

pub fn destroy(event: &'static Event) -> CUresult {
    EVENTS.remove(event);
    Ok(())
}

pub fn record(event: &'static Event, stream: &'static Stream) -> CUresult {
    if capture::record_event(stream, event)? {
        return Ok(());
    }
    event.record_on(stream)
}

pub fn record_with_flags(event: &'static Event, stream: &'static Stream, _flags: u32) -> CUresult {
    record(event, stream)
}

/// Marks the end of everything queued in a context.
pub fn record_on_context(context: &'static Context, event: &'static Event) -> CUresult {
    event.time_ns.store(context.tail_ns.load(Acquire), Release);
    event.is_recorded.store(true, Release);
    Ok(())
}

/// Makes everything queued later in a context wait for an event.
pub fn wait_on_context(context: &'static Context, event: &'static Event) -> CUresult {
    let time_ns = event.time_ns.load(Acquire);
    context.legacy_stream()?.wait_until(time_ns)
}

pub fn query(event: &'static Event) -> CUresult {
    event.check_not_captured()?;
    capture::forbid_unsafe()?;
    if event.is_done() { Ok(()) } else { Err(CUerror::NOT_READY) }
}

pub fn synchronize(event: &'static Event) -> CUresult {
    event.check_not_captured()?;
    capture::forbid_unsafe()?;
    sleep_until(event.time_ns.load(Acquire));
    if let Some(stream) = crate::stream::STREAMS.get(event.stream.load(Relaxed)) {
        crate::callback::wait_for_stream(stream);
        let context = stream.context()?;
        crate::pool::release_surplus(context.device(), Some(stream));
        context.check()?;
    }
    Ok(())
}

pub fn elapsed(milliseconds: Out<f32>, start: &'static Event, end: &'static Event) -> CUresult {
    for event in [start, end] {
        if event.is_captured.load(Acquire) {
            return Err(CUerror::INVALID_VALUE);
        }
        if !event.is_timed() || !event.is_recorded.load(Acquire) {
            return Err(CUerror::INVALID_HANDLE);
        }
    }
    let is_over = settings().is_null || start.is_done() && end.is_done();
    if !is_over {
        return Err(CUerror::NOT_READY);
    }
    let time = |event: &Event| event.time_ns.load(Acquire) as i64;
    milliseconds.set(((time(end) - time(start)) as f64 / 1e6) as f32);
    Ok(())
}
