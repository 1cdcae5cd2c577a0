//! Another share while the program runs.
//!
//! What is owed is GPU time, so with the share the time changes in which it is paid for: once for all processes of the
//! container, in the control file, and for each wait of this process that is under way.

use crate::machine::Machine;
use crate::meter::{Meter, Shared};

impl<M: Machine, W: Shared> Meter<M, W>
where
    M::Stream: Send + Sync,
{
    /// Enforces `share_ppm` from now on. Whoever waits for a deadline that a larger share brings nearer sees that when it
    /// next looks up; with a smaller one, what was promised is kept, and the debt is there for the next.
    pub fn change_share(&self, machine: &M, share_ppm: u32) {
        let before_ppm = self.share_ppm();
        self.set_share_ppm(share_ppm);
        let moved_ns = self.shared.words().change_share(machine.now_ns(), before_ppm, share_ppm);
        self.note_moved(moved_ns.min(0));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::cost::Unit;
    use crate::machine::Progress;
    use std::cell::{Cell, RefCell};
    use std::sync::atomic::Ordering;
    use vcuda_core::compute::{ComputeWords, PrivateWords};

    const MS: u64 = 1_000_000;

    struct Private(PrivateWords);

    impl Shared for Private {
        fn words(&self) -> ComputeWords<'_> {
            self.0.view()
        }
    }

    type Happening = Box<dyn FnMut(u64)>;

    /// Work is done at once, time passes in sleep, and `on_sleep` is what happens meanwhile.
    struct Sleeper {
        now_ns: Cell<u64>,
        on_sleep: RefCell<Option<Happening>>,
    }

    impl Machine for Sleeper {
        type Event = u64;
        type Stream = ();

        fn now_ns(&self) -> u64 {
            self.now_ns.set(self.now_ns.get() + 100);
            self.now_ns.get()
        }
        fn record(&self, (): ()) -> Option<u64> {
            None
        }
        fn progress(&self, _: u64) -> Progress {
            Progress::Done
        }
        fn elapsed_ns(&self, from: u64, to: u64) -> Option<u64> {
            Some(to - from)
        }
        fn recycle(&self, _: u64) {}
        fn sleep_until(&self, until_ns: u64) {
            let until_ns = until_ns.max(self.now_ns.get());
            self.now_ns.set(until_ns);
            // Taken out, because it may lead here again.
            let happens = self.on_sleep.borrow_mut().take();
            if let Some(mut happens) = happens {
                happens(until_ns);
                *self.on_sleep.borrow_mut() = Some(happens);
            }
        }
    }

    /// How long the launch after a debt of `debt_ns` at 1 % waits if the share becomes `share_ppm` after 100 ms.
    fn waited_ns(debt_ns: u64, share_ppm: u32) -> u64 {
        let meter = std::rc::Rc::new(Meter::<Sleeper, _>::new(Private(PrivateWords::default()), 10_000));
        let begin_ns = 1_000 * MS;
        let machine = std::rc::Rc::new(Sleeper { now_ns: Cell::new(begin_ns), on_sleep: RefCell::new(None) });
        // What took long bounds the debt.
        meter.longest_ns.store(debt_ns, Ordering::Relaxed);
        let words = meter.shared.words();
        words.set_share_ppm(10_000);
        words.bucket().charge(begin_ns, debt_ns, 30_000 * MS);
        let (changed, asleep) = (std::rc::Rc::clone(&meter), std::rc::Rc::clone(&machine));
        *machine.on_sleep.borrow_mut() = Some(Box::new(move |now_ns| {
            if now_ns >= begin_ns + 100 * MS && changed.share_ppm() != share_ppm {
                changed.change_share(&asleep, share_ppm);
            }
        }));
        let stream = meter.add(());
        let unit = Unit { kind: 1, family: 1, size: 1, guess_ns: 10_000, waits: false };
        meter.submit(&*machine, &stream, unit, || Ok::<(), ()>(())).unwrap();
        machine.on_sleep.borrow_mut().take();
        machine.now_ns.get() - begin_ns
    }

    #[test]
    fn a_wait_under_way_follows_a_larger_share() {
        let same = waited_ns(1_500 * MS, 10_000);
        assert!((1_480 * MS..1_600 * MS).contains(&same), "{same}");
        // 1.4 s are left at 1 %, so 28 ms at 50 %.
        let raised = waited_ns(1_500 * MS, 500_000);
        assert!((100 * MS..150 * MS).contains(&raised), "{raised}");
    }

    #[test]
    fn a_wait_under_way_is_not_made_longer() {
        let lowered = waited_ns(1_500 * MS, 5_000);
        assert!((1_480 * MS..1_600 * MS).contains(&lowered), "{lowered}");
    }

    #[test]
    fn of_two_processes_one_restates_what_both_owe() {
        let shared = PrivateWords::default();
        let words = shared.view();
        words.set_share_ppm(100_000);
        words.bucket().charge(0, 900 * MS, 30_000 * MS);
        assert_eq!(words.change_share(0, 100_000, 300_000), -600 * MS as i64);
        assert_eq!(words.bucket().debt_ns(0), 300 * MS);
        assert_eq!(
            words.change_share(0, 100_000, 300_000),
            -600 * MS as i64,
            "the waits of the second move too"
        );
        assert_eq!(words.bucket().debt_ns(0), 300 * MS, "and the debt does not move twice");
        assert_eq!(words.change_share(0, 500_000, 200_000), 0, "whoever had another share leaves it alone");
        assert_eq!(words.bucket().debt_ns(0), 300 * MS);
        assert_eq!(words.change_share(0, 200_000, 1_000_000), -240 * MS as i64);
        assert_eq!(words.compute.share_ppm.load(Ordering::Relaxed), 0, "all of the time is no share");
    }
}
