//! One stream's time line: what it was given, when that is expected to be done, and which events lie where.
//!
//! Owns the arithmetic from launches and events to busy time; knows no driver and no bucket. Times are nanoseconds of
//! the host's monotonic clock, also those of events: an event that finds its stream idle happens when it is recorded,
//! which ties the two clocks together, and from there on elapsed times lead from event to event. The tie is renewed
//! at least every [`ANCHOR_NS`] if the stream runs dry, so that clocks that drift apart (measured: 0.65 us a second on an
//! H200) never matter.

use crate::cost::{CostModel, Unit};
use std::collections::VecDeque;

/// Predicted work after which a stream gets another event.
pub const SEGMENT_NS: u64 = 1_000_000;
/// A stream that is used gets an event at least this often, however little the work.
const SAMPLE_NS: u64 = 50_000_000;
/// A stream idle for longer starts over with a new event: float milliseconds and drifting clocks are kept short.
const STALE_NS: u64 = 10_000_000;
/// How long host and device time stay tied together by one event.
const ANCHOR_NS: u64 = 100_000_000;
/// An event on an idle stream happens this soon after the call that records it returned.
const PROMPT_NS: u64 = 1_500;
/// The same where only an event much later is to be believed.
const LEISURELY_NS: u64 = 20_000;
/// Work that waited for a launch of ours ends within this time of it.
const RELEASE_NS: u64 = 10_000_000;
/// Kinds of work that one segment learns about.
const KINDS: usize = 8;

/// What events themselves take, which is nobody's work. Measured on an H200; scaled for others by the time that two
/// events take that are recorded in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventCost {
    /// From the return of a launch on an idle stream to the kernel's start, and from its end to the event behind it.
    pub idle_ns: u64,
    /// From the end of a kernel to the start of the next when there is an event between them.
    pub queued_ns: u64,
}

impl EventCost {
    /// Two events in a row on the H200 these were measured on.
    const PAIR_NS: u64 = 1380;

    /// As on the device where two events in a row take `pair_ns`.
    pub fn of_pair(pair_ns: u64) -> Self {
        let pair_ns = pair_ns.clamp(Self::PAIR_NS / 4, Self::PAIR_NS * 4);
        Self { idle_ns: 600 * pair_ns / Self::PAIR_NS, queued_ns: 1300 * pair_ns / Self::PAIR_NS }
    }
}

impl Default for EventCost {
    fn default() -> Self {
        Self::of_pair(Self::PAIR_NS)
    }
}

/// One kind of work within a segment.
#[derive(Clone, Copy, Debug)]
struct Part {
    unit: Unit,
    estimated_ns: u64,
    count: u32,
}

/// Work since the last event.
#[derive(Clone, Debug)]
struct Open {
    /// Predicted GPU time of it all.
    predicted_ns: u64,
    count: u64,
    /// When the first of it arrived.
    first_ns: u64,
    /// The least by which the stream was ahead of a launch before it first ran dry; negative where it did.
    least_lead_ns: i64,
    /// Whether the stream ran dry.
    ran_dry: bool,
    /// Whether it was dry before the first launch, so that the first gap lies in front of all work.
    dry_at_front: bool,
    /// Gaps after the first.
    later_gaps_ns: u64,
    /// Predicted GPU time since the stream last ran dry.
    run_ns: u64,
    parts: [Option<Part>; KINDS],
    /// When a launch was let through that this work may have been waiting for; 0 if none was.
    let_go_ns: u64,
    /// A launch in it failed.
    tainted: bool,
    /// The last call returned only when its work was done.
    last_waits: bool,
}

impl Open {
    const NEW: Open = Open {
        predicted_ns: 0,
        count: 0,
        first_ns: 0,
        least_lead_ns: i64::MAX,
        ran_dry: false,
        dry_at_front: true,
        later_gaps_ns: 0,
        run_ns: 0,
        parts: [None; KINDS],
        let_go_ns: 0,
        tainted: false,
        last_waits: false,
    };

    #[inline]
    fn add_part(&mut self, unit: Unit, estimated_ns: u64) {
        for place in &mut self.parts {
            match place {
                Some(part) if part.unit.kind == unit.kind && part.unit.family == unit.family => {
                    part.estimated_ns = part.estimated_ns.saturating_add(estimated_ns);
                    part.unit.size = part.unit.size.saturating_add(unit.size);
                    part.count = part.count.saturating_add(1);
                    return;
                }
                Some(_) => {}
                None => {
                    *place = Some(Part { unit, estimated_ns, count: 1 });
                    return;
                }
            }
        }
        // The last is always among them: it may be one that was never measured.
        if let Some(last) = self.parts.last_mut() {
            *last = Some(Part { unit, estimated_ns, count: 1 });
        }
    }
}

/// The event from which the open segment is measured.
#[derive(Clone, Copy, Debug)]
struct Mark<E> {
    event: E,
    /// When it is expected to happen, or did.
    at_ns: u64,
    tie: Tie,
}

/// How the time of a mark is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tie {
    /// It was recorded on an idle stream: it happened when it was recorded.
    Known,
    /// It ends a segment, whose measurement tells.
    Chained,
    /// It was recorded behind work that is not measured; there is only the prediction.
    Loose,
}

/// A segment between two events that is still to be measured.
#[derive(Clone, Debug)]
pub struct Segment<E> {
    /// The event at its beginning.
    pub from: E,
    /// The event at its end.
    pub to: E,
    begin_ns: u64,
    tie: Tie,
    /// When its work is expected to end.
    pub end_ns: u64,
    /// When the event at its end is expected to happen: the same, unless the stream had run dry by then.
    stamp_ns: u64,
    /// When that event was recorded.
    recorded_ns: u64,
    /// When it was last seen not to have happened yet.
    pending_ns: u64,
    open: Open,
}

impl<E> Segment<E> {
    /// Predicted GPU time.
    pub fn predicted_ns(&self) -> u64 {
        self.open.predicted_ns
    }

    /// When and how busy it was, as predicted.
    pub fn as_predicted(&self) -> Span {
        let busy_ns = self.open.predicted_ns;
        Span {
            start_ns: self.end_ns.saturating_sub(busy_ns),
            end_ns: self.end_ns,
            busy_ns,
            charged_ns: busy_ns,
        }
    }

    /// The longest piece of work in it, given how busy it was: known only where there was one.
    pub fn longest_ns(&self, busy_ns: u64) -> u64 {
        if self.open.count == 1 { busy_ns } else { 0 }
    }

    /// Whether work of a kind or family, see [`Unit::key`], is in it.
    pub fn has(&self, key: u64) -> bool {
        self.open.parts.iter().flatten().any(|part| part.unit.key() == key)
    }

    /// A launch was let through at `now_ns` that this work may be waiting for.
    pub fn let_go(&mut self, now_ns: u64) {
        self.open.let_go_ns = now_ns;
    }

    /// The event at its end had not happened at `now_ns`.
    pub fn saw_pending(&mut self, now_ns: u64) {
        self.pending_ns = now_ns;
    }
}

/// What waits on a line, oldest first.
#[derive(Debug)]
pub enum Pending<E> {
    /// To be measured.
    Segment(Box<Segment<E>>),
    /// Two events that were recorded in a row; the second is a segment's.
    Pair(E, E),
    /// An event that nothing will be measured from any more.
    Retired(E),
    /// Not measurable: charged as predicted, at this time.
    Predicted(Span),
}

/// GPU time within an interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// Begin of the interval.
    pub start_ns: u64,
    /// Its end.
    pub end_ns: u64,
    /// GPU time in it.
    pub busy_ns: u64,
    /// What it had been charged with.
    pub charged_ns: u64,
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
    mark: Option<Mark<E>>,
    open: Open,
    /// When the clocks were last tied together.
    anchored_ns: u64,
    /// When the last event was recorded.
    sampled_ns: u64,
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
            mark: None,
            open: Open::NEW,
            anchored_ns: 0,
            sampled_ns: 0,
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
    /// launches see of a line. False if [`Line::plan`] is called for.
    #[inline]
    pub fn pass(&mut self, now_ns: u64, unit: &Unit, cost_ns: u64) -> bool {
        let is_due = self.open.predicted_ns + cost_ns >= SEGMENT_NS
            || now_ns.saturating_sub(self.sampled_ns) >= SAMPLE_NS
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
    pub fn plan(&mut self, now_ns: u64, cost_ns: u64, known: bool) -> Option<Plan> {
        if self.marking {
            return None;
        }
        self.marking = true;
        if self.mark.is_some() && self.is_stale(now_ns) {
            self.give_up();
        }
        let begin = self.mark.is_none();
        // A stream that is used now and then gives a sample at once, before it goes stale.
        let is_grown = self.open.predicted_ns.saturating_add(cost_ns) >= SEGMENT_NS / 2
            || now_ns.saturating_sub(self.sampled_ns) >= SAMPLE_NS;
        Some(Plan { begin, end: begin || !known || is_grown })
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

    /// An event was recorded before a launch; `now_ns` is when the recording call returned.
    pub fn begin(&mut self, event: E, now_ns: u64) {
        self.give_up();
        let is_idle = now_ns >= self.tail_ns;
        let at_ns = now_ns.max(self.tail_ns);
        if is_idle {
            self.anchored_ns = now_ns;
            self.tail_ns = now_ns;
        }
        self.sampled_ns = now_ns;
        let tie = if is_idle { Tie::Known } else { Tie::Loose };
        self.mark = Some(Mark { event, at_ns, tie });
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

    /// As [`Line::begin`], with two events: what lies between them is what an event takes.
    pub fn begin_pair(&mut self, first: E, second: E, now_ns: u64) {
        self.begin(second, now_ns);
        self.pending.push_back(Pending::Pair(first, second));
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
        if !open.ran_dry {
            open.least_lead_ns = open.least_lead_ns.min(lead_ns);
        }
        if lead_ns < 0 {
            if open.ran_dry {
                open.later_gaps_ns += lead_ns.unsigned_abs();
            } else {
                open.dry_at_front = open.count == 0;
            }
            open.ran_dry = true;
            open.run_ns = 0;
            open.parts = [None; KINDS];
            self.tail_ns = arrival_ns;
        }
        self.tail_ns += cost_ns;
        open.count += 1;
        open.predicted_ns += cost_ns;
        open.run_ns += cost_ns;
        open.last_waits = unit.waits;
        open.add_part(*unit, cost_ns);
    }

    /// Takes back a launch that failed, the last one that arrived.
    pub fn retract(&mut self, cost_ns: u64) {
        let open = &mut self.open;
        self.tail_ns = self.tail_ns.saturating_sub(cost_ns);
        open.count = open.count.saturating_sub(1);
        open.predicted_ns = open.predicted_ns.saturating_sub(cost_ns);
        open.run_ns = open.run_ns.saturating_sub(cost_ns);
        open.tainted = true;
    }

    /// An event was recorded after the work so far: the segment from the mark to it can be measured, and the next one
    /// begins. Gives the event back if there is nothing to measure.
    pub fn end(&mut self, event: E, now_ns: u64) -> Option<E> {
        if self.open.count == 0 {
            return Some(event);
        }
        let Some(mark) = self.mark else { return Some(event) };
        let open = std::mem::replace(&mut self.open, Open::NEW);
        let stamp_ns = self.tail_ns.max(now_ns);
        self.pending.push_back(Pending::Segment(Box::new(Segment {
            from: mark.event,
            to: event,
            begin_ns: mark.at_ns,
            tie: mark.tie,
            end_ns: self.tail_ns,
            stamp_ns,
            recorded_ns: now_ns,
            pending_ns: 0,
            open,
        })));
        self.mark = Some(Mark { event, at_ns: stamp_ns, tie: Tie::Chained });
        self.tail_ns = stamp_ns;
        self.sampled_ns = now_ns;
        None
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
            self.pending.push_back(Pending::Predicted(Span {
                start_ns: open.first_ns,
                end_ns: self.tail_ns.max(open.first_ns + open.predicted_ns),
                busy_ns: open.predicted_ns,
                charged_ns: open.predicted_ns,
            }));
        }
    }

    /// The stream is known to be idle at `now_ns`: the program has waited for it.
    pub fn idle(&mut self, now_ns: u64) {
        self.tail_ns = self.tail_ns.min(now_ns);
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

    /// Predicted GPU time that no event closes off yet.
    pub fn open_ns(&self) -> u64 {
        self.open.predicted_ns
    }

    /// Whether an event may end the open segment.
    pub fn is_open(&self) -> bool {
        self.open.count > 0 && self.mark.is_some() && !self.marking
    }

    /// When all work is expected to be done.
    pub fn tail_ns(&self) -> u64 {
        self.tail_ns
    }

    /// Learns what a launch call takes.
    pub fn note_call(&mut self, took_ns: u64) {
        let took_ns = took_ns.clamp(200, 50_000);
        self.call_ns = (self.call_ns * 7 + took_ns) / 8;
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

    /// Whether anything is pending.
    pub fn has_pending(&self) -> bool {
        !self.pending.is_empty() || self.settling
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
    pub fn measure(
        &mut self,
        segment: &Segment<E>,
        elapsed_ns: u64,
        now_ns: u64,
        events: EventCost,
    ) -> Outcome {
        let open = &segment.open;
        let begin_ns = match (segment.tie, self.measured_end_ns) {
            (Tie::Chained, Some(measured_ns)) => measured_ns,
            _ => segment.begin_ns,
        };
        // What the host has seen bounds where the device's time can lie.
        let found_ns = begin_ns.saturating_add(elapsed_ns);
        let end_ns = found_ns.max(segment.pending_ns).min(now_ns.max(segment.pending_ns));
        let begin_ns = begin_ns.saturating_add_signed(end_ns.wrapping_sub(found_ns) as i64);
        self.measured_end_ns = Some(end_ns);
        // The stream began this segment that much later than was thought, so it ran dry that much less.
        let late_ns = begin_ns.wrapping_sub(segment.begin_ns) as i64;
        let first_gap_ns =
            0i64.saturating_sub(open.least_lead_ns.saturating_add(late_ns)).max(0).unsigned_abs();
        let ran_dry = open.ran_dry || first_gap_ns > 0;
        let event_ns = if ran_dry { events.idle_ns } else { events.queued_ns };
        let mut busy_ns = elapsed_ns
            .saturating_sub(first_gap_ns)
            .saturating_sub(open.later_gaps_ns)
            .saturating_sub(event_ns);
        // An event that happened as soon as it was recorded found the stream dry; the work ended some time before, so
        // that there can have been less of it than predicted, but not more.
        // After a call that waits for its work that is so for certain, unless the event shows that it didn't wait (as a
        // copy within a device, called by the general name).
        let prompt_ns = if open.last_waits { LEISURELY_NS } else { PROMPT_NS };
        let is_bound = end_ns <= segment.recorded_ns.saturating_add(prompt_ns);
        let most_ns = busy_ns;
        if is_bound {
            busy_ns = busy_ns.min(open.predicted_ns);
        }
        self.move_prediction(segment.stamp_ns, end_ns);
        let start_ns = if open.dry_at_front { begin_ns.saturating_add(first_gap_ns) } else { begin_ns };
        Outcome {
            span: Span { start_ns, end_ns, busy_ns, charged_ns: open.predicted_ns },
            surplus_ns: (busy_ns as i64).saturating_sub(open.predicted_ns as i64),
            most_surplus_ns: (most_ns as i64).saturating_sub(open.predicted_ns as i64),
        }
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
        let late_ns = ended_ns.wrapping_sub(expected_ns) as i64;
        self.tail_ns = self.tail_ns.saturating_add_signed(late_ns);
        if self.open.count > 0 {
            self.open.least_lead_ns = self.open.least_lead_ns.saturating_add(late_ns);
        }
    }
}

/// A measured segment.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// When, and how busy.
    pub span: Span,
    /// By how much the last run took longer than predicted.
    surplus_ns: i64,
    /// The same at most, where the end of the work is known only to lie before the event.
    most_surplus_ns: i64,
}

impl<E> Segment<E> {
    /// Teaches the model. `fraction` of the busy time was nobody else's.
    pub fn teach(&self, model: &CostModel, outcome: Outcome, fraction: f32) {
        let open = &self.open;
        // Work that ends soon after the launch that was let through for it had been waiting for that.
        let waited = outcome.span.end_ns < open.let_go_ns.saturating_add(RELEASE_NS);
        if open.tainted || waited || open.run_ns == 0 {
            return;
        }
        let ratio = |surplus_ns: i64| {
            let took_ns = (open.run_ns as i64).saturating_add(surplus_ns).max(0);
            took_ns as f32 / open.run_ns as f32 * fraction
        };
        for part in open.parts.iter().flatten() {
            let count = u64::from(part.count.max(1));
            let unit = Unit { size: (part.unit.size / count).max(1), ..part.unit };
            // The most that it can have been is better than a guess, and shorter ones will follow.
            let surplus_ns = if model.has(&unit) { outcome.surplus_ns } else { outcome.most_surplus_ns };
            model.learn(&unit, part.estimated_ns / count, ratio(surplus_ns));
        }
    }
}
