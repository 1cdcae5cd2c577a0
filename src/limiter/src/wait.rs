//! Holding a launch back: until its deadline, but never for longer than is good for work that may be waiting for it.
//!
//! A kernel on the device may be spinning for the very launch that is held back here. So a wait goes on past the
//! predicted end of what this process has in flight only for as long as a wrong prediction explains; then one piece of
//! work is let through, with its debt kept; of what then ends at once, nothing is learned. Work may be late for another
//! reason, that the device is with other processes, and then letting more through makes it later: so if nothing ends at
//! once, patience doubles. With nothing in flight there is nobody to wait for us on this device, and the deadline stands,
//! which no new charge can move further away. So every wait ends.

use crate::cost::{Trust, Unit};
use crate::machine::Machine;
use crate::meter::{Meter, Shared};
use crate::segment::Segment;
use std::sync::atomic::Ordering;

/// A thread asleep looks up this often, to see a changed share or corrections by others.
const LOOK_NS: u64 = 20_000_000;
/// How much longer than predicted work may take before it is thought to wait for us: at first, and at most.
pub(crate) const GRACE_NS: u64 = 10_000_000;
const LONGEST_GRACE_NS: u64 = 640_000_000;
/// Work that waited for a launch of ours has ended by this time after it.
const RELEASED_NS: u64 = 2_000_000;
/// Between looks at work that is late.
const SHORTEST_LOOK_NS: u64 = 30_000;
const LONGEST_LOOK_NS: u64 = 1_000_000;
/// How long a second launch of a kind waits for the first to be measured.
const FIRST_NS: u64 = 50_000_000;

impl<M: Machine, W: Shared> Meter<M, W>
where
    M::Stream: Send + Sync,
{
    /// Waits until `due_ns`, which was right when measurements had moved the deadline by `moved_ns` in all.
    pub(crate) fn wait(&self, machine: &M, due_ns: u64, moved_ns: i64) {
        let began_ns = machine.now_ns();
        self.end_all(machine);
        self.tell(machine);
        let mut has_left = false;
        let mut progress_ns = began_ns;
        loop {
            if self.settle(machine) > 0 {
                progress_ns = machine.now_ns();
            }
            let now_ns = machine.now_ns();
            let corrected_ns = self.moved_ns.load(Ordering::Relaxed).wrapping_sub(moved_ns);
            let due_ns =
                due_ns.saturating_add_signed(corrected_ns).min(began_ns.saturating_add(self.debt_bound_ns()));
            if now_ns >= due_ns {
                break;
            }
            let until_ns = match self.in_flight() {
                None => {
                    has_left = has_left || self.leave_turn(machine, now_ns, due_ns);
                    due_ns.min(now_ns.saturating_add(LOOK_NS))
                }
                Some((end_ns, _)) if now_ns < end_ns => due_ns.min(end_ns),
                Some((end_ns, work_ns)) => {
                    let late_from_ns = end_ns.max(progress_ns);
                    let grace_ns = self.grace_ns.load(Ordering::Relaxed);
                    if now_ns.saturating_sub(late_from_ns) >= grace_ns.max(work_ns / 2) {
                        self.let_go(now_ns);
                        break;
                    }
                    let look_ns =
                        (now_ns.saturating_sub(end_ns) / 4).clamp(SHORTEST_LOOK_NS, LONGEST_LOOK_NS);
                    due_ns.min(now_ns.saturating_add(look_ns))
                }
            };
            machine.sleep_until(until_ns);
        }
        let waited_ns = machine.now_ns().saturating_sub(began_ns);
        self.shared.words().note_throttled(waited_ns);
        if let Some(tenant) = self.tenant() {
            tenant.note_held_back(waited_ns);
        }
    }

    /// The predicted end and GPU time of what this process has in flight and will be told of.
    pub(crate) fn in_flight(&self) -> Option<(u64, u64)> {
        let lines = self.streams();
        let found = lines.iter().filter_map(|stream| stream.line.lock().in_flight());
        found.reduce(|(end_ns, work_ns), (other_end_ns, other_work_ns)| {
            (end_ns.max(other_end_ns), work_ns.saturating_add(other_work_ns))
        })
    }

    /// Learns whether it helped to let a launch through that a segment, now over, may have waited for.
    pub(crate) fn note_release(&self, segment: &Segment<M::Event>, ended_ns: u64) {
        let let_go_ns = segment.let_go_ns();
        if let_go_ns == 0 {
            return;
        }
        let grace_ns = self.grace_ns.load(Ordering::Relaxed);
        let next_ns =
            if ended_ns < let_go_ns.saturating_add(RELEASED_NS) { grace_ns / 2 } else { grace_ns * 2 };
        self.grace_ns.store(next_ns.clamp(GRACE_NS, LONGEST_GRACE_NS), Ordering::Relaxed);
    }

    fn let_go(&self, now_ns: u64) {
        for stream in self.streams() {
            stream.line.lock().let_go(now_ns);
        }
    }

    /// A kind that was never measured is launched once; whoever launches it again before that is measured waits for it,
    /// for a while. Otherwise a program could queue minutes of work before the first of it is known to be long.
    pub(crate) fn wait_for_first(&self, machine: &M, unit: &Unit) {
        {
            let mut probed = self.probed.lock();
            if !probed.contains(&unit.key()) {
                probed.push(unit.key());
                return;
            }
        }
        let began_ns = machine.now_ns();
        while !self.model.estimate(unit).known {
            self.settle(machine);
            let now_ns = machine.now_ns();
            if !self.probed.lock().contains(&unit.key()) {
                break;
            }
            if now_ns.saturating_sub(began_ns) >= FIRST_NS {
                // Still running, so it takes at least this long.
                self.model.learn(unit, FIRST_NS, 1.0, Trust::Full);
                // Whatever is measured replaces that.
                self.model.forget(unit.key());
                break;
            }
            machine.sleep_until(now_ns.saturating_add(SHORTEST_LOOK_NS));
        }
    }

    /// What is in the segment has been measured, or never will be.
    pub(crate) fn end_probes(&self, segment: &Segment<M::Event>) {
        let mut probed = self.probed.lock();
        if !probed.is_empty() {
            probed.retain(|&key| !segment.has(key));
        }
    }
}
