//! One line of work: a ring of units, of which the first that isn't over is the one that may run. The records
//! of units that are over stay until their places are needed. Rings lie apart from what is said about the lines,
//! which is looked at all the time.

use super::{Engine, Length, Mark, NEVER_NS, Unit};
use std::sync::atomic::{Ordering::Release, compiler_fence};

/// Lines that there may be at the same time.
pub const LINES: usize = 1024;
/// Units that may be pending on one line.
pub const DEPTH: usize = 1024;

/// An engine as it is written down.
pub type EngineNumber = u32;
pub const NO_ENGINE: EngineNumber = 0;
pub const PROCESSORS: EngineNumber = 1;
pub const FROM_HOST: EngineNumber = 2;
pub const TO_HOST: EngineNumber = 3;

/// How far the unit at a line's head has come.
pub type Stage = u32;
/// It waits for its time or for other work.
pub const WAITING: Stage = 0;
/// It waits for its engine.
pub const READY: Stage = 1;
pub const RUNNING: Stage = 2;
/// It lost its engine to another process.
pub const PAUSED: Stage = 3;

/// A line.
#[repr(C)]
pub struct Line {
    /// The slot of the process that opened it, plus 1; 0 for none.
    pub owner: u32,
    pub gpu: u32,
    /// Which opening of the line this is, from 1.
    pub generation: u32,
    pub stage: Stage,
    /// What the unit at the head needs, once it isn't waiting any more.
    pub engine: EngineNumber,
    pub percent: u32,
    pub order: u64,
    /// Since when the unit at the head has been as far as it is.
    pub since_ns: u64,
    /// What the unit at the head had left to do then.
    pub left_ns: u64,
    /// Units that are over.
    pub over: u64,
    /// Units ever queued.
    pub queued: u64,
    pub is_active: bool,
    is_head_open: bool,
    is_head_finished: bool,
}

/// The units of a line.
#[repr(C)]
pub struct Ring([Record; DEPTH]);

/// A unit as it is queued, and afterwards what became of it.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Record {
    pub earliest_ns: u64,
    pub duration_ns: u64,
    pub after: Mark,
    pub order: u64,
    pub tag: u64,
    pub start_ns: u64,
    pub end_ns: u64,
    engine: EngineNumber,
    percent: u16,
    is_open: bool,
    is_finished: bool,
}

const _: () = assert!(size_of::<Record>() == 72);

impl Record {
    pub fn new(unit: &Unit, order: u64) -> Record {
        let (engine, percent) = match unit.engine {
            Engine::None => (NO_ENGINE, 0),
            Engine::Processors { percent } => (PROCESSORS, percent.clamp(1, 100) as u16),
            Engine::FromHost => (FROM_HOST, 0),
            Engine::ToHost => (TO_HOST, 0),
        };
        let (duration_ns, is_open) = match unit.length {
            Length::Fixed(duration_ns) => (duration_ns, false),
            Length::Open { most_ns } => (most_ns, true),
        };
        Record {
            earliest_ns: unit.earliest_ns,
            duration_ns,
            after: unit.after,
            order,
            tag: unit.tag,
            start_ns: 0,
            end_ns: 0,
            engine,
            percent,
            is_open,
            is_finished: false,
        }
    }

    /// What the unit is sure to take.
    pub fn least_ns(&self) -> u64 {
        if self.is_open { 0 } else { self.duration_ns }
    }
}

impl Line {
    pub fn is_open(&self) -> bool {
        self.owner != 0
    }

    pub fn open(&mut self, owner: u32, gpu: u32) -> u32 {
        self.generation = self.generation.wrapping_add(1).max(1);
        (self.over, self.queued, self.stage) = (0, 0, WAITING);
        self.gpu = gpu;
        compiler_fence(Release);
        self.owner = owner;
        self.generation
    }

    pub fn close(&mut self) {
        self.owner = 0;
        self.stage = WAITING;
    }

    pub fn pending(&self) -> usize {
        (self.queued - self.over) as usize
    }

    /// Whether the unit at the head ends only when it is told to.
    pub fn is_head_open(&self) -> bool {
        self.is_head_open
    }

    /// Whether the unit at the head has begun.
    pub fn has_begun(&self) -> bool {
        matches!(self.stage, RUNNING | PAUSED)
    }

    /// The unit at the head waits for nothing but its engine any more.
    pub fn make_ready(&mut self, head: &Record, now_ns: u64) {
        (self.engine, self.percent, self.order) = (head.engine, u32::from(head.percent), head.order);
        (self.since_ns, self.left_ns) = (now_ns, head.duration_ns);
        (self.is_head_open, self.is_head_finished) = (head.is_open, head.is_finished);
        self.stage = READY;
    }

    /// The unit at the head has its engine from now on.
    pub fn start(&mut self, ring: &mut Ring, now_ns: u64) {
        if self.stage == READY {
            ring.record_mut(self.over).start_ns = now_ns;
        }
        (self.since_ns, self.stage) = (now_ns, RUNNING);
    }

    /// Ends an open unit that isn't over: now, or as soon as it begins.
    pub fn finish(&mut self, ring: &mut Ring, number: u64) {
        let record = ring.record_mut(number);
        record.is_finished = record.is_open;
        if number == self.over && self.stage != WAITING {
            self.is_head_finished = record.is_open;
        }
    }

    /// The unit at the head loses its engine.
    pub fn pause(&mut self, now_ns: u64) {
        self.left_ns -= (now_ns - self.since_ns).min(self.left_ns);
        (self.since_ns, self.stage) = (now_ns, PAUSED);
    }

    /// When the running unit ends, if nothing else happens.
    pub fn end_ns(&self) -> u64 {
        if self.left_ns == NEVER_NS { NEVER_NS } else { self.since_ns.saturating_add(self.left_ns) }
    }

    /// Whether the running unit is over.
    pub fn is_head_over(&self, now_ns: u64) -> bool {
        self.end_ns() <= now_ns || self.is_head_finished
    }

    /// The unit at the head ends, and the next one takes its place.
    pub fn complete(&mut self, ring: &mut Ring, now_ns: u64) {
        ring.record_mut(self.over).end_ns = now_ns;
        compiler_fence(Release);
        self.stage = WAITING;
        self.over += 1;
    }

    /// Makes a line whole that somebody died over: whatever doesn't fit together counts as over.
    pub fn repair(&mut self) {
        if self.over > self.queued || self.queued - self.over > DEPTH as u64 || self.stage > PAUSED {
            self.over = self.queued;
            self.stage = WAITING;
        }
    }
}

impl Ring {
    pub fn record(&self, number: u64) -> &Record {
        &self.0[number as usize % DEPTH]
    }

    fn record_mut(&mut self, number: u64) -> &mut Record {
        &mut self.0[number as usize % DEPTH]
    }

    /// Writes a unit down as the last of a line.
    pub fn push(&mut self, line: &mut Line, record: Record) {
        *self.record_mut(line.queued) = record;
        compiler_fence(Release);
        line.queued += 1;
    }
}
