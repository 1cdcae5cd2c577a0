//! The cost model: how much GPU time a piece of work is expected to take.
//!
//! Owns what was learned, by *kind* of work (a function with its launch shape, an executable graph) and by *family* (a
//! function whatever its shape, all copies in one direction), whose cost goes with size. An unknown kind of a known
//! family is estimated from that, so that programs whose shapes change all the time need no measurement of each. Tables
//! have a fixed size and no lock: entries are single words, and losing an update or, with more kinds than there is room
//! for, an entry costs accuracy of a prediction and nothing else.

use std::sync::atomic::{AtomicU64, Ordering};

/// Entries of the table. A large training program has a few hundred kinds.
const ENTRIES: usize = 8192;
/// Places looked at for a kind.
const PROBES: usize = 8;

/// No estimate is below this: a launch takes a GPU's front end about a microsecond.
const LEAST_NS: f32 = 500.0;
/// No estimate is above this.
const MOST_NS: f32 = 60e9;
/// Weight of a new sample once there are enough.
const WEIGHT: f32 = 1.0 / 8.0;
/// The same of a noisy one, by whether it is below or above what is known: what is off is so upwards.
const NOISY_WEIGHT_DOWN: f32 = 1.0 / 8.0;
const NOISY_WEIGHT_UP: f32 = 1.0 / 48.0;
/// The same of a sample taken while other containers used the device, too: their work makes it longer, nothing shorter.
const SHARED_WEIGHT_DOWN: f32 = 1.0 / 2.0;
/// Samples after which a kind is no longer looked at whenever that is possible: a first launch, which loads code and finds
/// cold caches, is no measure of those that follow.
const YOUNG: u32 = 3;
/// One sample changes an estimate by at most this factor.
const LARGEST_STEP: f32 = 4.0;

/// A piece of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unit {
    /// What kind it is, a well-mixed hash that is never 0. 0 if the family says it all.
    pub kind: u64,
    /// Its family, likewise.
    pub family: u64,
    /// Its size in the family's own unit (blocks, bytes), at least 1.
    pub size: u64,
    /// What it is taken to cost while nothing like it was measured.
    pub guess_ns: u64,
    /// The call returns only when the work is done, so it starts when the call does.
    pub waits: bool,
}

impl Unit {
    /// What it is told apart by while nothing is known of it.
    pub fn key(&self) -> u64 {
        if self.kind == 0 { self.family } else { self.kind }
    }
}

/// How far a sample can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// As far as anything.
    Full,
    /// It is rather too long.
    Noisy,
    /// It is too long by whatever other containers did meanwhile.
    Shared,
}

/// What a unit is expected to cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Estimate {
    /// GPU time in nanoseconds, at least 1.
    pub cost_ns: u64,
    /// Whether anything like it was ever measured, or it is of those (copies, fills) whose size says enough.
    pub known: bool,
    /// Whether this kind itself was measured less than [`YOUNG`] times.
    pub young: bool,
}

/// Learned costs. An entry is a key and a word: the cost as bits of an `f32` above a count of samples.
pub struct CostModel {
    keys: Box<[AtomicU64]>,
    values: Box<[AtomicU64]>,
}

impl Default for CostModel {
    fn default() -> Self {
        let words = || (0..ENTRIES).map(|_| AtomicU64::new(0)).collect();
        Self { keys: words(), values: words() }
    }
}

impl CostModel {
    /// What `unit` is expected to cost.
    #[inline]
    pub fn estimate(&self, unit: &Unit) -> Estimate {
        if let Some((cost_ns, samples)) = self.find(unit.kind) {
            return Estimate { cost_ns: bounded(cost_ns), known: true, young: samples < YOUNG };
        }
        match self.find(unit.family) {
            Some((per_size_ns, samples)) => Estimate {
                cost_ns: bounded(per_size_ns * unit.size as f32),
                known: true,
                young: unit.kind != 0 || samples < YOUNG,
            },
            None => Estimate { cost_ns: unit.guess_ns.max(1), known: unit.kind == 0, young: true },
        }
    }

    /// Whether anything like `unit` was ever measured.
    pub fn has(&self, unit: &Unit) -> bool {
        self.find(unit.kind).is_some() || self.find(unit.family).is_some()
    }

    /// Learns that `unit`, estimated at `estimated_ns`, was part of work that took `ratio` times what was estimated; or
    /// somewhat less, as far as the sample can be trusted.
    pub fn learn(&self, unit: &Unit, estimated_ns: u64, ratio: f32, trust: Trust) {
        if !ratio.is_finite() || ratio < 0.0 {
            return;
        }
        self.update(unit.kind, estimated_ns as f32, ratio, trust);
        self.update(unit.family, estimated_ns as f32 / unit.size.max(1) as f32, ratio, trust);
    }

    /// Doubts what `kind` costs: it has been changed. The old cost serves until the next sample, which replaces it.
    pub fn forget(&self, kind: u64) {
        if let Some(place) = self.place(kind)
            && let Some(value) = self.values.get(place)
        {
            let (cost, _) = unpack(value.load(Ordering::Relaxed));
            value.store(pack(cost, 0), Ordering::Relaxed);
        }
    }

    fn update(&self, key: u64, estimated: f32, ratio: f32, trust: Trust) {
        let Some(place) = self.place_or_claim(key) else { return };
        let Some(word) = self.values.get(place) else { return };
        let (known, samples) = unpack(word.load(Ordering::Relaxed));
        // A first sample stands alone: the estimate it is a ratio of was a guess. So does the second, because the first was
        // of a launch that found everything cold.
        let next = if samples <= 1 {
            estimated * ratio
        } else {
            // Of what was estimated then, not of what is known by now.
            let sample = (estimated * ratio).clamp(known / LARGEST_STEP, known * LARGEST_STEP);
            let weight = match (trust, sample > known) {
                (Trust::Full, _) => WEIGHT.max(1.0 / samples as f32),
                (Trust::Noisy, false) => NOISY_WEIGHT_DOWN,
                (Trust::Shared, false) => SHARED_WEIGHT_DOWN,
                (_, true) => NOISY_WEIGHT_UP,
            };
            known + weight * (sample - known)
        };
        if next.is_finite() {
            word.store(
                pack(next.clamp(f32::MIN_POSITIVE, MOST_NS), samples.saturating_add(1)),
                Ordering::Relaxed,
            );
        }
    }

    #[inline]
    fn find(&self, key: u64) -> Option<(f32, u32)> {
        let (cost, samples) = unpack(self.values.get(self.place(key)?)?.load(Ordering::Relaxed));
        (cost > 0.0).then_some((cost, samples))
    }

    #[inline]
    fn place(&self, key: u64) -> Option<usize> {
        if key == 0 {
            return None;
        }
        for place in places(key) {
            match self.keys.get(place)?.load(Ordering::Relaxed) {
                found if found == key => return Some(place),
                0 => return None,
                _ => {}
            }
        }
        None
    }

    fn place_or_claim(&self, key: u64) -> Option<usize> {
        if key == 0 {
            return None;
        }
        for place in places(key) {
            let claimed =
                self.keys.get(place)?.compare_exchange(0, key, Ordering::Relaxed, Ordering::Relaxed);
            if claimed.is_ok() || claimed == Err(key) {
                return Some(place);
            }
        }
        // All places are taken: one of them, each kind its own, is taken over.
        let place = places(key).nth((key >> 61) as usize)?;
        self.values.get(place)?.store(0, Ordering::Relaxed);
        self.keys.get(place)?.store(key, Ordering::Relaxed);
        Some(place)
    }
}

fn places(key: u64) -> impl Iterator<Item = usize> {
    (0..PROBES).map(move |probe| (key as usize).wrapping_add(probe) % ENTRIES)
}

fn bounded(cost_ns: f32) -> u64 {
    cost_ns.clamp(LEAST_NS, MOST_NS) as u64
}

fn pack(cost: f32, samples: u32) -> u64 {
    u64::from(cost.to_bits()) << 32 | u64::from(samples)
}

fn unpack(word: u64) -> (f32, u32) {
    (f32::from_bits((word >> 32) as u32), word as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GUESS_NS: u64 = 10_000;

    fn unit(kind: u64, size: u64) -> Unit {
        Unit { kind, family: 77, size, guess_ns: GUESS_NS, waits: false }
    }

    #[test]
    fn the_first_sample_replaces_the_guess() {
        let model = CostModel::default();
        let guess = model.estimate(&unit(5, 10));
        assert_eq!(guess, Estimate { cost_ns: GUESS_NS, known: false, young: true });
        model.learn(&unit(5, 10), guess.cost_ns, 200.0, Trust::Full);
        assert_eq!(model.estimate(&unit(5, 10)), Estimate { cost_ns: 2_000_000, known: true, young: true });
        for _ in 1..YOUNG {
            model.learn(&unit(5, 10), 2_000_000, 1.0, Trust::Full);
        }
        assert_eq!(model.estimate(&unit(5, 10)), Estimate { cost_ns: 2_000_000, known: true, young: false });
    }

    #[test]
    fn an_unknown_shape_is_estimated_from_its_family() {
        let model = CostModel::default();
        model.learn(&unit(5, 10), 1_000, 20.0, Trust::Full);
        let estimate = model.estimate(&unit(6, 30));
        assert_eq!(estimate, Estimate { cost_ns: 60_000, known: true, young: true });
    }

    #[test]
    fn what_was_changed_is_learned_anew() {
        let model = CostModel::default();
        model.learn(&unit(5, 1), 1_000, 1.0, Trust::Full);
        model.learn(&unit(5, 1), 1_000, 1.0, Trust::Full);
        model.forget(5);
        assert_eq!(model.estimate(&unit(5, 1)).cost_ns, 1_000);
        model.learn(&unit(5, 1), 1_000, 50.0, Trust::Full);
        assert_eq!(model.estimate(&unit(5, 1)).cost_ns, 50_000);
    }

    proptest! {
        #[test]
        fn settles_on_the_truth(truth in 1_000u64..50_000_000, noise in proptest::collection::vec(0.9f64..1.1, 60)) {
            let model = CostModel::default();
            for factor in noise {
                let estimate = model.estimate(&unit(9, 1));
                let ratio = truth as f64 * factor / estimate.cost_ns as f64;
                model.learn(&unit(9, 1), estimate.cost_ns, ratio as f32, Trust::Full);
            }
            let learned = model.estimate(&unit(9, 1)).cost_ns as f64;
            prop_assert!((learned / truth as f64 - 1.0).abs() < 0.08, "{learned} for {truth}");
        }

        #[test]
        fn never_panics_however_full(keys in proptest::collection::vec((any::<u64>(), any::<u64>(), any::<f32>()), 1..300)) {
            let model = CostModel::default();
            for (key, size, ratio) in keys {
                // Crowds all kinds into a few places.
                let unit = unit(key | 0x1fff, size);
                let estimate = model.estimate(&unit);
                prop_assert!(estimate.cost_ns >= 1 && estimate.cost_ns <= MOST_NS as u64);
                model.learn(&unit, estimate.cost_ns, ratio, Trust::Full);
            }
        }
    }
}
