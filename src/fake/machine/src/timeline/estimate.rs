//! When something can be over at the earliest, so that whoever waits knows how long it may sleep.

use super::line::{Line, PAUSED, PROCESSORS, READY, RUNNING};
use super::{Mark, Timeline};

/// How many waits for other lines are followed.
const DEEPEST: u32 = 8;

impl Timeline {
    /// A time before which a place isn't passed, whatever is queued until then; now, if it was passed. A process
    /// that ends can make it come sooner.
    pub fn earliest_end_ns(&self, mark: Mark) -> u64 {
        self.estimate(mark, DEEPEST)
    }

    fn estimate(&self, mark: Mark, deepest: u32) -> u64 {
        let now_ns = self.settled_ns;
        let Some(line) =
            self.line_of(mark).filter(|line| line.over <= mark.number && mark.number < line.queued)
        else {
            return now_ns;
        };
        let ring = &self.rings[mark.line as usize];
        let head = ring.record(line.over);
        let head_ns = match line.stage {
            RUNNING if line.is_head_open() => now_ns,
            RUNNING => line.end_ns(),
            READY | PAUSED if line.is_head_open() => self.earliest_start_ns(line),
            READY | PAUSED => self.earliest_start_ns(line).saturating_add(line.left_ns),
            _ if deepest == 0 => now_ns.max(head.earliest_ns).saturating_add(head.least_ns()),
            _ => {
                let start_ns = self.estimate(head.after, deepest - 1).max(head.earliest_ns);
                start_ns.saturating_add(head.least_ns())
            }
        };
        let behind = (line.over + 1..=mark.number).map(|number| ring.record(number));
        behind
            .fold(head_ns, |end_ns, record| end_ns.max(record.earliest_ns).saturating_add(record.least_ns()))
    }

    /// When a unit that waits for its engine can have it at the earliest.
    fn earliest_start_ns(&self, line: &Line) -> u64 {
        let now_ns = self.settled_ns;
        let gpu = line.gpu as usize;
        let running = self.at_engine(gpu, line.engine).filter(|(_, other)| other.stage == RUNNING);
        let ends = running.map(|(_, other)| if other.is_head_open() { now_ns } else { other.end_ns() });
        let holder = &self.holders[gpu];
        if line.engine != PROCESSORS {
            ends.max().unwrap_or(now_ns)
        } else if holder.owner == line.owner {
            ends.min().unwrap_or(now_ns).max(holder.since_ns)
        } else {
            // Its holder keeps them while anything of it runs, but not beyond its slice.
            ends.max().unwrap_or(now_ns).min(holder.until_ns).max(now_ns)
        }
    }
}
