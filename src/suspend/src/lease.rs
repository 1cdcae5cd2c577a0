//! Memory leases: the right to restore, which is had only while the memory for it is there and stays there.
//!
//! A restore that runs out of memory loses the process. So before one begins
//!
//! 1. every other lease on the same GPUs is waited for, in the order of asking (a lock file for each GPU, which goes
//!    with the process that holds it);
//! 2. every slice on the machine that can be written to is told to take nothing new of these GPUs: reservations of its
//!    processes wait, for as long as the lease lasts and never longer than a word in the control file says;
//! 3. what the GPU really has free is compared with what is needed and a margin, for those who are no slice's;
//! 4. and what other slices were promised is compared with what the GPU has at all, unless the caller goes by what is
//!    free.
//!
//! If there is no room, the lease lets the others go on and waits. Owns the lock files and the words `held_until_ns`.
#![allow(unsafe_code)]

use crate::memory::DeviceMemory;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};
use vcuda_core::compute::monotonic_ns;
use vcuda_core::control::Control;
use vcuda_core::device::{DeviceIndex, Uuid};
use vcuda_core::snapshot::Snapshot;
use vcuda_core::suspension::Phase;

/// Left free beside what is restored: the driver takes some memory that it counts for no process.
const MARGIN_BYTES: u64 = 256 << 20;
/// Of what is restored, one part in so many is left free beside that.
const MARGIN_PART: u64 = 64;
/// How long others take to finish what they had begun when told to take nothing new.
const SETTLING: Duration = Duration::from_millis(30);
/// How often it is looked whether there is room.
const POLL: Duration = Duration::from_millis(100);
/// Others are held for this long at most if the lease's holder dies: as long as a restore may take.
const LEAST_HOLD: Duration = Duration::from_secs(10);
/// And never longer: the control file's readers don't believe more.
const MOST_HOLD: Duration = Duration::from_secs(590);
/// The slowest restore that is reckoned with, in bytes a second.
const SLOWEST_RESTORE: u64 = 500 << 20;

/// What is needed of one GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// The GPU.
    pub gpu: Uuid,
    /// Bytes.
    pub bytes: u64,
}

impl Need {
    /// With the margin.
    pub(crate) fn with_margin(self) -> u64 {
        self.bytes.saturating_add(MARGIN_BYTES).saturating_add(self.bytes / MARGIN_PART)
    }
}

/// What is waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// Another lease on the GPU.
    Lease(Uuid),
    /// Free memory, for all that is in use: what is needed, margin included, and what is free, in bytes.
    Room {
        /// The GPU.
        gpu: Uuid,
        /// Needed, margin included.
        needed_bytes: u64,
        /// Free now.
        free_bytes: u64,
    },
    /// Memory that was promised to other slices.
    Promise {
        /// The GPU.
        gpu: Uuid,
        /// Needed, margin included.
        needed_bytes: u64,
        /// What the others were promised.
        promised_bytes: u64,
        /// What the GPU has.
        total_bytes: u64,
    },
    /// The slice's own quota, which others of it have reserved meanwhile.
    Quota {
        /// In use by others of the slice, in bytes.
        used_bytes: u64,
        /// The limit in bytes.
        limit_bytes: u64,
    },
}

impl std::fmt::Display for Waiting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mib = |bytes: u64| bytes >> 20;
        match self {
            Waiting::Lease(gpu) => write!(f, "another process is being resumed on {gpu}"),
            Waiting::Room { gpu, needed_bytes, free_bytes } => {
                write!(f, "{gpu} has {} MiB free of the {} MiB needed", mib(*free_bytes), mib(*needed_bytes))
            }
            Waiting::Promise { gpu, needed_bytes, promised_bytes, total_bytes } => write!(
                f,
                "of {} MiB on {gpu}, {} MiB are promised to other slices, and {} MiB are needed; --overcommit goes by \
                 what is free",
                mib(*total_bytes),
                mib(*promised_bytes),
                mib(*needed_bytes)
            ),
            Waiting::Quota { used_bytes, limit_bytes } => write!(
                f,
                "others of the slice use {} MiB of its {} MiB, which leaves too little",
                mib(*used_bytes),
                mib(*limit_bytes)
            ),
        }
    }
}

/// How a lease is to be had.
pub struct Terms<'a> {
    /// All slices of the machine that are known, to be held back and to see what they were promised.
    pub slices: &'a [Arc<Control>],
    /// What the GPUs have.
    pub memory: &'a dyn DeviceMemory,
    /// Whether to go by what is free, whatever others were promised.
    pub overcommit: bool,
    /// How long to wait; `None`: as long as it takes.
    pub timeout: Option<Duration>,
    /// Told what is waited for, again and again.
    pub tell: &'a mut dyn FnMut(&Waiting),
}

/// A lease. Others go on when it is dropped.
pub struct Lease {
    held: Vec<(Arc<Control>, DeviceIndex)>,
    _locks: Vec<File>,
}

/// When to give up.
pub(crate) struct Deadline(Option<Instant>);

impl Deadline {
    pub(crate) fn after(timeout: Option<Duration>) -> Deadline {
        Deadline(timeout.and_then(|timeout| Instant::now().checked_add(timeout)))
    }

    pub(crate) fn is_over(&self) -> bool {
        self.0.is_some_and(|end| Instant::now() >= end)
    }

    pub(crate) fn left(&self) -> Option<Duration> {
        self.0.map(|end| end.saturating_duration_since(Instant::now()))
    }
}

impl Lease {
    /// Waits until there is room for `needs` in the machine's GPUs, beside everything that others of the slice `own` and
    /// of the other slices have and may have, and keeps it.
    ///
    /// # Errors
    /// What was waited for to the end.
    pub fn acquire(needs: &[Need], own: &Control, terms: &mut Terms) -> Result<Lease, Waiting> {
        let mut needs: Vec<Need> = needs.iter().copied().filter(|need| need.bytes > 0).collect();
        // The same order for everybody, so that two who need the same GPUs don't wait for each other.
        needs.sort_by_key(|need| need.gpu.bytes());
        let deadline = Deadline::after(terms.timeout);
        let mut locks = Vec::new();
        for need in &needs {
            locks.extend(lock(need.gpu, &deadline, terms)?);
        }
        let mut lease = Lease { held: Vec::new(), _locks: locks };
        loop {
            // Others are held only when it looks as if that leads somewhere.
            let mut missing = missing(&needs, own, terms);
            if missing.is_none() {
                lease.hold(&needs, terms.slices);
                sleep(SETTLING);
                missing = self::missing(&needs, own, terms);
            }
            let Some(waiting) = missing else { return Ok(lease) };
            lease.let_go();
            if deadline.is_over() {
                return Err(waiting);
            }
            (terms.tell)(&waiting);
            sleep(deadline.left().map_or(POLL, |left| left.min(POLL)));
        }
    }

    fn hold(&mut self, needs: &[Need], slices: &[Arc<Control>]) {
        for need in needs {
            let longest =
                LEAST_HOLD.saturating_add(Duration::from_secs(need.bytes / SLOWEST_RESTORE)).min(MOST_HOLD);
            let until_ns = monotonic_ns().saturating_add(longest.as_nanos() as u64);
            for slice in slices {
                // A slice that doesn't know the GPU takes nothing of it; one that can't be written to is covered by
                // what is free and by the margin.
                if let Ok(Some(device)) = slice.find_device(need.gpu)
                    && slice.hold_until(device, until_ns).is_ok()
                {
                    self.held.push((Arc::clone(slice), device));
                }
            }
        }
    }

    fn let_go(&mut self) {
        for (slice, device) in self.held.drain(..) {
            // Lost with the file, and over by itself soon.
            let _ = slice.hold_until(device, 0);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.let_go();
    }
}

/// What is lacking for one of the needs.
fn missing(needs: &[Need], own: &Control, terms: &Terms) -> Option<Waiting> {
    needs.iter().find_map(|need| {
        let (gpu, needed_bytes) = (need.gpu, need.with_margin());
        // A GPU that can't be asked is left to the promises.
        let memory = terms.memory.memory(gpu);
        if let Some(memory) = memory
            && memory.free_bytes < needed_bytes
        {
            return Some(Waiting::Room { gpu, needed_bytes, free_bytes: memory.free_bytes });
        }
        let total_bytes = memory?.total_bytes;
        let others = terms.slices.iter().filter(|slice| slice.path() != own.path());
        let promised_bytes =
            others.filter_map(|slice| slice.snapshot().ok()).map(|slice| promised(&slice, gpu)).sum();
        let is_over = needed_bytes.saturating_add(promised_bytes) > total_bytes;
        // Who lets everyone have more than there is has to go by what is free.
        (is_over && !terms.overcommit && promised_bytes <= total_bytes).then_some(Waiting::Promise {
            gpu,
            needed_bytes,
            promised_bytes,
            total_bytes,
        })
    })
}

/// What a slice may come to have of a GPU: its limit while something of it runs, and what it has where it has no limit or
/// makes room when idle.
fn promised(slice: &Snapshot, gpu: Uuid) -> u64 {
    let Some(device) = slice.devices.iter().find(|device| device.uuid == gpu) else { return 0 };
    let mut running = slice.processes.iter().filter(|process| {
        process.alive != Some(false)
            && process.suspension.phase() == Phase::Running
            && process.devices.iter().any(|view| view.device == device.index)
    });
    let Some(first) = running.next() else { return 0 };
    match device.limit_bytes {
        Some(limit_bytes) if first.suspension.idle_release().is_none() => {
            limit_bytes.min(device.physical_bytes.max(device.used_bytes))
        }
        _ => device.used_bytes,
    }
}

/// The lock file of a GPU. It belongs to nobody, so that agents of several users exclude each other.
fn lock_path(gpu: Uuid) -> PathBuf {
    lock_directory().join(format!(".vcuda-lease-{gpu}"))
}

/// Where lock files are.
pub(crate) fn lock_directory() -> PathBuf {
    std::env::var_os("VCUDA_LEASE_DIRECTORY").map_or(PathBuf::from("/dev/shm"), PathBuf::from)
}

fn open_lock(gpu: Uuid) -> io::Result<File> {
    let path = lock_path(gpu);
    let open = |create: bool| {
        OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(create)
            .mode(0o666)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(&path)
    };
    // Opening and making are two steps: in a directory such as /dev/shm the kernel forbids both at once for a file that
    // belongs to another user.
    match open(false) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => match open(true) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => open(false),
            made => {
                let file = made?;
                // Whatever the umask.
                file.set_permissions(std::fs::Permissions::from_mode(0o666))?;
                Ok(file)
            }
        },
        opened => opened,
    }
}

/// Takes the lock of a GPU. Where there can be no such file, there is no other lease to be told from either.
fn lock(gpu: Uuid, deadline: &Deadline, terms: &mut Terms) -> Result<Option<File>, Waiting> {
    let Ok(file) = open_lock(gpu) else { return Ok(None) };
    loop {
        // SAFETY: an open descriptor. Locks of this kind belong to the open file and go with it.
        if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } == 0 {
            return Ok(Some(file));
        }
        if deadline.is_over() {
            return Err(Waiting::Lease(gpu));
        }
        (terms.tell)(&Waiting::Lease(gpu));
        match deadline.left() {
            // The kernel hands the lock on in the order of asking.
            // SAFETY: as above.
            None => unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX) },
            Some(left) => {
                sleep(left.min(POLL));
                continue;
            }
        };
    }
}
