//! One stream's time line: what it was given, when that is expected to be done, and which events lie where.
//!
//! Owns the arithmetic from launches and events to busy time; knows no driver and no bucket. Times are nanoseconds of
//! the host's monotonic clock, also those of events: an event that finds its stream idle happens when it is recorded,
//! which ties the two clocks together, and from there on elapsed times lead from event to event. The tie is renewed
//! at least every [`ANCHOR_NS`] if the stream runs dry, so that clocks that drift apart (measured: 0.65 us a second on an
//! H200) never matter.

use crate::cost::{Estimate, Unit};
use crate::segment::{Open, Outcome, Segment, Tie};
use std::collections::VecDeque;
use vcuda_core::compute::Measured;

/// Predicted work after which a stream gets another event.
const SEGMENT_NS: u64 = 1_000_000;
/// The same where the last event was the first in a while, so that a burst is not measured by its first launch alone.
const FIRST_SEGMENT_NS: u64 = SEGMENT_NS / 2;
/// A kind that is still little known is measured on its own, but not more often than this.
const YOUNG_NS: u64 = 200_000;
/// A stream that is used gets an event at least this often, however little the work.
const SAMPLE_NS: u64 = 50_000_000;
/// A stream idle for longer starts over with a new event: float milliseconds and drifting clocks are kept short.
const STALE_NS: u64 = 10_000_000;
/// A call that waits for work returns this long after the work is done, at most as a rule, and if all goes well.
const WAKE_NS: u64 = 100_000;
const PROMPT_WAKE_NS: u64 = 5_000;
/// Predictions that are off by less than this are better than what the host sees.
const SURE_NS: i64 = 5_000;
/// A thread that an interrupt wakes up goes on this much later than one that spins, at most as a rule.
const INTERRUPT_NS: i64 = 60_000;
/// How long host and device time stay tied together by one event.
const ANCHOR_NS: u64 = 100_000_000;

/// The event from which the open segment is measured.
#[derive(Clone, Copy, Debug)]
struct Mark<E> {
    event: E,
    /// When it is expected to happen, or did.
    at_ns: u64,
    tie: Tie,
    /// Recorded for what comes next, and not at the end of what came before.
    is_fresh: bool,
    /// The stream was idle for long before.
    is_cold: bool,
}

/// What waits on a line, oldest first.
#[derive(Debug)]
pub enum Pending<E> {
    /// To be measured.
    Segment(Box<Segment<E>>),
    /// An event that nothing will be measured from any more.
    Retired(E),
    /// Not measurable: charged as predicted, at this time.
    Predicted(Measured),
}

/// What a launch needs besides being made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// An event before it.
    pub begin: bool,
    /// An event after it.
    pub end: bool,
}

/// One stream.
#[derive(Debug)]
pub struct Line<E> {
    /// When everything given so far is expected to be done.
    tail_ns: u64,
    /// It is done: the program has waited for it. No measurement of what came before moves the tail then.
    is_done: bool,
    mark: Option<Mark<E>>,
    open: Open,
    /// When the clocks were last tied together.
    anchored_ns: u64,
    /// When the last event was recorded.
    sampled_ns: u64,
    /// Predicted work after which the next one is.
    segment_ns: u64,
    /// A launch was held back since the last one.
    rested: bool,
    /// When the last measured segment really ended.
    measured_end_ns: Option<u64>,
    pending: VecDeque<Pending<E>>,
    /// Another thread is about to record an event.
    marking: bool,
    /// Another thread is reading events.
    settling: bool,
    /// What a launch call takes.
    call_ns: u64,
}

impl<E: Copy> Default for Line<E> {
    fn default() -> Self {
        Self {
            tail_ns: 0,
            is_done: false,
            mark: None,
            open: Open::NEW,
            anchored_ns: 0,
            sampled_ns: 0,
            segment_ns: SEGMENT_NS,
            rested: false,
            measured_end_ns: None,
            pending: VecDeque::new(),
            marking: false,
            settling: false,
            call_ns: 3_000,
        }
    }
}

impl<E: Copy> Line<E> {
    /// Takes in a launch that needs no event, if it is one: charges nothing, records nothing, and is all that most
    /// launches see of a line. False if [`Line::plan`] is called for, or if it would not be half done by `limit_ns`.
    #[inline]
    pub fn pass(&mut self, now_ns: u64, unit: &Unit, estimate: Estimate, limit_ns: u64) -> bool {
        let cost_ns = estimate.cost_ns;
        if self.tail_ns.max(now_ns) + cost_ns / 2 > limit_ns {
            return false;
        }
        let since_ns = now_ns.saturating_sub(self.sampled_ns);
        let is_due = self.open.predicted_ns + cost_ns >= self.segment_ns
            || since_ns >= SAMPLE_NS
            || (estimate.young && since_ns >= YOUNG_NS)
            || (self.rested && now_ns >= self.tail_ns)
            || (self.mark.is_some() && self.is_stale(now_ns));
        if is_due && !self.marking {
            return false;
        }
        let arrival_ns = if unit.waits { now_ns } else { now_ns + self.call_ns };
        self.arrive(arrival_ns, unit, cost_ns);
        true
    }

    /// Decides on events around a launch that [`Line::pass`] didn't take, and keeps other threads from deciding
    /// likewise until [`Line::planned`]. `None` if another thread is at it.
    pub fn plan(&mut self, now_ns: u64, estimate: Estimate) -> Option<Plan> {
        if self.marking {
            return None;
        }
        self.marking = true;
        let is_dry = now_ns >= self.tail_ns;
        if self.mark.is_some() && (self.is_stale(now_ns) || self.rested && is_dry) {
            self.give_up();
        }
        self.rested = false;
        let since_ns = now_ns.saturating_sub(self.sampled_ns);
        let is_grown = self.open.predicted_ns.saturating_add(estimate.cost_ns) >= self.segment_ns
            || since_ns >= SAMPLE_NS;
        // What is not known yet is measured on its own. So is, now and then, what a stream gets that runs dry, where its
        // events say little about the rest.
        let is_wanted = (estimate.young && since_ns >= YOUNG_NS) || is_grown && (is_dry || self.open.ran_dry);
        // Unless it can't be told whether what comes finds the stream idle.
        let is_sample =
            !estimate.known || is_wanted && (is_dry || self.tail_ns - now_ns > 2 * PROMPT_WAKE_NS);
        let is_adjacent = self.mark.is_some() && self.open.count == 0 && !is_dry;
        Some(Plan { begin: self.mark.is_none() || is_sample && !is_adjacent, end: is_sample || is_grown })
    }

    /// The launch that was planned is over.
    pub fn planned(&mut self) {
        self.marking = false;
    }

    /// The mark says too little about work that arrives now.
    #[inline]
    fn is_stale(&self, now_ns: u64) -> bool {
        let idle_ns = now_ns.saturating_sub(self.tail_ns);
        idle_ns > 0 && (idle_ns > STALE_NS || now_ns.saturating_sub(self.anchored_ns) > ANCHOR_NS)
    }

    /// An event was recorded before a launch; `now_ns` is when the recording call returned. It ends what is open.
    pub fn begin(&mut self, event: E, now_ns: u64) {
        let is_cold = self.mark.is_none();
        let ends = self.open.count > 0 && !is_cold;
        if ends {
            self.close(event, now_ns);
        } else {
            self.give_up();
        }
        let is_idle = now_ns >= self.tail_ns;
        let at_ns = now_ns.max(self.tail_ns);
        if is_idle {
            self.anchored_ns = now_ns;
            self.tail_ns = now_ns;
            self.is_done = false;
        }
        self.sampled_ns = now_ns;
        self.segment_ns = if is_cold { FIRST_SEGMENT_NS } else { SEGMENT_NS };
        let tie = match (is_idle, ends) {
            (true, _) => Tie::Known,
            (false, true) => Tie::Chained,
            (false, false) => Tie::Loose,
        };
        self.mark = Some(Mark { event, at_ns, tie, is_fresh: true, is_cold });
    }

    /// The event of [`Line::begin`] was still pending at `now_ns`, long after it should have happened: the stream was not
    /// idle, as had been predicted.
    pub fn begun_late(&mut self, now_ns: u64) {
        if let Some(mark) = &mut self.mark
            && mark.tie == Tie::Known
        {
            mark.tie = Tie::Loose;
            mark.at_ns = mark.at_ns.max(now_ns);
            self.tail_ns = self.tail_ns.max(now_ns);
        }
    }

    /// No event could be recorded before a launch: the work goes on as predicted, until the next attempt.
    pub fn not_begun(&mut self, now_ns: u64) {
        self.give_up();
        self.sampled_ns = now_ns;
    }

    /// Takes in a launch that reached the stream at `arrival_ns`.
    #[inline]
    pub fn arrive(&mut self, arrival_ns: u64, unit: &Unit, cost_ns: u64) {
        let open = &mut self.open;
        if open.count == 0 {
            open.first_ns = arrival_ns.max(self.tail_ns);
        }
        let lead_ns = self.tail_ns.wrapping_sub(arrival_ns) as i64;
        if !open.ran_dry && !self.is_done {
            open.least_lead_ns = open.least_lead_ns.min(lead_ns);
        }
        if lead_ns < 0 {
            open.run_dry(lead_ns.unsigned_abs(), self.is_done);
            self.tail_ns = arrival_ns;
        }
        self.is_done = false;
        self.tail_ns += cost_ns;
        open.add(unit, cost_ns);
    }

    /// Takes back a launch that failed, the last one that arrived.
    pub fn retract(&mut self, cost_ns: u64) {
        let open = &mut self.open;
        self.tail_ns = self.tail_ns.saturating_sub(cost_ns);
        open.count = open.count.saturating_sub(1);
        open.predicted_ns = open.predicted_ns.saturating_sub(cost_ns);
        open.tainted = true;
    }

    /// An event was recorded after the work so far: the segment from the mark to it can be measured, and the next one
    /// begins. Gives the event back if there is nothing to measure.
    pub fn end(&mut self, event: E, now_ns: u64) -> Option<E> {
        if self.open.count == 0 {
            return Some(event);
        }
        if self.mark.is_none() {
            return Some(event);
        }
        let at_ns = self.close(event, now_ns);
        self.mark = Some(Mark { event, at_ns, tie: Tie::Chained, is_fresh: false, is_cold: false });
        self.tail_ns = at_ns;
        self.sampled_ns = now_ns;
        self.segment_ns = SEGMENT_NS;
        None
    }

    /// The open segment ends with an event just recorded. Returns when that should happen.
    fn close(&mut self, event: E, now_ns: u64) -> u64 {
        let stamp_ns = self.tail_ns.max(now_ns);
        if let Some(mark) = self.mark.take() {
            self.pending.push_back(Pending::Segment(Box::new(Segment {
                from: mark.event,
                to: event,
                begin_ns: mark.at_ns,
                tie: mark.tie,
                is_fresh: mark.is_fresh,
                is_cold: mark.is_cold,
                end_ns: self.tail_ns,
                stamp_ns,
                pending_ns: 0,
                open: std::mem::replace(&mut self.open, Open::NEW),
            })));
        }
        stamp_ns
    }

    /// Nothing comes for a while: the next launch gets an event before it, unless the stream still has work then.
    pub fn rest(&mut self) {
        self.rested = true;
    }

    /// No event will be recorded for what is open: it is charged as predicted. The mark goes too.
    pub fn give_up(&mut self) {
        if let Some(mark) = self.mark.take() {
            self.pending.push_back(Pending::Retired(mark.event));
        }
        self.put_down_as_predicted();
    }

    fn put_down_as_predicted(&mut self) {
        let open = std::mem::replace(&mut self.open, Open::NEW);
        if open.count > 0 {
            self.pending.push_back(Pending::Predicted(Measured {
                start_ns: open.first_ns,
                end_ns: self.tail_ns.max(open.first_ns + open.predicted_ns),
                busy_ns: open.predicted_ns,
                charged_ns: open.predicted_ns,
            }));
        }
    }

    /// A call that began at `called_ns` and has returned at `now_ns` has waited for the stream.
    pub fn synchronized(&mut self, called_ns: u64, now_ns: u64) {
        let took_ns = now_ns.saturating_sub(called_ns);
        // If the call took long, it is the last of the work that it waited for.
        if self.open.count == 0
            && took_ns > 2 * WAKE_NS
            && let Some(Pending::Segment(last)) = self.pending.back_mut()
        {
            last.ends_after(now_ns - WAKE_NS);
        }
        let done_ns = before_return(called_ns, now_ns);
        let is_told = done_ns < now_ns;
        let excess_ns = self.tail_ns.wrapping_sub(done_ns) as i64;
        // A call that found the stream idle says nothing of when it became so, and one that is woken by an interrupt returns
        // late.
        if excess_ns > SURE_NS || is_told && excess_ns < -INTERRUPT_NS {
            self.tail_ns = done_ns;
            self.open.excess_ns += excess_ns;
        }
        self.is_done = true;
    }

    /// The last launch's call, which began at `called_ns`, returned at `now_ns` when its work was done.
    pub fn done(&mut self, called_ns: u64, now_ns: u64) {
        self.tail_ns = before_return(called_ns, now_ns);
        self.is_done = true;
    }

    /// Something else than work comes next on the stream, for which it may have to wait: what was measured up to here
    /// ends here. True if an event should be recorded first.
    pub fn interrupt(&mut self) -> bool {
        if self.mark.is_some() && self.open.predicted_ns >= SEGMENT_NS / 4 && !self.marking {
            return true;
        }
        self.give_up();
        false
    }

    /// As [`Line::interrupt`], once the event was recorded.
    pub fn interrupted(&mut self, event: Option<E>, now_ns: u64) {
        if let Some(event) = event
            && let Some(unused) = self.end(event, now_ns)
        {
            self.pending.push_back(Pending::Retired(unused));
        }
        self.give_up();
    }

    /// Whether an event may end the open segment.
    pub fn is_open(&self) -> bool {
        self.open.count > 0 && self.mark.is_some() && !self.marking
    }

    /// When all work is expected to be done.
    pub fn tail_ns(&self) -> u64 {
        self.tail_ns
    }

    /// Whether the program has waited for everything it gave the stream.
    pub fn is_done(&self) -> bool {
        self.is_done || self.tail_ns == 0
    }

    /// Learns what a launch call takes. Those that are looked at come after a pause more often than others, and take longer
    /// then.
    pub fn note_call(&mut self, took_ns: u64) {
        self.call_ns = took_ns.clamp(200, self.call_ns + self.call_ns / 32 + 1);
    }

    /// A launch was let through at `now_ns` that what is in flight may be waiting for.
    pub fn let_go(&mut self, now_ns: u64) {
        for pending in &mut self.pending {
            if let Pending::Segment(segment) = pending {
                segment.let_go(now_ns);
            }
        }
    }

    /// Takes the oldest pending entry for reading its events, and keeps other threads from doing so until
    /// [`Line::put_back`] or [`Line::taken`].
    pub fn take(&mut self) -> Option<Pending<E>> {
        if self.settling {
            return None;
        }
        let taken = self.pending.pop_front()?;
        self.settling = true;
        Some(taken)
    }

    /// The entry taken was not done.
    pub fn put_back(&mut self, pending: Pending<E>) {
        self.pending.push_front(pending);
        self.settling = false;
    }

    /// The entry taken is dealt with.
    pub fn taken(&mut self) {
        self.settling = false;
    }

    /// The end and the predicted GPU time of work that events will tell of, if there is any.
    pub fn in_flight(&self) -> Option<(u64, u64)> {
        let segments = self.pending.iter().filter_map(|pending| match pending {
            Pending::Segment(segment) => Some(segment),
            _ => None,
        });
        let (mut end_ns, mut work_ns) = (0, 0u64);
        for segment in segments {
            end_ns = end_ns.max(segment.end_ns);
            work_ns = work_ns.saturating_add(segment.predicted_ns());
        }
        (end_ns > 0).then_some((end_ns, work_ns))
    }

    /// How long the segment was busy, given what passed between its events.
    pub fn measure(&mut self, segment: &Segment<E>, elapsed_ns: u64, now_ns: u64) -> Outcome {
        let outcome = segment.measure(self.measured_end_ns, elapsed_ns, now_ns);
        let end_ns = outcome.span.end_ns;
        self.measured_end_ns = Some(end_ns);
        self.move_prediction(segment.stamp_ns, end_ns);
        outcome
    }

    /// A segment's events can't be read.
    pub fn lose(&mut self) {
        self.measured_end_ns = None;
    }

    /// A segment that was expected to end at `expected_ns` ended at `ended_ns`: so does what follows it without a
    /// gap.
    fn move_prediction(&mut self, expected_ns: u64, ended_ns: u64) {
        let is_next = self.pending.iter().all(|pending| !matches!(pending, Pending::Segment(_)));
        if !is_next || self.open.ran_dry {
            return;
        }
        let Some(mark) = &mut self.mark else { return };
        if mark.tie != Tie::Chained || mark.at_ns != expected_ns {
            return;
        }
        mark.at_ns = ended_ns;
        if self.is_done {
            return;
        }
        let late_ns = ended_ns.wrapping_sub(expected_ns) as i64;
        self.tail_ns = self.tail_ns.saturating_add_signed(late_ns);
        if self.open.count > 0 {
            self.open.least_lead_ns = self.open.least_lead_ns.saturating_add(late_ns);
        }
    }
}

/// When what a call waited for was done.
fn before_return(called_ns: u64, now_ns: u64) -> u64 {
    let took_ns = now_ns.saturating_sub(called_ns);
    if took_ns > 2 * PROMPT_WAKE_NS { now_ns - PROMPT_WAKE_NS } else { now_ns }
}
