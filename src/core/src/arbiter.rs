//! Turns on a device that several containers want at once: who may give it work now, and until when.
//!
//! Owns the rules and the only code that changes an arbiter's words. It must never block, take a lock or trust a number
//! that it reads; whatever stands in the words, nobody waits longer than a bound.
//!
//! Contexts of different processes never run at the same time: a GPU goes from one to another, for 150 us and after
//! slices of 2 ms as it likes, and takes a tenth of the work of two that both want it all. So as long as more than one
//! container has work, each is given the device for a turn of [`QUANTUM_NS`], and the others keep their launches back.
//! Which is next is decided by what each has a right to:
//!
//! 1. those of high priority that have not had their share of the time, and they don't wait for a turn to end;
//! 2. others that have not had their share, whoever is owed for longest first (`due_ns`, as in the [`bucket`]);
//! 3. all others by weighted fair queueing: the least virtual time first, which is time served over weight. Who was away
//!    starts where the last turn was taken (start-time fair queueing, Goyal, Vin and Cheng 1996).
//!
//! What counts is the time for which a container had the device, gaps within its turn included, because nobody else could
//! use those: so the shares of two programs are those of what each does alone, whether it waits for each of its kernels or
//! keeps the queue full. A turn is over when its time is, or when the container has nothing more to do. For the first it
//! gives the device only as much as should be done by then, and hands the turn on when that really is done, which may be
//! later, and is paid for by what comes to it afterwards. Work that the next gives before is worse than none: the device
//! would leave the last for it at once, and come back.
//!
//! Where the device is not wanted for nine tenths of the time, or where all leave it gaps, nobody keeps it through those, so that
//! everybody runs freely.
//!
//! A turn is a lease: one exchange of the grant's word takes it, and nothing has to be given back. Who is killed, stopped or
//! stuck in a kernel costs the others what is left of the turn, and [`OVERRUN_NS`] at most. The time served is added up by whoever takes the
//! next turn; one that dies between the exchange and that has given the last holder its turn for nothing.
//!
//! What a hostile container can do that writes whatever it likes into these words: take more of the device's time than its
//! part, up to all of it but for one unit of work each [`LONGEST_WAIT_NS`] of each other, and have others seem to be served
//! what they were not. Hard limits, memory and every other word of others lie in files of their own.
//!
//! [`bucket`]: crate::bucket
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![deny(clippy::arithmetic_side_effects)]

mod charge;
mod seat;
mod table;
pub mod words;

use crate::atomic::{AtomicU64, Ordering};
use charge::charge;
use core::sync::atomic::AtomicBool;
use table::{Table, calm, replace};
use words::{Arbiter, Grant, Seat, Terms};

/// How long a turn is. Going from one process to another takes 150 us, and noticing it some more: this loses less than a
/// hundredth.
pub const QUANTUM_NS: u64 = 25_000_000;
/// For how long work that is not done when its turn ends keeps others waiting.
pub const OVERRUN_NS: u64 = 20_000_000;
/// After this long somebody who waits gives the device one piece of work, whoever has the turn.
pub const LONGEST_WAIT_NS: u64 = 2_000_000_000;

/// Who should be done by now, but has not said so, has this much longer.
const GRACE_NS: u64 = 300_000;
/// Two looks that lie further apart have nothing to do with each other.
const DENSE_NS: u64 = 1_500_000;
/// By how much later than it meant to somebody who waits may look again.
const LATE_NS: u64 = 1_000_000;
/// Who looked so lately may come back any time.
const AROUND_NS: u64 = 60_000_000_000;
/// Who looked so lately is at it.
const ACTIVE_NS: u64 = 50_000_000;
const WHOLE_PPM: u64 = 1_000_000;
/// Predicted work that may be in flight without others knowing of it.
const UNTOLD_NS: u64 = GRACE_NS;
/// Attempts at the grant's word, which changes a few times in a quantum.
const ATTEMPTS: usize = 8;

/// What a process says of itself when it asks.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wish {
    /// Now.
    pub now_ns: u64,
    /// When it began to ask for this: now, or when it was told to wait first.
    pub since_ns: u64,
    /// When all that this process has given the device should be done.
    pub tail_ns: u64,
    /// What it wants to give it next, in predicted GPU time.
    pub cost_ns: u64,
    /// Predicted GPU time of all that this process ever gave the device.
    pub given_ns: u64,
    /// What of that is not known to be done, whatever the time.
    pub in_flight_ns: u64,
    /// How long the container's work has kept the device busy, in all; 0 will do unless [`Tenant::is_joint`].
    pub busy_ns: u64,
}

/// What it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Go on.
    Go {
        /// Until when what it gives the device has to be done, `u64::MAX` for any time: ask before giving more.
        limit_ns: u64,
        /// Ask again at this time in any case.
        look_ns: u64,
    },
    /// Give nothing before this time, or before the grant's word is another than this; then ask again.
    Wait {
        /// When.
        until_ns: u64,
        /// What the word was.
        grant: u64,
        /// It is a matter of microseconds: sleep would take longer.
        is_moment: bool,
    },
    /// There is enough in flight until this time; the turn goes on meanwhile.
    Pause {
        /// When to ask again.
        until_ns: u64,
        /// Other processes of the container are at work, too, and what all of them have in flight takes as long as it takes:
        /// when this one's is done it says so ([`Tenant::release`]), and the last has the turn go on.
        is_guess: bool,
    },
    /// The turn is over: have it handed on ([`Tenant::release`]) when all that was given is done, and ask again.
    Over {
        /// When all should be done, by all processes of the container.
        until_ns: u64,
    },
}

/// What became of a turn that a process has no more use for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Released {
    /// Others may have the device: they may be asleep.
    Free,
    /// It is not over.
    GoesOn,
    /// Another process of the container is still at work.
    OthersAtWork,
    /// It was over already.
    NotHeld,
}

/// A container as one of its processes sees it.
pub struct Tenant {
    identity: u64,
    terms: AtomicU64,
    /// Where its seat is, and one.
    place: AtomicU64,
    /// When this process last said that the container's work would be done.
    told_ns: AtomicU64,
    /// The turn that it takes part in, with the mark of one; 0 if none.
    joined: AtomicU64,
    /// That others of its processes had a part in that.
    is_joint: AtomicBool,
    /// What it last said of the work that it has in flight, and in which turn.
    told_flight: AtomicU64,
    /// Of what this process has given the device, what others know of.
    told_given_ns: AtomicU64,
    /// Until when it is expected to have more for the device, whatever it has given it.
    horizon_ns: AtomicU64,
    /// How long calls of this process were held back.
    waited_ns: AtomicU64,
    /// Up to when, waits left out, its duty was told, and how long it had kept the device busy by then.
    duty_from_free_ns: AtomicU64,
    duty_from_busy_ns: AtomicU64,
    duty_was_joint: AtomicBool,
}

impl Tenant {
    /// The container whose control file's `generation` is `identity`.
    pub fn new(identity: u64, terms: Terms) -> Self {
        Self {
            identity: identity.max(1),
            terms: AtomicU64::new(terms.pack()),
            place: AtomicU64::new(0),
            told_ns: AtomicU64::new(0),
            joined: AtomicU64::new(0),
            is_joint: AtomicBool::new(false),
            told_flight: AtomicU64::new(0),
            told_given_ns: AtomicU64::new(0),
            horizon_ns: AtomicU64::new(0),
            waited_ns: AtomicU64::new(0),
            duty_from_free_ns: AtomicU64::new(0),
            duty_from_busy_ns: AtomicU64::new(0),
            duty_was_joint: AtomicBool::new(false),
        }
    }

    /// Other terms from now on.
    pub fn set_terms(&self, terms: Terms) {
        self.terms.store(terms.pack(), Ordering::Relaxed);
    }

    /// Whether it goes before others.
    pub fn is_high(&self) -> bool {
        Terms::unpack(self.terms.load(Ordering::Relaxed)).is_high
    }

    /// Whether other processes of the container are at work, so that what this one has given the device says too little.
    pub fn is_joint(&self) -> bool {
        self.is_joint.load(Ordering::Relaxed)
    }

    /// Takes a seat, so that others know that there is somebody who may come.
    pub fn enter(&self, arbiter: &Arbiter, now_ns: u64) {
        if let Some((_, seat)) = self.seat(arbiter, now_ns) {
            seat.seen_ns.fetch_max(now_ns, Ordering::Relaxed);
        }
    }

    /// Asks whether to give the device more work.
    pub fn ask(&self, arbiter: &Arbiter, wish: &Wish) -> Turn {
        let now_ns = wish.now_ns;
        // More containers than seats: the others take turns without this one.
        let Some((place, seat)) = self.seat(arbiter, now_ns) else { return calm(now_ns) };
        let seen_ns = seat.seen_ns.swap(now_ns, Ordering::Relaxed);
        let waited = seat.wants_until_ns.load(Ordering::Relaxed) >= now_ns;
        let away_ns = now_ns.saturating_sub(seen_ns);
        if away_ns > ACTIVE_NS {
            seat.clock.fetch_max(arbiter.clock.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        // Another thread may have found out only now.
        let joint = self.is_joint() && wish.busy_ns > 0;
        self.tell_duty(seat, wish.since_ns, if joint { wish.busy_ns } else { wish.given_ns }, joint);
        let own_tail_ns = wish.tail_ns.max(now_ns).saturating_add(wish.cost_ns);
        let tail_ns = self.tail_ns(seat, wish);
        let wish = &Wish { tail_ns, ..*wish };
        let table =
            Table { tenant: self, arbiter, place, seat, wish, is_dense: away_ns < DENSE_NS || waited };
        for _ in 0..ATTEMPTS {
            let found = arbiter.grant.load(Ordering::Acquire);
            let grant = Grant::unpack(found);
            let turn =
                if grant.holder == Some(place) { table.hold(found, grant) } else { table.come(found, grant) };
            match turn {
                Some(wait @ Turn::Wait { until_ns, .. }) => {
                    seat.wants_until_ns.fetch_max(until_ns.saturating_add(LATE_NS), Ordering::Relaxed);
                    return wait;
                }
                Some(Turn::Over { until_ns }) => {
                    seat.wants_until_ns.fetch_max(until_ns.saturating_add(LATE_NS), Ordering::Relaxed);
                    self.horizon_ns.store(0, Ordering::Relaxed);
                    self.publish(seat, wish.tail_ns.max(now_ns));
                    return Turn::Over { until_ns };
                }
                Some(pause @ Turn::Pause { .. }) => return pause,
                Some(Turn::Go { limit_ns, look_ns }) => {
                    seat.wants_until_ns.store(0, Ordering::Relaxed);
                    self.join(seat);
                    self.say_in_flight(seat, wish.in_flight_ns.saturating_add(wish.cost_ns));
                    let done_ns = wish.tail_ns.max(now_ns).saturating_add(wish.cost_ns);
                    self.publish(seat, done_ns);
                    // Others have to know what is in flight.
                    let told_ns =
                        if limit_ns == u64::MAX { limit_ns } else { own_tail_ns.saturating_add(UNTOLD_NS) };
                    return Turn::Go { limit_ns: limit_ns.min(told_ns), look_ns };
                }
                None => {}
            }
        }
        calm(now_ns)
    }

    /// When all that the container has given the device should be done. What this process knows of itself is exact; where
    /// another has said something, what this one has given since comes after that.
    fn tail_ns(&self, seat: &Seat, wish: &Wish) -> u64 {
        let new_ns = wish.given_ns.wrapping_sub(self.told_given_ns.swap(wish.given_ns, Ordering::Relaxed));
        let others_ns = self.said_with_others(seat, wish.now_ns);
        self.is_joint.store(others_ns.is_some(), Ordering::Relaxed);
        match others_ns {
            // Whichever is less: the first adds up what was predicted too long, the second what is long done and was not
            // waited for.
            Some(busy_ns) => {
                let others_ns = self.others_in_flight_ns(seat);
                let latest_ns = wish.now_ns.saturating_add(wish.in_flight_ns).saturating_add(others_ns);
                busy_ns.saturating_add(new_ns).min(latest_ns).max(wish.tail_ns)
            }
            None => wish.tail_ns,
        }
    }

    /// Until when the container's work takes, if another process than this has had a part in saying so.
    fn said_with_others(&self, seat: &Seat, now_ns: u64) -> Option<u64> {
        let busy_ns = seat.busy_until_ns.load(Ordering::Relaxed);
        let is_own = busy_ns == self.told_ns.load(Ordering::Relaxed) && !self.is_joint();
        (busy_ns > now_ns && !is_own).then_some(busy_ns)
    }

    /// Hands the turn on: this process has nothing under way, and nothing to give unless it `has_more`. Then, where what was
    /// given took much less time than was expected, the turn goes on after all.
    pub fn release(&self, arbiter: &Arbiter, now_ns: u64, has_more: bool) -> Released {
        let Some((place, seat)) = self.seat(arbiter, now_ns) else { return Released::NotHeld };
        let found = arbiter.grant.load(Ordering::Acquire);
        let grant = Grant::unpack(found);
        if grant.holder != Some(place) {
            return Released::NotHeld;
        }
        self.horizon_ns.store(0, Ordering::Relaxed);
        if !self.leave(seat) {
            return Released::OthersAtWork;
        }
        if has_more && grant.until_ns > now_ns.saturating_add(QUANTUM_NS / 8) {
            self.say_idle(seat, now_ns);
            self.is_joint.store(false, Ordering::Relaxed);
            seat.crew.store(0, Ordering::Relaxed);
            return Released::GoesOn;
        }
        if !replace(&arbiter.grant, found, Grant { holder: None, until_ns: now_ns }) {
            return Released::NotHeld;
        }
        charge(seat, now_ns);
        self.say_idle(seat, now_ns);
        Released::Free
    }

    /// Nothing of the container is under way, whoever said otherwise.
    fn say_idle(&self, seat: &Seat, now_ns: u64) {
        self.told_ns.store(now_ns, Ordering::Relaxed);
        seat.busy_until_ns.store(now_ns, Ordering::Relaxed);
    }

    /// Says when the container's work should be done. What this process said before may have been too much; what others
    /// say stands.
    fn publish(&self, seat: &Seat, done_ns: u64) {
        let done_ns = done_ns.max(self.horizon_ns.load(Ordering::Relaxed));
        let told_ns = self.told_ns.swap(done_ns, Ordering::Relaxed);
        let lowered =
            seat.busy_until_ns.compare_exchange(told_ns, done_ns, Ordering::Relaxed, Ordering::Relaxed);
        if lowered.is_err() {
            seat.busy_until_ns.fetch_max(done_ns, Ordering::Relaxed);
        }
    }

    /// Says when what was given to the device will be done.
    pub fn tell(&self, arbiter: &Arbiter, wish: &Wish) {
        if let Some((_, seat)) = self.seat(arbiter, wish.now_ns) {
            self.tell_tail(seat, wish);
        }
    }

    fn tell_tail(&self, seat: &Seat, wish: &Wish) {
        self.say_in_flight(seat, wish.in_flight_ns);
        self.publish(seat, self.tail_ns(seat, wish).max(wish.now_ns));
    }

    /// As [`tell`](Self::tell), of a process that waits for that to be done, or no longer does: others know that it will
    /// say so.
    pub fn tell_wait(&self, arbiter: &Arbiter, wish: &Wish, waits: bool) {
        let Some((_, seat)) = self.seat(arbiter, wish.now_ns) else { return };
        self.tell_tail(seat, wish);
        let is_alone = waits && !self.is_joint();
        let until_ns = if is_alone { wish.tail_ns.max(wish.now_ns).saturating_add(QUANTUM_NS) } else { 0 };
        if seat.in_wait_until_ns.load(Ordering::Relaxed) != until_ns {
            seat.in_wait_until_ns.store(until_ns, Ordering::Relaxed);
        }
    }

    /// Notes that a call waited for something else than its turn, which says as little of what the process wants.
    pub fn note_held_back(&self, waited_ns: u64) {
        self.waited_ns.fetch_add(waited_ns, Ordering::Relaxed);
    }

    /// Notes that a call waited for its turn.
    pub fn note_waited(&self, arbiter: &Arbiter, now_ns: u64, waited_ns: u64) {
        self.waited_ns.fetch_add(waited_ns, Ordering::Relaxed);
        if let Some((_, seat)) = self.seat(arbiter, now_ns) {
            seat.waited_ns.fetch_add(waited_ns, Ordering::Relaxed);
        }
    }
}
