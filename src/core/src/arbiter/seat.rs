//! A container's seat as its processes keep it: taking it, who of them is at work in a turn, how much they want.
//!
//! Owns the words of one's own seat, but for those that say what a turn cost. Must never change another's, unless that is
//! long gone.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![deny(clippy::arithmetic_side_effects)]

use super::words::{Arbiter, Crew, Flight, Seat};
use super::{AROUND_NS, Tenant, WHOLE_PPM};
use crate::atomic::Ordering;

/// Tells a turn from none.
const JOINED: u64 = 1 << 32;
/// After this much time without waits the duty is told anew.
const DUTY_NS: u64 = 20_000_000;

impl Tenant {
    /// Its seat, taken if it has none: the first that is free, or that of somebody who is long gone.
    pub(super) fn seat<'a>(&self, arbiter: &'a Arbiter, now_ns: u64) -> Option<(usize, &'a Seat)> {
        let place = (self.place.load(Ordering::Relaxed) as usize).checked_sub(1);
        let known = place.and_then(|place| Some((place, arbiter.seats.get(place)?)));
        let (place, seat) = match known {
            Some((place, seat)) if seat.identity.load(Ordering::Acquire) == self.identity => (place, seat),
            _ => self.find_seat(arbiter, now_ns)?,
        };
        let terms = self.terms.load(Ordering::Relaxed);
        if seat.terms.load(Ordering::Relaxed) != terms {
            seat.terms.store(terms, Ordering::Relaxed);
        }
        Some((place, seat))
    }

    #[cold]
    fn find_seat<'a>(&self, arbiter: &'a Arbiter, now_ns: u64) -> Option<(usize, &'a Seat)> {
        let seats = || arbiter.seats.iter().enumerate();
        let is_mine = |seat: &Seat| seat.identity.load(Ordering::Acquire) == self.identity;
        let claim = |seat: &Seat, from: u64| {
            let claimed =
                seat.identity.compare_exchange(from, self.identity, Ordering::AcqRel, Ordering::Acquire);
            if claimed.is_ok() {
                for word in [&seat.served_ns, &seat.waited_ns, &seat.turn_count, &seat.wants_until_ns] {
                    word.store(0, Ordering::Relaxed);
                }
                for word in [&seat.due_ns, &seat.held_from_ns, &seat.busy_until_ns, &seat.seen_ns] {
                    word.store(now_ns, Ordering::Relaxed);
                }
                seat.duty_ppm.store(WHOLE_PPM, Ordering::Relaxed);
                seat.clock.store(arbiter.clock.load(Ordering::Relaxed), Ordering::Relaxed);
            }
            // Another process of the container may have been faster.
            claimed.is_ok() || claimed == Err(self.identity)
        };
        let is_gone = |seat: &Seat| {
            let seen_ns = seat.seen_ns.load(Ordering::Relaxed);
            now_ns.saturating_sub(seen_ns) > AROUND_NS || seen_ns > now_ns.saturating_add(AROUND_NS)
        };
        // Another process of the container may take it meanwhile.
        let free =
            |seat: &Seat| seat.identity.load(Ordering::Relaxed) == 0 && claim(seat, 0) || is_mine(seat);
        let left = |seat: &Seat| {
            is_mine(seat) || is_gone(seat) && claim(seat, seat.identity.load(Ordering::Relaxed))
        };
        let found = seats()
            .find(|(_, seat)| is_mine(seat))
            .or_else(|| seats().find(|(_, seat)| free(seat)))
            .or_else(|| seats().find(|(_, seat)| left(seat)))?;
        self.place.store((found.0 as u64).saturating_add(1), Ordering::Relaxed);
        Some(found)
    }

    /// This process takes part in its container's turn.
    pub(super) fn join(&self, seat: &Seat) {
        let turn = seat.turn_count.load(Ordering::Relaxed) as u32;
        if self.joined.swap(u64::from(turn) | JOINED, Ordering::Relaxed) == u64::from(turn) | JOINED {
            return;
        }
        let begin = |word: u64| {
            let crew = Crew::unpack(word);
            let crew = if crew.turn == turn { crew } else { Crew { turn, begun: 0, ended: 0 } };
            Some(Crew { begun: crew.begun.saturating_add(1), ..crew }.pack())
        };
        let _ = seat.crew.fetch_update(Ordering::AcqRel, Ordering::Relaxed, begin);
    }

    /// What other processes of the container have in flight in this turn, as far as they said.
    pub(super) fn others_in_flight_ns(&self, seat: &Seat) -> u64 {
        let turn = seat.turn_count.load(Ordering::Relaxed) as u16;
        let all_ns = Flight::unpack(seat.flight.load(Ordering::Relaxed)).of(turn);
        all_ns.saturating_sub(Flight::unpack(self.told_flight.load(Ordering::Relaxed)).of(turn))
    }

    /// This process has `work_ns` in flight.
    pub(super) fn say_in_flight(&self, seat: &Seat, work_ns: u64) {
        let turn = seat.turn_count.load(Ordering::Relaxed) as u16;
        let own = Flight { turn, work_ns }.pack();
        let told_ns = Flight::unpack(self.told_flight.swap(own, Ordering::Relaxed)).of(turn);
        if told_ns == work_ns {
            return;
        }
        let next = |word: u64| {
            let all_ns = Flight::unpack(word).of(turn);
            Some(Flight { turn, work_ns: all_ns.saturating_sub(told_ns).saturating_add(work_ns) }.pack())
        };
        let _ = seat.flight.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
    }

    /// This process has nothing more for its container's turn. True if it was the last.
    pub(super) fn leave(&self, seat: &Seat) -> bool {
        self.say_in_flight(seat, 0);
        let turn = seat.turn_count.load(Ordering::Relaxed) as u32;
        let has_joined = self.joined.swap(0, Ordering::Relaxed) == u64::from(turn) | JOINED;
        let end = |word: u64| {
            let crew = Crew::unpack(word);
            (crew.turn == turn && has_joined)
                .then(|| Crew { ended: crew.ended.saturating_add(1), ..crew }.pack())
        };
        let found = seat.crew.fetch_update(Ordering::AcqRel, Ordering::Relaxed, end);
        let (crew, ended) = match found {
            Ok(word) => (Crew::unpack(word), 1),
            Err(word) => (Crew::unpack(word), 0),
        };
        crew.turn != turn || crew.ended.saturating_add(ended) >= crew.begun
    }

    /// How much of the time in which it need not wait it keeps the device busy, told anew each [`DUTY_NS`] of that. By
    /// prediction, because what is measured is longer where others are at it at the same time; but of one process alone only
    /// that is known.
    pub(super) fn tell_duty(&self, seat: &Seat, now_ns: u64, busy_ns: u64, is_joint: bool) {
        let free_ns = now_ns.saturating_sub(self.waited_ns.load(Ordering::Relaxed));
        let from_ns = self.duty_from_free_ns.load(Ordering::Relaxed);
        let new_ns = free_ns.saturating_sub(from_ns);
        if new_ns < DUTY_NS {
            return;
        }
        self.duty_from_free_ns.store(free_ns, Ordering::Relaxed);
        let busy_from_ns = self.duty_from_busy_ns.swap(busy_ns, Ordering::Relaxed);
        // What is counted now is not what was counted then.
        let was_joint = self.duty_was_joint.swap(is_joint, Ordering::Relaxed);
        if from_ns == 0 || was_joint != is_joint {
            return;
        }
        let duty_ppm = busy_ns.saturating_sub(busy_from_ns).saturating_mul(WHOLE_PPM).checked_div(new_ns);
        let duty_ppm = duty_ppm.unwrap_or(0).min(WHOLE_PPM);
        let before_ppm = seat.duty_ppm.load(Ordering::Relaxed).min(WHOLE_PPM);
        seat.duty_ppm.store(before_ppm.saturating_add(duty_ppm).saturating_div(2), Ordering::Relaxed);
    }
}
