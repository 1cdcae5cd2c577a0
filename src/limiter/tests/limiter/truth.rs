//! When a device was really busy.

/// Intervals of work, united.
#[derive(Default)]
pub struct Truth {
    /// In order of their starts, apart from each other, with the busy time before each.
    intervals: Vec<Interval>,
}

struct Interval {
    start_ns: u64,
    end_ns: u64,
    before_ns: u64,
}

impl Truth {
    pub fn add(&mut self, start_ns: u64, end_ns: u64) {
        if start_ns >= end_ns {
            return;
        }
        // A kernel that was waited for ends long after it started, when others have come and gone.
        let mut united = Interval { start_ns, end_ns, before_ns: 0 };
        let mut later = Vec::new();
        while let Some(last) = self.intervals.last() {
            if last.end_ns < united.start_ns {
                break;
            }
            let Some(last) = self.intervals.pop() else { break };
            if last.start_ns > united.end_ns {
                later.push(last);
            } else {
                united.start_ns = united.start_ns.min(last.start_ns);
                united.end_ns = united.end_ns.max(last.end_ns);
            }
        }
        self.push(united);
        while let Some(interval) = later.pop() {
            self.push(interval);
        }
    }

    fn push(&mut self, mut interval: Interval) {
        interval.before_ns = self.busy_ns();
        self.intervals.push(interval);
    }

    /// Busy time up to now.
    pub fn busy_ns(&self) -> u64 {
        self.intervals.last().map_or(0, |last| last.before_ns + last.end_ns - last.start_ns)
    }

    fn before(&self, time_ns: u64) -> u64 {
        let next = self.intervals.partition_point(|interval| interval.start_ns < time_ns);
        match next.checked_sub(1).map(|last| &self.intervals[last]) {
            Some(last) => last.before_ns + last.end_ns.min(time_ns) - last.start_ns,
            None => 0,
        }
    }

    /// Busy time in a window.
    pub fn between(&self, from_ns: u64, to_ns: u64) -> u64 {
        self.before(to_ns) - self.before(from_ns)
    }

    /// The busy part of a window.
    pub fn share(&self, from_ns: u64, to_ns: u64) -> f64 {
        self.between(from_ns, to_ns) as f64 / (to_ns - from_ns) as f64
    }
}
