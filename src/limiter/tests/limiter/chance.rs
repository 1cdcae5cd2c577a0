//! Numbers that look random and are the same in every run.

use std::cell::Cell;

/// A generator (splitmix64). A case's number is its seed, so that a failed case can be run again by its number.
pub struct Chance(Cell<u64>);

impl Chance {
    pub fn new(seed: u64) -> Self {
        let chance = Self(Cell::new(seed));
        chance.next();
        chance
    }

    pub fn next(&self) -> u64 {
        let state = self.0.get().wrapping_add(0x9E37_79B9_7F4A_7C15);
        self.0.set(state);
        let mixed = (state ^ state >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ mixed >> 31
    }

    /// From 0 to 1, without 1.
    pub fn fraction(&self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// From `low` to `high`, without `high`.
    pub fn between(&self, low: u64, high: u64) -> u64 {
        low + (self.fraction() * (high - low) as f64) as u64
    }

    /// From `low` to `high`, each octave as likely as any other.
    pub fn scaled(&self, low: u64, high: u64) -> u64 {
        let (low, high) = ((low as f64).ln(), (high as f64).ln());
        (low + self.fraction() * (high - low)).exp() as u64
    }

    /// True once in `count` times; never for 0.
    pub fn one_in(&self, count: u64) -> bool {
        count != 0 && self.next().is_multiple_of(count)
    }

    pub fn any<T: Copy>(&self, choices: &[T]) -> T {
        choices[(self.next() % choices.len() as u64) as usize]
    }
}
