//! The memory behind one pool: which of its addresses are free, which have device memory, and what was freed
//! but may still be in use by work queued before.

use crate::backing::{Ranges, window};
use crate::device::Device;
use crate::driver::driver;
use crate::pool::POOLS;
use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use vcuda_driver::result::CUerror;
use vcuda_fake_machine::Mark;

/// What a pool grows by.
pub const STEP_BYTES: u64 = 32 << 20;
const UNIT_BYTES: u64 = 512;

/// Pools that may have memory to give back at the next wait.
pub static UNSETTLED: AtomicU32 = AtomicU32::new(0);

/// A pool's memory.
#[derive(Default)]
pub struct PoolMemory {
    pub ordinal: usize,
    /// The addresses that the pool allocates from, lasting as long as the pool.
    pub base: u64,
    pub room_bytes: u64,
    /// Free addresses, with or without memory.
    pub free: Option<Ranges>,
    /// Numbers of the steps from `base` on that there is memory for.
    pub steps: BTreeSet<u64>,
    pub live: HashMap<u64, u64>,
    pub freed: Vec<Freed>,
    pub used: Gauge,
    pub reserved: Gauge,
    pub release_threshold: u64,
    pub max_bytes: u64,
    pub reuse: [u32; 3],
    pub is_default: bool,
    pub is_destroyed: bool,
    pub is_unsettled: bool,
}

/// Memory that the program freed: its stream can have it again at once, others when it is over there.
pub struct Freed {
    pub address: u64,
    pub bytes: u64,
    pub stream: usize,
    /// Where its stream is done with it.
    pub ready: Mark,
}

impl Freed {
    /// Whether its stream is done with it.
    pub fn is_over(&self) -> bool {
        driver().member.timeline(|timeline| timeline.is_over(self.ready))
    }
}

/// A figure and the most that it ever was.
#[derive(Clone, Copy, Default)]
pub struct Gauge {
    pub now: u64,
    pub high: u64,
}

impl Gauge {
    pub fn set(&mut self, now: u64) {
        self.now = now;
        self.high = self.high.max(now);
    }
}

impl PoolMemory {
    pub fn device(&self) -> &'static Device {
        &driver().devices[self.ordinal]
    }

    pub fn mark_unsettled(&mut self) {
        if !std::mem::replace(&mut self.is_unsettled, true) {
            UNSETTLED.fetch_add(1, Relaxed);
        }
    }

    pub fn unmark_unsettled(&mut self) {
        if std::mem::replace(&mut self.is_unsettled, false) {
            UNSETTLED.fetch_sub(1, Relaxed);
        }
    }

    pub fn take(&mut self, bytes: u64, stream: usize) -> Result<u64, CUerror> {
        let bytes = bytes.checked_next_multiple_of(UNIT_BYTES).ok_or(CUerror::OUT_OF_MEMORY)?;
        self.settle(|freed| freed.stream == stream || freed.is_over());
        let address = match self.find_backed(bytes) {
            Some(address) => address,
            None => self.grow_for(bytes)?,
        };
        if let Some(free) = &mut self.free {
            free.take_at(address, bytes);
        }
        self.live.insert(address, bytes);
        let used = self.used.now + bytes;
        self.used.set(used);
        Ok(address)
    }

    /// Makes freed memory free for all that `is_over` says so of.
    pub fn settle(&mut self, is_over: impl Fn(&Freed) -> bool) {
        let Some(free) = &mut self.free else { return };
        self.freed.retain(|freed| {
            let over = is_over(freed);
            if over {
                free.give(freed.address, freed.bytes);
            }
            !over
        });
    }

    /// Waits for whatever still uses freed memory.
    pub fn settle_all(&mut self) {
        for freed in &self.freed {
            driver().member.wait_for(freed.ready);
        }
        self.settle(|_| true);
    }

    fn steps_of(&self, address: u64, bytes: u64) -> std::ops::Range<u64> {
        let first = (address - self.base) / STEP_BYTES;
        first..(address + bytes - self.base).div_ceil(STEP_BYTES)
    }

    /// The first free place whose memory is there already.
    fn find_backed(&self, bytes: u64) -> Option<u64> {
        let free = self.free.as_ref()?;
        free.iter().filter(|&(_, length)| length >= bytes).find_map(|(start, length)| {
            let mut address = start;
            while address + bytes <= start + length {
                match self.steps_of(address, bytes).rfind(|step| !self.steps.contains(step)) {
                    None => return Some(address),
                    Some(missing) => {
                        // Behind the last step with memory there is nothing to look at.
                        self.steps.range(missing..).next()?;
                        address = self.base + (missing + 1) * STEP_BYTES;
                    }
                }
            }
            None
        })
    }

    /// The free place that takes the least memory, with that taken.
    fn grow_for(&mut self, bytes: u64) -> Result<u64, CUerror> {
        match self.try_grow_for(bytes) {
            Err(CUerror::OUT_OF_MEMORY) => {}
            result => return result,
        }
        // What is freed but not over is waited for, and what other pools have to spare is taken from them.
        self.settle_all();
        if let Some(address) = self.find_backed(bytes) {
            return Ok(address);
        }
        self.shrink_to(0);
        for pool in POOLS.live() {
            if let Some(mut other) = pool.memory.try_lock()
                && other.ordinal == self.ordinal
            {
                other.settle_all();
                other.shrink_to(0);
            }
        }
        self.try_grow_for(bytes)
    }

    fn try_grow_for(&mut self, bytes: u64) -> Result<u64, CUerror> {
        let free = self.free.as_ref().ok_or(CUerror::INVALID_VALUE)?;
        let missing = |address| {
            self.steps_of(address, bytes).filter(|step| !self.steps.contains(step)).collect::<Vec<u64>>()
        };
        let places = free.iter().filter(|&(_, length)| length >= bytes).map(|(address, _)| address);
        let (address, missing) = places
            .map(|address| (address, missing(address)))
            .min_by_key(|(_, missing)| missing.len())
            .ok_or(CUerror::OUT_OF_MEMORY)?;
        let more = missing.len() as u64 * STEP_BYTES;
        if self.max_bytes != 0 && self.reserved.now + more > self.max_bytes.next_multiple_of(STEP_BYTES) {
            return Err(CUerror::OUT_OF_MEMORY);
        }
        self.device().take(more)?;
        self.steps.extend(missing);
        self.reserved.set(self.steps.len() as u64 * STEP_BYTES);
        Ok(address)
    }

    /// Gives free memory back until no more than `keep_bytes` is left, or nothing to give.
    pub fn shrink_to(&mut self, keep_bytes: u64) {
        let Some(free) = &self.free else { return };
        let mut surplus = self.reserved.now.saturating_sub(keep_bytes).div_ceil(STEP_BYTES);
        let mut given = Vec::new();
        for (start, length) in free.iter() {
            let first = (start - self.base).div_ceil(STEP_BYTES);
            let end = (start + length - self.base) / STEP_BYTES;
            if first < end {
                let here = self.steps.range(first..end).copied().take(surplus as usize);
                given.extend(here);
                surplus =
                    self.reserved.now.saturating_sub(keep_bytes).div_ceil(STEP_BYTES) - given.len() as u64;
            }
        }
        for step in &given {
            self.steps.remove(step);
            if let Some(window) = window() {
                window.discard(self.base + step * STEP_BYTES, STEP_BYTES);
            }
        }
        self.device().give(given.len() as u64 * STEP_BYTES);
        self.reserved.set(self.steps.len() as u64 * STEP_BYTES);
    }
}
