//! One stream: what it was given, which events lie in it, and when those happen.
//!
//! Owns the way from events to times of the host's clock. An event that is recorded on an idle stream happens when it
//! is recorded, which ties the two clocks together; from there elapsed times lead from event to event. The tie is
//! renewed at least every [`ANCHOR_NS`] if the stream runs dry, so that clocks that drift apart (measured: 0.65 us a
//! second on an H200) and elapsed times in single precision never matter.

use crate::timeline::{Point, Position};
use std::collections::VecDeque;

/// A stream idle for longer gets a new anchor.
const STALE_NS: u64 = 10_000_000;
/// How long host and device time stay tied together by one event.
const ANCHOR_NS: u64 = 100_000_000;
/// An anchor that comes this much later than recorded, by the events before it, tells that the stream was not idle.
const TIE_ERROR_NS: u64 = 1_000;
/// A stream whose work should have been done this long ago is taken to be idle.
const SURELY_IDLE_NS: u64 = 20_000;
/// Elapsed times over which clocks drift apart by a nanosecond, at worst.
const DRIFT_PART: u64 = 8192;
/// Events that may wait to be read on one stream.
const PENDING: usize = 32;

/// What an event is for.
#[derive(Clone, Copy, Debug)]
#[allow(clippy::large_enum_variant, reason = "nearly all are the largest")]
pub enum Purpose {
    /// To tie the clocks together.
    Anchor,
    /// To learn what an event takes: it follows an anchor.
    Pair,
    /// To tell when work could start that its stream had held up. The point is the work's, once it is given.
    Start(Option<Point>),
    /// To tell when work was done.
    End(Position),
}

/// A recorded event that was not read yet.
#[derive(Clone, Copy, Debug)]
pub struct Pending<E> {
    /// The event.
    pub event: E,
    /// When it was recorded.
    pub recorded_ns: u64,
    /// What for.
    pub purpose: Purpose,
}

/// An event and when it happened.
#[derive(Clone, Copy, Debug)]
struct Base<E> {
    event: E,
    at_ns: u64,
}

/// What a launch needs besides being made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// An event before it, to tie the clocks together.
    pub anchor: bool,
    /// An event before it, to tell when it could start.
    pub start: bool,
    /// An event after it.
    pub end: bool,
}

/// One stream.
#[derive(Debug)]
pub struct Lane<E, S> {
    /// What the machine knows it by.
    pub stream: S,
    /// The last work given to it.
    pub last: Point,
    /// When that is expected to be done.
    pub tail_ns: u64,
    /// Up to which of its work everything is known to be done, and when it was if an event told.
    pub done: Point,
    pub done_ns: Option<u64>,
    /// Work up to here has an event behind it.
    pub covered: Point,
    /// The stream may have to wait before the next work.
    pub is_held: bool,
    /// A thread is about to record an event.
    pub is_recording: bool,
    /// Events in the order of the stream.
    pub pending: VecDeque<Pending<E>>,
    /// Times of events on it will be known.
    pub is_tied: bool,
    base: Option<Base<E>>,
    anchored_ns: u64,
}

impl<E: Copy, S> Lane<E, S> {
    /// A stream that was given nothing yet.
    pub fn new(stream: S) -> Self {
        Self {
            stream,
            last: Point::default(),
            tail_ns: 0,
            done: Point::default(),
            done_ns: None,
            covered: Point::default(),
            is_held: false,
            is_recording: false,
            pending: VecDeque::new(),
            is_tied: false,
            base: None,
            anchored_ns: 0,
        }
    }

    /// Whether all its work is known to be done.
    pub fn is_idle(&self) -> bool {
        self.done == self.last
    }

    /// Whether an event could tell when its work is done, and none will.
    pub fn is_open(&self) -> bool {
        self.is_tied && self.covered != self.last && !self.is_idle() && !self.is_recording && self.has_room()
    }

    /// Whether another event may be recorded.
    pub fn has_room(&self) -> bool {
        self.pending.len() < PENDING
    }

    /// Which event goes before work that is given now.
    pub fn plan(&mut self, now_ns: u64) -> Plan {
        let is_idle = self.pending.is_empty() && (self.is_idle() || self.tail_ns + SURELY_IDLE_NS < now_ns);
        let idle_ns = now_ns.saturating_sub(self.tail_ns);
        let is_stale = idle_ns > STALE_NS || now_ns.saturating_sub(self.anchored_ns) > ANCHOR_NS;
        let anchor = is_idle && (!self.is_tied || is_stale);
        Plan { anchor, start: self.is_held && self.is_tied && !anchor, end: false }
    }

    /// An event was recorded.
    pub fn recorded(&mut self, event: E, recorded_ns: u64, purpose: Purpose) {
        match purpose {
            Purpose::Anchor => {
                self.anchored_ns = recorded_ns;
                self.is_tied = true;
            }
            Purpose::End(position) => self.covered = position.point,
            _ => {}
        }
        self.pending.push_back(Pending { event, recorded_ns, purpose });
    }

    /// The event that the time of the oldest pending one counts from.
    pub fn base(&self) -> Option<E> {
        self.base.as_ref().map(|base| base.event)
    }

    /// The oldest pending event happened `elapsed_ns` after the base, if there is one. Returns when that was, if it can
    /// be told, and the event that is needed no longer.
    pub fn read(&mut self, pending: &Pending<E>, elapsed_ns: Option<u64>) -> (Option<u64>, Option<E>) {
        let base = self.base.take();
        let chained =
            base.as_ref().zip(elapsed_ns).map(|(base, elapsed_ns)| (base.at_ns + elapsed_ns, elapsed_ns));
        let at_ns = match (&pending.purpose, chained) {
            (Purpose::Anchor, Some((chained_ns, elapsed_ns)))
                if chained_ns > pending.recorded_ns + TIE_ERROR_NS + elapsed_ns / DRIFT_PART =>
            {
                Some(chained_ns)
            }
            (Purpose::Anchor, _) => Some(pending.recorded_ns),
            (_, chained) => chained.map(|(at_ns, _)| at_ns),
        };
        self.base = Some(Base { event: pending.event, at_ns: at_ns.unwrap_or(pending.recorded_ns) });
        (at_ns, base.map(|base| base.event))
    }

    /// Times can't be told any more, until there is an anchor again.
    pub fn cut_loose(&mut self) {
        self.is_tied = false;
    }

    /// All events, which nothing will be told of any more.
    pub fn give_up(mut self) -> (Option<E>, VecDeque<Pending<E>>) {
        (self.base.take().map(|base| base.event), self.pending)
    }
}
