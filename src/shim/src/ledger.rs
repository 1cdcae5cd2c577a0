//! What this process holds: which pointer or handle was charged how much, to which device.
//!
//! Finding and removing an entry costs the same with ten entries and with a hundred thousand. Holds no
//! lock across a driver call. Knows nothing of quotas: entries are plain data until somebody credits them.

use crate::hash::{WordMap, spread};
use parking_lot::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use vcuda_driver::cuda::types::{CUcontext, CUmemoryPool};

/// What an entry's number is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Kind {
    /// A device pointer from one of the `cuMemAlloc` family.
    Pointer,
    /// A large block of a pool.
    PoolBlock,
    /// A `CUarray`.
    Array,
    /// A `CUmipmappedArray`.
    MipmappedArray,
}

/// How an allocation was charged, and so how it is credited.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Charge {
    /// Whole pages of its own, which the driver attributes to this process.
    Own { pages: u64 },
    /// Pages that the driver attributes to no process (managed memory).
    Unattributed { pages: u64 },
    /// A part of a 2 MiB chunk shared with other small allocations.
    InChunk { chunk: u64 },
    /// Nothing: the pool it is from is charged. Remembered for its size.
    ByPool { pool: CUmemoryPool, bytes: u64 },
    /// Bytes of a small array, packed with others into 2 MiB chunks.
    SmallArray { bytes: u64 },
}

/// One allocation of this process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Ordinal of the device it lies on.
    pub device: i32,
    /// The context it dies with.
    pub context: CUcontext,
    /// How it was charged.
    pub charge: Charge,
    /// The ledger's mark when it was entered; see [`Ledger::mark`].
    pub entered_at: u64,
}

const SHARDS: usize = 16;

type Shard = Mutex<WordMap<(Kind, u64), Entry>>;

/// All live allocations of this process that are charged one by one.
pub struct Ledger {
    shards: [Shard; SHARDS],
    /// Counts marks.
    marks: AtomicU64,
}

impl Ledger {
    /// An empty ledger.
    pub fn new() -> Ledger {
        Ledger { shards: std::array::from_fn(|_| Mutex::new(WordMap::default())), marks: AtomicU64::new(0) }
    }

    fn shard(&self, number: u64) -> &Shard {
        // Device pointers differ above their 512 B alignment, handles in all bits.
        let index = (spread(number) >> 60) as usize % SHARDS;
        // In range by the line above; the first shard serves as the answer that cannot be wrong.
        self.shards.get(index).unwrap_or(&self.shards[0])
    }

    /// Enters an allocation the driver has just made.
    pub fn enter(&self, kind: Kind, number: u64, entry: Entry) -> Option<Entry> {
        self.shard(number).lock().insert((kind, number), entry)
    }

    /// Takes an allocation out, before the driver is asked to free it: afterwards the number may already
    /// be somebody else's.
    pub fn take(&self, kind: Kind, number: u64) -> Option<Entry> {
        self.shard(number).lock().remove(&(kind, number))
    }

    /// The mark that entries get now.
    pub fn now(&self) -> u64 {
        self.marks.load(Ordering::Relaxed)
    }

    /// Parts what was entered so far from what will be: the mark that entries get from now on.
    pub fn mark(&self) -> u64 {
        self.marks.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// Takes out what died with `context`: everything of it that was entered before `mark`.
    pub fn take_context(&self, context: CUcontext, mark: u64) -> Vec<Entry> {
        let mut dead = Vec::new();
        for shard in &self.shards {
            shard.lock().retain(|_, entry| {
                let died = entry.context == context && entry.entered_at < mark;
                if died {
                    dead.push(*entry);
                }
                !died
            });
        }
        dead
    }
}
