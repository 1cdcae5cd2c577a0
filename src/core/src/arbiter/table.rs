//! The answer to one question: by the words as they are, may this container give the device work now?
//!
//! Owns the rules, and the exchange of the grant's word. Must never wait, and never believe a number that is out of range.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![deny(clippy::arithmetic_side_effects)]

use super::charge::{CREDIT_NS, charge, owed_ns, terms_of, virtual_ns};
use super::words::{Arbiter, Crew, Grant, Seat};
use super::{ACTIVE_NS, AROUND_NS, GRACE_NS, OVERRUN_NS, QUANTUM_NS, Tenant, Turn, WHOLE_PPM, Wish};
use crate::atomic::{AtomicU64, Ordering};

/// So long before the device should be free the next is awake, and looks all the time until it is.
const AWAKE_NS: u64 = 120_000;
/// For how long after that somebody looks all the time.
const SPIN_NS: u64 = 150_000;
/// Whom others wait for and who is busy with the device is taken to go on for this long.
const HORIZON_NS: u64 = 500_000;
/// Between looks of who has the turn: while others wait, and while nobody does.
const LOOK_NS: u64 = 250_000;
const CALM_LOOK_NS: u64 = 1_000_000;
/// Shorter waits are not worth it: the device sees to them.
const SHORT_WAIT_NS: u64 = 100_000;
/// The same of those of high priority, who say when they are done, and are not expected to go on.
const HIGH_GRACE_NS: u64 = 1_000_000;
/// The same of containers with several processes at work: the device goes from one to the other and takes more time than all
/// that they gave it.
const CREW_GRACE_NS: u64 = 4_000_000;
/// By so much more than others who wait somebody has to be owed to go on: who is next must be clear to everybody.
const STICKINESS_NS: u64 = 1_000_000;
/// How long those who come first are waited for to take the turn.
const PATIENCE_NS: u64 = 300_000;
/// What is in flight while somebody of high priority may come.
const WINDOW_NS: u64 = 1_000_000;
/// The part of the time from which on the device counts as wanted by more than it can serve, where one of them never lets go
/// of it; and where all leave gaps, in which others find room.
const SATURATED_PPM: u64 = 900_000;
const CROWDED_PPM: u64 = 1_250_000;
/// Who keeps the device busy for so much of the time never lets go of it.
const GREEDY_PPM: u64 = 850_000;

/// What others do.
#[derive(Default)]
struct Company {
    /// Somebody waits for a turn.
    waits: bool,
    /// Somebody is at it.
    is_active: bool,
    /// Who comes first of those who wait or have the turn.
    first: Option<Rank>,
    /// Somebody may come soon, and somebody of high priority.
    is_around: bool,
    high_is_around: bool,
    /// How much of the device's time those want who are at it, together and at most.
    duty_ppm: u64,
    most_duty_ppm: u64,
}

/// Who comes first: the lower one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    class: u8,
    at: u64,
    place: usize,
}

const CLASS_HIGH: u8 = 0;
const CLASS_OWED: u8 = 1;
const CLASS_REST: u8 = 2;

/// One question.
pub(super) struct Table<'a> {
    pub(super) tenant: &'a Tenant,
    pub(super) arbiter: &'a Arbiter,
    pub(super) place: usize,
    pub(super) seat: &'a Seat,
    pub(super) wish: &'a Wish,
    pub(super) is_dense: bool,
}

impl Table<'_> {
    /// This container has the turn. `None`: the word has changed, look again.
    pub(super) fn hold(&self, found: u64, grant: Grant) -> Option<Turn> {
        let Wish { now_ns, tail_ns, cost_ns, .. } = *self.wish;
        let company = self.company(grant);
        let start_ns = tail_ns.max(now_ns);
        let window_ns = self.window_ns(&company);
        if !company.waits {
            self.look_ahead(&company, grant.until_ns.max(now_ns.saturating_add(QUANTUM_NS)));
            if grant.until_ns < now_ns.saturating_add(QUANTUM_NS / 2) {
                self.renew(found, grant, now_ns)?;
            }
            if !company.is_around {
                return Some(calm(now_ns));
            }
            return Some(self.pace(now_ns.saturating_add(window_ns), window_ns, CALM_LOOK_NS));
        }
        if start_ns < grant.until_ns && now_ns < grant.until_ns {
            self.look_ahead(&company, grant.until_ns);
            let limit_ns = now_ns.saturating_add(window_ns).min(grant.until_ns);
            // What would be half over when the turn ends is part of it.
            if start_ns == now_ns || start_ns.saturating_add(cost_ns / 2) <= grant.until_ns {
                return Some(self.pace(limit_ns, window_ns, LOOK_NS));
            }
        }
        // The turn is over.
        let taken_ns = start_ns.saturating_sub(self.seat.held_from_ns.load(Ordering::Relaxed));
        let taken_ns = taken_ns.saturating_add(STICKINESS_NS);
        if company.first.is_none_or(|first| self.rank(self.seat, self.place, taken_ns) < first) {
            self.renew(found, grant, start_ns.min(now_ns.saturating_add(QUANTUM_NS)))?;
            return Some(self.pace(now_ns.saturating_add(window_ns), window_ns, LOOK_NS));
        }
        Some(Turn::Over { until_ns: start_ns.min(grant.until_ns.saturating_add(OVERRUN_NS)) })
    }

    /// Somebody else has the turn, or nobody.
    pub(super) fn come(&self, found: u64, grant: Grant) -> Option<Turn> {
        let Wish { now_ns, .. } = *self.wish;
        let company = self.company(grant);
        let mine = self.rank(self.seat, self.place, 0);
        let holder = grant.holder.and_then(|place| self.arbiter.seats.get(place));
        let is_first = mine.class == CLASS_HIGH
            && holder.is_none_or(|seat| self.rank(seat, self.place, 0).class != CLASS_HIGH);
        let free_ns = if is_first { now_ns } else { self.free_ns(grant) };
        let is_short = free_ns.saturating_sub(now_ns) <= SHORT_WAIT_NS;
        let has_room = !self.is_saturated(&company);
        if free_ns > now_ns && is_short && has_room {
            let limit_ns = now_ns.saturating_add(QUANTUM_NS);
            return Some(Turn::Go { limit_ns, look_ns: now_ns.saturating_add(LOOK_NS) });
        }
        let is_behind = !is_first && company.first.is_some_and(|first| first < mine);
        // Whoever has the turn says when it is done.
        let is_held = !is_first && grant.holder.is_some();
        let take_ns = match is_held {
            false => free_ns,
            // Who is between two pieces of work has nothing to say.
            true if has_room => free_ns,
            true if holder.is_some_and(|seat| terms_of(seat).is_high) => {
                free_ns.saturating_add(HIGH_GRACE_NS)
            }
            true if holder.is_some_and(is_crew) => free_ns.saturating_add(CREW_GRACE_NS),
            true => free_ns.saturating_add(GRACE_NS),
        };
        // Who waits for the device says when it goes on, within its turn.
        let waits_ns = holder.map_or(0, |seat| seat.in_wait_until_ns.load(Ordering::Relaxed));
        let is_in_wait = is_held && !has_room && waits_ns > now_ns;
        let take_ns = if is_in_wait { take_ns.max(waits_ns.min(grant.until_ns)) } else { take_ns };
        if take_ns > now_ns {
            let spin_until_ns = free_ns.saturating_add(SPIN_NS);
            let awake_ns = free_ns.saturating_sub(AWAKE_NS);
            let (until_ns, is_moment) = match now_ns {
                _ if is_behind => (take_ns.saturating_add(PATIENCE_NS), false),
                now_ns if now_ns < awake_ns => (awake_ns, false),
                now_ns if now_ns < spin_until_ns => (spin_until_ns.min(take_ns), true),
                _ => (take_ns, false),
            };
            // When it goes on nobody is woken up for.
            let look_ns = if is_in_wait { awake_ns.max(now_ns.saturating_add(HORIZON_NS)) } else { u64::MAX };
            let until_ns = until_ns.min(look_ns);
            return Some(Turn::Wait { until_ns, grant: found, is_moment });
        }
        if is_behind {
            let until_ns = now_ns.saturating_add(PATIENCE_NS);
            return Some(Turn::Wait { until_ns, grant: found, is_moment: false });
        }
        let next = Grant { holder: Some(self.place), until_ns: now_ns.saturating_add(QUANTUM_NS) };
        if !replace(&self.arbiter.grant, found, next) {
            return None;
        }
        if let Some(seat) = holder {
            charge(seat, now_ns.min(seat.busy_until_ns.load(Ordering::Relaxed)));
        }
        self.seat.held_from_ns.store(now_ns, Ordering::Relaxed);
        self.seat.turn_count.fetch_add(1, Ordering::Relaxed);
        self.arbiter.clock.fetch_max(self.seat.clock.load(Ordering::Relaxed), Ordering::Relaxed);
        if !company.is_around {
            return Some(calm(now_ns));
        }
        self.look_ahead(&company, next.until_ns);
        let limit_ns = next.until_ns.min(now_ns.saturating_add(self.window_ns(&company)));
        Some(Turn::Go { limit_ns, look_ns: now_ns.saturating_add(LOOK_NS) })
    }

    /// Who is at it while others want the device, too, is expected to have more for it in a moment; unless there is time
    /// for everybody.
    fn look_ahead(&self, company: &Company, until_ns: u64) {
        let is_wanted = self.is_dense && self.is_saturated(company) && !terms_of(self.seat).is_high;
        let done_ns = self.wish.now_ns.saturating_add(self.wish.cost_ns);
        let horizon_ns = if is_wanted { done_ns.saturating_add(HORIZON_NS).min(until_ns) } else { 0 };
        self.tenant.horizon_ns.store(horizon_ns, Ordering::Relaxed);
    }

    /// Whether those who are at it want more of the device than there is.
    fn is_saturated(&self, company: &Company) -> bool {
        let own_ppm = self.seat.duty_ppm.load(Ordering::Relaxed).min(WHOLE_PPM);
        let all_ppm = company.duty_ppm.saturating_add(own_ppm);
        let has_greedy = company.most_duty_ppm.max(own_ppm) >= GREEDY_PPM;
        company.is_active && all_ppm >= if has_greedy { SATURATED_PPM } else { CROWDED_PPM }
    }

    /// Go on, if that does not put more into flight than should be.
    fn pace(&self, limit_ns: u64, window_ns: u64, look_ns: u64) -> Turn {
        let Wish { now_ns, tail_ns, .. } = *self.wish;
        if tail_ns <= now_ns || tail_ns < limit_ns {
            return Turn::Go { limit_ns, look_ns: now_ns.saturating_add(look_ns) };
        }
        let until_ns = tail_ns.saturating_sub(window_ns / 2).max(now_ns.saturating_add(AWAKE_NS));
        Turn::Pause { until_ns, is_guess: self.tenant.is_joint() }
    }

    /// Another turn right after the last, which ends at `start_ns`.
    fn renew(&self, found: u64, grant: Grant, start_ns: u64) -> Option<()> {
        let next = Grant { holder: grant.holder, until_ns: start_ns.saturating_add(QUANTUM_NS) };
        if !replace(&self.arbiter.grant, found, next) {
            return None;
        }
        let now_ns = self.wish.now_ns;
        charge(self.seat, now_ns.min(self.seat.busy_until_ns.load(Ordering::Relaxed)));
        self.seat.held_from_ns.fetch_max(now_ns, Ordering::Relaxed);
        self.arbiter.clock.fetch_max(self.seat.clock.load(Ordering::Relaxed), Ordering::Relaxed);
        Some(())
    }

    /// When the device should be free of whoever has the turn.
    fn free_ns(&self, grant: Grant) -> u64 {
        match grant.holder.and_then(|place| self.arbiter.seats.get(place)) {
            None => grant.until_ns.min(self.wish.now_ns.saturating_add(OVERRUN_NS)),
            Some(seat) => {
                // Nobody was ever given more than this.
                let until_ns = grant.until_ns.min(self.wish.now_ns.saturating_add(3 * QUANTUM_NS));
                seat.busy_until_ns.load(Ordering::Relaxed).min(until_ns.saturating_add(OVERRUN_NS))
            }
        }
    }

    /// How much may be in flight.
    fn window_ns(&self, company: &Company) -> u64 {
        if company.high_is_around && !terms_of(self.seat).is_high { WINDOW_NS } else { QUANTUM_NS }
    }

    /// What all others do.
    fn company(&self, grant: Grant) -> Company {
        let now_ns = self.wish.now_ns;
        let mut company = Company::default();
        for (place, seat) in self.arbiter.seats.iter().enumerate() {
            // Seats fill from the first.
            if seat.identity.load(Ordering::Relaxed) == 0 {
                break;
            }
            if place == self.place {
                continue;
            }
            let since_ns = now_ns.saturating_sub(seat.seen_ns.load(Ordering::Relaxed));
            let waits = (now_ns..now_ns.saturating_add(4 * QUANTUM_NS))
                .contains(&seat.wants_until_ns.load(Ordering::Relaxed));
            let is_around = since_ns < AROUND_NS;
            company.is_around |= is_around;
            company.high_is_around |= is_around && terms_of(seat).is_high;
            if waits || since_ns < ACTIVE_NS {
                let duty_ppm = seat.duty_ppm.load(Ordering::Relaxed).min(WHOLE_PPM);
                company.duty_ppm = company.duty_ppm.saturating_add(duty_ppm);
                company.most_duty_ppm = company.most_duty_ppm.max(duty_ppm);
                company.is_active = true;
            }
            company.waits |= waits;
            // Who has the turn and is at it may want to go on.
            let holds = grant.holder == Some(place);
            let goes_on = holds && seat.busy_until_ns.load(Ordering::Relaxed) >= now_ns;
            if waits || goes_on {
                let taken_ns = if holds {
                    let until_ns = seat.busy_until_ns.load(Ordering::Relaxed).min(grant.until_ns);
                    let taken_ns = until_ns.saturating_sub(seat.held_from_ns.load(Ordering::Relaxed));
                    taken_ns.min(4 * QUANTUM_NS).saturating_add(STICKINESS_NS)
                } else {
                    0
                };
                let rank = self.rank(seat, place, taken_ns);
                company.first = Some(company.first.map_or(rank, |first| first.min(rank)));
            }
        }
        company
    }

    /// Where somebody comes who will have been served `taken_ns` more.
    fn rank(&self, seat: &Seat, place: usize, taken_ns: u64) -> Rank {
        let terms = terms_of(seat);
        let clock = seat.clock.load(Ordering::Relaxed).saturating_add(virtual_ns(taken_ns, terms));
        let now_ns = self.wish.now_ns;
        if terms.share_ppm == 0 {
            let is_owed = clock <= self.arbiter.clock.load(Ordering::Relaxed);
            let class = if terms.is_high && is_owed { CLASS_HIGH } else { CLASS_REST };
            return Rank { class, at: clock, place };
        }
        let due_ns = seat.due_ns.load(Ordering::Relaxed).max(now_ns.saturating_sub(CREDIT_NS));
        let due_ns = due_ns.saturating_add(owed_ns(taken_ns, terms));
        match due_ns <= now_ns {
            true if terms.is_high => Rank { class: CLASS_HIGH, at: due_ns, place },
            true => Rank { class: CLASS_OWED, at: due_ns, place },
            false => Rank { class: CLASS_REST, at: clock, place },
        }
    }
}

/// Whether several processes of the container are at work in its turn.
fn is_crew(seat: &Seat) -> bool {
    let crew = Crew::unpack(seat.crew.load(Ordering::Relaxed));
    crew.turn == seat.turn_count.load(Ordering::Relaxed) as u32 && crew.begun > 1
}

/// Nobody else is there.
pub(super) fn calm(now_ns: u64) -> Turn {
    Turn::Go { limit_ns: u64::MAX, look_ns: now_ns.saturating_add(CALM_LOOK_NS) }
}

pub(super) fn replace(word: &AtomicU64, found: u64, next: Grant) -> bool {
    word.compare_exchange(found, next.pack(), Ordering::AcqRel, Ordering::Relaxed).is_ok()
}
