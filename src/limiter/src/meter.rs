//! One device as one process uses it: every piece of work goes through here.
//!
//! Owns the lines of all streams, the cost model and what was charged but not yet shared. Work that is small, known and
//! not due for an event takes the short way: one lock of its own stream, no system call, no shared write. About each
//! millisecond of predicted work a launch takes the long way: it charges the bucket, waits if it must, gets its events,
//! and reads those of others that are done.
//!
//! No lock is held across a call of the machine's or of the program's.

use crate::cost::{CostModel, Estimate, Trust, Unit};
use crate::line::Line;
use crate::machine::{Machine, Progress};
use crate::overlap::Overlap;
use crate::turn::Turns;
use crate::wait::GRACE_NS;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering};
use vcuda_core::arbiter::Tenant;
use vcuda_core::arbiter::words::Arbiter;
use vcuda_core::bucket::{CREDIT_NS, debt_bound_ns, wall_ns};
use vcuda_core::compute::{Charge, ComputeWords};

/// Predicted GPU time that may be in flight beyond what has been waited for.
pub const BURST_NS: u64 = 1_000_000;
/// What is charged at once while other processes of the container charge, too: the GPU takes 150 us to go from one
/// process to another.
const SHARED_BURST_NS: u64 = 4_000_000;
/// How long others are taken to go on after they were last noticed.
const OTHERS_NS: u64 = 200_000_000;
/// A deadline further ahead than this process left it was moved by others.
const NOTICEABLE_NS: u64 = 50_000;
/// What a container may catch up on while others take their turns.
const CONTENDED_CREDIT_NS: u64 = 60_000_000;
/// All of the device's time, in parts per million: no limit.
const WHOLE_PPM: u32 = 1_000_000;
/// Bits of `unposted` that count pieces of work; the GPU time stands above, in nanoseconds.
const COUNT_BITS: u32 = 24;

/// The words that processes share, for a few accesses.
pub trait Shared: Send + Sync {
    /// The words now. Costs a system call.
    fn words(&self) -> ComputeWords<'_>;

    /// Whose turn it is on the device, shared with other containers; `None` if this one is by itself, or if the words can't
    /// be used. Costs a system call.
    fn arbiter(&self) -> Option<&Arbiter> {
        None
    }
}

/// A stream as the meter knows it.
pub struct Stream<E, S> {
    /// Its time line.
    pub line: Mutex<Line<E>>,
    /// What the machine knows it by.
    pub stream: S,
    /// Its events may be recorded when another stream's launch waits; false once it may be gone.
    pub lives: AtomicBool,
}

impl<E: Copy, S> Stream<E, S> {
    /// A stream that was given nothing yet.
    pub fn new(stream: S) -> Self {
        Self { line: Mutex::new(Line::default()), stream, lives: AtomicBool::new(true) }
    }
}

/// All streams of a machine's kind.
pub type StreamOf<M> = Stream<<M as Machine>::Event, <M as Machine>::Stream>;

/// One device of one process.
pub struct Meter<M: Machine, W> {
    /// What is shared with the other processes.
    pub shared: W,
    /// Learned costs.
    pub model: CostModel,
    share_ppm: AtomicU32,
    /// Taking turns with other containers.
    pub(crate) turns: Turns,
    /// GPU time predicted and not charged to the bucket yet, and the pieces of work that is.
    unposted: AtomicU64,
    /// GPU time that was predicted and charged, in all.
    posted_ns: AtomicU64,
    /// By how much this process's measurements have moved the deadline, in all.
    pub(crate) moved_ns: AtomicI64,
    /// Which part of what is measured is new, lately.
    pub(crate) overlap: Mutex<Overlap>,
    /// The deadline as this process left it.
    left_ns: AtomicU64,
    /// `moved_ns` at the last charge, and whether measurements have since found so much more than was predicted that the
    /// next launch has to look at the deadline.
    moved_before_ns: AtomicI64,
    owes: AtomicBool,
    /// How late work may be before it is thought to wait for a launch that is held back.
    pub(crate) grace_ns: AtomicU64,
    /// Until when other processes of the container are taken to charge, too.
    others_until_ns: AtomicU64,
    /// The longest piece of work seen, in GPU time.
    pub(crate) longest_ns: AtomicU64,
    streams: Mutex<Vec<Arc<StreamOf<M>>>>,
    /// The kinds that are being measured for the first time.
    pub(crate) probed: Mutex<Vec<u64>>,
}

impl<M: Machine, W: Shared> Meter<M, W>
where
    M::Stream: Send + Sync,
{
    /// A meter that holds the process to `share_ppm` parts per million of the device's time.
    pub fn new(shared: W, share_ppm: u32) -> Self {
        Self::of_tenant(shared, share_ppm, None)
    }

    /// As [`Meter::new`], of a process that takes turns with other containers as part of `tenant`.
    pub fn of_tenant(shared: W, share_ppm: u32, tenant: Option<Tenant>) -> Self {
        Self {
            shared,
            model: CostModel::default(),
            share_ppm: AtomicU32::new(share_ppm),
            turns: Turns::new(tenant),
            unposted: AtomicU64::new(0),
            posted_ns: AtomicU64::new(0),
            moved_ns: AtomicI64::new(0),
            overlap: Mutex::default(),
            left_ns: AtomicU64::new(u64::MAX),
            moved_before_ns: AtomicI64::new(0),
            owes: AtomicBool::new(false),
            grace_ns: AtomicU64::new(GRACE_NS),
            others_until_ns: AtomicU64::new(0),
            longest_ns: AtomicU64::new(0),
            streams: Mutex::default(),
            probed: Mutex::default(),
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
        let stream = Arc::new(Stream::new(stream));
        self.streams.lock().push(Arc::clone(&stream));
        stream
    }

    /// Forgets streams; what is pending on them is charged as predicted. `machine` gets their events back.
    pub fn remove(&self, machine: &M, is_gone: impl Fn(&M::Stream) -> bool) {
        let mut gone = Vec::new();
        self.streams.lock().retain(|stream| {
            let keep = !is_gone(&stream.stream);
            if !keep {
                gone.push(Arc::clone(stream));
            }
            keep
        });
        for stream in gone {
            stream.lives.store(false, Ordering::Release);
            self.abandon(machine, &stream);
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
        let cost_ns = estimate.cost_ns;
        let mut now_ns = machine.now_ns();
        if self.turns.is_due(now_ns) {
            self.take_turn(machine, cost_ns);
            now_ns = machine.now_ns();
        }
        if estimate.known && self.unposted_ns() + cost_ns < self.burst_ns(now_ns) {
            let passed = stream.line.lock().pass(now_ns, &unit, estimate, self.turns.limit_ns());
            if passed {
                self.put_off(cost_ns);
                let done = driver();
                if done.is_err() {
                    self.retract(stream, cost_ns);
                } else if unit.waits {
                    stream.line.lock().done(now_ns, machine.now_ns());
                }
                return done;
            }
        }
        self.submit_measured(machine, stream, unit, estimate, driver)
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
        let estimate = if estimate.known {
            estimate
        } else {
            self.wait_for_first(machine, &unit);
            self.model.estimate(&unit)
        };
        let Estimate { cost_ns, known, .. } = estimate;
        let posted = !known || self.unposted_ns() + cost_ns >= self.burst_ns(machine.now_ns());
        if posted {
            self.post(machine, stream, cost_ns);
        } else {
            self.put_off(cost_ns);
        }
        let now_ns = machine.now_ns();
        if self.turns.is_due(now_ns) || self.is_beyond(stream, now_ns, cost_ns) {
            self.take_turn(machine, cost_ns);
        }
        let planned = stream.line.lock().plan(machine.now_ns(), estimate);
        let plan = planned.unwrap_or_default();
        let begun = if plan.begin { self.record_begin(machine, stream) } else { None };
        let called_ns = machine.now_ns();
        let done = driver();
        let returned_ns = machine.now_ns();
        if let Some(event) = begun
            && machine.progress(event) == Progress::Pending
        {
            // A launch takes longer than an event on an idle stream.
            stream.line.lock().begun_late(returned_ns);
        }
        if done.is_ok() {
            let mut line = stream.line.lock();
            if !unit.waits {
                line.note_call(returned_ns.saturating_sub(called_ns));
            }
            line.arrive(if unit.waits { called_ns } else { returned_ns }, &unit, cost_ns);
            if unit.waits {
                line.done(called_ns, returned_ns);
            }
        } else if posted {
            self.shared.words().refund(returned_ns, cost_ns, self.share_ppm());
        } else {
            self.take_back(cost_ns);
        }
        if plan.end && done.is_ok() && !self.record_end(machine, stream) && !known {
            // It can't be measured here: the guess has to do.
            self.model.learn(&unit, cost_ns, 1.0, Trust::Full);
        }
        if planned.is_some() {
            stream.line.lock().planned();
        }
        self.settle(machine);
        done
    }

    /// Charges the bucket with everything up to and including work of `cost_ns`, and waits until it may start.
    fn post(&self, machine: &M, stream: &StreamOf<M>, cost_ns: u64) {
        let unposted = self.unposted.swap(0, Ordering::Relaxed);
        let busy_ns = (unposted >> COUNT_BITS).saturating_add(cost_ns);
        self.posted_ns.fetch_add(busy_ns, Ordering::Relaxed);
        let now_ns = machine.now_ns();
        let done_by_ns = stream.line.lock().tail_ns().max(now_ns).saturating_add(cost_ns);
        self.longest_ns.fetch_max(cost_ns, Ordering::Relaxed);
        let credit_ns = if self.turns.is_contended(now_ns) { CONTENDED_CREDIT_NS } else { CREDIT_NS };
        let work_count = (unposted & ((1 << COUNT_BITS) - 1)) + 1;
        let charge = Charge { busy_ns, work_count, done_by_ns, credit_ns };
        let moved_ns = self.moved_ns.load(Ordering::Relaxed);
        self.moved_before_ns.store(moved_ns, Ordering::Relaxed);
        self.owes.store(false, Ordering::Relaxed);
        let charged = self.shared.words().charge(now_ns, charge, self.share_ppm(), self.debt_bound_ns());
        let left_ns = charged.due_ns.saturating_add(wall_ns(busy_ns, self.share_ppm()));
        let expected_ns = self.left_ns.swap(left_ns, Ordering::Relaxed);
        if charged.due_ns > now_ns.max(expected_ns.saturating_add(NOTICEABLE_NS)) {
            self.others_until_ns.store(now_ns + OTHERS_NS, Ordering::Relaxed);
        }
        let share_ppm = self.share_ppm();
        if share_ppm < WHOLE_PPM && charged.due_ns > now_ns.saturating_add(wall_ns(BURST_NS, share_ppm)) {
            self.wait(machine, charged.due_ns, moved_ns);
        }
    }

    /// GPU time that is charged at once.
    #[inline]
    fn burst_ns(&self, now_ns: u64) -> u64 {
        if self.owes.load(Ordering::Relaxed) {
            0
        } else if now_ns < self.others_until_ns.load(Ordering::Relaxed) || self.turns.is_contended(now_ns) {
            SHARED_BURST_NS
        } else {
            BURST_NS
        }
    }

    /// Measurements of this process have moved the deadline.
    pub(crate) fn note_moved(&self, moved_ns: i64) {
        let all_moved_ns = self.moved_ns.fetch_add(moved_ns, Ordering::Relaxed).wrapping_add(moved_ns);
        let since_ns = all_moved_ns.wrapping_sub(self.moved_before_ns.load(Ordering::Relaxed));
        if since_ns > wall_ns(BURST_NS, self.share_ppm()) as i64 {
            self.owes.store(true, Ordering::Relaxed);
        }
        let moved = |left_ns: u64| Some(left_ns.saturating_add_signed(moved_ns));
        let _ = self.left_ns.fetch_update(Ordering::Relaxed, Ordering::Relaxed, moved);
    }

    /// GPU time that was predicted and not charged yet.
    #[inline]
    fn unposted_ns(&self) -> u64 {
        self.unposted.load(Ordering::Relaxed) >> COUNT_BITS
    }

    /// GPU time of all that was given to the device, by prediction.
    pub(crate) fn given_ns(&self) -> u64 {
        self.posted_ns.load(Ordering::Relaxed).wrapping_add(self.unposted_ns())
    }

    /// How far ahead the deadline may get.
    pub(crate) fn debt_bound_ns(&self) -> u64 {
        debt_bound_ns(wall_ns(self.longest_ns.load(Ordering::Relaxed), self.share_ppm()))
    }

    /// Charges later.
    #[inline]
    fn put_off(&self, cost_ns: u64) {
        self.unposted.fetch_add(cost_ns << COUNT_BITS | 1, Ordering::Relaxed);
    }

    #[cold]
    fn retract(&self, stream: &StreamOf<M>, cost_ns: u64) {
        stream.line.lock().retract(cost_ns);
        self.take_back(cost_ns);
    }

    /// Work that was put off did not come about.
    fn take_back(&self, cost_ns: u64) {
        let less = |unposted: u64| Some(unposted.saturating_sub(cost_ns << COUNT_BITS));
        let _ = self.unposted.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    /// Records the event that a segment is measured from, and gives it if the stream should be idle.
    fn record_begin(&self, machine: &M, stream: &StreamOf<M>) -> Option<M::Event> {
        let recorded = machine.record(stream.stream);
        let now_ns = machine.now_ns();
        let mut line = stream.line.lock();
        let Some(event) = recorded else {
            line.not_begun(now_ns);
            return None;
        };
        let is_idle = line.tail_ns() < now_ns;
        line.begin(event, now_ns);
        is_idle.then_some(event)
    }

    /// Records the event that a segment is measured to. False if there is none.
    fn record_end(&self, machine: &M, stream: &StreamOf<M>) -> bool {
        let recorded = machine.record(stream.stream);
        let now_ns = machine.now_ns();
        let Some(event) = recorded else {
            stream.line.lock().not_begun(now_ns);
            return false;
        };
        let unused = stream.line.lock().end(event, now_ns);
        if let Some(event) = unused {
            machine.recycle(event);
        }
        unused.is_none()
    }

    /// Ends the open segments of all streams, so that what is measured next does not take a wait for work. It begins with an
    /// event of its own: while this process waits another may have the GPU, and from one to the other it takes 150 us, which
    /// lie between an old event and the next launch, but not between that launch and an event just before it.
    pub(crate) fn end_all(&self, machine: &M) {
        for stream in self.streams() {
            if stream.lives.load(Ordering::Acquire) && stream.line.lock().is_open() {
                self.record_end(machine, &stream);
            }
            stream.line.lock().rest();
        }
    }

    /// Something that may have to wait comes next on a stream: another stream's event, a host function, a value in
    /// memory. What is measured so far ends before it.
    pub fn interrupt(&self, machine: &M, stream: &StreamOf<M>) {
        let wants_event = stream.line.lock().interrupt();
        if wants_event {
            let event = machine.record(stream.stream);
            let now_ns = machine.now_ns();
            stream.line.lock().interrupted(event, now_ns);
        }
    }

    /// The program has waited for a stream, by a call that began at `called_ns`.
    pub fn synchronized(&self, machine: &M, stream: &StreamOf<M>, called_ns: u64) {
        stream.line.lock().synchronized(called_ns, machine.now_ns());
        self.has_waited(machine);
    }

    /// When all that this process has given the device should be done.
    pub(crate) fn tail_ns(&self) -> u64 {
        let streams = self.streams.lock();
        let living = streams.iter().filter(|stream| stream.lives.load(Ordering::Acquire));
        living.map(|stream| stream.line.lock().tail_ns()).max().unwrap_or(0)
    }

    pub(crate) fn streams(&self) -> Vec<Arc<StreamOf<M>>> {
        self.streams.lock().clone()
    }
}
