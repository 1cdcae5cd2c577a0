//! Work between two events of a stream: what was predicted of it, what its events say, and what is learned from that.
//!
//! Owns the arithmetic of one segment. Times are nanoseconds of the host's monotonic clock, see [`mod@crate::line`].

use crate::cost::{CostModel, Unit};
use vcuda_core::compute::Measured;

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
    /// Gaps after the first.
    pub(crate) later_gaps_ns: u64,
    /// Predicted GPU time since the stream last ran dry.
    pub(crate) run_ns: u64,
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
        run_ns: 0,
        parts: [None; KINDS],
        let_go_ns: 0,
        tainted: false,
        last_waits: false,
    };

    /// The stream ran dry for `gap_ns` before the launch that comes now.
    #[inline]
    pub(crate) fn run_dry(&mut self, gap_ns: u64) {
        if self.ran_dry {
            self.later_gaps_ns += gap_ns;
        } else {
            self.dry_at_front = self.count == 0;
        }
        self.ran_dry = true;
        self.run_ns = 0;
        self.parts = [None; KINDS];
    }

    /// A launch that is expected to take `cost_ns`.
    #[inline]
    pub(crate) fn add(&mut self, unit: &Unit, cost_ns: u64) {
        self.count += 1;
        self.predicted_ns += cost_ns;
        self.run_ns += cost_ns;
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
    /// When that event was recorded.
    pub(crate) recorded_ns: u64,
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

    /// The event at its end had not happened at `now_ns`.
    pub fn saw_pending(&mut self, now_ns: u64) {
        self.pending_ns = now_ns;
    }

    /// How long it was busy, given what passed between its events. `before_ns` is when the segment before it was
    /// measured to end, if it was.
    pub(crate) fn measure(
        &self,
        before_ns: Option<u64>,
        elapsed_ns: u64,
        now_ns: u64,
        events: EventCost,
    ) -> Outcome {
        let open = &self.open;
        let begin_ns = match (self.tie, before_ns) {
            (Tie::Chained, Some(measured_ns)) => measured_ns,
            _ => self.begin_ns,
        };
        // What the host has seen bounds where the device's time can lie.
        let found_ns = begin_ns.saturating_add(elapsed_ns);
        let end_ns = found_ns.max(self.pending_ns).min(now_ns.max(self.pending_ns));
        let begin_ns = begin_ns.saturating_add_signed(end_ns.wrapping_sub(found_ns) as i64);
        // The stream began this segment that much later than was thought, so it ran dry that much less.
        let late_ns = begin_ns.wrapping_sub(self.begin_ns) as i64;
        let first_gap_ns =
            0i64.saturating_sub(open.least_lead_ns.saturating_add(late_ns)).max(0).unsigned_abs();
        let ran_dry = open.ran_dry || first_gap_ns > 0;
        let event_ns = if ran_dry { events.idle_ns } else { events.queued_ns };
        let most_ns = elapsed_ns
            .saturating_sub(first_gap_ns)
            .saturating_sub(open.later_gaps_ns)
            .saturating_sub(event_ns);
        // An event that happened as soon as it was recorded found the stream dry; the work ended some time before, so
        // that there can have been less of it than predicted, but not more. After a call that waits for its work that is
        // so for certain, unless the event shows that it didn't wait (as a copy within a device, called by the general
        // name).
        let prompt_ns = if open.last_waits { LEISURELY_NS } else { PROMPT_NS };
        let is_bound = end_ns <= self.recorded_ns.saturating_add(prompt_ns);
        let busy_ns = if is_bound { most_ns.min(open.predicted_ns) } else { most_ns };
        let start_ns = if open.dry_at_front { begin_ns.saturating_add(first_gap_ns) } else { begin_ns };
        Outcome {
            span: Measured { start_ns, end_ns, busy_ns, charged_ns: open.predicted_ns },
            surplus_ns: (busy_ns as i64).saturating_sub(open.predicted_ns as i64),
            most_surplus_ns: (most_ns as i64).saturating_sub(open.predicted_ns as i64),
        }
    }

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

/// A measured segment.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// When, and how busy.
    pub span: Measured,
    /// By how much the last run took longer than predicted.
    surplus_ns: i64,
    /// The same at most, where the end of the work is known only to lie before the event.
    most_surplus_ns: i64,
}
