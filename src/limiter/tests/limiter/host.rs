//! The processes that use a device: each has a clock of its own, and the one whose clock is furthest behind runs.

use crate::chance::Chance;
use crate::device::{Device, Work};
use parking_lot::{Condvar, Mutex};
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use vcuda_limiter::machine::{Machine, Progress};

/// How calls and sleep behave, in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub struct Manners {
    pub launch_ns: u64,
    /// One launch in so many takes ten times as long.
    pub slow_launch_one_in: u64,
    pub record_ns: u64,
    pub slow_record_one_in: u64,
    /// From the end of work to the return of the call that waits for it.
    pub wake_ns: u64,
    /// By how much sleep is too long, at least and at most.
    pub late_ns: (u64, u64),
    /// One sleep in so many is a millisecond or several too long.
    pub very_late_one_in: u64,
    pub launch_fails_one_in: u64,
    pub record_fails_one_in: u64,
    /// An event is lost so often.
    pub event_lost_one_in: u64,
    pub queue_depth: usize,
}

impl Default for Manners {
    fn default() -> Self {
        Self {
            launch_ns: 3_300,
            slow_launch_one_in: 100,
            record_ns: 800,
            slow_record_one_in: 100,
            wake_ns: 4_000,
            late_ns: (5_000, 100_000),
            very_late_one_in: 300,
            launch_fails_one_in: 0,
            record_fails_one_in: 0,
            event_lost_one_in: 0,
            queue_depth: 1024,
        }
    }
}

/// A device and the clocks of its processes.
pub struct World {
    device: Mutex<Device>,
    clocks: Mutex<Vec<u64>>,
    turns: Vec<Condvar>,
}

impl World {
    /// Clocks start at `begin_ns`.
    pub fn new(device: Device, processes: usize, begin_ns: u64) -> Self {
        Self {
            device: Mutex::new(device),
            clocks: Mutex::new(vec![begin_ns; processes]),
            turns: (0..processes).map(|_| Condvar::new()).collect(),
        }
    }

    pub fn device<R>(&self, use_it: impl FnOnce(&mut Device) -> R) -> R {
        use_it(&mut self.device.lock())
    }

    /// Sets a clock, and returns when all others have come as far.
    fn reach(&self, process: usize, time_ns: u64) {
        if self.turns.len() == 1 {
            return;
        }
        let mut clocks = self.clocks.lock();
        clocks[process] = time_ns;
        loop {
            let next = (0..clocks.len()).min_by_key(|&other| clocks[other]).unwrap_or(process);
            if next == process {
                return;
            }
            self.turns[next].notify_one();
            self.turns[process].wait(&mut clocks);
        }
    }

    fn leave(&self, process: usize) {
        let mut clocks = self.clocks.lock();
        clocks[process] = u64::MAX;
        if let Some(next) = (0..clocks.len()).min_by_key(|&other| clocks[other]) {
            self.turns[next].notify_one();
        }
    }
}

/// What happened to a host.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    pub launches: u64,
    pub records: u64,
    pub sleeps: u64,
}

/// One process.
pub struct Host<'w> {
    pub world: &'w World,
    pub manners: Manners,
    pub chance: Chance,
    pub process: usize,
    now_ns: Cell<u64>,
    tally: Cell<Tally>,
    /// Virtual time must not pass this: something hangs.
    deadline_ns: Cell<u64>,
}

/// A launch failed.
#[derive(Debug)]
pub struct Failed;

impl<'w> Host<'w> {
    pub fn new(world: &'w World, process: usize, manners: Manners, seed: u64) -> Self {
        let now_ns = world.clocks.lock()[process];
        let host = Self {
            world,
            manners,
            chance: Chance::new(seed),
            process,
            now_ns: Cell::new(now_ns),
            tally: Cell::default(),
            deadline_ns: Cell::new(u64::MAX),
        };
        host.spend(0);
        host
    }

    pub fn now(&self) -> u64 {
        self.now_ns.get()
    }

    pub fn tally(&self) -> Tally {
        self.tally.get()
    }

    pub fn hangs_after(&self, deadline_ns: u64) {
        self.deadline_ns.set(deadline_ns);
    }

    /// Lets time pass.
    pub fn spend(&self, time_ns: u64) {
        self.come_to(self.now() + time_ns);
    }

    fn come_to(&self, time_ns: u64) {
        assert!(time_ns <= self.deadline_ns.get(), "process {} hangs", self.process);
        self.now_ns.set(time_ns.max(self.now()));
        self.world.reach(self.process, self.now());
    }

    fn call(&self, typical_ns: u64, slow_one_in: u64) {
        let mut took_ns = typical_ns - typical_ns / 10 + self.chance.between(0, typical_ns / 5 + 1);
        if self.chance.one_in(slow_one_in) {
            took_ns *= 10;
        }
        self.spend(took_ns);
    }

    fn count(&self, change: impl FnOnce(&mut Tally)) {
        let mut tally = self.tally.get();
        change(&mut tally);
        self.tally.set(tally);
    }

    /// Waits while a stream's queue is full.
    fn wait_for_room(&self, stream: usize) {
        loop {
            let now_ns = self.now();
            let next_ns = self.world.device(|device| {
                let is_full = device.depth(stream, now_ns) >= self.manners.queue_depth;
                is_full.then(|| device.not_before_ns(stream, false))
            });
            match next_ns {
                None => return,
                Some(next_ns) => self.come_to(next_ns.max(now_ns + 1_000)),
            }
        }
    }

    /// `cuLaunchKernel` and its like.
    pub fn launch(&self, stream: usize, work: Work) -> Result<(), Failed> {
        self.wait_for_room(stream);
        self.call(self.manners.launch_ns, self.manners.slow_launch_one_in);
        if self.chance.one_in(self.manners.launch_fails_one_in) {
            return Err(Failed);
        }
        self.count(|tally| tally.launches += 1);
        self.world.device(|device| device.give(stream, work, self.now()));
        Ok(())
    }

    /// A copy that returns when it is done.
    pub fn copy(&self, stream: usize, work: Work) -> Result<(), Failed> {
        self.launch(stream, work)?;
        self.synchronize(stream);
        Ok(())
    }

    /// `cuStreamSynchronize`.
    pub fn synchronize(&self, stream: usize) {
        let called_ns = self.now();
        loop {
            let now_ns = self.now();
            let done = self.world.device(|device| {
                device.done_ns(stream, now_ns).ok_or_else(|| device.not_before_ns(stream, true))
            });
            match done {
                Ok(done_ns) => {
                    let wake_ns = self.manners.wake_ns + self.chance.between(0, self.manners.wake_ns / 4 + 1);
                    self.come_to((done_ns + wake_ns).max(called_ns + 1_000));
                    return;
                }
                Err(not_before_ns) => self.come_to(not_before_ns.max(now_ns + 1_000)),
            }
        }
    }
}

impl Drop for Host<'_> {
    fn drop(&mut self) {
        self.world.leave(self.process);
    }
}

impl Machine for Host<'_> {
    type Event = usize;
    type Stream = usize;

    fn now_ns(&self) -> u64 {
        self.now_ns.set(self.now() + 20);
        self.now()
    }

    fn record(&self, stream: usize) -> Option<usize> {
        self.call(self.manners.record_ns, self.manners.slow_record_one_in);
        if self.chance.one_in(self.manners.record_fails_one_in) {
            return None;
        }
        self.wait_for_room(stream);
        self.count(|tally| tally.records += 1);
        Some(self.world.device(|device| device.record(stream, self.now())))
    }

    fn progress(&self, event: usize) -> Progress {
        self.spend(120);
        let is_done = self.world.device(|device| device.is_done(event, self.now()));
        match is_done {
            true if self.chance.one_in(self.manners.event_lost_one_in) => Progress::Lost,
            true => Progress::Done,
            false => Progress::Pending,
        }
    }

    fn elapsed_ns(&self, from: usize, to: usize) -> Option<u64> {
        self.spend(60);
        let milliseconds = self.world.device(|device| device.elapsed_milliseconds(from, to));
        Some((f64::from(milliseconds.max(0.0)) * 1e6).round() as u64)
    }

    fn recycle(&self, event: usize) {
        self.world.device(|device| device.recycle(event));
    }

    fn sleep_until(&self, until_ns: u64) {
        self.count(|tally| tally.sleeps += 1);
        let (least_ns, most_ns) = self.manners.late_ns;
        let mut late_ns = self.chance.between(least_ns, most_ns + 1);
        if self.chance.one_in(self.manners.very_late_one_in) {
            late_ns += self.chance.between(1_000_000, 5_000_000);
        }
        self.come_to(until_ns.max(self.now()) + late_ns);
    }

    fn pause(&self) {
        self.spend(1_000);
    }

    /// Looks at the word every tenth of a millisecond, for which no time is charged.
    fn sleep_on(&self, word: &AtomicU64, found: u64, until_ns: u64) {
        const STEP_NS: u64 = 100_000;
        while self.now() + STEP_NS < until_ns {
            self.spend(STEP_NS);
            if word.load(Ordering::Relaxed) != found {
                return self.sleep_until(self.now());
            }
        }
        self.sleep_until(until_ns);
    }
}
