//! What one process does to another: stop it, put what it has of the GPUs aside, bring that back, let it go on.
//!
//! Owns the standing of each process and the count of its calls. A stopper that dies half-way leaves a process
//! that is stopped; everything else happens under the machine's lock.

use crate::layout::{Layout, MAX_PROCESSES, Process};
use crate::machine::{Machine, Member, with_timeline};
use crate::naming::pid_here;
use crate::{lock, process};
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::time::{Duration, Instant};

/// Calls go through.
pub(crate) const RUNNING: u32 = 0;
/// Calls wait, nothing is under way.
const LOCKED: u32 = 1;
/// The same, and nothing is on the GPUs.
const CHECKPOINTED: u32 = 2;
/// New calls wait, and somebody waits for the old ones.
const LOCKING: u32 = 4;
/// Put aside and never to come back.
const LOST: u32 = 5;

/// How a process stands, in the driver's own numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Standing {
    Running = RUNNING,
    Locked = LOCKED,
    Checkpointed = CHECKPOINTED,
}

/// Why nothing was done to a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// None of this id uses the machine.
    NoProcess,
    /// Its owner has kept it from being traced by this process.
    NotPermitted,
    /// It doesn't stand as it would have to.
    WrongStanding,
    /// It did not come to rest in time, and goes on.
    TimedOut,
    /// Memory is short; the process is lost.
    OutOfMemory,
    /// It was lost before.
    Lost,
}

impl Machine {
    /// How a process stands.
    pub fn standing(&self, pid: u32) -> Result<Standing, Refusal> {
        let slot = self.slot_of(pid)?;
        Ok(match settled(slot) {
            LOCKED => Standing::Locked,
            CHECKPOINTED | LOST => Standing::Checkpointed,
            _ => Standing::Running,
        })
    }

    /// Has new calls of a process wait, and waits for those under way and for everything it queued.
    pub fn stop(&self, pid: u32, timeout: Option<Duration>) -> Result<(), Refusal> {
        let index = self.index_of(pid)?;
        let slot = &self.layout().processes[index];
        let named = slot.pid.load(Relaxed);
        settled(slot);
        slot.stopper.store(std::process::id(), Relaxed);
        exchange(slot, RUNNING, LOCKING)?;
        let begin = Instant::now();
        while slot.calls.0.load(SeqCst) != 0 || with_timeline(self.layout(), |time| time.has_pending(index)) {
            if timeout.is_some_and(|timeout| begin.elapsed() >= timeout) {
                release(slot);
                return Err(Refusal::TimedOut);
            }
            std::thread::sleep(Duration::from_micros(200));
            self.reap();
            if slot.pid.load(Relaxed) != named {
                return Err(Refusal::NoProcess);
            }
        }
        exchange(slot, LOCKING, LOCKED)
    }

    /// What stands in the way of putting a process aside: a sum of the layout's obstacles.
    pub fn obstacles(&self, pid: u32) -> Result<u32, Refusal> {
        Ok(self.slot_of(pid)?.obstacles.load(Relaxed))
    }

    /// Takes everything that a stopped process has off the GPUs.
    pub fn put_aside(&self, pid: u32) -> Result<(), Refusal> {
        let slot = self.slot_of(pid)?;
        let layout = self.layout();
        let (_guard, abandoned) = lock::acquire(&layout.header.lock);
        process::repair_if(abandoned, layout);
        exchange(slot, LOCKED, CHECKPOINTED)?;
        for (holding, gpu) in slot.gpus.iter().zip(&layout.gpus) {
            let bytes = holding.device_bytes.swap(0, Relaxed);
            gpu.used_bytes.fetch_sub(bytes, Relaxed);
            holding.aside_device_bytes.store(bytes, Relaxed);
            holding.aside_process_bytes.store(holding.process_bytes.swap(0, Relaxed), Relaxed);
            holding.aside_contexts.store(holding.contexts.swap(0, Relaxed), Relaxed);
        }
        Ok(())
    }

    /// Brings it back, all or nothing; the process stays stopped.
    pub fn bring_back(&self, pid: u32) -> Result<(), Refusal> {
        self.reap();
        let slot = self.slot_of(pid)?;
        let layout = self.layout();
        let (_guard, abandoned) = lock::acquire(&layout.header.lock);
        process::repair_if(abandoned, layout);
        match slot.standing.load(SeqCst) {
            CHECKPOINTED => {}
            LOST => return Err(Refusal::Lost),
            _ => return Err(Refusal::WrongStanding),
        }
        let each = || slot.gpus.iter().zip(&layout.gpus);
        let is_room = each().all(|(holding, gpu)| {
            let free = gpu.total_bytes.saturating_sub(gpu.used_bytes.load(Relaxed));
            holding.aside_device_bytes.load(Relaxed) <= free
        });
        if !is_room {
            slot.standing.store(LOST, SeqCst);
            return Err(Refusal::OutOfMemory);
        }
        for (holding, gpu) in each() {
            let bytes = holding.aside_device_bytes.swap(0, Relaxed);
            holding.device_bytes.store(bytes, Relaxed);
            holding.process_bytes.store(holding.aside_process_bytes.swap(0, Relaxed), Relaxed);
            holding.contexts.store(holding.aside_contexts.swap(0, Relaxed), Relaxed);
            let used = gpu.used_bytes.fetch_add(bytes, Relaxed) + bytes;
            gpu.peak_bytes.fetch_max(used, Relaxed);
        }
        slot.standing.store(LOCKED, SeqCst);
        Ok(())
    }

    /// Lets a stopped process go on.
    pub fn let_go(&self, pid: u32) -> Result<(), Refusal> {
        let slot = self.slot_of(pid)?;
        if settled(slot) != LOCKED {
            return Err(Refusal::WrongStanding);
        }
        release(slot);
        Ok(())
    }

    fn slot_of(&self, pid: u32) -> Result<&Process, Refusal> {
        Ok(&self.layout().processes[self.index_of(pid)?])
    }

    /// The slot of a live process that this one may trace, which is asked by opening what only a tracer may open.
    fn index_of(&self, pid: u32) -> Result<usize, Refusal> {
        self.reap();
        let slots = &self.layout().processes;
        let found = (0..MAX_PROCESSES).find(|&index| pid_here(&slots[index]) == Some(pid));
        let index = found.ok_or(Refusal::NoProcess)?;
        match std::fs::File::open(format!("/proc/{pid}/mem")) {
            Ok(_) => Ok(index),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(Refusal::NoProcess),
            Err(_) => Err(Refusal::NotPermitted),
        }
    }
}

impl Member {
    /// Begins a call, waiting while this process is stopped.
    pub fn enter_call(&self) {
        let slot = self.own();
        slot.calls.0.fetch_add(1, SeqCst);
        if slot.standing.load(SeqCst) != RUNNING {
            wait_to_enter(slot);
        }
    }

    /// Ends a call.
    pub fn leave_call(&self) {
        self.own().calls.0.fetch_sub(1, SeqCst);
    }

    /// Says that something stands in the way of putting this process aside, or no longer does.
    pub fn set_obstacle(&self, obstacle: u32, is_there: bool) {
        let obstacles = &self.own().obstacles;
        if is_there {
            obstacles.fetch_or(obstacle, Relaxed);
        } else {
            obstacles.fetch_and(!obstacle, Relaxed);
        }
    }

    fn own(&self) -> &Process {
        let layout: &Layout = self.machine().layout();
        &layout.processes[self.slot()]
    }
}

#[cold]
fn wait_to_enter(slot: &Process) {
    loop {
        slot.calls.0.fetch_sub(1, SeqCst);
        loop {
            let standing = settled(slot);
            if standing == RUNNING {
                break;
            }
            wait_on(&slot.standing, standing);
        }
        slot.calls.0.fetch_add(1, SeqCst);
        if slot.standing.load(SeqCst) == RUNNING {
            return;
        }
    }
}

/// The standing, with what a stopper that died had begun brought to its end.
fn settled(slot: &Process) -> u32 {
    let standing = slot.standing.load(SeqCst);
    let stopper = slot.stopper.load(Relaxed);
    if standing == LOCKING && !std::path::Path::new(&format!("/proc/{stopper}")).exists() {
        let _ = exchange(slot, LOCKING, LOCKED);
        return slot.standing.load(SeqCst);
    }
    standing
}

fn exchange(slot: &Process, from: u32, to: u32) -> Result<(), Refusal> {
    let changed = slot.standing.compare_exchange(from, to, SeqCst, SeqCst);
    changed.map(drop).map_err(|_| Refusal::WrongStanding)
}

fn release(slot: &Process) {
    slot.standing.store(RUNNING, SeqCst);
    wake_all(&slot.standing);
}

/// Sleeps until the word may no longer be `value`, and not for long.
fn wait_on(word: &AtomicU32, value: u32) {
    let most = libc::timespec { tv_sec: 0, tv_nsec: 50_000_000 };
    // SAFETY: the word lives in the mapped state file, and the time outlives the call.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT, value, &raw const most) };
}

fn wake_all(word: &AtomicU32) {
    // SAFETY: the word lives in the mapped state file.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, i32::MAX) };
}
