//! What a meter keeps under its one lock: the time line, the streams, and what is not charged yet.
//!
//! Owns every decision that needs more than one of these. Nothing here calls the machine or the program.

use crate::cost::{CostModel, Estimate, Unit};
use crate::lane::{Lane, Pending, Plan, Purpose};
use crate::timeline::{Point, Position, Sample, Timeline, Wait};

/// Predicted work after which a launch takes the long way, and the device gets another event.
pub const SEGMENT_NS: u64 = 1_000_000;
/// A device that is used gets an event at least this often, however little the work.
const SAMPLE_NS: u64 = 50_000_000;
/// After an event could not be recorded, none is tried for so long.
const RETRY_NS: u64 = 10_000_000;
/// Work is late when it takes this much longer than predicted, and twice as long.
const LATE_NS: u64 = 2_000_000;
/// Kinds that were never measured and may be in flight at a time. Otherwise a program could queue minutes of work
/// before the first of it is known to be long.
const PROBES: usize = 4;

/// How much longer than predicted work may take before it is thought to wait for a launch, at first and at most.
const PATIENCE_NS: u64 = 10_000_000;
const LONGEST_PATIENCE_NS: u64 = 1_000_000_000;

/// What a launch call takes, on average.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    mean_ns: f32,
}

impl Call {
    const TYPICAL_NS: f32 = 3_000.0;
    const LARGEST_NS: f32 = 50_000.0;
    const WEIGHT: f32 = 1.0 / 32.0;

    /// The mean.
    #[inline]
    pub fn ns(&self) -> u64 {
        self.mean_ns as u64
    }

    /// A call took so long. One that waits for its work says nothing.
    pub fn learn(&mut self, took_ns: u64, waits: bool) {
        if !waits {
            self.mean_ns += Self::WEIGHT * ((took_ns as f32).min(Self::LARGEST_NS) - self.mean_ns);
        }
    }
}

/// What becomes of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// It has to go the long way.
    Refused,
    /// It may be made. When it returned is to be told: the device was idle before.
    First,
    /// It may be made.
    Further,
}

/// Work in flight that events will tell of.
#[derive(Clone, Copy, Debug)]
pub struct Flight {
    /// When the event that comes first is expected.
    pub first_ns: u64,
    /// GPU time of what is before it and after the event before.
    pub work_ns: u64,
}

impl Flight {
    /// Whether it takes much longer than was predicted.
    pub fn is_late(&self, now_ns: u64) -> bool {
        now_ns.saturating_sub(self.first_ns) > LATE_NS.max(self.work_ns)
    }
}

/// See the module.
pub struct State<E, S> {
    /// When the device was and will be busy.
    pub timeline: Timeline,
    /// What a launch call takes.
    pub call: Call,
    lanes: Vec<Option<Lane<E, S>>>,
    /// Raised when a lane goes.
    removals: u64,
    unposted_ns: u64,
    unposted_count: u64,
    /// When an event is due whatever the work.
    sample_due_ns: u64,
    /// A thread reads events.
    is_settling: bool,
    /// The kinds that are being measured for the first time.
    probed: Vec<u64>,
    /// When an event was last read.
    progress_ns: u64,
    /// How long work that is late is waited for, see [`wait`](crate::wait).
    patience_ns: u64,
    /// Events could be recorded, when last tried.
    can_record: bool,
    /// No event is recorded before.
    retry_ns: u64,
}

impl<E, S> Default for State<E, S> {
    fn default() -> Self {
        Self {
            timeline: Timeline::default(),
            call: Call { mean_ns: Call::TYPICAL_NS },
            lanes: Vec::new(),
            removals: 0,
            unposted_ns: 0,
            unposted_count: 0,
            sample_due_ns: 0,
            is_settling: false,
            probed: Vec::new(),
            progress_ns: 0,
            patience_ns: PATIENCE_NS,
            can_record: true,
            retry_ns: 0,
        }
    }
}

impl<E: Copy, S: Copy> State<E, S> {
    /// Makes a stream known.
    pub fn add(&mut self, stream: S) -> usize {
        let lane = Some(Lane::new(stream));
        match self.lanes.iter_mut().enumerate().find(|(_, place)| place.is_none()) {
            Some((index, place)) => {
                *place = lane;
                index
            }
            None => {
                self.lanes.push(lane);
                self.lanes.len() - 1
            }
        }
    }

    /// Forgets streams. Returns their events.
    pub fn remove(&mut self, is_gone: impl Fn(&S) -> bool) -> Vec<E> {
        let mut events = Vec::new();
        for place in &mut self.lanes {
            let Some(lane) = place.take_if(|lane| is_gone(&lane.stream)) else { continue };
            self.removals += 1;
            let (base, pending) = lane.give_up();
            events.extend(base);
            for pending in pending {
                events.push(pending.event);
                Self::forget(&mut self.timeline, &mut self.probed, &pending);
            }
        }
        events
    }

    fn forget(timeline: &mut Timeline, probed: &mut Vec<u64>, pending: &Pending<E>) {
        match &pending.purpose {
            Purpose::End(position) => {
                timeline.lost(position);
                probed.retain(|&key| !position.has(key));
            }
            Purpose::Start(Some(point)) => timeline.started(*point, None),
            _ => {}
        }
    }

    fn lane(&mut self, lane: usize) -> Option<&mut Lane<E, S>> {
        self.lanes.get_mut(lane)?.as_mut()
    }

    /// Takes in a launch that needs nothing before it, if it is one.
    #[inline]
    pub fn pass(&mut self, lane: usize, now_ns: u64, unit: &Unit, estimate: &Estimate) -> Pass {
        let cost_ns = estimate.cost_ns;
        if self.unposted_ns + cost_ns >= SEGMENT_NS || now_ns >= self.sample_due_ns {
            return Pass::Refused;
        }
        let Some(Some(stream)) = self.lanes.get_mut(lane) else { return Pass::Refused };
        let may_be_tied = !stream.is_tied && stream.tail_ns <= now_ns && now_ns >= self.retry_ns;
        if stream.is_held || may_be_tied {
            return Pass::Refused;
        }
        let pass = if self.timeline.is_over() { Pass::First } else { Pass::Further };
        stream.last = self.timeline.arrive(lane, now_ns + self.call.ns(), unit, estimate);
        stream.tail_ns = self.timeline.end_ns();
        self.unposted_ns += cost_ns;
        self.unposted_count += 1;
        pass
    }

    /// The stream's last launch returned at `returned_ns`.
    pub fn arrived(&mut self, lane: usize, returned_ns: u64) {
        if let Some(Some(stream)) = self.lanes.get_mut(lane) {
            self.timeline.arrived(stream.last, returned_ns);
            stream.tail_ns = self.timeline.end_ns();
        }
    }

    /// Takes in a launch that went the long way.
    pub fn arrive(&mut self, lane: usize, arrival_ns: u64, unit: &Unit, estimate: &Estimate, is_held: bool) {
        let timeline = &mut self.timeline;
        let Some(Some(stream)) = self.lanes.get_mut(lane) else { return };
        let point = if is_held {
            let point = timeline.arrive_held(arrival_ns, unit, estimate);
            if let Some(start) =
                stream.pending.iter_mut().rev().find(|event| matches!(event.purpose, Purpose::Start(None)))
            {
                start.purpose = Purpose::Start(Some(point));
            }
            point
        } else {
            timeline.arrive(lane, arrival_ns, unit, estimate)
        };
        stream.is_held = false;
        stream.last = point;
        stream.tail_ns = timeline.end_ns();
    }

    /// Takes back a launch that failed, the last that passed. Returns how much of it had been charged by then.
    pub fn retract(&mut self, lane: usize, cost_ns: u64) -> u64 {
        self.timeline.retract(cost_ns);
        if let Some(stream) = self.lane(lane) {
            stream.tail_ns = stream.tail_ns.saturating_sub(cost_ns);
        }
        let uncharged_ns = cost_ns.min(self.unposted_ns);
        self.unposted_ns -= uncharged_ns;
        self.unposted_count = self.unposted_count.saturating_sub(1);
        cost_ns - uncharged_ns
    }

    /// GPU time and pieces of work that are not charged yet; the caller will.
    pub fn take_unposted(&mut self) -> (u64, u64) {
        (std::mem::take(&mut self.unposted_ns), std::mem::take(&mut self.unposted_count))
    }

    /// Decides on events around a launch, and keeps other threads from recording on the stream until
    /// [`State::planned`]. `None` if no event can be recorded now, or none is needed.
    pub fn plan(&mut self, lane: usize, now_ns: u64, unit: &Unit, cost_ns: u64, known: bool) -> Option<Plan> {
        let is_due = now_ns >= self.sample_due_ns;
        self.sample_due_ns = now_ns + SAMPLE_NS;
        let is_much = self.timeline.since_event_ns() + cost_ns >= SEGMENT_NS / 2;
        let may_retry = now_ns >= self.retry_ns;
        let stream = self.lane(lane)?;
        // The call itself tells when such work is done.
        if unit.waits || stream.is_recording || !stream.has_room() || !may_retry {
            return None;
        }
        stream.is_recording = true;
        let plan = stream.plan(now_ns);
        let is_tied = stream.is_tied || plan.anchor;
        Some(Plan { end: is_tied && (is_due || is_much || !known || plan.anchor), ..plan })
    }

    /// The launch that was planned is over.
    pub fn planned(&mut self, lane: usize) {
        if let Some(stream) = self.lane(lane) {
            stream.is_recording = false;
        }
    }

    /// The position behind all of a stream's work, for an event.
    pub fn position(&mut self, lane: usize, now_ns: u64) -> Option<Position> {
        let stream = self.lane(lane)?;
        let (point, tail_ns) = (stream.last, stream.tail_ns);
        Some(self.timeline.position(point, tail_ns, now_ns))
    }

    /// As [`State::position`], if there is work that no event is behind.
    pub fn open_position(&mut self, lane: usize, now_ns: u64) -> Option<Position> {
        let is_open = self.lane(lane)?.is_open();
        is_open.then(|| self.position(lane, now_ns)).flatten()
    }

    /// The first stream from `next` on with work that no event is behind, and the position for one.
    pub fn next_open(&mut self, next: usize, now_ns: u64) -> Option<(usize, S, Position)> {
        let lane =
            (next..self.lanes.len()).find(|&lane| self.lane(lane).is_some_and(|lane| lane.is_open()))?;
        Some((lane, self.lane(lane)?.stream, self.position(lane, now_ns)?))
    }

    /// An event was recorded, or could not be. Gives back what is not needed.
    pub fn recorded(
        &mut self,
        lane: usize,
        event: Option<E>,
        now_ns: u64,
        purpose: Purpose,
    ) -> Result<(), Option<E>> {
        self.can_record = event.is_some();
        if !self.can_record {
            self.retry_ns = now_ns + RETRY_NS;
        }
        match (self.lanes.get_mut(lane), event) {
            (Some(Some(stream)), Some(event)) => {
                stream.recorded(event, now_ns, purpose);
                if let Purpose::End(position) = purpose {
                    self.timeline.event_is_last(lane, &position);
                }
                Ok(())
            }
            _ => {
                if let Purpose::End(position) = purpose {
                    self.timeline.lost(&position);
                }
                Err(event)
            }
        }
    }

    /// The stream may have to wait before its next work.
    pub fn hold(&mut self, lane: usize) {
        if let Some(stream) = self.lane(lane) {
            stream.is_held = true;
        }
    }

    /// Whether events could be recorded, when last tried.
    pub fn can_record(&self) -> bool {
        self.can_record
    }

    /// Whether there are events to read.
    pub fn has_pending(&self) -> bool {
        self.lanes.iter().flatten().any(|lane| !lane.pending.is_empty())
    }

    /// Begins reading events. False if another thread is at it.
    pub fn begin_settling(&mut self) -> bool {
        !std::mem::replace(&mut self.is_settling, true)
    }

    /// Ends it.
    pub fn end_settling(&mut self) {
        self.is_settling = false;
    }

    /// The oldest event on the first stream from `lane` on that has any, and the event before it.
    pub fn next_pending(&self, lane: usize) -> Option<Reading<E>> {
        let (lane, stream) = self.lanes.iter().enumerate().skip(lane).find_map(|(lane, stream)| {
            stream.as_ref().filter(|stream| !stream.pending.is_empty()).map(|stream| (lane, stream))
        })?;
        let pending = *stream.pending.front()?;
        Some(Reading { lane, pending, base: stream.base(), removals: self.removals })
    }

    /// An event has happened, `elapsed_ns` after the one before it. Returns what was learned, and the event that is
    /// not needed any more.
    pub fn happened(
        &mut self,
        reading: &Reading<E>,
        elapsed_ns: Option<u64>,
        now_ns: u64,
    ) -> (Option<Sample>, Option<E>) {
        if reading.removals != self.removals {
            return (None, None);
        }
        let timeline = &mut self.timeline;
        let Some(Some(stream)) = self.lanes.get_mut(reading.lane) else { return (None, None) };
        stream.pending.pop_front();
        let (at_ns, unused) = stream.read(&reading.pending, elapsed_ns);
        let mut sample = None;
        match &reading.pending.purpose {
            Purpose::Anchor => {}
            Purpose::Pair => {
                if let Some(elapsed_ns) = elapsed_ns {
                    timeline.event_cost.note_pair(elapsed_ns);
                }
            }
            Purpose::Start(point) => {
                if let Some(point) = point {
                    timeline.started(*point, at_ns);
                }
            }
            Purpose::End(position) => {
                self.progress_ns = now_ns;
                stream.done = position.point;
                stream.done_ns = at_ns;
                let at_ns = at_ns.unwrap_or(now_ns);
                if !timeline.was_let_go(at_ns) {
                    self.patience_ns = PATIENCE_NS;
                }
                let is_all = self.is_all_done(position.point, at_ns);
                let (learned, shift_ns) =
                    self.timeline.happened(position, at_ns, reading.pending.recorded_ns, is_all);
                sample = learned;
                self.probed.retain(|&key| !position.has(key));
                self.expect_anew(position.point, shift_ns, now_ns);
            }
        }
        (sample, unused)
    }

    /// Whether everything given before a point was done at `at_ns`, as far as can be told.
    fn is_all_done(&self, point: Point, at_ns: u64) -> bool {
        let by_ns = at_ns + self.timeline.tolerance_ns(point);
        let is_behind = |lane: &Lane<E, S>| {
            lane.last.run == point.run
                && lane.last.given_ns < point.given_ns
                && !lane.is_idle()
                && lane.tail_ns > by_ns
        };
        !self.lanes.iter().flatten().any(is_behind)
    }

    /// What was given after a point is expected later by `shift_ns`, and the run ends when the last of it is done.
    fn expect_anew(&mut self, point: Point, shift_ns: i64, now_ns: u64) {
        let is_later = |other: Point| other.run == point.run && other.given_ns > point.given_ns;
        for lane in self.lanes.iter_mut().flatten() {
            if is_later(lane.last) {
                lane.tail_ns = lane.tail_ns.saturating_add_signed(shift_ns);
            }
            for pending in &mut lane.pending {
                if let Purpose::End(position) = &mut pending.purpose
                    && is_later(position.point)
                {
                    position.expected_ns = position.expected_ns.saturating_add_signed(shift_ns);
                }
            }
        }
        let busy = || self.lanes.iter().flatten().filter(|lane| !lane.is_idle());
        if busy().next().is_none() {
            self.timeline.idle(now_ns);
        } else {
            let tails = busy().filter(|lane| lane.last.run == point.run).map(|lane| lane.tail_ns);
            let end_ns = tails.max().unwrap_or(0);
            self.timeline.expect_end(point.run, end_ns);
        }
    }

    /// An event will tell nothing. Returns it, if it still is this meter's.
    pub fn lost(&mut self, reading: &Reading<E>) -> Option<E> {
        if reading.removals != self.removals {
            return None;
        }
        let lane = self.lanes.get_mut(reading.lane)?.as_mut()?;
        lane.cut_loose();
        let pending = lane.pending.pop_front()?;
        Self::forget(&mut self.timeline, &mut self.probed, &pending);
        Some(pending.event)
    }

    /// The program waited for a stream.
    pub fn waited(&mut self, lane: usize, wait: Wait) -> Option<Sample> {
        let Some(Some(stream)) = self.lanes.get_mut(lane) else { return None };
        let (point, expected_ns) = (stream.last, stream.tail_ns);
        if point == Point::default() {
            return None;
        }
        let measured_ns = stream.done_ns.filter(|_| stream.done == point);
        // An event that is still to be read will tell better, and what is known can't be known better.
        let is_news = measured_ns.is_some() || (!stream.is_idle() && stream.covered != point);
        stream.done = point;
        stream.done_ns = None;
        stream.tail_ns = expected_ns.min(wait.returned_ns);
        let (sample, shift_ns) = if is_news {
            let is_all = self.is_all_done(point, wait.returned_ns);
            self.timeline.waited(point, wait, expected_ns, measured_ns, is_all)
        } else {
            (None, 0)
        };
        self.expect_anew(point, shift_ns, wait.returned_ns);
        sample
    }

    /// The program waited for several streams.
    pub fn waited_for_all(&mut self, was_waited_for: impl Fn(&S) -> bool, wait: Wait) {
        // What was given last was done last, and only of that the call's return tells.
        let waited = |lane: &Lane<E, S>| was_waited_for(&lane.stream);
        let last = |(_, lane): &(usize, &Lane<E, S>)| lane.last.given_ns;
        let lanes = self.lanes.iter().enumerate().filter_map(|(index, lane)| Some((index, lane.as_ref()?)));
        let Some((last, _)) = lanes.filter(|(_, lane)| waited(lane)).max_by_key(last) else { return };
        for (index, lane) in self.lanes.iter_mut().enumerate() {
            if let Some(lane) = lane.as_mut().filter(|lane| index != last && waited(lane)) {
                lane.done = lane.last;
                lane.done_ns = None;
                lane.tail_ns = lane.tail_ns.min(wait.returned_ns);
            }
        }
        self.waited(last, wait);
    }

    /// What is in flight and will be told of.
    pub fn flight(&self, model: &CostModel) -> Option<Flight> {
        let positions = self.lanes.iter().flatten().flat_map(|lane| {
            lane.pending.iter().filter_map(|pending| match &pending.purpose {
                Purpose::End(position) => Some(position),
                _ => None,
            })
        });
        let first = positions.min_by_key(|position| position.point.given_ns)?;
        let work_ns = first.work_ns(model);
        // Whatever was late before makes this late as well.
        Some(Flight { first_ns: first.expected_ns.max(self.progress_ns.saturating_add(work_ns)), work_ns })
    }

    /// Whether what is in flight has been late for so long that it may be waiting for a launch; then the next time may
    /// take longer.
    pub fn loses_patience(&mut self, flight: &Flight, late_ns: u64) -> bool {
        let loses = late_ns >= self.patience_ns.max(2 * flight.work_ns);
        if loses {
            self.patience_ns = (2 * self.patience_ns).min(LONGEST_PATIENCE_NS);
        }
        loses
    }

    /// Whether a kind that was never measured may be given now: it has been measured by now, or too little else that
    /// was not is in flight.
    pub fn may_probe(&mut self, key: u64) -> bool {
        let may = self.probed.len() < PROBES && !self.probed.contains(&key);
        if may {
            self.probed.push(key);
        }
        may
    }

    /// A kind is not being measured any more.
    pub fn end_probe(&mut self, key: u64) {
        self.probed.retain(|&probed| probed != key);
    }
}

/// An event that is about to be read.
#[derive(Clone, Copy, Debug)]
pub struct Reading<E> {
    /// Its stream.
    pub lane: usize,
    /// The event.
    pub pending: Pending<E>,
    /// The event that its time counts from.
    pub base: Option<E>,
    removals: u64,
}
