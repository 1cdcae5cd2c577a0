//! The processes that use the machine: each holds a slot for as long as a byte of the state file stays
//! locked through a mapping that dies with it, whatever kills it.

use crate::layout::{LIFE_LOCK_OFFSET, Layout, MAX_PROCESSES, Process};
use crate::machine::with_timeline;
use crate::region::{MachineError, Region, open_file};
use crate::{checkpoint, lock, naming};
use memmap2::{MmapOptions, MmapRaw};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::Ordering::Relaxed;

/// A process's claim to its slot.
pub(crate) struct Claim {
    pub(crate) index: usize,
    /// Keeps the locked open file alive without a descriptor that the program could close.
    _life: MmapRaw,
}

/// Claims a free slot for this process.
pub(crate) fn claim(region: &Region) -> Result<Claim, MachineError> {
    let failed = |source| MachineError::File { path: region.path.clone(), source };
    let layout = region.layout();
    reap(region);
    for index in 0..MAX_PROCESSES {
        if layout.processes[index].pid.load(Relaxed) != 0 {
            continue;
        }
        let file = open_file(&region.path).map_err(failed)?;
        if !try_lock(&file, index).map_err(failed)? {
            continue;
        }
        let life = MmapOptions::new().len(4096).map_raw_read_only(&file).map_err(failed)?;
        // A forked child doesn't live on as its parent.
        // SAFETY: the range is exactly the mapping just made.
        unsafe { libc::madvise(life.as_ptr().cast_mut().cast(), life.len(), libc::MADV_DONTFORK) };
        let (_guard, abandoned) = lock::acquire(&layout.header.lock);
        repair_if(abandoned, layout);
        let slot = &layout.processes[index];
        if slot.pid.load(Relaxed) != 0 {
            // Somebody died here between the look and the lock, and waits to be reaped.
            clear(layout, index);
        }
        slot.start_ticks.store(own_start_ticks(), Relaxed);
        slot.namespace.store(naming::own_namespace(), Relaxed);
        slot.pid.store(std::process::id(), Relaxed);
        return Ok(Claim { index, _life: life });
    }
    Err(MachineError::Full { path: region.path.clone() })
}

/// Takes back what dead processes held; true if there was any.
pub(crate) fn reap(region: &Region) -> bool {
    let layout = region.layout();
    if layout.processes.iter().all(|slot| slot.pid.load(Relaxed) == 0) {
        return false;
    }
    // A file that is gone can't be asked who lives; then nobody is declared dead.
    let Ok(file) = open_file(&region.path) else { return false };
    let mut reaped = false;
    for (index, slot) in layout.processes.iter().enumerate() {
        if slot.pid.load(Relaxed) == 0 || is_locked(&file, index) {
            continue;
        }
        let (_guard, abandoned) = lock::acquire(&layout.header.lock);
        repair_if(abandoned, layout);
        // The slot may have gone to a new process since; its lock shows by now.
        if slot.pid.load(Relaxed) != 0 && !is_locked(&file, index) {
            clear(layout, index);
            reaped = true;
        }
    }
    reaped
}

/// Empties a slot and gives its memory back; its work is gone. Call it with the lock held.
fn clear(layout: &Layout, index: usize) {
    let slot: &Process = &layout.processes[index];
    for (holding, gpu) in slot.gpus.iter().zip(&layout.gpus) {
        gpu.used_bytes.fetch_sub(holding.device_bytes.swap(0, Relaxed), Relaxed);
        holding.process_bytes.store(0, Relaxed);
        holding.peak_device_bytes.store(0, Relaxed);
        holding.contexts.store(0, Relaxed);
        holding.aside_device_bytes.store(0, Relaxed);
        holding.aside_process_bytes.store(0, Relaxed);
        holding.aside_contexts.store(0, Relaxed);
    }
    slot.standing.store(checkpoint::RUNNING, Relaxed);
    slot.obstacles.store(0, Relaxed);
    slot.calls.0.store(0, Relaxed);
    let pid = slot.pid.swap(0, Relaxed);
    with_timeline(layout, |timeline| timeline.end_process(index, pid));
}

/// After a holder died with the lock: the processes' own counts are the truth. Call it with the lock held.
pub(crate) fn repair_if(abandoned: bool, layout: &Layout) {
    if !abandoned {
        return;
    }
    for (index, gpu) in layout.gpus.iter().enumerate() {
        let sum = layout.processes.iter().map(|slot| slot.gpus[index].device_bytes.load(Relaxed)).sum();
        gpu.used_bytes.store(sum, Relaxed);
    }
}

fn life_lock(index: usize, kind: libc::c_int) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: LIFE_LOCK_OFFSET + index as i64,
        l_len: 1,
        l_pid: 0,
    }
}

fn try_lock(file: &File, index: usize) -> io::Result<bool> {
    let lock = life_lock(index, libc::F_WRLCK);
    // SAFETY: the descriptor is open and the pointer is to a live flock.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &lock) } == 0 {
        return Ok(true);
    }
    match io::Error::last_os_error() {
        error if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => Ok(false),
        error => Err(error),
    }
}

/// Whether somebody holds the slot's lock. Each is asked for alone: of several locks in a range the system names
/// any, not the first.
fn is_locked(file: &File, index: usize) -> bool {
    let mut lock = life_lock(index, libc::F_WRLCK);
    // SAFETY: the descriptor is open and the pointer is to a live, writable flock.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &mut lock) };
    // Where that can't be known, nobody is declared dead.
    result != 0 || lock.l_type != libc::F_UNLCK as libc::c_short
}

/// Field 22 of `/proc/self/stat`; 0 where that can't be read.
fn own_start_ticks() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    after_name.split_whitespace().nth(19).and_then(|field| field.parse().ok()).unwrap_or(0)
}
