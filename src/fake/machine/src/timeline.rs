//! The time line of the machine: what every GPU works on, worked out up to a moment and never beyond it.
//!
//! Work is queued in *lines*, one behind the other; a line is a stream to whoever queues. Nobody runs the
//! machine: whoever asks takes the lock and has everything worked out up to now, for all processes at once.
//! So what happened is exact to the nanosecond, however late it is asked for, and what comes later can still
//! change what was queued before.
//!
//! This module must not read a clock, wait, or know of locks and files: the moment comes from outside.

mod busy;
mod engines;
mod estimate;
mod line;
mod run;

pub use busy::{Busy, Utilisation};
pub use line::{DEPTH, LINES};

use crate::layout::{MAX_GPUS, MAX_PROCESSES};
use busy::{Books, ENDED, Ended, Tenant};
use engines::Holder;
use line::{Line, Record, Ring};

/// Shorter slices would be more steps than anybody wants to wait for.
const SHORTEST_SLICE_NS: u64 = 10_000;
/// A moment that never comes.
const NEVER_NS: u64 = u64::MAX;

/// Everything that is queued and everything that ran. All zero is what [`Timeline::initialise`] begins with.
#[repr(C)]
pub struct Timeline {
    /// Everything up to here is worked out.
    settled_ns: u64,
    slices: Slices,
    next_order: u64,
    active_count: u64,
    /// Processes that ever ended with time used.
    ended_count: u64,
    /// The lines with work, in no order.
    active: [u16; LINES],
    holders: [Holder; MAX_GPUS],
    books: [Books; MAX_GPUS],
    tenants: [Tenant; MAX_PROCESSES],
    ended: [Ended; ENDED],
    lines: [Line; LINES],
    rings: [Ring; LINES],
}

/// How processes take turns on a GPU's processors.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slices {
    /// How long a process keeps the processors while others want them.
    pub slice_ns: u64,
    /// How long nobody has them when they go from one process to another.
    pub switch_ns: u64,
}

impl Default for Slices {
    fn default() -> Slices {
        Slices { slice_ns: 2_000_000, switch_ns: 0 }
    }
}

/// A line that a process opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LineId {
    index: u32,
    generation: u32,
}

impl LineId {
    /// The line as one word, never 0.
    pub const fn to_word(self) -> u64 {
        (self.generation as u64) << 32 | self.index as u64
    }

    /// The line of a word; `None` for 0.
    pub const fn from_word(word: u64) -> Option<LineId> {
        if word == 0 { None } else { Some(LineId { index: word as u32, generation: (word >> 32) as u32 }) }
    }
}

/// A place on a line: the end of one unit of work.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    line: u32,
    generation: u32,
    number: u64,
}

impl Mark {
    /// A place that was always passed.
    pub const NONE: Mark = Mark { line: 0, generation: 0, number: 0 };

    /// The line that it is on.
    pub const fn line(self) -> LineId {
        LineId { index: self.line, generation: self.generation }
    }
}

/// What a unit of work occupies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// Nothing: a mark, a wait, something that the host does.
    None,
    /// This many hundredths of the processors, 1 to 100.
    Processors { percent: u32 },
    /// The one engine for copies from the host.
    FromHost,
    /// The one engine for copies to the host.
    ToHost,
}

/// How long a unit of work lasts once it began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// Nanoseconds of having its engine.
    Fixed(u64),
    /// Until [`Timeline::finish`], or for this many nanoseconds.
    Open { most_ns: u64 },
}

/// A unit of work to be queued.
#[derive(Clone, Copy, Debug)]
pub struct Unit {
    pub engine: Engine,
    pub length: Length,
    /// It can't begin before.
    pub earliest_ns: u64,
    /// Nor before this is over.
    pub after: Mark,
    /// The queuer's own number, told when the record of the unit is dropped; 0: don't tell.
    pub tag: u64,
}

impl Unit {
    /// Something that takes no time.
    pub const MARK: Unit =
        Unit { engine: Engine::None, length: Length::Fixed(0), earliest_ns: 0, after: Mark::NONE, tag: 0 };

    /// A wait for another place.
    pub const fn wait(after: Mark) -> Unit {
        Unit { after, ..Unit::MARK }
    }
}

/// A unit that is over and whose record is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dropped {
    pub tag: u64,
    pub mark: Mark,
    pub end_ns: u64,
}

/// How far a unit has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It waits for what is before it, for its time, or for its engine.
    Queued,
    /// It began at this time, and may have been interrupted since.
    Begun { start_ns: u64 },
    /// It is over; the time is lost with the record.
    Over { end_ns: Option<u64> },
}

impl Timeline {
    /// Makes a time line of zeros ready for use.
    pub(crate) fn initialise(&mut self, slices: Slices) {
        self.slices = Slices { slice_ns: slices.slice_ns.max(SHORTEST_SLICE_NS), ..slices };
        self.holders = [Holder::NOBODY; MAX_GPUS];
    }

    /// Everything up to here is worked out.
    pub fn now_ns(&self) -> u64 {
        self.settled_ns
    }

    /// Opens a line of the process in slot `process` on a GPU; `None` when all are in use.
    pub fn open_line(&mut self, process: usize, gpu: usize) -> Option<LineId> {
        let index = self.lines.iter().position(|line| !line.is_open())?;
        let generation = self.lines[index].open(process as u32 + 1, gpu as u32);
        Some(LineId { index: index as u32, generation })
    }

    /// Closes a line on which nothing is pending, telling of its records; false if something is.
    pub fn close_line(&mut self, line: LineId, mut tell: impl FnMut(Dropped)) -> bool {
        let Some(index) = self.index_of(line) else { return true };
        if self.lines[index].pending() > 0 {
            return false;
        }
        let queued = self.lines[index].queued;
        for number in queued.saturating_sub(DEPTH as u64)..queued {
            self.tell_of(index, number, &mut tell);
        }
        self.lines[index].close();
        true
    }

    /// Units that can still be queued on a line.
    pub fn room(&self, line: LineId) -> usize {
        self.index_of(line).map_or(0, |index| DEPTH - self.lines[index].pending())
    }

    /// Queues a unit, telling of the record that it takes the place of. `None` if there is no room.
    pub fn append(&mut self, line: LineId, unit: Unit, mut tell: impl FnMut(Dropped)) -> Option<Mark> {
        let index = self.index_of(line).filter(|_| self.room(line) > 0)?;
        let number = self.lines[index].queued;
        if let Some(dropped) = number.checked_sub(DEPTH as u64) {
            self.tell_of(index, dropped, &mut tell);
        }
        let order = self.next_order;
        self.next_order += 1;
        self.rings[index].push(&mut self.lines[index], Record::new(&unit, order));
        if !std::mem::replace(&mut self.lines[index].is_active, true) {
            self.active[self.active_count as usize] = index as u16;
            self.active_count += 1;
        }
        self.settle_here();
        Some(Mark { line: line.index, generation: line.generation, number })
    }

    fn tell_of(&self, index: usize, number: u64, tell: &mut impl FnMut(Dropped)) {
        let record = self.rings[index].record(number);
        if record.tag != 0 {
            let mark = Mark { line: index as u32, generation: self.lines[index].generation, number };
            tell(Dropped { tag: record.tag, mark, end_ns: record.end_ns });
        }
    }

    /// The end of everything queued on a line so far.
    pub fn tail(&self, line: LineId) -> Mark {
        let queued = self.index_of(line).map_or(0, |index| self.lines[index].queued);
        match queued.checked_sub(1) {
            Some(number) => Mark { line: line.index, generation: line.generation, number },
            None => Mark::NONE,
        }
    }

    /// The unit that the line is at; `None` when nothing is pending.
    pub fn head(&self, line: LineId) -> Option<Mark> {
        let index = self.index_of(line).filter(|&index| self.lines[index].pending() > 0)?;
        Some(Mark { line: line.index, generation: line.generation, number: self.lines[index].over })
    }

    /// Whether a place was passed.
    pub fn is_over(&self, mark: Mark) -> bool {
        match self.line_of(mark) {
            Some(line) => line.over > mark.number,
            None => true,
        }
    }

    /// How far a unit has come.
    pub fn progress(&self, mark: Mark) -> Progress {
        let Some(line) = self.line_of(mark) else { return Progress::Over { end_ns: None } };
        let record = self.rings[mark.line as usize].record(mark.number);
        if line.over > mark.number {
            let is_kept = line.queued - mark.number <= DEPTH as u64;
            return Progress::Over { end_ns: is_kept.then_some(record.end_ns) };
        }
        match line.over == mark.number && line.has_begun() {
            true => Progress::Begun { start_ns: record.start_ns },
            false => Progress::Queued,
        }
    }

    /// Ends an open unit: now, or as soon as it begins.
    pub fn finish(&mut self, mark: Mark) {
        if self.is_over(mark) {
            return;
        }
        if let Some(index) = self.line_of(mark).map(|_| mark.line as usize) {
            self.lines[index].finish(&mut self.rings[index], mark.number);
            self.settle_here();
        }
    }

    /// Ends a process: what it queued is gone, what it used stays known under `pid`.
    pub(crate) fn end_process(&mut self, process: usize, pid: u32) {
        let owner = process as u32 + 1;
        for line in self.lines.iter_mut().filter(|line| line.owner == owner) {
            line.over = line.queued;
            line.close();
        }
        self.close_books(process, pid);
        self.settle_here();
    }

    /// Whether anything that a process queued is not over yet.
    pub(crate) fn has_pending(&self, process: usize) -> bool {
        let owner = process as u32 + 1;
        self.active().any(|line| line.owner == owner && line.pending() > 0)
    }

    /// After a process died while it changed this: everything that could be half done is made whole again.
    pub(crate) fn repair(&mut self) {
        self.active_count = 0;
        for (index, line) in self.lines.iter_mut().enumerate() {
            line.repair();
            line.is_active = line.is_open() && line.pending() > 0;
            if line.is_active {
                self.active[self.active_count as usize] = index as u16;
                self.active_count += 1;
            }
        }
    }

    fn index_of(&self, line: LineId) -> Option<usize> {
        let index = line.index as usize;
        self.lines.get(index).filter(|found| found.is_open() && found.generation == line.generation)?;
        Some(index)
    }

    /// The line of a mark, if it is still the one that the mark was made on.
    fn line_of(&self, mark: Mark) -> Option<&Line> {
        self.lines
            .get(mark.line as usize)
            .filter(|line| mark.generation != 0 && line.generation == mark.generation)
    }

    /// The unit that may run on a line with pending work.
    fn head_of(&self, index: usize) -> &Record {
        self.rings[index].record(self.lines[index].over)
    }

    /// Gives the unit at a line's head its engine.
    fn start(&mut self, index: usize) {
        self.lines[index].start(&mut self.rings[index], self.settled_ns);
    }

    /// The lines with work.
    fn active(&self) -> impl Iterator<Item = &Line> {
        self.active[..self.active_count as usize].iter().map(|&index| &self.lines[index as usize])
    }
}
