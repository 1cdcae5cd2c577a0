//! The limiter's machine: the real clock, the driver's timing events, and sleep.
//!
//! Owns the events, by context. Nothing here disturbs a stream capture: while any is under way, no event is recorded on
//! a default stream (which a capturing stream would come to depend on, and be spoiled) or on a capturing one, and
//! questions are asked in relaxed mode.

use crate::capture;
use crate::clock;
use crate::compute::Place;
use crate::driver;
use crate::hash::WordMap;
use crate::live;
use crate::slice;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use vcuda_driver::cuda::types::{CUcontext, CUevent};
use vcuda_driver::result::CUerror;
use vcuda_limiter::machine::{Machine, Progress};

/// Events kept for reuse, for each context.
const KEPT: usize = 256;

/// The GPU as the limiter sees it.
pub struct Gpu;

/// A timing event and the context it belongs to.
#[derive(Clone, Copy)]
pub struct Event {
    event: CUevent,
    context: CUcontext,
}

/// Events not in use, by context.
static POOLS: Mutex<Option<WordMap<CUcontext, Vec<CUevent>>>> = Mutex::new(None);

/// Threads that are recording an event just now.
static RECORDING: AtomicU32 = AtomicU32::new(0);

/// Marks this thread as recording.
struct Recording;

impl Recording {
    fn begin() -> Recording {
        RECORDING.fetch_add(1, Ordering::SeqCst);
        Recording
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        RECORDING.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Returns when every recording that began before is over. Whoever makes a stream unfit for recording says so first,
/// then calls this, then the driver. Recording takes a microsecond; a driver that blocks in it is not waited for
/// longer than a second.
pub fn wait_for_recorders() {
    let give_up_ns = clock::now_ns() + 1_000_000_000;
    while RECORDING.load(Ordering::SeqCst) != 0 && clock::now_ns() < give_up_ns {
        std::thread::yield_now();
    }
}

/// The context goes, and its events with it.
pub fn forget_context(context: CUcontext) {
    if let Some(pools) = POOLS.lock().as_mut() {
        pools.remove(&context);
    }
}

impl Machine for Gpu {
    type Event = Event;
    type Stream = Place;

    #[inline]
    fn now_ns(&self) -> u64 {
        clock::now_ns()
    }

    fn record(&self, place: Place) -> Option<Event> {
        let slice = slice::started()?;
        let event = take(place.context)?;
        let recorded = {
            let _recording = Recording::begin();
            let handle = place.handle().filter(|_| slice.streams.knows(&place))?;
            let captured = place.is_default() && capture::active() || place.is_captured();
            !captured && driver::record_event(event.event, handle).is_ok()
        };
        if recorded {
            return Some(event);
        }
        self.recycle(event);
        None
    }

    fn progress(&self, event: Event) -> Progress {
        match driver::query_event(event.event) {
            Ok(()) => Progress::Done,
            Err(CUerror::NOT_READY) => Progress::Pending,
            Err(_) => Progress::Lost,
        }
    }

    fn elapsed_ns(&self, from: Event, to: Event) -> Option<u64> {
        let milliseconds = driver::elapsed_milliseconds(from.event, to.event).ok()?;
        // Timers of two events can't run backwards on one stream, but rounding may.
        (milliseconds.is_finite()).then(|| (f64::from(milliseconds.max(0.0)) * 1e6).round() as u64)
    }

    fn recycle(&self, event: Event) {
        let mut pools = POOLS.lock();
        // Without a pool the context is gone, and the event with it.
        if let Some(pool) = pools.as_mut().and_then(|pools| pools.get_mut(&event.context))
            && pool.len() < KEPT
        {
            pool.push(event.event);
        }
    }

    /// Also ends when the limits change: whoever waits for its share then has another deadline.
    fn sleep_until(&self, until_ns: u64) {
        loop {
            let end_ns = until_ns.min(clock::now_ns().saturating_add(live::INTERVAL_NS));
            clock::sleep_until(end_ns);
            if slice::look_at_limits() || end_ns >= until_ns {
                return;
            }
        }
    }

    fn sleep_on(&self, word: &AtomicU64, found: u64, until_ns: u64) {
        clock::sleep_on(word, found, until_ns);
    }

    fn wake(&self, word: &AtomicU64) {
        clock::wake(word);
    }
}

/// An event of `context`, made if none is left.
fn take(context: CUcontext) -> Option<Event> {
    let kept = POOLS.lock().get_or_insert_default().entry(context).or_default().pop();
    let event = match kept {
        Some(event) => event,
        None => driver::create_event_in(context).ok()?,
    };
    Some(Event { event, context })
}
