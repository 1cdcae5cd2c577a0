//! When a device works for this process, as far as is known: by prediction first, then by events and by waits.
//!
//! Owns the arithmetic from launches, time stamps and waits to busy time; knows no driver, no stream's events and no
//! bucket. Times are nanoseconds of the host's monotonic clock.
//!
//! Time is a row of *runs*: from when the first work reaches an idle device until the device has run dry. Work of all
//! streams goes into one row, as if the device did it in the order in which it was given, so that a run's time is
//! counted once however many streams had a part in it. A run begins when a launch says so. When it ends is predicted from
//! what its work is expected to cost, and corrected by evidence: a time stamp says that what was given before it was
//! done then, and a program's wait for a stream says so less exactly. Between two stamps of a run all time is
//! busy, whatever was predicted, unless a launch came too late for that.
//!
//! What is known for certain is reported as soon as it is, in order; a run that nothing more will be learned of
//! is reported as predicted.

use crate::cost::{CostModel, Estimate, Unit};
use crate::delay::{EventCost, WaitDelay};
use std::collections::VecDeque;
use vcuda_core::compute::Busy;

/// Runs kept. With more, neighbours of which nothing more will be learned become one.
const RUNS: usize = 128;
/// Neighbours that are over and together shorter than this become one at once: less than the record of busy time tells
/// apart.
const SHORT_NS: u64 = 40_000;
/// Kinds of work that are learned about at a time.
const KINDS: usize = 8;
/// A time stamp this soon after the event's recording says that the stream was idle by then, not when it ran dry.
const PROMPT_NS: u64 = 400;
/// See [`Timeline::tolerance_ns`].
const ORDER_NS: u64 = 20_000;
/// A guess may be some microseconds off, so that only work this long is learned from if it began with one.
const GUESSED_NS: u64 = 200_000;
/// Work that ends this soon after a launch that was let through, or after that launch's work, may have waited for it.
const RELEASE_NS: u64 = 1_000_000;

/// A place in the row of everything given to the device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Point {
    /// The run, by number.
    pub run: u64,
    /// Predicted GPU time of everything given up to here.
    pub given_ns: u64,
}

/// One kind of work among what was given between two points.
#[derive(Clone, Copy, Debug)]
struct Part {
    unit: Unit,
    estimated_ns: u64,
    count: u32,
    /// How far the estimate may be off, in parts of it.
    doubt: f32,
}

/// Doubt about a guess, about the estimate of a shape from others of its function, and about one that was measured.
fn doubt(estimate: &Estimate) -> f32 {
    match estimate {
        Estimate { known: false, .. } => 1e6,
        Estimate { exact: false, .. } => 10.0,
        _ => 1.0,
    }
}

impl Part {
    /// One piece of it, of mean size.
    fn mean_unit(&self) -> Unit {
        Unit { size: (self.unit.size / u64::from(self.count.max(1))).max(1), ..self.unit }
    }
}

/// The kinds of work between two points; with more than there is room for, some of them, the last among them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Parts([Option<Part>; KINDS]);

impl Parts {
    #[inline]
    fn add(&mut self, unit: &Unit, estimate: &Estimate) {
        let Estimate { cost_ns: estimated_ns, .. } = *estimate;
        for place in &mut self.0 {
            match place {
                Some(part) if part.unit.kind == unit.kind && part.unit.family == unit.family => {
                    part.estimated_ns += estimated_ns;
                    part.unit.size = part.unit.size.saturating_add(unit.size);
                    part.count += 1;
                    return;
                }
                Some(_) => {}
                None => {
                    *place = Some(Part { unit: *unit, estimated_ns, count: 1, doubt: doubt(estimate) });
                    return;
                }
            }
        }
        if let Some(last) = self.0.last_mut() {
            *last = Some(Part { unit: *unit, estimated_ns, count: 1, doubt: doubt(estimate) });
        }
    }

    fn clear(&mut self) {
        self.0 = [None; KINDS];
    }

    fn count(&self) -> u32 {
        self.0.iter().flatten().map(|part| part.count).sum()
    }
}

/// The place of an event that says when work was done.
#[derive(Clone, Copy, Debug)]
pub struct Position {
    /// Everything up to here is done when the event happens.
    pub point: Point,
    /// When that is expected, by what was known when the event was recorded.
    pub expected_ns: u64,
    /// See [`Run::floor_ns`], for what was given since the event before.
    floor_ns: i64,
    parts: Parts,
}

impl Position {
    /// Whether work of a kind or family, see [`Unit::key`], was given since the event before.
    pub fn has(&self, key: u64) -> bool {
        self.parts.0.iter().flatten().any(|part| part.unit.key() == key)
    }

    /// GPU time of what was given since the event before, by what is known now and as far as it is kept.
    pub fn work_ns(&self, model: &CostModel) -> u64 {
        let cost_ns = |part: &Part| u64::from(part.count) * model.estimate(&part.mean_unit()).cost_ns;
        self.parts.0.iter().flatten().map(cost_ns).sum()
    }
}

/// What is known of a moment in a run.
#[derive(Clone, Copy, Debug)]
struct Known {
    at_ns: u64,
    given_ns: u64,
    source: Source,
}

/// How a moment is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// An event says when it was.
    Event,
    /// A launch began the run, and its return was seen.
    Launch,
    /// It was not, or a wait says when it was.
    Guess,
}

#[derive(Clone, Copy, Debug)]
struct Run {
    start_ns: u64,
    /// When everything given in it is expected to be done.
    end_ns: u64,
    /// Predicted GPU time of everything given up to its last work.
    given_ns: u64,
    /// The last moment that is known.
    known: Known,
    /// It is known to have been busy up to here.
    busy_to_ns: u64,
    /// Time in it that was no work, and is not accounted for yet.
    dry_ns: u64,
    /// The latest that any work since the last event arrived, less what was given before it: wherever the stream had got
    /// by then, that work can't have started sooner.
    floor_ns: i64,
    /// Evidence that is still to come.
    pending: u32,
    /// All work in it is done.
    is_over: bool,
}

impl Run {
    fn is_settled(&self) -> bool {
        self.pending == 0
    }
}

/// What is learned from a measurement.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    parts: Parts,
    predicted_ns: u64,
    measured_ns: u64,
}

impl Sample {
    /// Teaches the model. `fraction` of the measured time was nobody else's.
    ///
    /// Where several kinds took longer than predicted together, it is told apart by how much each may be off: the
    /// least that changes the estimates, weighed by their doubt, until the sum is right (a step of the normalised least
    /// mean squares). Over many mixtures the kinds come out one by one.
    pub fn teach(&self, model: &CostModel, fraction: f32) {
        let surplus_ns = self.measured_ns as f32 * fraction - self.predicted_ns as f32;
        let parts = || {
            self.parts.0.iter().flatten().map(|part| {
                let count = part.count.max(1) as f32;
                let estimated_ns = part.estimated_ns as f32 / count;
                (part, count, estimated_ns, (part.doubt * estimated_ns).powi(2))
            })
        };
        let sum: f32 = parts().map(|(_, count, _, variance)| count * count * variance).sum();
        for (part, count, estimated_ns, variance) in parts() {
            let took_ns = estimated_ns + surplus_ns * count * variance / sum;
            model.learn(&part.mean_unit(), took_ns.max(0.0));
        }
    }

    /// The length of the piece of work that was measured, if it was one.
    pub fn single_ns(&self) -> Option<u64> {
        (self.parts.count() == 1).then_some(self.measured_ns)
    }
}

/// A call of the program's that returned when work was done.
#[derive(Clone, Copy, Debug)]
pub struct Wait {
    /// When it was made.
    pub called_ns: u64,
    /// When it returned.
    pub returned_ns: u64,
    /// The call was for the very work, and can't have taken long for another reason.
    pub is_of_work: bool,
}

/// The row of runs.
#[derive(Debug)]
pub struct Timeline {
    runs: VecDeque<Run>,
    /// The number of the oldest run kept.
    first: u64,
    /// Predicted GPU time of everything given.
    given_ns: u64,
    /// How much of that has been reported.
    reported_ns: u64,
    /// Up to when busy time has been reported.
    reported_to_ns: u64,
    /// Work since the last event or the beginning of the run.
    parts: Parts,
    /// What was given when the last event was recorded.
    event_given_ns: u64,
    /// The stream into which an event was recorded after all its work, if nothing was given since.
    event_last_on: Option<usize>,
    /// When a launch was last let through because work might be waiting for it, and what that launch takes.
    released: (u64, u64),
    /// What events take.
    pub event_cost: EventCost,
    /// How late waits return.
    pub wait_delay: WaitDelay,
}

impl Default for Timeline {
    fn default() -> Self {
        Self {
            runs: VecDeque::with_capacity(RUNS),
            first: 0,
            given_ns: 0,
            reported_ns: 0,
            reported_to_ns: 0,
            parts: Parts::default(),
            event_given_ns: 0,
            event_last_on: None,
            released: (0, 0),
            event_cost: EventCost::default(),
            wait_delay: WaitDelay::default(),
        }
    }
}

impl Timeline {
    /// When everything given is expected to be done.
    #[inline]
    pub fn end_ns(&self) -> u64 {
        self.runs.back().map_or(0, |run| run.end_ns)
    }

    /// Predicted GPU time given since the last event.
    #[inline]
    pub fn since_event_ns(&self) -> u64 {
        self.given_ns - self.event_given_ns
    }

    /// Takes in work that reaches its stream at about `arrival_ns`.
    #[inline]
    pub fn arrive(&mut self, stream: usize, arrival_ns: u64, unit: &Unit, estimate: &Estimate) -> Point {
        let cost_ns = estimate.cost_ns;
        let start_ns = arrival_ns + self.event_cost.idle_ns;
        match self.runs.back_mut() {
            Some(run) if !run.is_over && start_ns < run.end_ns => {
                if self.event_last_on == Some(stream) {
                    let event_ns = self.event_cost.queued_ns;
                    run.dry_ns += event_ns;
                    run.end_ns += event_ns;
                }
                run.floor_ns = run.floor_ns.max(start_ns as i64 - self.given_ns as i64);
                run.end_ns += cost_ns;
                run.given_ns += cost_ns;
            }
            _ => self.begin_run(start_ns, cost_ns),
        }
        self.event_last_on = None;
        self.given_ns += cost_ns;
        self.parts.add(unit, estimate);
        self.point()
    }

    /// Whether the device is known to be idle, so that it matters when exactly the next launch arrives.
    #[inline]
    pub fn is_over(&self) -> bool {
        self.runs.back().is_none_or(|run| run.is_over)
    }

    /// The launch at `point` arrived at exactly `arrival_ns`.
    pub fn arrived(&mut self, point: Point, arrival_ns: u64) {
        let start_ns = arrival_ns + self.event_cost.idle_ns;
        let is_last = point == self.point_if_any();
        let (reported_to_ns, given_ns) = (self.reported_to_ns, point.given_ns);
        let Some(run) = self.run_mut(point.run).filter(|run| is_last && run.is_settled()) else { return };
        // Only the launch that began it tells when it began.
        let cost_ns = given_ns - run.known.given_ns;
        let is_first = run.given_ns == given_ns && run.end_ns - run.start_ns == cost_ns;
        if is_first && run.known.source == Source::Guess && run.busy_to_ns == run.start_ns {
            let start_ns = start_ns.max(reported_to_ns);
            run.end_ns = start_ns + cost_ns;
            run.start_ns = start_ns;
            run.busy_to_ns = start_ns;
            run.known = Known { at_ns: start_ns, source: Source::Launch, ..run.known };
        }
    }

    /// Takes in work that may start later than it arrives: its stream waits for something else first. An event
    /// recorded before it will tell.
    pub fn arrive_held(&mut self, arrival_ns: u64, unit: &Unit, estimate: &Estimate) -> Point {
        let cost_ns = estimate.cost_ns;
        self.begin_run((arrival_ns + self.event_cost.idle_ns).max(self.end_ns()), cost_ns);
        if let Some(run) = self.runs.back_mut() {
            run.pending += 1;
        }
        self.event_last_on = None;
        self.given_ns += cost_ns;
        self.parts.add(unit, estimate);
        self.point()
    }

    fn point(&self) -> Point {
        Point { run: self.first + self.runs.len() as u64 - 1, given_ns: self.given_ns }
    }

    fn begin_run(&mut self, start_ns: u64, cost_ns: u64) {
        self.join_neighbours();
        self.parts.clear();
        self.runs.push_back(Run {
            start_ns,
            end_ns: start_ns + cost_ns,
            given_ns: self.given_ns + cost_ns,
            known: Known { at_ns: start_ns, given_ns: self.given_ns, source: Source::Guess },
            busy_to_ns: start_ns,
            dry_ns: 0,
            floor_ns: i64::MIN,
            pending: 0,
            is_over: false,
        });
    }

    /// Makes one of the last two runs if they are short, or if there are too many.
    #[inline]
    fn join_neighbours(&mut self) {
        let count = self.runs.len();
        let Some((place, [before, last])) = self.last_two() else { return };
        let are_short = last.end_ns < before.start_ns + SHORT_NS;
        if !(before.is_settled() && last.is_settled() && (are_short || count >= RUNS)) {
            return;
        }
        let joined = Run {
            start_ns: before.start_ns,
            dry_ns: before.dry_ns + last.dry_ns + last.start_ns.saturating_sub(before.end_ns),
            ..last
        };
        self.runs.pop_back();
        if let Some(before) = self.runs.get_mut(place) {
            *before = joined;
        }
    }

    fn last_two(&self) -> Option<(usize, [Run; 2])> {
        let place = self.runs.len().checked_sub(2)?;
        Some((place, [*self.runs.get(place)?, *self.runs.back()?]))
    }

    /// Runs that were not reported yet.
    #[inline]
    pub fn runs(&self) -> usize {
        self.runs.len()
    }

    /// Takes back work that was never given, the last that arrived.
    pub fn retract(&mut self, cost_ns: u64) {
        if let Some(run) = self.runs.back_mut() {
            run.end_ns = run.end_ns.saturating_sub(cost_ns).max(run.start_ns);
        }
        // As if it had been settled: nobody will charge it.
        self.reported_ns += cost_ns;
    }

    /// The place of an event that is about to be recorded behind the work up to `point`, expected to be done at
    /// `tail_ns`.
    pub fn position(&mut self, point: Point, tail_ns: u64, now_ns: u64) -> Position {
        let is_last = point == self.point_if_any();
        let mut position = Position {
            point,
            expected_ns: now_ns.max(tail_ns),
            floor_ns: i64::MIN,
            parts: std::mem::take(&mut self.parts),
        };
        let given_ns = self.given_ns;
        if let Some(run) = self.run_mut(point.run) {
            run.pending += 1;
            if is_last {
                position.floor_ns = std::mem::replace(&mut run.floor_ns, i64::MIN);
            }
        }
        self.event_given_ns = given_ns;
        position
    }

    /// The event at a position was recorded on `stream`, behind everything that was given.
    pub fn event_is_last(&mut self, stream: usize, position: &Position) {
        if position.point == self.point_if_any() {
            self.event_last_on = Some(stream);
        }
    }

    fn point_if_any(&self) -> Point {
        if self.runs.is_empty() { Point::default() } else { self.point() }
    }

    fn run(&self, number: u64) -> Option<&Run> {
        self.runs.get(usize::try_from(number.checked_sub(self.first)?).ok()?)
    }

    fn run_mut(&mut self, number: u64) -> Option<&mut Run> {
        self.runs.get_mut(usize::try_from(number.checked_sub(self.first)?).ok()?)
    }

    /// By how much a moment may be off before the order of work is in doubt: a time stamp that much earlier than
    /// expected tells that its stream did not wait for the others.
    pub fn tolerance_ns(&self, point: Point) -> u64 {
        let known_ns = self.run(point.run).map_or(point.given_ns, |run| run.known.given_ns);
        ORDER_NS + point.given_ns.saturating_sub(known_ns) / 4
    }

    /// The event at a position, recorded at `recorded_ns`, happened at `at_ns`. `is_all` if everything given before it
    /// was done by then, on other streams too. What was given after it in the same run is to be expected later by the
    /// shift returned.
    pub fn happened(
        &mut self,
        position: &Position,
        at_ns: u64,
        recorded_ns: u64,
        is_all: bool,
    ) -> (Option<Sample>, i64) {
        const NOTHING: (Option<Sample>, i64) = (None, 0);
        let was_let_go = self.was_let_go(at_ns);
        let event_ns = self.event_cost.queued_ns;
        let given_ns = position.point.given_ns;
        let Some(run) = self.run_mut(position.point.run) else { return NOTHING };
        run.pending = run.pending.saturating_sub(1);
        let before = run.known;
        if at_ns <= recorded_ns + PROMPT_NS && at_ns >= position.expected_ns {
            return NOTHING;
        }
        run.busy_to_ns = run.busy_to_ns.max(at_ns);
        run.end_ns = run.end_ns.max(at_ns);
        if given_ns <= before.given_ns || !is_all {
            self.push_later(position.point.run);
            return NOTHING;
        }
        // Work that came after the moment known before was done, however early that was.
        let is_event = before.source == Source::Event;
        let gap_ns =
            position.floor_ns.saturating_add(before.given_ns as i64).saturating_sub(before.at_ns as i64);
        let gap_ns = if is_event { gap_ns.max(0) as u64 } else { 0 };
        let between_ns = if is_event && gap_ns == 0 { event_ns } else { 0 };
        run.dry_ns += gap_ns;
        let measured_ns = at_ns.saturating_sub(before.at_ns + gap_ns + between_ns);
        run.known = Known { at_ns, given_ns, source: Source::Event };
        let next_ns = at_ns.max(run.floor_ns.saturating_add(given_ns as i64).max(0) as u64);
        run.end_ns = run.busy_to_ns.max(next_ns + (run.given_ns - given_ns));
        self.push_later(position.point.run);
        let predicted_ns = given_ns - before.given_ns;
        let is_exact = before.source != Source::Guess || measured_ns >= GUESSED_NS;
        let sample = Sample { parts: position.parts, predicted_ns, measured_ns };
        ((is_exact && !was_let_go).then_some(sample), next_ns.wrapping_sub(position.expected_ns) as i64)
    }

    /// The last run, if it has this number, is expected to end at `end_ns`, but not before it is known to have been busy.
    pub fn expect_end(&mut self, number: u64, end_ns: u64) {
        if number + 1 == self.first + self.runs.len() as u64
            && let Some(run) = self.runs.back_mut()
        {
            run.end_ns = end_ns.max(run.busy_to_ns).max(run.start_ns);
        }
    }

    /// Whether what was done at `at_ns` may have waited for a launch that was let through.
    pub fn was_let_go(&self, at_ns: u64) -> bool {
        let (released_ns, cost_ns) = self.released;
        at_ns > released_ns && at_ns - released_ns < RELEASE_NS + 2 * cost_ns
    }

    /// The event at a position will tell nothing.
    pub fn lost(&mut self, position: &Position) {
        self.no_evidence(position.point);
    }

    fn no_evidence(&mut self, point: Point) {
        if let Some(run) = self.run_mut(point.run) {
            run.pending = run.pending.saturating_sub(1);
        }
    }

    /// Work that was held could start at `at_ns`; `None` if that can't be told. `point` is its own.
    pub fn started(&mut self, point: Point, at_ns: Option<u64>) {
        self.no_evidence(point);
        let Some(at_ns) = at_ns else { return };
        let Some(run) = self.run_mut(point.run) else { return };
        if run.known.source == Source::Event || run.busy_to_ns > run.start_ns || at_ns <= run.start_ns {
            return;
        }
        run.end_ns += at_ns - run.start_ns;
        run.start_ns = at_ns;
        run.busy_to_ns = at_ns;
        run.known = Known { at_ns, source: Source::Launch, ..run.known };
        self.push_later(point.run);
    }

    /// A run may have turned out to last into the next.
    fn push_later(&mut self, number: u64) {
        let Some(place) = number.checked_sub(self.first).and_then(|place| usize::try_from(place).ok()) else {
            return;
        };
        let Some(mut end_ns) = self.runs.get(place).map(|run| run.end_ns) else { return };
        for run in self.runs.iter_mut().skip(place + 1) {
            if run.start_ns >= end_ns {
                return;
            }
            let late_ns = end_ns - run.start_ns;
            run.start_ns = end_ns;
            run.busy_to_ns = run.busy_to_ns.max(end_ns);
            if run.known.source != Source::Event {
                run.known.at_ns = end_ns;
                run.end_ns += late_ns;
            }
            run.end_ns = run.end_ns.max(end_ns);
            end_ns = run.end_ns;
        }
    }

    /// The program waited for a stream whose last work ends at `point`, expected at `expected_ns`. `measured_ns` is
    /// when that was done, if an event has told. `is_all` as for [`Timeline::happened`], and so is what is returned, but
    /// it is exact only to a few microseconds.
    pub fn waited(
        &mut self,
        point: Point,
        wait: Wait,
        expected_ns: u64,
        measured_ns: Option<u64>,
        is_all: bool,
    ) -> (Option<Sample>, i64) {
        const NOTHING: (Option<Sample>, i64) = (None, 0);
        let Wait { called_ns, returned_ns, is_of_work } = wait;
        let delay_ns = self.wait_delay.ns();
        let is_last = point == self.point_if_any();
        if let Some(measured_ns) = measured_ns {
            if measured_ns > called_ns && measured_ns < returned_ns {
                self.wait_delay.learn_measured(returned_ns - measured_ns);
            }
            return NOTHING;
        }
        let parts = self.parts;
        let Some(run) = self.run_mut(point.run) else { return NOTHING };
        let end_ns = returned_ns.saturating_sub(delay_ns).max(run.start_ns);
        let was_waited_for = is_of_work || end_ns > called_ns;
        // Otherwise it was done before the program began to wait.
        let at_ns = if was_waited_for { end_ns } else { expected_ns.min(called_ns.max(run.start_ns)) };
        if was_waited_for {
            run.busy_to_ns = run.busy_to_ns.max(at_ns);
            run.end_ns = run.end_ns.max(at_ns);
        }
        if point.given_ns <= run.known.given_ns || !is_all {
            self.push_later(point.run);
            return NOTHING;
        }
        let before = run.known;
        run.known = Known { at_ns, given_ns: point.given_ns, source: Source::Guess };
        run.end_ns = run.busy_to_ns.max(at_ns + (run.given_ns - point.given_ns));
        self.push_later(point.run);
        if is_last && was_waited_for && !is_of_work {
            self.wait_delay.learn_unmeasured(returned_ns as i64 - expected_ns as i64);
        }
        let measured_ns = at_ns.saturating_sub(before.at_ns);
        let predicted_ns = point.given_ns - before.given_ns;
        let sample = Sample { parts, predicted_ns, measured_ns };
        ((is_last && was_waited_for).then_some(sample), at_ns.wrapping_sub(expected_ns) as i64)
    }

    /// All work is known to be done.
    pub fn idle(&mut self, now_ns: u64) {
        if let Some(run) = self.runs.back_mut() {
            run.end_ns = run.end_ns.min(now_ns).max(run.start_ns).max(run.busy_to_ns);
            run.is_over = true;
        }
    }

    /// A launch that takes `cost_ns` is made, let through because work may be waiting for it.
    pub fn release(&mut self, now_ns: u64, cost_ns: u64) {
        self.released = (now_ns, cost_ns);
    }

    /// Reports what is known for good and was not reported before: intervals, and the predicted time that had been
    /// charged for them.
    pub fn report(&mut self, intervals: &mut Vec<Busy>) -> u64 {
        let mut charged_ns = 0;
        while let Some(run) = self.runs.front().copied() {
            let is_final = run.is_settled() && (run.is_over || self.runs.len() > 1);
            let (to_ns, given_ns) =
                if is_final { (run.end_ns, run.given_ns) } else { (run.busy_to_ns, run.known.given_ns) };
            let from_ns = run.start_ns.max(self.reported_to_ns);
            let mut dry_ns = run.dry_ns;
            if to_ns > from_ns {
                dry_ns = dry_ns.min(to_ns - from_ns);
                intervals.push(Busy { start_ns: from_ns, end_ns: to_ns, busy_ns: to_ns - from_ns - dry_ns });
                self.reported_to_ns = to_ns;
                dry_ns = run.dry_ns - dry_ns;
            }
            charged_ns += given_ns.saturating_sub(self.reported_ns);
            self.reported_ns = self.reported_ns.max(given_ns);
            if !is_final {
                if let Some(run) = self.runs.front_mut() {
                    run.dry_ns = dry_ns;
                }
                break;
            }
            self.runs.pop_front();
            self.first += 1;
        }
        charged_ns
    }
}
