//! The bucket under a model checker: charges, corrections and refunds of several processes in every interleaving, and
//! processes that die between two of their steps.
//!
//! Run by `RUSTFLAGS="--cfg loom" cargo test -p vcuda-core --release --target-dir target/loom --test loom_bucket`.
#![cfg(loom)]

use loom::sync::Arc;
use loom::sync::atomic::{AtomicU64, Ordering};
use loom::thread;

use vcuda_core::bucket::{Bucket, CREDIT_NS, Charged, LONGEST_DEBT_NS};

const SECOND_NS: u64 = 1_000_000_000;
const NOW_NS: u64 = 1_000 * SECOND_NS;
/// A second of debt, so that nothing is late and nothing forgiven unless a test means it.
const BEFORE_NS: u64 = NOW_NS + SECOND_NS;

fn check(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(model);
}

fn word(deadline_ns: u64) -> Arc<AtomicU64> {
    Arc::new(AtomicU64::new(deadline_ns))
}

fn read(word: &AtomicU64) -> u64 {
    word.load(Ordering::Acquire)
}

/// Charges what is positive and corrects by what is negative, and returns what every charge was told.
fn work(deadline: &AtomicU64, steps: &[i64], bound_ns: u64) -> Vec<Charged> {
    let bucket = Bucket::new(deadline);
    let mut told = Vec::new();
    for &step in steps {
        match u64::try_from(step) {
            Ok(wall_ns) => told.push(bucket.charge(NOW_NS, wall_ns, bound_ns)),
            Err(_) => assert_eq!(bucket.correct(NOW_NS, step, bound_ns), 0),
        }
    }
    told
}

#[test]
fn charges_and_corrections_of_three_add_up() {
    check(3, || {
        let deadline = word(BEFORE_NS);
        let others: Vec<_> = [vec![700, -200], vec![40, 3]]
            .into_iter()
            .map(|steps| {
                let deadline = Arc::clone(&deadline);
                thread::spawn(move || work(&deadline, &steps, LONGEST_DEBT_NS))
            })
            .collect();
        work(&deadline, &[5000, -1000], LONGEST_DEBT_NS);
        others.into_iter().for_each(|other| drop(other.join().unwrap()));
        assert_eq!(read(&deadline), BEFORE_NS + 5000 - 1000 + 700 - 200 + 40 + 3);
    });
}

/// A share that changes while others charge: what is restated is what was owed at one instant, and each charge is
/// either part of that or comes after it.
#[test]
fn a_changed_share_restates_what_was_charged_before_and_nothing_else() {
    check(4, || {
        let deadline = word(BEFORE_NS);
        let other = {
            let deadline = Arc::clone(&deadline);
            thread::spawn(move || work(&deadline, &[3000, -1000], LONGEST_DEBT_NS))
        };
        let moved_ns = Bucket::new(&deadline).restate(NOW_NS, 100_000, 200_000);
        other.join().unwrap();
        // Before both, between them, or after both.
        let possible = [0, 3000, 2000].map(|charged_ns| ((SECOND_NS + charged_ns) / 2, charged_ns));
        let found_ns = read(&deadline) - NOW_NS;
        let is_possible = |&(rest_ns, charged_ns): &(u64, u64)| {
            found_ns == rest_ns + 2000 - charged_ns && moved_ns == -(rest_ns as i64)
                // The refund comes after the charge, and may be all that comes after the change.
                || charged_ns == 3000 && found_ns == rest_ns - 1000 && moved_ns == -(rest_ns as i64)
        };
        assert!(possible.iter().any(|case| is_possible(case)), "{found_ns} after {moved_ns}");
    });
}

/// Work may start when everything charged before it is paid for: no two are told the same moment, and none is left
/// unused.
#[test]
fn nobody_is_let_in_on_anothers_turn() {
    check(4, || {
        let deadline = word(BEFORE_NS);
        let other = {
            let deadline = Arc::clone(&deadline);
            thread::spawn(move || work(&deadline, &[100, 20], LONGEST_DEBT_NS))
        };
        let mine = work(&deadline, &[3000, 4], LONGEST_DEBT_NS);
        let theirs = other.join().unwrap();
        let mut turns: Vec<_> = mine.iter().zip([3000, 4]).chain(theirs.iter().zip([100, 20])).collect();
        turns.sort_by_key(|(charged, _)| charged.due_ns);
        let mut due_ns = BEFORE_NS;
        for (charged, wall_ns) in turns {
            assert_eq!(*charged, Charged { due_ns, forgiven_ns: 0 });
            due_ns += wall_ns;
        }
        assert_eq!(read(&deadline), due_ns);
    });
}

#[test]
fn an_idle_containers_credit_is_given_once() {
    check(4, || {
        let deadline = word(NOW_NS - 100 * SECOND_NS);
        let other = {
            let deadline = Arc::clone(&deadline);
            thread::spawn(move || work(&deadline, &[700], LONGEST_DEBT_NS))
        };
        work(&deadline, &[50], LONGEST_DEBT_NS);
        other.join().unwrap();
        assert_eq!(read(&deadline), NOW_NS - CREDIT_NS + 750);
    });
}

#[test]
fn what_is_forgiven_is_what_is_missing() {
    const BOUND_NS: u64 = SECOND_NS + 1000;
    check(4, || {
        let deadline = word(BEFORE_NS);
        let other = {
            let deadline = Arc::clone(&deadline);
            thread::spawn(move || work(&deadline, &[900], BOUND_NS))
        };
        let mut told = work(&deadline, &[800, 70], BOUND_NS);
        told.extend(other.join().unwrap());
        let forgiven_ns: u64 = told.iter().map(|charged| charged.forgiven_ns).sum();
        assert_eq!(read(&deadline), NOW_NS + BOUND_NS);
        assert_eq!(read(&deadline) + forgiven_ns, BEFORE_NS + 900 + 800 + 70);
    });
}

/// What `ComputeWords::charge` does, as far as a process gets that has `steps` left to live.
fn charge_as_far_as(steps: u32, account: &AtomicU64, deadline: &AtomicU64, wall_ns: u64) {
    if steps > 0 {
        account.fetch_add(wall_ns, Ordering::Relaxed);
    }
    if steps > 1 {
        Bucket::new(deadline).charge(NOW_NS, wall_ns, LONGEST_DEBT_NS);
    }
}

/// A process dies anywhere within a charge, and what is on its account is given back while others go on: nothing of its
/// debt stays, and the others lose at most what it had on its account.
#[test]
fn the_dead_leave_no_debt() {
    const VICTIMS_NS: u64 = 5000;
    for steps in 0..=2 {
        check(4, move || {
            let deadline = word(BEFORE_NS);
            let account = word(0);
            let bystander = {
                let deadline = Arc::clone(&deadline);
                thread::spawn(move || work(&deadline, &[700, -200], LONGEST_DEBT_NS))
            };
            let victim = {
                let (deadline, account) = (Arc::clone(&deadline), Arc::clone(&account));
                thread::spawn(move || charge_as_far_as(steps, &account, &deadline, VICTIMS_NS))
            };
            // The lock that a process holds while it lives lets nobody in before its end.
            victim.join().unwrap();
            let given_back_ns = account.swap(0, Ordering::Relaxed) as i64;
            assert_eq!(Bucket::new(&deadline).correct(NOW_NS, -given_back_ns, 0), 0);
            bystander.join().unwrap();
            let lost_ns = if steps == 1 { VICTIMS_NS } else { 0 };
            assert_eq!(read(&deadline), BEFORE_NS + 700 - 200 - lost_ns);
        });
    }
}
