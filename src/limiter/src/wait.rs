//! Holding a launch back: until its deadline, but never for longer than is good for work that may be waiting for it.
//!
//! A kernel on the device may be spinning for the very launch that is held back here. So a wait goes on past the
//! predicted end of what this process has in flight only for as long as a wrong prediction explains; then one piece of
//! work is let through, with its debt kept. What ends right after that is not learned from, so that a program that does
//! this again and again does not wait longer each time for its own waiting. But if it was chance, and the work just is
//! that long, it has to be learned: so patience doubles, up to a second, until something ends of its own accord.
//! With nothing in flight there is nobody to wait for us on this device, and the deadline stands, which no new charge
//! can move further away. So every wait ends.
//!
//! The same patience keeps work from piling up whose length was predicted far too short: as long as the first of it
//! is late, no more is let through, whatever the deadline.

use crate::cost::Unit;
use crate::machine::Machine;
use crate::meter::{Meter, Shared};
use std::sync::atomic::Ordering;
use vcuda_core::compute::rescaled_ns;

/// A thread asleep looks up this often, to see a changed share or corrections by others.
const LOOK_NS: u64 = 20_000_000;
/// Between looks at work that is late.
const SHORTEST_LOOK_NS: u64 = 30_000;
const LONGEST_LOOK_NS: u64 = 1_000_000;

/// How a launch comes to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Held {
    /// Its time has come.
    UntilDue,
    /// Work may be waiting for it.
    LetThrough,
}

/// What to do with a launch.
enum Hold {
    Until(u64),
    Over(Held),
}

impl<M: Machine, W: Shared> Meter<M, W>
where
    M::Stream: Send + Sync,
{
    /// Waits until `due_ns`, which was right at a share of `share_ppm` when measurements had moved the deadline by
    /// `moved_ns` in all.
    pub(crate) fn wait(&self, machine: &M, due_ns: u64, moved_ns: i64, mut share_ppm: u32) -> Held {
        let began_ns = machine.now_ns();
        let mut charged_due_ns = due_ns;
        self.end_all(machine);
        let held = loop {
            self.settle(machine);
            let now_ns = machine.now_ns();
            if share_ppm != self.share_ppm() {
                charged_due_ns = rescaled_ns(charged_due_ns, now_ns, share_ppm, self.share_ppm());
                share_ppm = self.share_ppm();
            }
            let corrected_ns = self.moved_ns.load(Ordering::Relaxed).wrapping_sub(moved_ns);
            let due_ns = charged_due_ns.saturating_add_signed(corrected_ns);
            let due_ns = due_ns.min(began_ns.saturating_add(self.debt_bound_ns()));
            match self.hold_until(now_ns, due_ns) {
                Hold::Until(until_ns) => machine.sleep_until(until_ns),
                Hold::Over(held) => break held,
            }
        };
        let waited_ns = machine.now_ns().saturating_sub(began_ns);
        self.shared.words().note_throttled(waited_ns);
        held
    }

    /// Until when to hold a launch that is due at `due_ns`, before looking again.
    fn hold_until(&self, now_ns: u64, due_ns: u64) -> Hold {
        let mut state = self.state.lock();
        let flight = state.flight(&self.model);
        let is_late = flight.is_some_and(|flight| flight.is_late(now_ns));
        if now_ns >= due_ns && !is_late {
            return Hold::Over(Held::UntilDue);
        }
        let Some(flight) = flight else { return Hold::Until(due_ns.min(now_ns.saturating_add(LOOK_NS))) };
        if now_ns < flight.first_ns {
            return Hold::Until(due_ns.min(flight.first_ns));
        }
        let late_ns = now_ns - flight.first_ns;
        if state.loses_patience(&flight, late_ns) {
            return Hold::Over(Held::LetThrough);
        }
        let look_ns = (late_ns / 4).clamp(SHORTEST_LOOK_NS, LONGEST_LOOK_NS);
        let until_ns = now_ns.saturating_add(look_ns);
        Hold::Until(if is_late { until_ns } else { until_ns.min(due_ns) })
    }

    /// Kinds that were never measured are launched one of each kind and a few at a time; further ones wait until the
    /// first are measured.
    pub(crate) fn wait_for_first(&self, machine: &M, unit: &Unit) -> Held {
        while !self.model.estimate(unit).known {
            if self.state.lock().may_probe(unit.key()) {
                break;
            }
            self.settle(machine);
            let now_ns = machine.now_ns();
            match self.hold_until(now_ns, u64::MAX) {
                Hold::Until(until_ns) => {
                    machine.sleep_until(until_ns.min(now_ns.saturating_add(LONGEST_LOOK_NS)));
                }
                Hold::Over(held) => return held,
            }
        }
        Held::UntilDue
    }
}
