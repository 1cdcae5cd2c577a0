//! The books: for how long each GPU worked, for whom, and when lately. Time counts once however much runs
//! beside each other, and only once it has passed.

use super::Timeline;
use super::line::{NO_ENGINE, RUNNING};
use crate::layout::{MAX_GPUS, MAX_PROCESSES};

/// Length of one slot of the record of how busy a GPU was, in nanoseconds.
pub const SLOT_NS: u64 = 100_000_000;
/// Slots in that record.
pub const SLOTS: usize = 128;
/// Processes that are remembered after their end.
pub const ENDED: usize = 256;

/// What one GPU did.
#[repr(C)]
pub struct Books {
    busy_ns: u64,
    unit_count: u64,
    /// Busy time of all processes that ended, added up.
    ended_busy_ns: u64,
    /// Busy time of slot `time / SLOT_NS`, kept at that number modulo `SLOTS`: the low 32 bits of the slot's
    /// number above the nanoseconds.
    slots: [u64; SLOTS],
}

/// What the GPUs did for one process.
#[repr(C)]
pub struct Tenant {
    busy_ns: [u64; MAX_GPUS],
    unit_count: [u64; MAX_GPUS],
}

/// What the GPUs did for a process that ended.
#[repr(C)]
pub struct Ended {
    pid: u32,
    busy_ns: [u64; MAX_GPUS],
}

/// For how long a GPU worked since the machine was made: the time in which anything ran on it, kernels or
/// copies, to the nanosecond and up to `at_ns`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Busy {
    /// The moment that this is true of, on the monotonic clock.
    pub at_ns: u64,
    /// For any process.
    pub busy_ns: u64,
    /// Kernels, copies and fills that are over.
    pub unit_count: u64,
    /// For each process that lives, by its id. Times of different processes may overlap.
    pub processes: Vec<(u32, u64)>,
    /// For each of the last 256 processes that ended, by the id it had, oldest first.
    pub ended: Vec<(u32, u64)>,
    /// For all processes that ended, added up.
    pub ended_busy_ns: u64,
}

/// How busy a GPU was in one tenth of a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Utilisation {
    /// When the tenth of a second ended, on the monotonic clock.
    pub end_ns: u64,
    pub percent: u32,
}

impl Timeline {
    /// Enters the time until `next_ns`, in which nothing changes.
    pub(super) fn account(&mut self, next_ns: u64) {
        let mut busy: [Workers; MAX_GPUS] = [Workers::NONE; MAX_GPUS];
        for line in self.active().filter(|line| line.stage == RUNNING && line.engine != NO_ENGINE) {
            busy[line.gpu as usize].add(line.owner);
        }
        let (from_ns, passed_ns) = (self.settled_ns, next_ns - self.settled_ns);
        for (gpu, workers) in busy.iter().enumerate().filter(|(_, workers)| workers.0[0] != 0) {
            self.books[gpu].busy_ns += passed_ns;
            self.books[gpu].record(from_ns, next_ns);
            for owner in workers.0.into_iter().filter(|&owner| owner != 0) {
                self.tenants[owner as usize - 1].busy_ns[gpu] += passed_ns;
            }
        }
    }

    /// Counts the unit that ends on a line.
    pub(super) fn count_unit(&mut self, index: usize) {
        let line = &self.lines[index];
        self.books[line.gpu as usize].unit_count += 1;
        self.tenants[line.owner as usize - 1].unit_count[line.gpu as usize] += 1;
    }

    /// Makes room for a new process in a slot.
    pub(super) fn close_books(&mut self, process: usize, pid: u32) {
        let tenant = &mut self.tenants[process];
        let busy_ns = std::mem::replace(&mut tenant.busy_ns, [0; MAX_GPUS]);
        tenant.unit_count = [0; MAX_GPUS];
        if busy_ns == [0; MAX_GPUS] {
            return;
        }
        for (books, busy_ns) in self.books.iter_mut().zip(busy_ns) {
            books.ended_busy_ns += busy_ns;
        }
        self.ended[self.ended_count as usize % ENDED] = Ended { pid, busy_ns };
        self.ended_count += 1;
    }

    /// What a GPU did so far; `pids` has the ids of the processes in their slots, 0 in a free one.
    pub(crate) fn busy(&self, gpu: usize, pids: &[u32; MAX_PROCESSES]) -> Busy {
        let books = &self.books[gpu];
        let living = pids.iter().zip(&self.tenants).filter(|&(&pid, _)| pid != 0);
        let numbers = self.ended_count.saturating_sub(ENDED as u64)..self.ended_count;
        let ended = numbers.map(|number| &self.ended[number as usize % ENDED]);
        Busy {
            at_ns: self.settled_ns,
            busy_ns: books.busy_ns,
            unit_count: books.unit_count,
            processes: living.map(|(&pid, tenant)| (pid, tenant.busy_ns[gpu])).collect(),
            ended: ended
                .map(|ended| (ended.pid, ended.busy_ns[gpu]))
                .filter(|&(_, busy_ns)| busy_ns > 0)
                .collect(),
            ended_busy_ns: books.ended_busy_ns,
        }
    }

    /// For how long a GPU worked so far.
    pub fn busy_ns(&self, gpu: usize) -> u64 {
        self.books[gpu].busy_ns
    }

    /// For how long a GPU worked for the process in a slot.
    pub fn busy_ns_of(&self, process: usize, gpu: usize) -> u64 {
        self.tenants[process].busy_ns[gpu]
    }

    /// How busy a GPU was in each tenth of a second before now, of the last `count`, oldest first.
    pub fn utilisation(&self, gpu: usize, count: usize) -> Vec<Utilisation> {
        let current = self.settled_ns / SLOT_NS;
        let first = current.saturating_sub(count.min(SLOTS - 1) as u64);
        let slot = |number| Utilisation {
            end_ns: (number + 1) * SLOT_NS,
            percent: (self.books[gpu].busy_in(number) * 100 / SLOT_NS) as u32,
        };
        (first..current).map(slot).collect()
    }
}

/// The processes that a GPU works for at one moment: one on the processors and one on each copy engine.
#[derive(Clone, Copy)]
struct Workers([u32; 3]);

impl Workers {
    const NONE: Workers = Workers([0; 3]);

    fn add(&mut self, owner: u32) {
        for place in &mut self.0 {
            if *place == owner {
                return;
            }
            if *place == 0 {
                *place = owner;
                return;
            }
        }
    }
}

impl Books {
    /// Enters time in which the GPU worked into the slots. What is older than the record is long is left out.
    fn record(&mut self, from_ns: u64, to_ns: u64) {
        let last = (to_ns - 1) / SLOT_NS;
        for number in (from_ns / SLOT_NS).max((last + 1).saturating_sub(SLOTS as u64))..=last {
            let from_ns = from_ns.max(number * SLOT_NS);
            let to_ns = to_ns.min((number + 1) * SLOT_NS);
            let busy_ns = self.busy_in(number) + (to_ns - from_ns);
            self.slots[number as usize % SLOTS] = number << 32 | busy_ns;
        }
    }

    fn busy_in(&self, number: u64) -> u64 {
        let word = self.slots[number as usize % SLOTS];
        if word >> 32 == number & u64::from(u32::MAX) { word & u64::from(u32::MAX) } else { 0 }
    }
}
