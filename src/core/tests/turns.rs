//! Turns between containers, by their words alone: seats, leases, and words that somebody else has written.
#![cfg(not(loom))]

use proptest::prelude::*;
use std::sync::Barrier;
use std::sync::atomic::Ordering;
use vcuda_core::arbiter::words::{Arbiter, Flight, Grant, SEAT_CAPACITY, Seat, Terms};
use vcuda_core::arbiter::{OVERRUN_NS, QUANTUM_NS, Released, Tenant, Turn, Wish};

const NOW_NS: u64 = 1_000_000_000_000;
const TERMS: Terms = Terms { weight: 1, share_ppm: 0, is_high: false };

fn wish(now_ns: u64) -> Wish {
    Wish { now_ns, since_ns: now_ns, tail_ns: now_ns, cost_ns: 200_000, ..Wish::default() }
}

fn seats_of(arbiter: &Arbiter, identity: u64) -> usize {
    arbiter.seats.iter().filter(|seat| seat.identity.load(Ordering::Relaxed) == identity).count()
}

#[test]
fn processes_of_a_container_take_one_seat_together() {
    for _ in 0..500 {
        let arbiter = Arbiter::default();
        let barrier = Barrier::new(4);
        std::thread::scope(|scope| {
            for number in 0..4u64 {
                let (arbiter, barrier) = (&arbiter, &barrier);
                scope.spawn(move || {
                    let tenant = Tenant::new(1 + number / 2, TERMS);
                    barrier.wait();
                    tenant.enter(arbiter, NOW_NS);
                });
            }
        });
        assert_eq!([1, 2].map(|identity| seats_of(&arbiter, identity)), [1, 1]);
    }
}

#[test]
fn seats_of_those_who_are_long_gone_are_taken_over() {
    let arbiter = Arbiter::default();
    for identity in 1..=SEAT_CAPACITY as u64 {
        Tenant::new(identity, TERMS).enter(&arbiter, NOW_NS);
    }
    let late = Tenant::new(1000, TERMS);
    late.enter(&arbiter, NOW_NS + 1_000_000_000);
    assert_eq!(seats_of(&arbiter, 1000), 0, "nobody is gone yet");
    // Without a seat it goes its own way.
    assert!(matches!(late.ask(&arbiter, &wish(NOW_NS + 1_000_000_000)), Turn::Go { .. }));
    late.enter(&arbiter, NOW_NS + 61_000_000_000);
    assert_eq!(seats_of(&arbiter, 1000), 1);
}

#[test]
fn who_never_hands_on_is_waited_for_until_its_lease_is_over() {
    let arbiter = Arbiter::default();
    let (one, two) = (Tenant::new(1, TERMS), Tenant::new(2, TERMS));
    two.enter(&arbiter, NOW_NS);
    assert!(matches!(one.ask(&arbiter, &wish(NOW_NS)), Turn::Go { .. }));
    // Far more than a turn in flight, or so it says.
    one.tell(&arbiter, &Wish { tail_ns: NOW_NS + 10_000_000_000, ..wish(NOW_NS) });
    let mut now_ns = NOW_NS;
    let waited_ns = loop {
        match two.ask(&arbiter, &Wish { since_ns: NOW_NS, ..wish(now_ns) }) {
            Turn::Go { .. } => break now_ns - NOW_NS,
            Turn::Wait { until_ns, .. } => now_ns = until_ns.max(now_ns + 1_000),
            other => panic!("{other:?}"),
        }
    };
    assert!(waited_ns >= QUANTUM_NS - 1_000_000, "{waited_ns}");
    assert!(waited_ns <= QUANTUM_NS + OVERRUN_NS + 5_000_000, "{waited_ns}");
}

/// What processes of a container have in flight is added up while a turn lasts, whoever of them dies; the next begins anew.
#[test]
fn what_is_in_flight_is_added_up_by_turn() {
    let arbiter = Arbiter::default();
    let (one, two, other) = (Tenant::new(1, TERMS), Tenant::new(1, TERMS), Tenant::new(2, TERMS));
    other.enter(&arbiter, NOW_NS);
    let seat = &arbiter.seats[1];
    let in_flight = || Flight::unpack(seat.flight.load(Ordering::Relaxed)).work_ns;
    let ask = |tenant: &Tenant, now_ns, in_flight_ns| {
        let tail_ns = now_ns + in_flight_ns;
        let turn = tenant.ask(&arbiter, &Wish { tail_ns, in_flight_ns, ..wish(now_ns) });
        assert!(matches!(turn, Turn::Go { .. }), "{turn:?}");
    };
    ask(&one, NOW_NS, 0);
    ask(&two, NOW_NS, 0);
    assert_eq!(in_flight(), 400_000);
    ask(&one, NOW_NS + 1_000, 3_000_000);
    assert_eq!(in_flight(), 3_400_000);
    // It has waited for all of it.
    one.tell_wait(&arbiter, &wish(NOW_NS + 2_000), false);
    assert_eq!(in_flight(), 200_000);
    assert_eq!(one.release(&arbiter, NOW_NS + 3_000, true), Released::OthersAtWork);
    assert_eq!(in_flight(), 200_000, "the other may be dead");
    // Its turn comes to an end by itself, and another's comes and goes.
    let mut now_ns = NOW_NS + 200_000_000;
    while !matches!(other.ask(&arbiter, &wish(now_ns)), Turn::Go { .. }) {
        now_ns += 1_000_000;
    }
    assert_eq!(other.release(&arbiter, now_ns, false), Released::Free);
    ask(&one, now_ns + 1_000, 0);
    assert_eq!(in_flight(), 200_000, "its own alone");
}

fn fill(seat: &Seat, words: &[u64; 15]) {
    let places = [
        &seat.identity,
        &seat.terms,
        &seat.seen_ns,
        &seat.wants_until_ns,
        &seat.busy_until_ns,
        &seat.clock,
        &seat.due_ns,
        &seat.held_from_ns,
        &seat.served_ns,
        &seat.waited_ns,
        &seat.duty_ppm,
        &seat.turn_count,
        &seat.crew,
        &seat.in_wait_until_ns,
        &seat.flight,
    ];
    for (place, word) in places.into_iter().zip(words) {
        place.store(*word, Ordering::Relaxed);
    }
}

proptest! {
    #[test]
    fn grants_and_terms_survive_their_words(place in 0..SEAT_CAPACITY, until_ns in 0..1u64 << 56, weight in 1..=u16::MAX, share_ppm in 0..=1_000_000u32, is_high: bool) {
        for holder in [None, Some(place)] {
            let grant = Grant { holder, until_ns };
            prop_assert_eq!(Grant::unpack(grant.pack()), grant);
        }
        let terms = Terms { weight, share_ppm, is_high };
        prop_assert_eq!(Terms::unpack(terms.pack()), terms);
        let flight = Flight { turn: weight, work_ns: until_ns >> 8 };
        prop_assert_eq!(Flight::unpack(flight.pack()), flight);
        prop_assert_eq!([flight.of(weight), flight.of(weight.wrapping_add(1))], [until_ns >> 8, 0]);
    }

    /// Whatever stands in the words, each answer comes at once, and no wait that is asked for is long.
    #[test]
    fn words_that_anybody_wrote_hold_nobody_up(
        grant: u64, clock: u64, words in proptest::collection::vec(any::<[u64; 15]>(), 1..6), ahead in proptest::collection::vec(any::<bool>(), 6),
        share_ppm in 0..=1_000_000u32,
    ) {
        let arbiter = Arbiter::default();
        arbiter.grant.store(grant, Ordering::Relaxed);
        arbiter.clock.store(clock, Ordering::Relaxed);
        for ((seat, words), &near) in arbiter.seats.iter().zip(&words).zip(&ahead) {
            // Times near now are worse than any.
            let words = if near { words.map(|word| NOW_NS.wrapping_add(word % 200_000_000).wrapping_sub(100_000_000)) } else { *words };
            fill(seat, &words);
        }
        let tenant = Tenant::new(77, Terms { weight: 3, share_ppm, is_high: false });
        let mut now_ns = NOW_NS;
        for _ in 0..50 {
            let (until_ns, most_ns) = match tenant.ask(&arbiter, &Wish { since_ns: NOW_NS, ..wish(now_ns) }) {
                Turn::Go { .. } => (now_ns + 1_000_000, u64::MAX),
                Turn::Wait { until_ns, .. } | Turn::Pause { until_ns, .. } => (until_ns, 5 * QUANTUM_NS),
                Turn::Over { until_ns } => {
                    let _ = tenant.release(&arbiter, now_ns, true);
                    (until_ns, 5 * QUANTUM_NS)
                }
            };
            prop_assert!(until_ns.saturating_sub(now_ns) <= most_ns, "{}", until_ns - now_ns);
            now_ns = until_ns.max(now_ns + 1_000);
        }
    }
}
