//! Device memory of graphs with allocation nodes.
//!
//! Measured on an H200 with driver 580.159 by `scripts/gpu-facts`: adding nodes and instantiating take
//! nothing; the first upload or launch of an executable graph takes its allocations in steps of 32 MiB, at
//! once and for good; destroying it keeps the memory reserved for other graphs until it is trimmed.

use crate::driver;
use crate::hash::WordMap;
use crate::quota::{Quota, Reservation, pages};
use parking_lot::{Mutex, RwLock};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use vcuda_driver::cuda::types::CUgraphExec;

const STEP_BYTES: u64 = 32 << 20;

/// Pages that the first launch of a graph with an allocation of `bytes` may take for it.
pub fn node_pages(bytes: u64) -> u64 {
    pages(bytes.div_ceil(STEP_BYTES).saturating_mul(STEP_BYTES))
}

/// What graphs hold on one device.
#[derive(Default)]
pub struct GraphMemory {
    charged: Mutex<u64>,
    trims: AtomicU64,
}

impl GraphMemory {
    /// Number of times memory may have been taken from under executable graphs: one that was backed at an
    /// earlier number may take memory anew.
    pub fn trims(&self) -> u64 {
        self.trims.load(Ordering::Acquire)
    }

    /// Ends a launch that was given `reservation`: keeps of it what graphs hold more than before.
    pub fn settle(&self, quota: &Quota, reservation: Reservation) {
        let mut charged = self.charged.lock();
        let now = driver::graph_reserved_bytes(quota.ordinal).map_or(*charged, pages);
        let grown = now.saturating_sub(*charged);
        *charged += grown;
        reservation.keep_only(grown);
    }

    /// Charges what graphs hold beyond what was reserved for them.
    pub fn catch_up(&self, quota: &Quota) {
        let mut charged = self.charged.lock();
        let Ok(bytes) = driver::graph_reserved_bytes(quota.ordinal) else { return };
        let over = pages(bytes).saturating_sub(*charged);
        quota.charge_taken(over);
        *charged += over;
    }

    /// Notices what graphs have given back.
    pub fn refresh(&self, quota: &Quota) {
        let surplus = {
            let mut charged = self.charged.lock();
            if *charged == 0 {
                return;
            }
            let Ok(bytes) = driver::graph_reserved_bytes(quota.ordinal) else { return };
            let surplus = charged.saturating_sub(pages(bytes));
            *charged -= surplus;
            surplus
        };
        quota.give_back(surplus);
    }

    /// Notes that the driver was asked to give back what graphs don't use.
    pub fn trimmed(&self, quota: &Quota) {
        self.trims.fetch_add(1, Ordering::AcqRel);
        self.refresh(quota);
    }

    /// Has the driver give back what graphs don't use; true if they held anything.
    pub fn trim(&self, quota: &Quota) -> bool {
        if *self.charged.lock() == 0 {
            return false;
        }
        // A failed trim leaves everything as it was.
        let _ = driver::trim_graph_memory(quota.ordinal);
        self.trimmed(quota);
        true
    }

    /// Pages charged for graphs.
    pub fn charged_pages(&self) -> u64 {
        *self.charged.lock()
    }
}

/// What one executable graph allocates on one device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footprint {
    /// Ordinal of the device.
    pub device: i32,
    /// Pages its first launch may take.
    pub pages: u64,
    /// The device's number of trims when a launch last backed it; `None` before the first.
    pub backed_at: Option<u64>,
}

/// Executable graphs with allocation nodes.
#[derive(Default)]
pub struct AllocatingGraphs {
    any: AtomicBool,
    footprints: RwLock<WordMap<CUgraphExec, Vec<Footprint>>>,
}

impl AllocatingGraphs {
    /// Notes what an executable graph allocates; nothing, for most.
    pub fn note(&self, graph: CUgraphExec, footprints: Vec<Footprint>) {
        if !footprints.is_empty() {
            self.footprints.write().insert(graph, footprints);
            self.any.store(true, Ordering::Release);
        }
    }

    /// What the graph allocates, if anything. One load where no graph of the process does.
    #[inline]
    pub fn find(&self, graph: CUgraphExec) -> Option<Vec<Footprint>> {
        if !self.any.load(Ordering::Acquire) {
            return None;
        }
        self.footprints.read().get(&graph).cloned()
    }

    /// Notes that a launch has backed the graph on `device` when it had seen `trims` trims.
    pub fn backed(&self, graph: CUgraphExec, device: i32, trims: u64) {
        if let Some(footprints) = self.footprints.write().get_mut(&graph) {
            for footprint in footprints.iter_mut().filter(|footprint| footprint.device == device) {
                footprint.backed_at = Some(trims);
            }
        }
    }

    /// Forgets a destroyed graph.
    pub fn forget(&self, graph: CUgraphExec) {
        if self.any.load(Ordering::Acquire) {
            self.footprints.write().remove(&graph);
        }
    }
}
