//! The hash of the library's own tables, whose keys are addresses and handles from the driver: one
//! multiplication a word, where the standard library's would guard against keys chosen by an adversary.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};

/// A table keyed by words.
pub type WordMap<K, V> = HashMap<K, V, BuildHasherDefault<WordHasher>>;

/// A set of words.
pub type WordSet<K> = HashSet<K, BuildHasherDefault<WordHasher>>;

/// Spreads a word's bits over the whole word: a full product with the golden ratio's bits, its halves folded
/// together. Addresses differ in their middle bits only, and tables look at both ends of a hash.
pub fn spread(word: u64) -> u64 {
    let product = u128::from(word) * 0x9E37_79B9_7F4A_7C15;
    (product >> 64) as u64 ^ product as u64
}

/// Hashes the words of a key.
#[derive(Default)]
pub struct WordHasher(u64);

impl Hasher for WordHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte));
        }
    }
    fn write_u64(&mut self, word: u64) {
        self.0 = spread(self.0.rotate_left(5) ^ word);
    }
    fn write_usize(&mut self, word: usize) {
        self.write_u64(word as u64);
    }
    fn write_isize(&mut self, word: isize) {
        self.write_u64(word as u64);
    }
}
