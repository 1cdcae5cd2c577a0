//! The record of busy time under a model checker: however several processes' reports interleave, no moment counts
//! twice and none is missing.
//!
//! Run by `RUSTFLAGS="--cfg loom" cargo test -p vcuda-core --release --target-dir target/loom --test loom_coverage`.
#![cfg(loom)]

use loom::sync::Arc;
use loom::sync::atomic::AtomicU64;
use loom::thread;

use vcuda_core::coverage::{Coverage, SLOT_NS};

/// Slices in the record, of which an interval may take all but one, and the first that the tests use.
const SLICES: usize = 4;
const FIRST: u64 = 1_000;

fn check(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(model);
}

fn record() -> Arc<Vec<AtomicU64>> {
    Arc::new((0..SLICES).map(|_| AtomicU64::new(0)).collect())
}

/// An interval in quarters of slices, counted from the first.
#[derive(Clone, Copy)]
struct Quarters(u64, u64);

/// Reports intervals without gaps, and returns how much of them was new, in quarters.
fn report(record: &[AtomicU64], intervals: &[Quarters]) -> u64 {
    const QUARTER_NS: u64 = SLOT_NS / 4;
    let add = |&Quarters(from, to): &Quarters| {
        let start_ns = FIRST * SLOT_NS + from * QUARTER_NS;
        Coverage::new(record).add(start_ns, start_ns + (to - from) * QUARTER_NS, (to - from) * QUARTER_NS)
    };
    let new_ns: u64 = intervals.iter().map(add).sum();
    assert_eq!(new_ns % QUARTER_NS, 0);
    new_ns / QUARTER_NS
}

fn busy_quarters(record: &[AtomicU64]) -> u64 {
    let coverage = Coverage::new(record);
    4 * coverage.busy_ns(FIRST * SLOT_NS, (FIRST + SLICES as u64) * SLOT_NS) / SLOT_NS
}

/// Runs a process for each list of intervals, and returns what they were told in all.
fn told(record: &Arc<Vec<AtomicU64>>, processes: Vec<Vec<Quarters>>) -> u64 {
    let processes: Vec<_> = processes
        .into_iter()
        .map(|intervals| {
            let record = Arc::clone(record);
            thread::spawn(move || report(&record, &intervals))
        })
        .collect();
    processes.into_iter().map(|process| process.join().unwrap()).sum()
}

#[test]
fn what_two_say_counts_once() {
    check(4, || {
        let record = record();
        let all = vec![Quarters(0, 12)];
        assert_eq!(told(&record, vec![all.clone(), all]), 12);
        assert_eq!(busy_quarters(&record), 12);
    });
}

#[test]
fn three_that_overlap_are_united() {
    check(3, || {
        let record = record();
        let processes = vec![vec![Quarters(0, 8)], vec![Quarters(4, 12)], vec![Quarters(8, 16)]];
        assert_eq!(told(&record, processes), 16);
        assert_eq!(busy_quarters(&record), 16);
    });
}

/// Within a slice too, what two say counts once.
#[test]
fn parts_of_a_slice_are_united() {
    check(4, || {
        let record = record();
        let processes = vec![vec![Quarters(0, 3)], vec![Quarters(0, 2)], vec![Quarters(2, 3)]];
        assert_eq!(told(&record, processes), 3);
        assert_eq!(busy_quarters(&record), 3);
    });
}

/// One reports of a later round of the record while another is still at an earlier one in the same words.
#[test]
fn rounds_do_not_mix() {
    check(4, || {
        let record = record();
        let later = 4 * SLICES as u64;
        let processes = vec![vec![Quarters(0, 8)], vec![Quarters(later, later + 6)]];
        assert_eq!(told(&record, processes), 8 + 6);
        let coverage = Coverage::new(&record);
        let from_ns = (FIRST + SLICES as u64) * SLOT_NS;
        assert_eq!(coverage.busy_ns(from_ns, from_ns + 2 * SLOT_NS), SLOT_NS + SLOT_NS / 2);
    });
}

/// A process that dies within its report has counted for some slices: whoever saw the same busy time is told of the rest.
#[test]
fn what_the_dead_left_out_counts_for_others() {
    for reported in 0..=3 {
        check(4, move || {
            let record = record();
            let dead = vec![Quarters(0, 4 * reported)];
            assert_eq!(told(&record, vec![dead, vec![Quarters(0, 12)]]), 12);
            assert_eq!(busy_quarters(&record), 12);
        });
    }
}
