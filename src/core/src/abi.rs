//! The control file, byte for byte: the Rust side of `include/vcuda.h`.
//!
//! Owns the layout and nothing else; every size and offset is asserted at compile time, and a test compiles the C
//! header and compares. All numbers are little-endian. Every field is an atomic, also those that never change after
//! creation, because any process may write into the file at any time. A change of meaning or place of anything here
//! needs a new [`VERSION`].

use core::mem::{offset_of, size_of};

pub use crate::arbiter::words::{Arbiter, SEAT_CAPACITY, Seat};
use crate::atomic::{AtomicU8, AtomicU32, AtomicU64};
use crate::coverage::SLOTS as COVERAGE_SLOTS;
use crate::quota::PAGE_BYTES;

#[cfg(target_endian = "big")]
compile_error!("the control file is little-endian, and its words are shared as they lie in memory");

/// First eight bytes of the file: `VCUDACTL`.
pub const MAGIC: u64 = u64::from_le_bytes(*b"VCUDACTL");
/// Last eight bytes of the file: `VCUDAEND`.
pub const SENTINEL: u64 = u64::from_le_bytes(*b"VCUDAEND");
/// The layout described here.
pub const VERSION: u32 = 4;
/// `Header::ready` of a file that may be used.
pub const READY: u64 = 1;
/// Devices a file has room for.
pub const DEVICE_CAPACITY: usize = 64;
/// Slots a file has room for; one process takes one.
pub const SLOT_CAPACITY: usize = 1024;
/// Bytes in a slot's name, the terminating zero included.
pub const NAME_BYTES: usize = 32;
/// Byte `LOCK_BASE + i` of the file is write-locked by the owner of slot `i`; beyond the end of the data.
pub const LOCK_BASE: u64 = 1 << 30;
/// `Device::limit_bytes` where no limit applies.
pub const UNLIMITED: u64 = u64::MAX;

/// The low byte of `Slot::state`: nobody's, and holding nothing.
pub const SLOT_FREE: u64 = 0;
/// The low byte of `Slot::state`: being claimed or taken back; the identity may be half written.
pub const SLOT_CHANGING: u64 = 1;
/// The low byte of `Slot::state`: claimed by the process described. It may be dead; the lock tells.
pub const SLOT_CLAIMED: u64 = 2;
/// `Slot::state` counts changes above this many bits.
pub const SLOT_STATE_SHIFT: u32 = 8;

/// `Device::kind` of a whole GPU.
pub const DEVICE_GPU: u64 = 0;
/// `Device::kind` of a MIG instance.
pub const DEVICE_MIG: u64 = 1;

/// What the file is: written once, before it gets its name, but for the last field.
#[repr(C, align(4096))]
pub struct Header {
    /// [`MAGIC`].
    pub magic: AtomicU64,
    /// [`VERSION`].
    pub version: AtomicU32,
    /// `size_of::<Header>()`.
    pub header_bytes: AtomicU32,
    /// `size_of::<ControlFile>()`.
    pub file_bytes: AtomicU64,
    /// The unit of every amount, [`PAGE_BYTES`].
    pub page_bytes: AtomicU32,
    /// [`DEVICE_CAPACITY`].
    pub device_capacity: AtomicU32,
    /// [`SLOT_CAPACITY`].
    pub slot_capacity: AtomicU32,
    /// `size_of::<Device>()`.
    pub device_bytes: AtomicU32,
    /// `size_of::<Slot>()`.
    pub slot_bytes: AtomicU32,
    /// `size_of::<SlotDevice>()`.
    pub slot_device_bytes: AtomicU32,
    /// Where the devices start.
    pub devices_offset: AtomicU64,
    /// Where the slots start.
    pub slots_offset: AtomicU64,
    /// Where a slot's per-device words start, from the start of the slot.
    pub slot_devices_offset: AtomicU64,
    /// Where the records of busy time start.
    pub coverage_offset: AtomicU64,
    /// Where the sentinel page starts.
    pub sentinel_offset: AtomicU64,
    /// [`LOCK_BASE`].
    pub lock_base: AtomicU64,
    /// When the file was made, in nanoseconds since 1970.
    pub created_unix_ns: AtomicU64,
    /// Random and never 0; tells this file from one later written over it.
    pub generation: AtomicU64,
    /// [`READY`]; anything else means that the file is not to be used.
    pub ready: AtomicU64,
    /// Slots from this one on never had an owner; spares readers most of the file.
    pub slots_ever_claimed: AtomicU64,
}

/// One device. Entries fill from the first and are never taken back.
#[repr(C, align(64))]
pub struct Device {
    /// Bytes 0 to 7 of the UUID, big-endian as it is printed; 0 if the entry and all after it are free.
    pub uuid_high: AtomicU64,
    /// Bytes 8 to 15 of the UUID; 0 in an entry whose claimer died between the two words, and which another may adopt.
    pub uuid_low: AtomicU64,
    /// The total and the last operation, a [`Quota`](crate::quota::Quota).
    pub quota: AtomicU64,
    /// The limit last enforced, in bytes, [`UNLIMITED`] if none. For information: the limit is each process's own.
    pub limit_bytes: AtomicU64,
    /// The device's memory in bytes, 0 while unknown.
    pub physical_bytes: AtomicU64,
    /// The most pages ever in use.
    pub peak_pages: AtomicU64,
    /// Reservations refused so far.
    pub refused_count: AtomicU64,
    /// Pages that a primary context was last measured to take, 0 while unknown.
    pub context_pages_learned: AtomicU64,
    /// [`DEVICE_GPU`] or [`DEVICE_MIG`].
    pub kind: AtomicU64,
    /// Pages of the total whose processes are suspended, which leave room for others, in the upper 36 bits; below, how
    /// often that changed.
    pub set_aside: AtomicU64,
    /// Until when nothing new is to be taken of the device, in nanoseconds of the monotonic clock; see
    /// [`suspension`](crate::suspension).
    pub held_until_ns: AtomicU64,
    /// Until when an agent that makes room is to be expected here, in nanoseconds of the monotonic clock.
    pub attended_until_ns: AtomicU64,
    /// 0.
    pub reserved: [AtomicU64; 4],
    /// The compute share of all processes together.
    pub compute: Compute,
}

/// The compute share of one device, on cache lines of its own.
#[derive(Default)]
#[repr(C, align(128))]
pub struct Compute {
    /// When all GPU time charged so far will have been paid for by waiting, a [`Bucket`](crate::bucket::Bucket).
    pub deadline_ns: AtomicU64,
    /// The share last enforced, in parts per million of the device's time; 0 if none. For information: the share is
    /// each process's own.
    pub share_ppm: AtomicU64,
    /// Launches, graphs, copies and fills so far.
    pub work_count: AtomicU64,
    /// GPU time used so far: the union over all streams and processes.
    pub busy_ns: AtomicU64,
    /// Time that calls were held back, summed over all threads.
    pub throttled_ns: AtomicU64,
    /// How often a call was held back.
    pub throttled_count: AtomicU64,
    /// Wall time of debt that was dropped because it was beyond the bound.
    pub forgiven_ns: AtomicU64,
    /// As `busy_ns`, but each stream of each process by itself: more, if they are busy at the same time.
    pub stream_busy_ns: AtomicU64,
    /// How the device was last shared with others, a [`Sharing`](crate::sharing::Sharing); 0 if nothing is said of its
    /// time. For information, as `share_ppm` is.
    pub sharing: AtomicU64,
    /// 0.
    pub reserved: [AtomicU64; 7],
}

/// What one slot holds of one device.
#[derive(Default)]
#[repr(C)]
pub struct SlotDevice {
    /// What took effect, a [`Holding`](crate::quota::Holding).
    pub settled: AtomicU64,
    /// What is being attempted, a [`Holding`](crate::quota::Holding).
    pub proposed: AtomicU64,
    /// Of the pages held, those that contexts and modules take rather than the program's own allocations.
    pub overhead_pages: AtomicU64,
    /// GPU time that was charged in advance and not measured yet.
    pub unsettled_ns: AtomicU64,
    /// When that work is expected to be done, in nanoseconds of the monotonic clock.
    pub done_by_ns: AtomicU64,
    /// Launches, graphs, copies and fills so far.
    pub work_count: AtomicU64,
    /// GPU time used so far that no other process had used.
    pub busy_ns: AtomicU64,
    /// Time that this process's calls were held back, summed over its threads.
    pub throttled_ns: AtomicU64,
}

/// One process.
#[repr(C, align(64))]
pub struct Slot {
    /// Low 8 bits: one of [`SLOT_FREE`], [`SLOT_CHANGING`], [`SLOT_CLAIMED`]. Above: how often it changed.
    pub state: AtomicU64,
    /// In the process's own PID namespace.
    pub pid: AtomicU32,
    /// Effective user.
    pub uid: AtomicU32,
    /// Inode of the PID namespace, 0 if unknown.
    pub pid_namespace: AtomicU64,
    /// Field 22 of `/proc/PID/stat`, in clock ticks since boot, 0 if unknown.
    pub start_time_ticks: AtomicU64,
    /// When the slot was claimed, in nanoseconds since 1970.
    pub started_unix_ns: AtomicU64,
    /// UTF-8, padded with zeros, the last byte always zero.
    pub name: [AtomicU8; NAME_BYTES],
    /// When the slot's lock was first found free by a process that can't look at its owner, in nanoseconds since boot; 0
    /// before.
    pub found_dead_ns: AtomicU64,
    /// Whether the process is suspended, and what has to be known for that, a
    /// [`Suspension`](crate::suspension::Suspension).
    pub suspension: AtomicU64,
    /// Driver calls of a process that may be put aside when idle: how often one began, in the upper half, and how many
    /// are under way.
    pub activity: AtomicU64,
    /// The header's `generation` while what the slot holds is set aside; anything else while it is not. A whole word, so
    /// that nothing written here by mistake stops a process.
    pub set_aside: AtomicU64,
    /// 0.
    pub reserved: [AtomicU64; 2],
    /// Tells the text of the limits file that the process goes by from others, see
    /// [`digest`](crate::limits::digest); 0 if its limits come from variables, which can't change while it runs.
    pub limits_digest: AtomicU64,
    /// By index of the device.
    pub devices: [SlotDevice; DEVICE_CAPACITY],
}

/// When one device was busy lately, a [`Coverage`](crate::coverage::Coverage).
#[repr(C, align(4096))]
pub struct BusyRecord {
    /// One word for each slice of time, in turn.
    pub slots: [AtomicU64; COVERAGE_SLOTS],
}

/// The last page. Its last word is how a truncated file is noticed.
#[repr(C, align(4096))]
pub struct Tail {
    /// 0.
    pub reserved: [AtomicU64; 511],
    /// [`SENTINEL`].
    pub sentinel: AtomicU64,
}

/// The whole file.
#[repr(C)]
pub struct ControlFile {
    /// What the file is.
    pub header: Header,
    /// All devices.
    pub devices: [Device; DEVICE_CAPACITY],
    /// All slots.
    pub slots: [Slot; SLOT_CAPACITY],
    /// When each device was busy, by its index.
    pub coverage: [BusyRecord; DEVICE_CAPACITY],
    /// Whose turn it is on each device, by its index.
    pub arbiters: [Arbiter; DEVICE_CAPACITY],
    /// The last page.
    pub tail: Tail,
}

/// Size of the file in bytes.
pub const FILE_BYTES: usize = size_of::<ControlFile>();

const _: () = {
    assert!(PAGE_BYTES == 4096);
    assert!(size_of::<Header>() == 4096);
    assert!(offset_of!(Header, version) == 8);
    assert!(offset_of!(Header, header_bytes) == 12);
    assert!(offset_of!(Header, file_bytes) == 16);
    assert!(offset_of!(Header, page_bytes) == 24);
    assert!(offset_of!(Header, device_capacity) == 28);
    assert!(offset_of!(Header, slot_capacity) == 32);
    assert!(offset_of!(Header, device_bytes) == 36);
    assert!(offset_of!(Header, slot_bytes) == 40);
    assert!(offset_of!(Header, slot_device_bytes) == 44);
    assert!(offset_of!(Header, devices_offset) == 48);
    assert!(offset_of!(Header, slots_offset) == 56);
    assert!(offset_of!(Header, slot_devices_offset) == 64);
    assert!(offset_of!(Header, coverage_offset) == 72);
    assert!(offset_of!(Header, sentinel_offset) == 80);
    assert!(offset_of!(Header, lock_base) == 88);
    assert!(offset_of!(Header, created_unix_ns) == 96);
    assert!(offset_of!(Header, generation) == 104);
    assert!(offset_of!(Header, ready) == 112);
    assert!(offset_of!(Header, slots_ever_claimed) == 120);

    assert!(size_of::<Device>() == 256);
    assert!(offset_of!(Device, uuid_high) == 0);
    assert!(offset_of!(Device, uuid_low) == 8);
    assert!(offset_of!(Device, quota) == 16);
    assert!(offset_of!(Device, limit_bytes) == 24);
    assert!(offset_of!(Device, physical_bytes) == 32);
    assert!(offset_of!(Device, peak_pages) == 40);
    assert!(offset_of!(Device, refused_count) == 48);
    assert!(offset_of!(Device, context_pages_learned) == 56);
    assert!(offset_of!(Device, kind) == 64);
    assert!(offset_of!(Device, set_aside) == 72);
    assert!(offset_of!(Device, held_until_ns) == 80);
    assert!(offset_of!(Device, attended_until_ns) == 88);
    assert!(offset_of!(Device, reserved) == 96);
    assert!(offset_of!(Device, compute) == 128);

    assert!(size_of::<Compute>() == 128);
    assert!(offset_of!(Compute, deadline_ns) == 0);
    assert!(offset_of!(Compute, share_ppm) == 8);
    assert!(offset_of!(Compute, work_count) == 16);
    assert!(offset_of!(Compute, busy_ns) == 24);
    assert!(offset_of!(Compute, throttled_ns) == 32);
    assert!(offset_of!(Compute, throttled_count) == 40);
    assert!(offset_of!(Compute, forgiven_ns) == 48);
    assert!(offset_of!(Compute, stream_busy_ns) == 56);
    assert!(offset_of!(Compute, sharing) == 64);
    assert!(offset_of!(Compute, reserved) == 72);

    assert!(size_of::<SlotDevice>() == 64);
    assert!(offset_of!(SlotDevice, settled) == 0);
    assert!(offset_of!(SlotDevice, proposed) == 8);
    assert!(offset_of!(SlotDevice, overhead_pages) == 16);
    assert!(offset_of!(SlotDevice, unsettled_ns) == 24);
    assert!(offset_of!(SlotDevice, done_by_ns) == 32);
    assert!(offset_of!(SlotDevice, work_count) == 40);
    assert!(offset_of!(SlotDevice, busy_ns) == 48);
    assert!(offset_of!(SlotDevice, throttled_ns) == 56);

    assert!(size_of::<Slot>() == 4224);
    assert!(offset_of!(Slot, state) == 0);
    assert!(offset_of!(Slot, pid) == 8);
    assert!(offset_of!(Slot, uid) == 12);
    assert!(offset_of!(Slot, pid_namespace) == 16);
    assert!(offset_of!(Slot, start_time_ticks) == 24);
    assert!(offset_of!(Slot, started_unix_ns) == 32);
    assert!(offset_of!(Slot, name) == 40);
    assert!(offset_of!(Slot, found_dead_ns) == 72);
    assert!(offset_of!(Slot, suspension) == 80);
    assert!(offset_of!(Slot, activity) == 88);
    assert!(offset_of!(Slot, set_aside) == 96);
    assert!(offset_of!(Slot, reserved) == 104);
    assert!(offset_of!(Slot, limits_digest) == 120);
    assert!(offset_of!(Slot, devices) == 128);

    assert!(offset_of!(ControlFile, devices) == 4096);
    assert!(offset_of!(ControlFile, slots) == 20_480);
    assert!(size_of::<BusyRecord>() == 65_536);
    assert!(offset_of!(ControlFile, coverage) == 4_345_856);
    assert!(size_of::<Seat>() == 128);
    assert!(offset_of!(Seat, identity) == 0);
    assert!(offset_of!(Seat, terms) == 8);
    assert!(offset_of!(Seat, seen_ns) == 16);
    assert!(offset_of!(Seat, wants_until_ns) == 24);
    assert!(offset_of!(Seat, busy_until_ns) == 32);
    assert!(offset_of!(Seat, clock) == 40);
    assert!(offset_of!(Seat, due_ns) == 48);
    assert!(offset_of!(Seat, held_from_ns) == 56);
    assert!(offset_of!(Seat, served_ns) == 64);
    assert!(offset_of!(Seat, waited_ns) == 72);
    assert!(offset_of!(Seat, duty_ppm) == 80);
    assert!(offset_of!(Seat, turn_count) == 88);
    assert!(offset_of!(Seat, crew) == 96);
    assert!(offset_of!(Seat, in_wait_until_ns) == 104);
    assert!(offset_of!(Seat, flight) == 112);
    assert!(offset_of!(Seat, reserved) == 120);
    assert!(size_of::<Arbiter>() == 8192);
    assert!(offset_of!(Arbiter, grant) == 0);
    assert!(offset_of!(Arbiter, clock) == 8);
    assert!(offset_of!(Arbiter, seats) == 128);
    assert!(offset_of!(ControlFile, arbiters) == 8_540_160);
    assert!(offset_of!(ControlFile, tail) == 9_064_448);
    assert!(offset_of!(ControlFile, tail) + offset_of!(Tail, sentinel) == FILE_BYTES - 8);
    assert!(FILE_BYTES == 9_068_544);
    assert!(LOCK_BASE > FILE_BYTES as u64);
    assert!(SLOT_CAPACITY <= crate::quota::MAX_SLOTS as usize);
};
