//! The words that processes share, in ordinary memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use vcuda_core::abi::{Compute, SlotDevice};
use vcuda_core::compute::ComputeWords;
use vcuda_core::coverage::{Coverage, SLOTS};
use vcuda_limiter::meter::Shared;

fn word() -> AtomicU64 {
    AtomicU64::new(0)
}

/// One device of a control file.
pub struct File {
    pub compute: Compute,
    coverage: Vec<AtomicU64>,
}

impl File {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            compute: Compute {
                deadline_ns: word(),
                share_ppm: word(),
                work_count: word(),
                busy_ns: word(),
                throttled_ns: word(),
                throttled_count: word(),
                forgiven_ns: word(),
                reserved: std::array::from_fn(|_| word()),
            },
            coverage: (0..SLOTS).map(|_| word()).collect(),
        })
    }
}

/// One slot of it.
pub struct Words {
    pub file: Arc<File>,
    pub slot: SlotDevice,
}

impl Words {
    pub fn new(file: &Arc<File>) -> Self {
        let slot = SlotDevice {
            settled: word(),
            proposed: word(),
            overhead_pages: word(),
            unsettled_ns: word(),
            done_by_ns: word(),
            work_count: word(),
            busy_ns: word(),
            throttled_ns: word(),
        };
        Self { file: Arc::clone(file), slot }
    }
}

impl Shared for Words {
    fn words(&self) -> ComputeWords<'_> {
        let Self { file, slot } = self;
        ComputeWords { compute: &file.compute, slot, coverage: Coverage::new(&file.coverage) }
    }
}

pub fn read(word: &AtomicU64) -> u64 {
    word.load(Ordering::Relaxed)
}
