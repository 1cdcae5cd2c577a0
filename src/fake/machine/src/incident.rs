//! What befalls a GPU because a test wants it to: critical errors, as NVML tells of them.
//!
//! Each is one word in a ring of the state file; whoever looks remembers how many it has seen.

use crate::layout::MAX_INCIDENTS;
use crate::lock;
use crate::machine::Machine;
use std::ptr;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::time::Duration;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Incident {
    /// A critical error of this number.
    Xid(u32),
    /// An error in memory that could not be corrected.
    DoubleBitEcc,
}

/// Where it happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scene {
    /// The GPU's number.
    pub gpu: usize,
    /// Of one part of a divided GPU: the numbers of its GPU instance and of its compute instance.
    pub instance: Option<(u8, u8)>,
}

/// Set in words that are something.
const PRESENT: u64 = 1 << 63;
const DOUBLE_BIT: u64 = 1 << 62;
const HAS_INSTANCE: u64 = 1 << 61;

fn pack(scene: Scene, incident: Incident) -> u64 {
    let what = match incident {
        Incident::Xid(number) => u64::from(number),
        Incident::DoubleBitEcc => DOUBLE_BIT,
    };
    let instance = scene.instance.map_or(0, |(gpu_instance, compute_instance)| {
        HAS_INSTANCE | u64::from(gpu_instance) << 48 | u64::from(compute_instance) << 40
    });
    PRESENT | what | instance | (scene.gpu as u64) << 32
}

fn unpack(word: u64) -> (Scene, Incident) {
    let byte = |shift: u32| (word >> shift) as u8;
    let instance = (word & HAS_INSTANCE != 0).then(|| (byte(48), byte(40)));
    let incident = if word & DOUBLE_BIT != 0 { Incident::DoubleBitEcc } else { Incident::Xid(word as u32) };
    (Scene { gpu: usize::from(byte(32)), instance }, incident)
}

impl Machine {
    /// Lets something happen to a GPU.
    pub fn befall(&self, scene: Scene, incident: Incident) {
        let layout = self.layout();
        let (_guard, abandoned) = lock::acquire(&layout.header.lock);
        crate::process::repair_if(abandoned, layout);
        let incidents = &layout.incidents;
        let count = incidents.count.load(Relaxed);
        incidents.ring[count as usize % MAX_INCIDENTS].store(pack(scene, incident), Relaxed);
        incidents.count.store(count + 1, Release);
        futex(libc::FUTEX_WAKE, &incidents.count, i32::MAX as u32, None);
    }

    /// Sleeps until more has happened than `seen`, but no longer than `patience`, and sometimes not as long.
    pub fn wait_for_incident(&self, seen: u64, patience: Duration) {
        // The kernel compares, so that nothing is slept over; to which the lower half is enough.
        futex(libc::FUTEX_WAIT, &self.layout().incidents.count, seen as u32, Some(patience));
    }

    /// How much has happened to this machine's GPUs up to now.
    pub fn incident_count(&self) -> u64 {
        self.layout().incidents.count.load(Acquire)
    }

    /// The first thing that happened after `seen` others, and how many that makes. What is too long ago is left out.
    pub fn incident_after(&self, seen: u64) -> Option<((Scene, Incident), u64)> {
        let count = self.incident_count();
        let next = seen.max(count.saturating_sub(MAX_INCIDENTS as u64));
        let word = self.layout().incidents.ring[next as usize % MAX_INCIDENTS].load(Relaxed);
        (next < count).then(|| (unpack(word), next + 1))
    }
}

/// The kernel's way to sleep on a word that processes share: here, on the lower half of one. What it answers doesn't matter
/// to who looks again.
fn futex(operation: i32, word: &AtomicU64, value: u32, patience: Option<Duration>) {
    let patience = patience.map(|patience| libc::timespec {
        tv_sec: patience.as_secs() as libc::time_t,
        tv_nsec: patience.subsec_nanos().into(),
    });
    let until = patience.as_ref().map_or(ptr::null(), ptr::from_ref);
    let half = ptr::from_ref(word).cast::<u32>().wrapping_add(usize::from(cfg!(target_endian = "big")));
    // SAFETY: both pointers are valid for the call; the kernel only reads them.
    unsafe { libc::syscall(libc::SYS_futex, half, operation, value, until) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_holds_all_of_it() {
        for gpu in [0, 15] {
            for instance in [None, Some((0, 0)), Some((13, 255))] {
                for incident in [Incident::Xid(79), Incident::Xid(u32::MAX), Incident::DoubleBitEcc] {
                    let scene = Scene { gpu, instance };
                    assert_eq!(unpack(pack(scene, incident)), (scene, incident));
                    assert_ne!(pack(scene, incident), 0);
                }
            }
        }
    }
}
