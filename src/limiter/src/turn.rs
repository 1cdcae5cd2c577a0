//! Taking turns with other containers: asking the arbiter, and holding a launch back until it is this container's turn.
//!
//! Owns when to ask; what is answered is the arbiter's business. It must never wait for longer than
//! [`LONGEST_WAIT_NS`] for one piece of work, and never where there is no arbiter.

use crate::machine::Machine;
use crate::meter::{Meter, Shared, StreamOf};
use std::sync::atomic::{AtomicU64, Ordering};
use vcuda_core::arbiter::{LONGEST_WAIT_NS, OVERRUN_NS, Released, Tenant, Turn, Wish};

/// How long others are taken to be there after they were last waited for.
const CONTENDED_NS: u64 = 200_000_000;
/// A file that can't be used is tried again after this.
const LOST_NS: u64 = 1_000_000_000;
/// A thread asleep looks up this often.
const LOOK_UP_NS: u64 = 20_000_000;
/// So long before its work should be done a thread looks all the time.
const AWAKE_NS: u64 = 120_000;
/// Between looks at work that is late.
const LONGEST_NAP_NS: u64 = 250_000;
/// Who has nothing to do for less than this keeps its turn.
const KEEP_NS: u64 = 500_000;

/// A process's part in taking turns.
pub(crate) struct Turns {
    tenant: Option<Tenant>,
    /// When to ask again.
    look_ns: AtomicU64,
    /// What was given to the device has to be done by then; asked before more is.
    limit_ns: AtomicU64,
    /// Until when others are taken to be there.
    contended_until_ns: AtomicU64,
    /// What had been given to the device when all of it was last known to be done, in predicted GPU time.
    done_ns: AtomicU64,
}

impl Turns {
    pub(crate) fn new(tenant: Option<Tenant>) -> Self {
        let look_ns = if tenant.is_some() { 0 } else { u64::MAX };
        Self {
            tenant,
            look_ns: AtomicU64::new(look_ns),
            limit_ns: AtomicU64::new(u64::MAX),
            contended_until_ns: AtomicU64::new(0),
            done_ns: AtomicU64::new(0),
        }
    }

    /// Whether it is time to ask.
    #[inline]
    pub(crate) fn is_due(&self, now_ns: u64) -> bool {
        now_ns >= self.look_ns.load(Ordering::Relaxed)
    }

    /// Until when everything given has to be done.
    #[inline]
    pub(crate) fn limit_ns(&self) -> u64 {
        self.limit_ns.load(Ordering::Relaxed)
    }

    /// Whether others have lately been waited for.
    #[inline]
    pub(crate) fn is_contended(&self, now_ns: u64) -> bool {
        now_ns < self.contended_until_ns.load(Ordering::Relaxed)
    }

    fn go(&self, limit_ns: u64, look_ns: u64) {
        self.limit_ns.store(limit_ns, Ordering::Relaxed);
        self.look_ns.store(look_ns, Ordering::Relaxed);
    }
}

impl<M: Machine, W: Shared> Meter<M, W>
where
    M::Stream: Send + Sync,
{
    /// The container, as it takes turns with others.
    pub fn tenant(&self) -> Option<&Tenant> {
        self.turns.tenant.as_ref()
    }

    /// Asks whether work of `cost_ns` may be given to the device, and returns when it may.
    #[cold]
    #[inline(never)]
    pub(crate) fn take_turn(&self, machine: &M, cost_ns: u64) {
        let Some(tenant) = &self.turns.tenant else { return };
        let mut began_ns = None;
        loop {
            let now_ns = machine.now_ns();
            let Some(arbiter) = self.shared.arbiter() else {
                self.turns.go(u64::MAX, now_ns.saturating_add(LOST_NS));
                break;
            };
            let wish = Wish { since_ns: began_ns.unwrap_or(now_ns), ..self.wish(now_ns, cost_ns) };
            let turn = tenant.ask(arbiter, &wish);
            if let Turn::Go { limit_ns, look_ns } = turn {
                self.turns.go(limit_ns, look_ns);
                break;
            }
            let since_ns = *began_ns.get_or_insert(now_ns);
            if now_ns.saturating_sub(since_ns) >= LONGEST_WAIT_NS {
                self.turns.go(now_ns, now_ns);
                break;
            }
            match turn {
                Turn::Go { .. } => {}
                Turn::Pause { until_ns, is_guess: false } => {
                    machine.sleep_until(until_ns.min(now_ns.saturating_add(LOOK_UP_NS)));
                    self.settle(machine);
                }
                Turn::Over { until_ns } | Turn::Pause { until_ns, is_guess: true } => {
                    self.note_contended(now_ns);
                    self.end_all(machine);
                    self.finish(machine, until_ns);
                    if self.hand_on(machine, true) == Released::OthersAtWork {
                        let grant = arbiter.grant.load(Ordering::Relaxed);
                        let soon_ns = machine.now_ns().saturating_add(LONGEST_NAP_NS);
                        machine.sleep_on(&arbiter.grant, grant, until_ns.min(soon_ns));
                    }
                }
                Turn::Wait { until_ns, grant, is_moment } => {
                    self.note_contended(now_ns);
                    if is_moment {
                        while arbiter.grant.load(Ordering::Relaxed) == grant && machine.now_ns() < until_ns {
                            machine.pause();
                        }
                    } else {
                        self.end_all(machine);
                        let until_ns = until_ns.min(now_ns.saturating_add(LOOK_UP_NS));
                        machine.sleep_on(&arbiter.grant, grant, until_ns);
                        self.settle(machine);
                    }
                }
            }
        }
        if let (Some(began_ns), Some(arbiter)) = (began_ns, self.shared.arbiter()) {
            let now_ns = machine.now_ns();
            let waited_ns = now_ns.saturating_sub(began_ns);
            tenant.note_waited(arbiter, now_ns, waited_ns);
            self.shared.words().note_throttled(waited_ns);
        }
    }

    /// Waits until all that this process has given the device is done; until `until_ns` at most, but for what is seen to be
    /// under way still.
    fn finish(&self, machine: &M, until_ns: u64) {
        let latest_ns = until_ns.saturating_add(OVERRUN_NS);
        let mut tell_ns = 0;
        loop {
            self.settle(machine);
            let Some((end_ns, _)) = self.in_flight() else { return };
            let now_ns = machine.now_ns();
            if now_ns >= latest_ns {
                return;
            }
            let awake_ns = end_ns.saturating_sub(AWAKE_NS);
            if now_ns < awake_ns {
                machine.sleep_until(awake_ns.min(latest_ns));
                continue;
            }
            let late_ns = now_ns.saturating_sub(end_ns);
            let naps = late_ns > 2 * AWAKE_NS;
            // Others see that it goes on, and are awake as long as it is a matter of moments.
            if now_ns >= tell_ns
                && let (Some(tenant), Some(arbiter)) = (&self.turns.tenant, self.shared.arbiter())
            {
                let again_ns = if naps { LONGEST_NAP_NS } else { AWAKE_NS / 2 };
                let tail_ns = end_ns.max(now_ns.saturating_add(2 * again_ns));
                tenant.tell(arbiter, &Wish { tail_ns, ..self.wish(now_ns, 0) });
                tell_ns = now_ns.saturating_add(again_ns);
            }
            if naps {
                machine.sleep_until(now_ns.saturating_add((late_ns / 4).min(LONGEST_NAP_NS)));
            } else {
                machine.pause();
            }
        }
    }

    /// Predicted GPU time of what is not known to be done.
    fn in_flight_ns(&self) -> u64 {
        self.given_ns().saturating_sub(self.turns.done_ns.load(Ordering::Relaxed))
    }

    /// The device is done with what this process gave it.
    fn hand_on(&self, machine: &M, has_more: bool) -> Released {
        self.turns.done_ns.store(self.given_ns(), Ordering::Relaxed);
        let (Some(tenant), Some(arbiter)) = (&self.turns.tenant, self.shared.arbiter()) else {
            return Released::NotHeld;
        };
        let released = tenant.release(arbiter, machine.now_ns(), has_more);
        // Others of the container may be asleep until the last of them is done, and those who wait for the device until it is
        // free.
        if matches!(released, Released::Free | Released::GoesOn) {
            machine.wake(&arbiter.grant);
        }
        released
    }

    fn wish(&self, now_ns: u64, cost_ns: u64) -> Wish {
        // It costs a system call.
        let is_wanted = self.tenant().is_some_and(Tenant::is_joint);
        let busy_ns = if is_wanted { self.shared.words().compute.busy_ns.load(Ordering::Relaxed) } else { 0 };
        Wish {
            now_ns,
            since_ns: now_ns,
            tail_ns: self.tail_ns(),
            cost_ns,
            given_ns: self.given_ns(),
            in_flight_ns: self.in_flight_ns(),
            busy_ns,
        }
    }

    /// Nothing comes before `due_ns`, and nothing is in flight: others may have the device meanwhile. True if they were
    /// told.
    pub(crate) fn leave_turn(&self, machine: &M, now_ns: u64, due_ns: u64) -> bool {
        if self.turns.tenant.is_none() || due_ns < now_ns.saturating_add(KEEP_NS) {
            return false;
        }
        self.hand_on(machine, false);
        self.turns.go(u64::MAX, 0);
        true
    }

    fn note_contended(&self, now_ns: u64) {
        self.turns.contended_until_ns.store(now_ns.saturating_add(CONTENDED_NS), Ordering::Relaxed);
    }

    /// The program is about to wait for what it has given the device: others should know for how long that is busy.
    #[inline]
    pub fn about_to_wait(&self, machine: &M) {
        if self.turns.limit_ns() != u64::MAX {
            self.tell_wait(machine, true);
        }
    }

    /// The program has waited for some of what it gave the device. If it may take the turn at any time, and nothing is left,
    /// others need not wait for it either.
    pub fn has_waited(&self, machine: &M) {
        self.settle(machine);
        if self.turns.limit_ns() == u64::MAX {
            return;
        }
        // Before it is asked: what another thread gives meanwhile is not.
        let given_ns = self.given_ns();
        if self.streams().iter().all(|stream| stream.line.lock().is_done()) {
            self.turns.done_ns.fetch_max(given_ns, Ordering::Relaxed);
        }
        let is_high = self.turns.tenant.as_ref().is_some_and(Tenant::is_high);
        if is_high && self.tail_ns() <= machine.now_ns() {
            self.hand_on(machine, false);
            self.turns.go(u64::MAX, 0);
        } else {
            self.tell_wait(machine, false);
        }
    }

    /// What was given to the device may be more than others know of, and nothing comes for now.
    pub(crate) fn tell(&self, machine: &M) {
        if self.turns.limit_ns() != u64::MAX
            && let (Some(tenant), Some(arbiter)) = (&self.turns.tenant, self.shared.arbiter())
        {
            tenant.tell(arbiter, &self.wish(machine.now_ns(), 0));
        }
    }

    #[cold]
    fn tell_wait(&self, machine: &M, waits: bool) {
        if let (Some(tenant), Some(arbiter)) = (&self.turns.tenant, self.shared.arbiter()) {
            tenant.tell_wait(arbiter, &self.wish(machine.now_ns(), 0), waits);
        }
    }

    /// Whether a unit on a stream goes beyond what may be in flight.
    pub(crate) fn is_beyond(&self, stream: &StreamOf<M>, now_ns: u64, cost_ns: u64) -> bool {
        let limit_ns = self.turns.limit_ns();
        limit_ns != u64::MAX
            && stream.line.lock().tail_ns().max(now_ns).saturating_add(cost_ns / 2) > limit_ns
    }
}
