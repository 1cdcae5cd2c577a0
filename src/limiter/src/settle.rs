//! Reading events that are done, and putting what they say in the place of what was predicted.

use crate::lane::Purpose;
use crate::machine::{Machine, Progress};
use crate::meter::{Meter, Shared};
use std::sync::atomic::Ordering;

impl<M: Machine, W: Shared> Meter<M, W>
where
    M::Stream: Send + Sync,
{
    /// Reads all events that are done. Returns how many those were.
    pub fn settle(&self, machine: &M) -> usize {
        if !self.state.lock().begin_settling() {
            return 0;
        }
        let mut count = 0;
        let mut samples = Vec::new();
        let mut lane = 0;
        loop {
            // No lock is held while the driver is asked.
            let Some(reading) = self.state.lock().next_pending(lane) else { break };
            lane = reading.lane;
            let event = reading.pending.event;
            let progress = machine.progress(event);
            if progress == Progress::Pending {
                lane += 1;
                continue;
            }
            let base = reading.base.filter(|_| progress == Progress::Done);
            let elapsed_ns = base.and_then(|base| machine.elapsed_ns(base, event));
            let is_anchor = matches!(reading.pending.purpose, Purpose::Anchor);
            let unused = if elapsed_ns.is_some() || (is_anchor && progress == Progress::Done) {
                let now_ns = machine.now_ns();
                let (sample, unused) = self.state.lock().happened(&reading, elapsed_ns, now_ns);
                samples.extend(sample);
                count += 1;
                unused
            } else {
                self.state.lock().lost(&reading)
            };
            if let Some(unused) = unused {
                machine.recycle(unused);
            }
        }
        self.state.lock().end_settling();
        if samples.is_empty() {
            self.put_down(machine);
        } else {
            let fraction = self.put_down(machine);
            for sample in samples {
                sample.teach(&self.model, fraction);
                if let Some(single_ns) = sample.single_ns() {
                    self.longest_ns.fetch_max(single_ns, Ordering::Relaxed);
                }
            }
        }
        count
    }

    /// Puts what is known by now into the record, and corrects what was charged for it. Returns how much of it was
    /// nobody else's.
    pub(crate) fn put_down(&self, machine: &M) -> f32 {
        let mut intervals = Vec::new();
        let charged_ns = self.state.lock().timeline.report(&mut intervals);
        if charged_ns == 0 && intervals.is_empty() {
            return 1.0;
        }
        let words = self.shared.words();
        let settled =
            words.settle(machine.now_ns(), charged_ns, &intervals, self.share_ppm(), self.debt_bound_ns());
        self.moved_ns.fetch_add(settled.moved_ns, Ordering::Relaxed);
        match intervals.iter().map(|interval| interval.busy_ns).sum() {
            0u64 => 1.0,
            busy_ns => settled.new_ns as f32 / busy_ns as f32,
        }
    }
}
