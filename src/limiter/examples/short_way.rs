//! What the limiter adds to a launch that needs no event, without the clock and the driver: nanoseconds per launch, the
//! least and the median of many batches.
//!
//! Run by `cargo run --release -p vcuda-limiter --example short_way`.

use std::cell::Cell;
use std::hint::black_box;
use std::time::Instant;
use vcuda_core::compute::{ComputeWords, PrivateWords};
use vcuda_limiter::cost::Unit;
use vcuda_limiter::machine::{Machine, Progress};
use vcuda_limiter::meter::{Meter, Shared};

const BATCHES: usize = 2_000;
const LAUNCHES: u32 = 500;

/// A machine whose clock is a number and whose events have all happened.
#[derive(Default)]
struct Nothing {
    now_ns: Cell<u64>,
}

impl Machine for Nothing {
    type Event = u64;
    type Stream = u32;

    fn now_ns(&self) -> u64 {
        self.now_ns.get()
    }

    fn record(&self, _: u32) -> Option<u64> {
        Some(self.now_ns.get())
    }

    fn progress(&self, _: u64) -> Progress {
        Progress::Done
    }

    fn elapsed_ns(&self, from: u64, to: u64) -> Option<u64> {
        Some(to - from)
    }

    fn recycle(&self, _: u64) {}

    fn sleep_until(&self, until_ns: u64) {
        self.now_ns.set(until_ns);
    }
}

#[derive(Default)]
struct Words(PrivateWords);

impl Shared for Words {
    fn words(&self) -> ComputeWords<'_> {
        self.0.view()
    }
}

/// Nanoseconds per launch of so many kinds in turn, one every `step_ns`: the least and the median.
fn measure(kinds: u64, step_ns: u64) -> (f64, f64) {
    let machine = Nothing::default();
    machine.now_ns.set(1_000_000_000);
    let meter = Meter::new(Words::default(), 900_000);
    let stream = meter.add(0);
    let unit = |kind: u64| {
        let spread = (kind + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        Unit { kind: spread, family: spread.rotate_left(32) | 1, size: 100, guess_ns: 500, waits: false }
    };
    let launch = |kind: u64| {
        machine.now_ns.set(machine.now_ns.get() + step_ns);
        black_box(meter.submit(&machine, &stream, black_box(unit(kind)), || Ok::<(), ()>(()))).ok();
    };
    // Until all kinds are known.
    (0..1_000 * kinds).for_each(|launched| launch(launched % kinds));
    let mut batches: Vec<f64> = (0..BATCHES)
        .map(|_| {
            let began = Instant::now();
            (0..LAUNCHES).for_each(|launched| launch(u64::from(launched) % kinds));
            began.elapsed().as_nanos() as f64 / f64::from(LAUNCHES)
        })
        .collect();
    batches.sort_by(f64::total_cmp);
    (batches[0], batches[BATCHES / 2])
}

fn main() {
    for kinds in [1, 4, 16, 256] {
        for (step_ns, stream) in [(3_300, "runs dry"), (100, "does not")] {
            let (least, median) = measure(kinds, step_ns);
            println!("{kinds:>4} kinds, the stream {stream}: {least:5.1} ns per launch, median {median:5.1}");
        }
    }
}
