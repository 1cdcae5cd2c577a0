//! What the limiter needs of the world.

use std::sync::atomic::AtomicU64;

/// A clock, timing events and sleep. None of the calls may be made with a lock held, because a driver may block in any
/// of them.
pub trait Machine {
    /// A timing event.
    type Event: Copy + Send + 'static;
    /// A stream of the program, good for the duration of a call.
    type Stream: Copy;

    /// Nanoseconds of the monotonic clock. Cheap: it is read once per launch.
    fn now_ns(&self) -> u64;

    /// Records an event at the end of what the stream has been given. `None` where that can't be done or must not be:
    /// no event to be had, a capture in the way, a broken context. The work is then charged as predicted.
    fn record(&self, stream: Self::Stream) -> Option<Self::Event>;

    /// Whether everything before the event is done.
    fn progress(&self, event: Self::Event) -> Progress;

    /// Nanoseconds from one event to another of the same stream, both done.
    fn elapsed_ns(&self, from: Self::Event, to: Self::Event) -> Option<u64>;

    /// The event is not needed any more.
    fn recycle(&self, event: Self::Event);

    /// Sleeps until the monotonic clock says `until_ns`, or a little longer.
    fn sleep_until(&self, until_ns: u64);

    /// As [`Machine::sleep_until`], but no longer than until somebody wakes up those who wait for a shared word to be
    /// another than `found`.
    fn sleep_on(&self, word: &AtomicU64, found: u64, until_ns: u64) {
        let _ = (word, found);
        self.sleep_until(until_ns);
    }

    /// Lets a microsecond pass, or less.
    fn pause(&self) {
        std::hint::spin_loop();
    }

    /// Wakes up all, in all processes, who sleep on a shared word, which has been changed.
    fn wake(&self, word: &AtomicU64) {
        let _ = word;
    }
}

/// How far the work before an event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Not done.
    Pending,
    /// Done.
    Done,
    /// It can't be told, and won't be: the event or its context is gone.
    Lost,
}
