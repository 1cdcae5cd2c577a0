//! The shape of the state file: what every process that uses the simulated GPUs shares. Integers and
//! atomics only, at fixed offsets, so that a file made by one build is read rightly by another or refused.
//!
//! Whatever changes memory in use does so under `Header::lock`; everything else is one atomic word each.

use std::cell::UnsafeCell;
use std::mem::{align_of, offset_of, size_of};
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64};

/// First word of a state file.
pub const MAGIC: u64 = u64::from_le_bytes(*b"vcudafak");
/// Raised whenever this file's layout changes.
pub const VERSION: u32 = 1;
/// GPUs one machine may have.
pub const MAX_GPUS: usize = 16;
/// Processes that may use the machine at the same time.
pub const MAX_PROCESSES: usize = 256;
/// Length of one slot of the record of how busy a GPU was, in nanoseconds.
pub const BUSY_SLOT_NS: u64 = 100_000_000;
/// Slots in that record.
pub const BUSY_SLOTS: usize = 64;
/// Process `i` is alive while the byte at this offset plus `i` of the state file is locked. It lies behind
/// the end of the file, where locks are allowed and data isn't needed.
pub const LIFE_LOCK_OFFSET: i64 = 1 << 40;

/// The whole file.
#[repr(C)]
pub struct Layout {
    pub header: Header,
    pub gpus: [Gpu; MAX_GPUS],
    pub processes: [Process; MAX_PROCESSES],
}

/// What says whether the rest can be read.
#[repr(C, align(256))]
pub struct Header {
    pub magic: u64,
    pub version: u32,
    pub gpu_count: u32,
    pub size_bytes: u64,
    /// A robust, process-shared `pthread_mutex_t`.
    pub lock: SharedLock,
}

/// Room for the C library's mutex, which it alone reads and writes.
#[repr(transparent)]
pub struct SharedLock(pub UnsafeCell<[u64; 8]>);

// SAFETY: the words are only reached through the C library's mutex functions, made for sharing.
unsafe impl Sync for SharedLock {}

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
    /// When all work queued so far will have run, on the monotonic clock.
    pub busy_until_ns: AtomicU64,
    /// Time spent or promised to work since the file was made.
    pub busy_ns: AtomicU64,
    /// Units of work since the file was made.
    pub work_count: AtomicU64,
    /// Busy time of slot `time / BUSY_SLOT_NS`, kept at that number modulo `BUSY_SLOTS`: the low 32 bits
    /// of the slot's number above the nanoseconds.
    pub busy_slots: [AtomicU64; BUSY_SLOTS],
}

/// One process that uses the GPUs.
#[repr(C, align(64))]
pub struct Process {
    /// 0 in a free slot.
    pub pid: AtomicU32,
    pub reserved: AtomicU32,
    /// When the process began, in clock ticks after boot; tells apart two with the same id.
    pub start_ticks: AtomicU64,
    pub gpus: [Holding; MAX_GPUS],
}

/// What one process has of one GPU.
#[repr(C)]
pub struct Holding {
    /// Memory that comes back when the process ends.
    pub device_bytes: AtomicU64,
    /// The part of it that is put down to the process in NVML's list.
    pub process_bytes: AtomicU64,
    pub peak_device_bytes: AtomicU64,
    pub contexts: AtomicI64,
    pub busy_ns: AtomicU64,
}

const _: () = {
    assert!(offset_of!(Layout, gpus) == 256);
    assert!(offset_of!(Layout, processes) == 256 + MAX_GPUS * 768);
    assert!(size_of::<Gpu>() == 768);
    assert!(size_of::<Process>() == 704);
    assert!(size_of::<libc::pthread_mutex_t>() <= 64);
    assert!(align_of::<libc::pthread_mutex_t>() <= 8);
    assert!(offset_of!(Gpu, used_bytes) == 144);
    assert!(offset_of!(Gpu, peak_bytes) == 152);
};
