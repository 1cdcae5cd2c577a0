//! The shape of the state file: what every process that uses the simulated GPUs shares. Integers and
//! atomics only, at fixed offsets, so that a file made by one build is read rightly by another or refused.
//!
//! Whatever changes memory in use does so under `Header::lock`, and whatever reads or changes the time line
//! under `Header::time_lock`, which is taken last; everything else is one atomic word each.

use crate::timeline::Timeline;
use std::cell::UnsafeCell;
use std::mem::{align_of, offset_of, size_of};
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64};

/// First word of a state file.
pub const MAGIC: u64 = u64::from_le_bytes(*b"vcudafak");
/// Raised whenever this file's layout changes.
pub const VERSION: u32 = 5;
/// GPUs one machine may have.
pub const MAX_GPUS: usize = 16;
/// Processes that may use the machine at the same time.
pub const MAX_PROCESSES: usize = 256;
/// Incidents that are kept.
pub const MAX_INCIDENTS: usize = 64;
/// Process `i` is alive while the byte at this offset plus `i` of the state file is locked. It lies behind
/// the end of the file, where locks are allowed and data isn't needed.
pub const LIFE_LOCK_OFFSET: i64 = 1 << 40;

/// The whole file.
#[repr(C)]
pub struct Layout {
    pub header: Header,
    pub gpus: [Gpu; MAX_GPUS],
    pub processes: [Process; MAX_PROCESSES],
    pub incidents: Incidents,
    pub timeline: SharedTimeline,
}

/// What says whether the rest can be read.
#[repr(C, align(256))]
pub struct Header {
    pub magic: u64,
    pub version: u32,
    pub gpu_count: u32,
    pub size_bytes: u64,
    pub lock: SharedLock,
    pub time_lock: SharedLock,
}

/// Room for the C library's robust, process-shared mutex, which it alone reads and writes.
#[repr(transparent)]
pub struct SharedLock(pub UnsafeCell<[u64; 8]>);

// SAFETY: the words are only reached through the C library's mutex functions, made for sharing.
unsafe impl Sync for SharedLock {}

/// The last things that happened to GPUs by somebody's will, as `incident` packs them.
#[repr(C, align(256))]
pub struct Incidents {
    /// How many there ever were; the newest is at this number less one.
    pub count: AtomicU64,
    pub ring: [AtomicU64; MAX_INCIDENTS],
}

/// The time line, which is only touched with the time lock held.
#[repr(transparent)]
pub struct SharedTimeline(pub UnsafeCell<Timeline>);

// SAFETY: whoever reaches the time line holds the lock made for it (`machine::with_timeline`).
unsafe impl Sync for SharedTimeline {}

/// One GPU.
#[repr(C, align(256))]
pub struct Gpu {
    /// UTF-8, padded with zeros.
    pub name: [u8; 96],
    pub uuid: [u8; 16],
    /// Memory that CUDA programs can use and see as the total.
    pub total_bytes: u64,
    /// Memory on top of that, which only NVML reports.
    pub reserved_bytes: u64,
    pub multiprocessors: u32,
    pub compute_major: u32,
    pub compute_minor: u32,
    pub pci_bus: u32,
    /// Memory in use by all processes.
    pub used_bytes: AtomicU64,
    /// Most memory ever in use at once since the file was made or the peak was reset.
    pub peak_bytes: AtomicU64,
}

/// One process that uses the GPUs.
#[repr(C, align(64))]
pub struct Process {
    /// In its own PID namespace; 0 in a free slot.
    pub pid: AtomicU32,
    /// What was done to it from outside, one of the words of `checkpoint`.
    pub standing: AtomicU32,
    /// When the process began, in clock ticks after boot; tells apart two with the same id.
    pub start_ticks: AtomicU64,
    /// Inode of its PID namespace.
    pub namespace: AtomicU64,
    /// Who is about to stop it, while `standing` says that somebody is.
    pub stopper: AtomicU32,
    /// Why it can't be put aside: a sum of the obstacles below.
    pub obstacles: AtomicU32,
    pub calls: CallCount,
    pub gpus: [Holding; MAX_GPUS],
}

/// It has managed memory.
pub const OBSTACLE_MANAGED: u32 = 1;
/// It has shared memory with another process.
pub const OBSTACLE_SHARED: u32 = 2;
/// Its calls are not counted, so it can't even be stopped.
pub const OBSTACLE_UNCOUNTED: u32 = 4;

/// Calls under way that can be stopped, on a cache line that no other process writes to.
#[repr(C, align(64))]
pub struct CallCount(pub AtomicU32);

/// What one process has of one GPU.
#[repr(C)]
pub struct Holding {
    /// Memory that comes back when the process ends.
    pub device_bytes: AtomicU64,
    /// The part of it that is put down to the process in NVML's list.
    pub process_bytes: AtomicU64,
    pub peak_device_bytes: AtomicU64,
    pub contexts: AtomicI64,
    /// The same as above while the process is put aside and has nothing.
    pub aside_device_bytes: AtomicU64,
    pub aside_process_bytes: AtomicU64,
    pub aside_contexts: AtomicI64,
}

const _: () = {
    assert!(offset_of!(Layout, gpus) == 256);
    assert!(offset_of!(Layout, processes) == 256 + MAX_GPUS * 256);
    assert!(size_of::<Header>() == 256);
    assert!(size_of::<Gpu>() == 256);
    assert!(size_of::<Holding>() == 56);
    assert!(size_of::<Process>() == 1024);
    assert!(size_of::<libc::pthread_mutex_t>() <= 64);
    assert!(align_of::<libc::pthread_mutex_t>() <= 8);
    assert!(offset_of!(Gpu, used_bytes) == 144);
    assert!(offset_of!(Gpu, peak_bytes) == 152);
};
