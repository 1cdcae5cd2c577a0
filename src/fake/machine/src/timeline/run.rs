//! Time passes: from one change to the next, up to the moment asked for.

use super::line::{NO_ENGINE, RUNNING, WAITING};
use super::{NEVER_NS, Timeline};

impl Timeline {
    /// Works everything out up to `now_ns`. Earlier moments change nothing.
    pub fn advance(&mut self, now_ns: u64) {
        while self.settled_ns < now_ns {
            let next_ns = self.next_change_ns().min(now_ns);
            self.account(next_ns);
            self.settled_ns = next_ns;
            self.settle_here();
        }
    }

    /// Makes all changes that are due, until nothing more can change at this moment.
    pub(super) fn settle_here(&mut self) {
        loop {
            let moved = self.move_lines();
            let started = self.start_what_can_run();
            if !moved && !started {
                return;
            }
        }
    }

    fn move_lines(&mut self) -> bool {
        let mut moved = false;
        let mut place = 0;
        while place < self.active_count as usize {
            let index = self.active[place] as usize;
            moved |= self.move_line(index);
            if self.lines[index].pending() > 0 {
                place += 1;
                continue;
            }
            self.active_count -= 1;
            self.active[place] = self.active[self.active_count as usize];
            self.lines[index].is_active = false;
        }
        moved
    }

    /// Takes a line as far as it gets without an engine.
    fn move_line(&mut self, index: usize) -> bool {
        let now_ns = self.settled_ns;
        let mut moved = false;
        while self.lines[index].pending() > 0 {
            let line = &self.lines[index];
            match line.stage {
                WAITING => {
                    let head = self.head_of(index);
                    if head.earliest_ns > now_ns || !self.is_over(head.after) {
                        return moved;
                    }
                    let head = *head;
                    self.lines[index].make_ready(&head, now_ns);
                    if self.lines[index].engine == NO_ENGINE {
                        self.start(index);
                    }
                }
                RUNNING if line.is_head_over(now_ns) => {
                    if line.engine != NO_ENGINE {
                        self.count_unit(index);
                    }
                    self.lines[index].complete(&mut self.rings[index], now_ns);
                }
                _ => return moved,
            }
            moved = true;
        }
        moved
    }

    /// When the next thing happens by itself, if nobody queues anything.
    fn next_change_ns(&self) -> u64 {
        let active = self.active[..self.active_count as usize].iter().map(|&index| index as usize);
        let of_lines = active.map(|index| match self.lines[index].stage {
            RUNNING => self.lines[index].end_ns(),
            // What waits for other work is looked at when that is over.
            WAITING if self.head_of(index).earliest_ns > self.settled_ns => self.head_of(index).earliest_ns,
            _ => NEVER_NS,
        });
        let of_gpus = self.holders.iter().map(|holder| holder.next_change_ns(self.settled_ns));
        of_lines.chain(of_gpus).min().unwrap_or(NEVER_NS)
    }
}
