//! The words that processes share, in ordinary memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use vcuda_core::abi::{Compute, SlotDevice};
use vcuda_core::arbiter::words::Arbiter;
use vcuda_core::compute::{ComputeWords, idle_record};
use vcuda_core::coverage::Coverage;
use vcuda_limiter::meter::Shared;

/// One device of a control file.
pub struct File {
    pub compute: Compute,
    coverage: Box<[AtomicU64]>,
}

impl File {
    pub fn new() -> Arc<Self> {
        Arc::new(Self { compute: Compute::default(), coverage: idle_record() })
    }
}

/// One slot of it.
pub struct Words {
    pub file: Arc<File>,
    pub slot: SlotDevice,
    arbiter: Option<Arc<Arbiter>>,
}

impl Words {
    pub fn new(file: &Arc<File>) -> Self {
        Self { file: Arc::clone(file), slot: SlotDevice::default(), arbiter: None }
    }

    pub fn with_arbiter(file: &Arc<File>, arbiter: &Arc<Arbiter>) -> Self {
        Self { arbiter: Some(Arc::clone(arbiter)), ..Self::new(file) }
    }
}

impl Shared for Words {
    fn words(&self) -> ComputeWords<'_> {
        let Self { file, slot, .. } = self;
        ComputeWords { compute: &file.compute, slot, coverage: Coverage::new(&file.coverage) }
    }

    fn arbiter(&self) -> Option<&Arbiter> {
        self.arbiter.as_deref()
    }
}

pub fn read(word: &AtomicU64) -> u64 {
    word.load(Ordering::Relaxed)
}
