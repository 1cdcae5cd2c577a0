//! The lines of a context's streams on the machine's time line, and which of them wait for which without being
//! told to: the default stream waits for all blocking streams, and they for it.
//!
//! All of it is looked at and changed with the time line held, so that nothing slips in between.

use crate::driver::driver;
use crate::event;
use parking_lot::Mutex;
use vcuda_driver::result::CUerror;
use vcuda_fake_machine::{LineId, Mark, Timeline, Unit};

/// Who waits for a line's work, beside those who say so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The default stream that all threads share.
    Legacy,
    /// A stream that the default stream waits for, and it for the default stream.
    Blocking,
    /// Nobody.
    Independent,
}

struct Line {
    id: LineId,
    role: Role,
    /// Its stream is gone: the line goes when its work is over.
    is_closing: bool,
    /// Of a blocking line, the place that the default stream last waited for.
    awaited: Mark,
    /// The place on the default stream that this line last waited for.
    awaits: Mark,
}

/// The lines of a context.
#[derive(Default)]
pub struct Lines {
    lines: Mutex<Vec<Line>>,
    /// A line that only waits for all others, for events that mark the end of everything.
    whole: Mutex<Option<LineId>>,
}

impl Lines {
    /// Opens a line.
    pub fn open(&self, timeline: &mut Timeline, gpu: usize, role: Role) -> Result<LineId, CUerror> {
        self.sweep(timeline);
        let id = driver().member.open_line(timeline, gpu).ok_or(CUerror::OUT_OF_MEMORY)?;
        let line = Line { id, role, is_closing: false, awaited: Mark::NONE, awaits: Mark::NONE };
        self.lines.lock().push(line);
        Ok(id)
    }

    /// The line that waits for all others.
    pub fn whole(&self, timeline: &mut Timeline, gpu: usize) -> Result<LineId, CUerror> {
        let mut whole = self.whole.lock();
        match *whole {
            Some(line) => Ok(line),
            None => Ok(*whole.insert(self.open(timeline, gpu, Role::Independent)?)),
        }
    }

    /// The line's stream is gone.
    pub fn leave(&self, timeline: &mut Timeline, id: LineId) {
        for line in self.lines.lock().iter_mut().filter(|line| line.id == id) {
            line.is_closing = true;
        }
        self.sweep(timeline);
    }

    /// Closes all lines, whose work is over.
    pub fn close(&self, timeline: &mut Timeline) {
        for line in self.lines.lock().iter_mut() {
            line.is_closing = true;
        }
        *self.whole.lock() = None;
        self.sweep(timeline);
    }

    fn sweep(&self, timeline: &mut Timeline) {
        self.lines.lock().retain(|line| !(line.is_closing && timeline.close_line(line.id, event::settle)));
    }

    /// The ends of all work queued so far that isn't over.
    pub fn tails(&self, timeline: &Timeline) -> Vec<Mark> {
        self.tails_of(timeline, |_| true)
    }

    /// As `tails`, of the default stream and all that it waits for.
    pub fn default_tails(&self, timeline: &Timeline) -> Vec<Mark> {
        self.tails_of(timeline, |role| role != Role::Independent)
    }

    fn tails_of(&self, timeline: &Timeline, concerns: impl Fn(Role) -> bool) -> Vec<Mark> {
        let lines = self.lines.lock();
        let tails = lines.iter().filter(|line| concerns(line.role)).map(|line| timeline.tail(line.id));
        tails.filter(|&tail| !timeline.is_over(tail)).collect()
    }

    /// Makes a line wait for what its role says; false if there is no room for that and one unit more.
    pub fn wait_for_others(&self, timeline: &mut Timeline, id: LineId, role: Role) -> bool {
        let mut lines = self.lines.lock();
        let most_waits = match role {
            Role::Independent => return timeline.room(id) > 0,
            Role::Blocking => 1,
            Role::Legacy => lines.len(),
        };
        if timeline.room(id) <= most_waits {
            return false;
        }
        if role == Role::Legacy {
            for line in lines.iter_mut().filter(|line| line.role == Role::Blocking) {
                let tail = timeline.tail(line.id);
                wait_once(timeline, id, &mut line.awaited, tail);
            }
            return true;
        }
        let legacy = lines.iter().find(|line| line.role == Role::Legacy).map(|line| timeline.tail(line.id));
        let own = lines.iter_mut().find(|line| line.id == id);
        if let (Some(tail), Some(own)) = (legacy, own) {
            wait_once(timeline, id, &mut own.awaits, tail);
        }
        true
    }
}

/// Has a line wait for a place, unless it was passed or is waited for already.
fn wait_once(timeline: &mut Timeline, id: LineId, before: &mut Mark, place: Mark) {
    if *before != place && !timeline.is_over(place) {
        timeline.append(id, Unit::wait(place), event::settle);
        *before = place;
    }
}
