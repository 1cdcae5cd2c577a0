//! Work between two events of a stream: what was predicted of it, what its events say, and what is learned from that.
//!
//! Owns the arithmetic of one segment. Times are nanoseconds of the host's monotonic clock, see [`mod@crate::line`].

use crate::cost::{CostModel, Trust, Unit};
use vcuda_core::compute::Measured;

/// Where a stream ran dry, what its events say is believed to within this time: gaps are known by the host's clock, and
/// how long a launch takes to reach the GPU, by habit.
const UNSURE_NS: i64 = 30_000;
/// A fresh event that seems to have happened this much later than it was recorded may as well have been on time.
const UNTOLD_NS: i64 = 10_000;
/// Work shorter than this, launched on a stream that was idle for long, is no measure of others: the launch itself takes
/// ten times as long as usual then, and it isn't known when within that time the work began.
const COLD_NS: u64 = 200_000;
/// Work that waited for a launch of ours ends within this time of it.
const RELEASE_NS: u64 = 10_000_000;
/// Kinds of work that one segment learns about.
const KINDS: usize = 8;

/// What passes between two events on a stream that was idle, besides the launch call and the kernel itself. A kernel itself
/// is what a further one adds to a row of them, which is 2 us more than what it sees of the GPU's timer. Measured on an
/// H100, as is the next; on an H200 they were 600 and 1300 ns.
const IDLE_EVENT_NS: u64 = 500;
/// What an event adds to a row of kernels.
const QUEUED_EVENT_NS: u64 = 1_200;
/// Work shorter than this is measured with an error that matters where an event found the stream idle.
const NOISY_NS: u64 = 100_000;
/// What others use the device for in between shows in what is measured by more than this.
/// Where processes of the container itself take turns on the device that is too long and too short by chance.
const ALONE: f32 = 0.9;
const LEAST_OWN: f32 = 0.8;
const MOST_OWN: f32 = 1.25;
/// An event may have happened this long before the driver says so.
const UNSEEN_NS: u64 = 3_000;

/// One kind of work within a segment.
#[derive(Clone, Copy, Debug)]
struct Part {
    unit: Unit,
    estimated_ns: u64,
    count: u32,
}

/// Work since the last event.
#[derive(Clone, Debug)]
pub(crate) struct Open {
    /// Predicted GPU time of it all.
    pub(crate) predicted_ns: u64,
    pub(crate) count: u64,
    /// When the first of it arrived.
    pub(crate) first_ns: u64,
    /// The least by which the stream was ahead of a launch before it first ran dry; negative where it did.
    pub(crate) least_lead_ns: i64,
    /// Whether the stream ran dry.
    pub(crate) ran_dry: bool,
    /// Whether it was dry before the first launch, so that the first gap lies in front of all work.
    pub(crate) dry_at_front: bool,
    /// Gaps after the first, and those behind a call that had waited for the stream.
    pub(crate) later_gaps_ns: u64,
    /// By how much what was predicted was too much, as far as the program's own waits have shown.
    pub(crate) excess_ns: i64,
    parts: [Option<Part>; KINDS],
    /// When a launch was let through that this work may have been waiting for; 0 if none was.
    pub(crate) let_go_ns: u64,
    /// A launch in it failed.
    pub(crate) tainted: bool,
    /// The last call returned only when its work was done.
    pub(crate) last_waits: bool,
}

impl Open {
    pub(crate) const NEW: Open = Open {
        predicted_ns: 0,
        count: 0,
        first_ns: 0,
        least_lead_ns: i64::MAX,
        ran_dry: false,
        dry_at_front: true,
        later_gaps_ns: 0,
        excess_ns: 0,
        parts: [None; KINDS],
        let_go_ns: 0,
        tainted: false,
        last_waits: false,
    };

    /// The stream ran dry for `gap_ns` before the launch that comes now. Unless `is_known`, that is so only if what was
    /// measured before this ended when it was expected to.
    #[inline]
    pub(crate) fn run_dry(&mut self, gap_ns: u64, is_known: bool) {
        if self.ran_dry || is_known {
            self.later_gaps_ns += gap_ns;
        }
        if !self.ran_dry {
            self.dry_at_front = self.count == 0;
        }
        self.ran_dry = true;
    }

    /// A launch that is expected to take `cost_ns`.
    #[inline]
    pub(crate) fn add(&mut self, unit: &Unit, cost_ns: u64) {
        self.count += 1;
        self.predicted_ns += cost_ns;
        self.last_waits = unit.waits;
        self.add_part(*unit, cost_ns);
    }

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

/// How the time of a mark is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tie {
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
    pub(crate) begin_ns: u64,
    pub(crate) tie: Tie,
    /// When its work is expected to end.
    pub end_ns: u64,
    /// When the event at its end is expected to happen: the same, unless the stream had run dry by then.
    pub(crate) stamp_ns: u64,
    /// The event at its beginning was recorded for it, just before its first launch, so that what lies between them is
    /// known well.
    pub(crate) is_fresh: bool,
    /// The stream had been idle for long.
    pub(crate) is_cold: bool,
    /// When it was last seen not to have happened yet.
    pub(crate) pending_ns: u64,
    pub(crate) open: Open,
}

impl<E> Segment<E> {
    /// Predicted GPU time.
    pub fn predicted_ns(&self) -> u64 {
        self.open.predicted_ns
    }

    /// When and how busy it was, as predicted.
    pub fn as_predicted(&self) -> Measured {
        let busy_ns = self.open.predicted_ns;
        Measured {
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

    /// When that was; 0 if there was none.
    pub(crate) fn let_go_ns(&self) -> u64 {
        self.open.let_go_ns
    }

    /// The event at its end had not happened at `now_ns`.
    pub fn saw_pending(&mut self, now_ns: u64) {
        self.ends_after(now_ns.saturating_sub(UNSEEN_NS));
    }

    /// The event at its end happens later than `time_ns`.
    pub fn ends_after(&mut self, time_ns: u64) {
        self.pending_ns = self.pending_ns.max(time_ns);
    }

    /// How long it was busy, given what passed between its events. `before_ns` is when the segment before it was
    /// measured to end, if it was.
    pub(crate) fn measure(&self, before_ns: Option<u64>, elapsed_ns: u64, now_ns: u64) -> Outcome {
        let open = &self.open;
        let begin_ns = match (self.tie, before_ns) {
            (Tie::Chained, Some(measured_ns)) => measured_ns,
            // One stream does one thing after the other.
            (_, Some(measured_ns)) => self.begin_ns.max(measured_ns),
            (_, None) => self.begin_ns,
        };
        // What the host has seen bounds where the device's time can lie.
        let found_ns = begin_ns.saturating_add(elapsed_ns);
        let end_ns = found_ns.max(self.pending_ns).min(now_ns.max(self.pending_ns));
        let begin_ns = begin_ns.saturating_add_signed(end_ns.wrapping_sub(found_ns) as i64);
        // The stream began this segment that much later than was thought, so it ran dry that much less.
        let late_ns = begin_ns.wrapping_sub(self.begin_ns) as i64;
        let late_ns = if self.is_fresh { beyond(late_ns, UNTOLD_NS) } else { late_ns };
        let first_gap_ns =
            0i64.saturating_sub(open.least_lead_ns.saturating_add(late_ns)).max(0).unsigned_abs();
        // The event was recorded when all work was done, as far as is known.
        let last_gap_ns = self.stamp_ns.saturating_sub(self.end_ns);
        let ran_dry = first_gap_ns > 0 || open.later_gaps_ns > 0 || last_gap_ns > 0;
        // A gap is known well between an event that was recorded for a launch and that launch, and behind a call that waits.
        let is_exact = open.later_gaps_ns == 0
            && (last_gap_ns == 0 || open.last_waits)
            && (first_gap_ns == 0 || self.is_fresh && open.dry_at_front);
        let event_ns = if ran_dry { IDLE_EVENT_NS } else { QUEUED_EVENT_NS };
        let most_ns = elapsed_ns.saturating_sub(event_ns);
        let gaps_ns = first_gap_ns.saturating_add(open.later_gaps_ns).saturating_add(last_gap_ns);
        let expected_ns = open.predicted_ns.saturating_add_signed(open.excess_ns.saturating_neg());
        let surplus_ns =
            (most_ns as i64).saturating_sub_unsigned(gaps_ns).saturating_sub_unsigned(expected_ns);
        let surplus_ns = if is_exact { surplus_ns } else { beyond(surplus_ns, UNSURE_NS) };
        let busy_ns = expected_ns.saturating_add_signed(surplus_ns).min(most_ns);
        let start_ns = if open.dry_at_front { begin_ns.saturating_add(first_gap_ns) } else { begin_ns };
        let span = Measured { start_ns, end_ns, busy_ns, charged_ns: open.predicted_ns };
        Outcome { span, is_exact, is_noisy: ran_dry && (busy_ns < NOISY_NS || open.last_waits) }
    }

    /// Teaches the model. `fraction` of the busy time was nobody else's in this container; others may have been at it, too, if
    /// it is shared with them.
    pub fn teach(&self, model: &CostModel, outcome: Outcome, fraction: f32, is_shared: bool) {
        let open = &self.open;
        // Work that ends soon after the launch that was let through for it had been waiting for that.
        let waited = outcome.span.end_ns < open.let_go_ns.saturating_add(RELEASE_NS);
        // Where the stream ran dry, how long the work before that took left no trace.
        if open.tainted || waited || !outcome.is_exact || open.predicted_ns == 0 {
            return;
        }
        let ratio = outcome.span.busy_ns as f32 / open.predicted_ns as f32 * fraction;
        let trust = match outcome.is_noisy {
            _ if is_shared && fraction > ALONE && !(LEAST_OWN..MOST_OWN).contains(&ratio) => Trust::Shared,
            true => Trust::Noisy,
            false => Trust::Full,
        };
        let is_vague = self.is_cold && outcome.span.busy_ns < COLD_NS;
        for part in open.parts.iter().flatten() {
            let count = u64::from(part.count.max(1));
            let unit = Unit { size: (part.unit.size / count).max(1), ..part.unit };
            if !(is_vague && model.has(&unit)) {
                model.learn(&unit, part.estimated_ns / count, ratio, trust);
            }
        }
    }
}

/// What is left of `value` when everything within `unsure` of zero counts as zero.
fn beyond(value: i64, unsure: i64) -> i64 {
    value.signum().saturating_mul(value.saturating_abs().saturating_sub(unsure).max(0))
}

/// A measured segment.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// When, and how busy.
    pub span: Measured,
    /// The stream did not run dry, but for a gap that is known well: what passed was work.
    is_exact: bool,
    /// How well the gap is known matters, because it is short or the call waited: some calls return late, none early.
    is_noisy: bool,
}
