//! Small allocations: packed into chunks of 2 MiB, which are taken when needed and given back when empty.

use crate::backing::{Ranges, STEP_BYTES};
use std::collections::BTreeMap;

/// Largest linear allocation that is packed.
pub const SMALL_BYTES: u64 = 1 << 20;

/// The chunks of one context, or of its arrays.
pub struct Chunks {
    /// What sizes are rounded up to.
    unit_bytes: u64,
    chunks: BTreeMap<u64, Chunk>,
}

struct Chunk {
    free: Ranges,
    longest_free: u64,
    live: usize,
}

impl Chunks {
    /// No chunks yet.
    pub const fn new(unit_bytes: u64) -> Chunks {
        Chunks { unit_bytes, chunks: BTreeMap::new() }
    }

    fn round(&self, bytes: u64) -> u64 {
        bytes.max(1).next_multiple_of(self.unit_bytes)
    }

    /// An address in a chunk there is; `None` if it takes another chunk.
    pub fn take(&mut self, bytes: u64) -> Option<u64> {
        let bytes = self.round(bytes);
        let chunk = self.chunks.values_mut().find(|chunk| chunk.longest_free >= bytes)?;
        let address = chunk.free.take(bytes)?;
        chunk.longest_free = chunk.free.longest();
        chunk.live += 1;
        Some(address)
    }

    /// Adds a chunk that was taken at `start`.
    pub fn add(&mut self, start: u64) {
        let free = Ranges::new(start, STEP_BYTES);
        self.chunks.insert(start, Chunk { free, longest_free: STEP_BYTES, live: 0 });
    }

    /// Gives an allocation back; the start of its chunk if that is empty now and no more held here.
    pub fn give(&mut self, address: u64, bytes: u64) -> Option<u64> {
        let bytes = self.round(bytes);
        let start = address / STEP_BYTES * STEP_BYTES;
        let chunk = self.chunks.get_mut(&start)?;
        chunk.free.give(address, bytes);
        chunk.longest_free = chunk.free.longest();
        chunk.live -= 1;
        if chunk.live > 0 {
            return None;
        }
        self.chunks.remove(&start);
        Some(start)
    }

    /// Empties this: the starts of all chunks.
    pub fn drain(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.chunks).into_keys().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_fill_up_and_empty() {
        let mut chunks = Chunks::new(512);
        assert_eq!(chunks.take(4), None);
        chunks.add(STEP_BYTES);
        let addresses: Vec<u64> = (0..4096).map(|_| chunks.take(4).unwrap()).collect();
        assert_eq!(addresses[1] - addresses[0], 512);
        assert_eq!(chunks.take(1), None);
        assert_eq!(chunks.give(addresses[7], 4), None);
        assert_eq!(chunks.take(500), Some(addresses[7]));
        let emptied: Vec<u64> = addresses.iter().filter_map(|&address| chunks.give(address, 512)).collect();
        assert_eq!(emptied, [STEP_BYTES]);
    }
}
