//! One device as one process uses it: every piece of work goes through here.
//!
//! Owns the time line, the streams, the cost model, and what was charged but not yet shared. Work that is small, known
//! and not due for an event takes the short way: one lock of this process's, no system call, nothing written that other
//! processes share. About each millisecond of predicted work a launch takes the long way: it charges the bucket, waits
//! if it must, gets its events, and reads those that are done.
//!
//! No lock is held across a call of the machine's or of the program's.

use crate::cost::{CostModel, Estimate, Unit};
use crate::lane::{Plan, Purpose};
use crate::machine::Machine;
use crate::state::{Pass, State};
use crate::timeline::{Position, Sample, Wait};
use crate::wait::Held;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};
use vcuda_core::bucket::{debt_bound_ns, wall_ns};
use vcuda_core::compute::{Charge, ComputeWords};

/// Predicted GPU time that may be in flight beyond what has been waited for.
pub const BURST_NS: u64 = 1_000_000;
/// Predicted work before a wait of the stream's own that is worth an event.
const INTERRUPTED_NS: u64 = 250_000;
/// Two events in a row are read this often to learn what an event takes.
const PAIRS: u32 = 16;
/// Runs that are reported together when a program waits often.
const REPORT_RUNS: usize = 24;

/// The words that processes share, for a few accesses.
pub trait Shared: Send + Sync {
    /// The words now. Costs a system call.
    fn words(&self) -> ComputeWords<'_>;
}

/// A stream as the meter knows it.
pub struct Stream<S> {
    /// What the machine knows it by.
    pub stream: S,
    /// Its place among the meter's lanes.
    pub(crate) lane: usize,
}

/// A stream of a machine's kind.
pub type StreamOf<M> = Stream<<M as Machine>::Stream>;

/// One device of one process.
pub struct Meter<M: Machine, W> {
    /// What is shared with the other processes.
    pub shared: W,
    /// Learned costs.
    pub model: CostModel,
    share_ppm: AtomicU32,
    pub(crate) state: Mutex<State<M::Event, M::Stream>>,
    /// By how much this process's measurements have moved the deadline, in all.
    pub(crate) moved_ns: AtomicI64,
    /// The longest piece of work seen, in GPU time.
    pub(crate) longest_ns: AtomicU64,
    pairs: AtomicU32,
}

impl<M: Machine, W: Shared> Meter<M, W>
where
    M::Stream: Send + Sync,
{
    /// A meter that holds the process to `share_ppm` parts per million of the device's time.
    pub fn new(shared: W, share_ppm: u32) -> Self {
        Self {
            shared,
            model: CostModel::default(),
            share_ppm: AtomicU32::new(share_ppm),
            state: Mutex::new(State::default()),
            moved_ns: AtomicI64::new(0),
            longest_ns: AtomicU64::new(0),
            pairs: AtomicU32::new(0),
        }
    }

    /// The share in parts per million.
    pub fn share_ppm(&self) -> u32 {
        self.share_ppm.load(Ordering::Relaxed)
    }

    /// Enforces another share from now on.
    pub fn set_share_ppm(&self, share_ppm: u32) {
        self.share_ppm.store(share_ppm, Ordering::Relaxed);
    }

    /// Makes a stream known.
    pub fn add(&self, stream: M::Stream) -> Arc<StreamOf<M>> {
        let lane = self.state.lock().add(stream);
        Arc::new(Stream { stream, lane })
    }

    /// Forgets streams; what is not measured on them yet stays charged as predicted. `machine` gets their events back.
    pub fn remove(&self, machine: &M, is_gone: impl Fn(&M::Stream) -> bool) {
        let events = self.state.lock().remove(is_gone);
        for event in events {
            machine.recycle(event);
        }
    }

    /// Gives a piece of work to the device: `driver` is the program's own call. Waits before it if the container has
    /// used its share.
    #[inline]
    pub fn submit<R, X>(
        &self,
        machine: &M,
        stream: &StreamOf<M>,
        unit: Unit,
        driver: impl FnOnce() -> Result<R, X>,
    ) -> Result<R, X> {
        let estimate = self.model.estimate(&unit);
        let now_ns = machine.now_ns();
        let pass = match estimate.known {
            true => self.state.lock().pass(stream.lane, now_ns, &unit, &estimate),
            false => Pass::Refused,
        };
        if pass == Pass::Refused {
            return self.submit_measured(machine, stream, unit, estimate, driver);
        }
        let done = driver();
        if done.is_err() {
            self.retract(machine, stream, estimate.cost_ns);
        } else if unit.waits {
            self.returned(machine, stream, now_ns);
        } else if pass == Pass::First {
            let returned_ns = machine.now_ns();
            self.state.lock().arrived(stream.lane, returned_ns);
        }
        done
    }

    /// The long way.
    #[cold]
    #[inline(never)]
    fn submit_measured<R, X>(
        &self,
        machine: &M,
        stream: &StreamOf<M>,
        unit: Unit,
        estimate: Estimate,
        driver: impl FnOnce() -> Result<R, X>,
    ) -> Result<R, X> {
        let (estimate, first) = if estimate.known {
            (estimate, Held::UntilDue)
        } else {
            let held = self.wait_for_first(machine, &unit);
            (self.model.estimate(&unit), held)
        };
        let Estimate { cost_ns, known, .. } = estimate;
        // What is known by now changes what is due.
        self.settle(machine);
        let held = self.post(machine, cost_ns);
        let now_ns = machine.now_ns();
        let planned = self.state.lock().plan(stream.lane, now_ns, &unit, cost_ns, known);
        let plan = planned.map_or(Plan::default(), |plan| self.record_before(machine, stream, plan));
        let called_ns = machine.now_ns();
        if Held::LetThrough == first || Held::LetThrough == held {
            self.state.lock().timeline.release(called_ns, cost_ns);
        }
        let done = driver();
        let returned_ns = machine.now_ns();
        let mut is_measured = false;
        if done.is_ok() {
            let position = {
                let mut state = self.state.lock();
                state.call.learn(returned_ns - called_ns, unit.waits);
                let arrival_ns = if unit.waits { called_ns + state.call.ns() } else { returned_ns };
                state.arrive(stream.lane, arrival_ns, &unit, &estimate, plan.start);
                if !unit.waits {
                    state.arrived(stream.lane, returned_ns);
                }
                plan.end.then(|| state.position(stream.lane, returned_ns)).flatten()
            };
            if let Some(position) = position {
                is_measured = self.record_end(machine, stream, position);
            }
            if unit.waits {
                self.returned(machine, stream, called_ns);
            }
        } else {
            self.shared.words().refund(returned_ns, cost_ns, self.share_ppm());
        }
        if planned.is_some() {
            self.state.lock().planned(stream.lane);
        }
        if !known && !is_measured {
            self.state.lock().end_probe(unit.key());
            if done.is_ok() {
                // It can't be measured here: the guess has to do.
                self.model.learn(&unit, cost_ns as f32);
            }
        }
        self.settle(machine);
        done
    }

    /// Charges the bucket with everything up to and including work of `cost_ns`, and waits until it may start.
    fn post(&self, machine: &M, cost_ns: u64) -> Held {
        let now_ns = machine.now_ns();
        self.longest_ns.fetch_max(cost_ns, Ordering::Relaxed);
        let (charge, is_late) = {
            let mut state = self.state.lock();
            let (busy_ns, work_count) = state.take_unposted();
            let done_by_ns = state.timeline.end_ns().max(now_ns).saturating_add(cost_ns);
            let charge = Charge { busy_ns: busy_ns + cost_ns, work_count: work_count + 1, done_by_ns };
            (charge, state.flight(&self.model).is_some_and(|flight| flight.is_late(now_ns)))
        };
        let moved_ns = self.moved_ns.load(Ordering::Relaxed);
        let share_ppm = self.share_ppm();
        let words = self.shared.words();
        words.adopt_share_ppm(now_ns, share_ppm);
        let charged = words.charge(now_ns, charge, share_ppm, self.debt_bound_ns());
        if is_late || charged.due_ns > now_ns.saturating_add(wall_ns(BURST_NS, share_ppm)) {
            return self.wait(machine, charged.due_ns, moved_ns, share_ppm);
        }
        Held::UntilDue
    }

    /// Charges what is not charged yet, without waiting: the program has waited for its work anyway.
    pub fn post_rest(&self, machine: &M) {
        let (busy_ns, work_count) = self.state.lock().take_unposted();
        if work_count == 0 {
            return;
        }
        let now_ns = machine.now_ns();
        let charge = Charge { busy_ns, work_count, done_by_ns: now_ns };
        self.shared.words().charge(now_ns, charge, self.share_ppm(), self.debt_bound_ns());
    }

    /// How far ahead the deadline may get.
    pub(crate) fn debt_bound_ns(&self) -> u64 {
        debt_bound_ns(wall_ns(self.longest_ns.load(Ordering::Relaxed), self.share_ppm()))
    }

    #[cold]
    fn retract(&self, machine: &M, stream: &StreamOf<M>, cost_ns: u64) {
        let charged_ns = self.state.lock().retract(stream.lane, cost_ns);
        if charged_ns > 0 {
            self.shared.words().refund(machine.now_ns(), charged_ns, self.share_ppm());
        }
    }

    /// Records the events that go before a launch. Returns the plan as far as it came about.
    fn record_before(&self, machine: &M, stream: &StreamOf<M>, plan: Plan) -> Plan {
        let record = |purpose| {
            let event = machine.record(stream.stream);
            let now_ns = machine.now_ns();
            self.state.lock().recorded(stream.lane, event, now_ns, purpose).inspect_err(|unused| {
                unused.iter().for_each(|&event| machine.recycle(event));
            })
        };
        if plan.anchor {
            if record(Purpose::Anchor).is_err() {
                return Plan { end: false, start: false, ..plan };
            }
            // Two in a row on an idle stream tell what an event takes.
            if self.pairs.load(Ordering::Relaxed) < PAIRS && record(Purpose::Pair).is_ok() {
                self.pairs.fetch_add(1, Ordering::Relaxed);
            }
        }
        let start = plan.start && record(Purpose::Start(None)).is_ok();
        Plan { start, ..plan }
    }

    /// Records the event that tells when everything up to a position is done. False if there is none.
    fn record_end(&self, machine: &M, stream: &StreamOf<M>, position: Position) -> bool {
        let event = machine.record(stream.stream);
        let now_ns = machine.now_ns();
        let recorded = self.state.lock().recorded(stream.lane, event, now_ns, Purpose::End(position));
        if let Err(Some(unused)) = recorded {
            machine.recycle(unused);
        }
        recorded.is_ok()
    }

    /// Records an event behind all work that has none, so that the end of all of it will be known.
    pub(crate) fn end_all(&self, machine: &M) {
        let mut next = 0;
        loop {
            let now_ns = machine.now_ns();
            let Some((lane, stream, position)) = self.state.lock().next_open(next, now_ns) else { return };
            self.record_end(machine, &Stream { stream, lane }, position);
            next = lane + 1;
        }
    }

    /// Something that may have to wait comes next on a stream: another stream's event, a host function, a value in
    /// memory.
    pub fn interrupt(&self, machine: &M, stream: &StreamOf<M>) {
        let position = {
            let mut state = self.state.lock();
            state.hold(stream.lane);
            if state.timeline.since_event_ns() < INTERRUPTED_NS {
                return;
            }
            state.open_position(stream.lane, machine.now_ns())
        };
        if let Some(position) = position {
            self.record_end(machine, stream, position);
        }
    }

    /// The program has waited for a stream, in a call made at `called_ns` that returned just now.
    pub fn synchronized(&self, machine: &M, stream: &StreamOf<M>, called_ns: u64) {
        let returned_ns = self.settle_if_pending(machine);
        let wait = Wait { called_ns, returned_ns, is_of_work: false };
        let sample = self.state.lock().waited(stream.lane, wait);
        self.learn_of_wait(machine, sample, false);
    }

    /// The program has waited for all streams that `was_waited_for` says, likewise.
    pub fn synchronized_all(&self, machine: &M, was_waited_for: impl Fn(&M::Stream) -> bool, called_ns: u64) {
        let returned_ns = self.settle_if_pending(machine);
        let wait = Wait { called_ns, returned_ns, is_of_work: false };
        self.state.lock().waited_for_all(was_waited_for, wait);
        self.learn_of_wait(machine, None, false);
    }

    /// Reads events, if there are any, and returns the time before that.
    fn settle_if_pending(&self, machine: &M) -> u64 {
        let now_ns = machine.now_ns();
        let has_pending = self.state.lock().has_pending();
        if has_pending {
            self.settle(machine);
        }
        now_ns
    }

    /// Work whose call waits for it is done.
    fn returned(&self, machine: &M, stream: &StreamOf<M>, called_ns: u64) {
        let wait = Wait { called_ns, returned_ns: machine.now_ns(), is_of_work: true };
        let sample = self.state.lock().waited(stream.lane, wait);
        self.learn_of_wait(machine, sample, true);
    }

    fn learn_of_wait(&self, machine: &M, sample: Option<Sample>, is_all_there_is: bool) {
        let (is_much, can_record) = {
            let state = self.state.lock();
            (state.timeline.runs() >= REPORT_RUNS, state.can_record())
        };
        // Events say it better, where there are any.
        if let Some(sample) = sample
            && (is_all_there_is || !can_record)
        {
            sample.teach(&self.model, 1.0);
        }
        if is_much {
            self.put_down(machine);
        }
    }
}
