//! Events: places on a stream's line, and the times at which they were passed.

use crate::capture::{self, Capture};
use crate::context::Context;
use crate::cost;
use crate::driver::driver;
use crate::edge::{FromC, Out};
use crate::settings::settings;
use crate::slab::{Slab, handle_of};
use crate::stream::Stream;
use crate::work::Work;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize};
use vcuda_driver::cuda::types::{CU_EVENT_DISABLE_TIMING, CUevent};
use vcuda_driver::result::{CUerror, CUresult};
use vcuda_fake_machine::{Dropped, Length, Mark, Progress, Unit};

pub static EVENTS: Slab<Event> = Slab::new();

/// What an event stands for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Recorded {
    #[default]
    Never,
    /// A place that wasn't passed when it was last looked for.
    At(Mark),
    /// A place that was passed at this time.
    Passed { time_ns: u64 },
}

/// An event.
#[derive(Default)]
pub struct Event {
    flags: AtomicU32,
    recorded: Mutex<Recorded>,
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

    /// What it stands for by now.
    fn recorded(&self) -> Recorded {
        let recorded = *self.recorded.lock();
        let Recorded::At(mark) = recorded else { return recorded };
        driver().member.timeline(|timeline| {
            if let Progress::Over { end_ns } = timeline.progress(mark) {
                // A place whose record is gone was told of, unless its context ended.
                let time_ns = end_ns.unwrap_or(timeline.now_ns());
                settle_at(self, mark, time_ns);
            }
        });
        *self.recorded.lock()
    }

    /// The place that it stands for, where that may not have been passed.
    pub fn pending(&self) -> Option<Mark> {
        match *self.recorded.lock() {
            Recorded::At(mark) => Some(mark),
            _ => None,
        }
    }

    /// Marks the end of the work queued on a stream so far.
    pub fn record_on(&self, stream: &Stream) -> CUresult {
        self.is_captured.store(false, Relaxed);
        self.stream.store(handle_of(stream), Relaxed);
        if settings().is_null {
            *self.recorded.lock() = Recorded::Passed { time_ns: 0 };
            return Ok(());
        }
        let tag = handle_of(self) as u64;
        let times = &settings().times;
        let length = Length::Fixed(if self.is_timed() { times.mark_ns } else { 0 });
        let unit = Unit { length, earliest_ns: times.record_delay_ns, tag, ..Unit::MARK };
        stream.queue(unit, |mark| *self.recorded.lock() = Recorded::At(mark))
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

/// Takes note of the time of an event's place, whose record is about to be dropped.
pub fn settle(dropped: Dropped) {
    if let Some(event) = EVENTS.get(dropped.tag as usize) {
        settle_at(event, dropped.mark, dropped.end_ns);
    }
}

fn settle_at(event: &Event, mark: Mark, time_ns: u64) {
    let mut recorded = event.recorded.lock();
    if *recorded == Recorded::At(mark) {
        *recorded = Recorded::Passed { time_ns };
    }
}

pub fn create(out: Out<CUevent>, flags: u32) -> CUresult {
    Context::current()?;
    if flags & !7 != 0 {
        return Err(CUerror::INVALID_VALUE);
    }
    let event = EVENTS.add().ok_or(CUerror::OUT_OF_MEMORY)?;
    event.flags.store(flags, Relaxed);
    *event.recorded.lock() = Recorded::Never;
    event.is_captured.store(false, Relaxed);
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
    let _cost = cost::begin(if event.is_timed() { settings().times.record_ns } else { 0 });
    event.record_on(stream)
}

/// Flag: in a capture, the record is a node of the graph.
const EXTERNAL: u32 = 1;

pub fn record_with_flags(event: &'static Event, stream: &'static Stream, flags: u32) -> CUresult {
    if flags & EXTERNAL != 0 && capture::is_captured(stream) {
        return Work::RecordEvent(handle_of(event)).submit(stream);
    }
    record(event, stream)
}

/// Marks the end of everything queued in a context.
pub fn record_on_context(context: &'static Context, event: &'static Event) -> CUresult {
    if settings().is_null {
        *event.recorded.lock() = Recorded::Passed { time_ns: 0 };
        return Ok(());
    }
    let mark = context.mark_whole(handle_of(event) as u64)?;
    *event.recorded.lock() = Recorded::At(mark);
    Ok(())
}

/// Makes everything queued later in a context wait for an event.
pub fn wait_on_context(context: &'static Context, event: &'static Event) -> CUresult {
    let Some(mark) = event.pending() else { return Ok(()) };
    crate::stream::all_of_context(context).into_iter().try_for_each(|stream| stream.wait_for(mark))
}

pub fn query(event: &'static Event) -> CUresult {
    event.check_not_captured()?;
    capture::forbid_unsafe()?;
    match event.recorded() {
        Recorded::At(_) => Err(CUerror::NOT_READY),
        _ => Ok(()),
    }
}

pub fn synchronize(event: &'static Event) -> CUresult {
    event.check_not_captured()?;
    capture::forbid_unsafe()?;
    if let Some(mark) = event.pending() {
        driver().member.wait_for(mark);
    }
    if let Some(stream) = crate::stream::STREAMS.get(event.stream.load(Relaxed)) {
        crate::callback::wait_for_stream(stream);
        let context = stream.context()?;
        crate::pool::release_surplus(context.device(), Some(stream));
        context.check()?;
    }
    Ok(())
}

/// What the GPU's timer shows at a time.
fn timer_ns(time_ns: u64) -> i64 {
    (time_ns - time_ns % settings().times.timer_ns.max(1)) as i64
}

/// The time between two events, as coarse as the GPU's timer and as a float of milliseconds.
pub fn elapsed(milliseconds: Out<f32>, start: &'static Event, end: &'static Event) -> CUresult {
    for event in [start, end] {
        if event.is_captured.load(Acquire) {
            return Err(CUerror::INVALID_VALUE);
        }
        if !event.is_timed() || event.recorded() == Recorded::Never {
            return Err(CUerror::INVALID_HANDLE);
        }
    }
    match (start.recorded(), end.recorded()) {
        (Recorded::Passed { time_ns: start_ns }, Recorded::Passed { time_ns: end_ns }) => {
            milliseconds.set(((timer_ns(end_ns) - timer_ns(start_ns)) as f64 / 1e6) as f32);
            Ok(())
        }
        _ => Err(CUerror::NOT_READY),
    }
}
