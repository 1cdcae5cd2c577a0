//! What a turn costs whoever had it: virtual time by its weight, and time until that was its share.
//!
//! Owns the arithmetic; decides nothing.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![deny(clippy::arithmetic_side_effects)]

use super::words::{Seat, Terms};
use super::{QUANTUM_NS, WHOLE_PPM};
use crate::atomic::Ordering;

/// What is owed to somebody who did not want it is forgotten beyond this.
pub(super) const CREDIT_NS: u64 = 100_000_000;
/// Virtual time per time served, at a weight of 1.
const CLOCK_SCALE: u64 = 256;

/// Adds up what a turn took that lasted until `until_ns`, since it was added up last.
pub(super) fn charge(seat: &Seat, until_ns: u64) {
    let from_ns = seat.held_from_ns.fetch_max(until_ns, Ordering::Relaxed);
    // Nothing lasts longer: a word that says so was written by somebody else.
    let taken_ns = until_ns.saturating_sub(from_ns).min(4 * QUANTUM_NS);
    if taken_ns == 0 {
        return;
    }
    let terms = terms_of(seat);
    seat.served_ns.fetch_add(taken_ns, Ordering::Relaxed);
    seat.clock.fetch_add(virtual_ns(taken_ns, terms), Ordering::Relaxed);
    if terms.share_ppm > 0 {
        let least_ns = until_ns.saturating_sub(CREDIT_NS);
        let owed_ns = owed_ns(taken_ns, terms);
        let next = |due_ns: u64| Some(due_ns.max(least_ns).saturating_add(owed_ns));
        let _ = seat.due_ns.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
    }
}

/// What a container has asked for.
pub(super) fn terms_of(seat: &Seat) -> Terms {
    Terms::unpack(seat.terms.load(Ordering::Relaxed))
}

/// Virtual time of `taken_ns` of service.
pub(super) fn virtual_ns(taken_ns: u64, terms: Terms) -> u64 {
    taken_ns.saturating_mul(CLOCK_SCALE).checked_div(u64::from(terms.weight)).unwrap_or(0)
}

/// In how much time `taken_ns` of service is its share.
pub(super) fn owed_ns(taken_ns: u64, terms: Terms) -> u64 {
    taken_ns.saturating_mul(WHOLE_PPM).checked_div(u64::from(terms.share_ppm)).unwrap_or(0)
}
