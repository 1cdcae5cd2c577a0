//! Reading events that are done, and putting what they say in the place of what was predicted.

use crate::line::Pending;
use crate::machine::{Machine, Progress};
use crate::meter::{Meter, Shared, StreamOf};
use crate::segment::Segment;
use std::sync::atomic::Ordering;
use vcuda_core::compute::Measured;

impl<M: Machine, W: Shared> Meter<M, W>
where
    M::Stream: Send + Sync,
{
    /// Settles all work whose events are done. Returns how many segments that were.
    pub fn settle(&self, machine: &M) -> usize {
        let progress = |event| machine.progress(event);
        self.streams().iter().map(|stream| self.settle_stream(machine, stream, &progress)).sum()
    }

    /// Settles what is pending on a stream up to the first that is not done, as far as `progress` knows.
    fn settle_stream(
        &self,
        machine: &M,
        stream: &StreamOf<M>,
        progress: &dyn Fn(M::Event) -> Progress,
    ) -> usize {
        let mut settled = 0;
        loop {
            // Taken out, so that no lock is held while the driver is asked.
            let Some(pending) = stream.line.lock().take() else { return settled };
            match pending {
                Pending::Retired(event) => machine.recycle(event),
                Pending::Predicted(span) => {
                    self.put_down(machine, span);
                }
                Pending::Segment(mut segment) => match progress(segment.to) {
                    Progress::Pending => {
                        segment.saw_pending(machine.now_ns());
                        stream.line.lock().put_back(Pending::Segment(segment));
                        return settled;
                    }
                    Progress::Done => {
                        self.settle_segment(machine, stream, segment);
                        settled += 1;
                    }
                    Progress::Lost => self.lose_segment(machine, stream, segment),
                },
            }
            stream.line.lock().taken();
        }
    }

    fn settle_segment(&self, machine: &M, stream: &StreamOf<M>, segment: Box<Segment<M::Event>>) {
        let Some(elapsed_ns) = machine.elapsed_ns(segment.from, segment.to) else {
            return self.lose_segment(machine, stream, segment);
        };
        let now_ns = machine.now_ns();
        let outcome = stream.line.lock().measure(&segment, elapsed_ns, now_ns);
        let fraction = self.put_down(machine, outcome.span);
        self.note_release(&segment, outcome.span.end_ns);
        segment.teach(&self.model, outcome, fraction, self.turns.is_contended(now_ns));
        self.end_probes(&segment);
        self.longest_ns.fetch_max(segment.longest_ns(outcome.span.busy_ns), Ordering::Relaxed);
        machine.recycle(segment.from);
    }

    fn lose_segment(&self, machine: &M, stream: &StreamOf<M>, segment: Box<Segment<M::Event>>) {
        self.put_down(machine, segment.as_predicted());
        self.end_probes(&segment);
        stream.line.lock().lose();
        machine.recycle(segment.from);
    }

    /// Puts work into the record and corrects what it was charged with. Returns the part of such work that is new, as it is
    /// lately.
    fn put_down(&self, machine: &M, measured: Measured) -> f32 {
        let words = self.shared.words();
        let settled = words.settle(machine.now_ns(), measured, self.share_ppm(), self.debt_bound_ns());
        self.note_moved(settled.moved_ns);
        self.overlap.lock().fraction(&words)
    }

    /// A stream is gone: nothing on it can be measured any more.
    pub(crate) fn abandon(&self, machine: &M, stream: &StreamOf<M>) {
        stream.line.lock().give_up();
        self.settle_stream(machine, stream, &|_| Progress::Lost);
    }
}
