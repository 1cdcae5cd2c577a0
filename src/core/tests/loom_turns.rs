//! Turns under a model checker: containers that ask at the same moment, hand on and die between two steps, in every
//! interleaving.
//!
//! Run by `RUSTFLAGS="--cfg loom" cargo test -p vcuda-core --release --target-dir target/loom --test loom_turns`.
#![cfg(loom)]

use loom::sync::Arc;
use loom::sync::atomic::Ordering;
use loom::thread;

use vcuda_core::arbiter::words::{Arbiter, Grant, Terms};
use vcuda_core::arbiter::{OVERRUN_NS, QUANTUM_NS, Released, Tenant, Turn, Wish};

const NOW_NS: u64 = 1_000_000_000_000;

fn check(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(model);
}

fn tenant(identity: u64) -> Tenant {
    Tenant::new(identity, Terms { weight: 1, share_ppm: 0, is_high: false })
}

fn wish(now_ns: u64) -> Wish {
    Wish { now_ns, since_ns: now_ns, tail_ns: now_ns, cost_ns: 200_000, ..Wish::default() }
}

fn goes(turn: Turn) -> bool {
    matches!(turn, Turn::Go { .. })
}

fn holder(arbiter: &Arbiter) -> Option<usize> {
    Grant::unpack(arbiter.grant.load(Ordering::Acquire)).holder
}

/// Both are at the table, and the device is free.
fn set() -> Arc<Arbiter> {
    let arbiter = Arc::new(Arbiter::default());
    tenant(1).enter(&arbiter, NOW_NS);
    tenant(2).enter(&arbiter, NOW_NS);
    arbiter
}

#[test]
fn of_two_that_ask_at_once_one_goes() {
    check(2, || {
        let arbiter = set();
        let other = {
            let arbiter = Arc::clone(&arbiter);
            thread::spawn(move || goes(tenant(2).ask(&arbiter, &wish(NOW_NS))))
        };
        let first = goes(tenant(1).ask(&arbiter, &wish(NOW_NS)));
        let second = other.join().unwrap();
        assert!(first != second, "one of them: {first} {second}");
        assert_eq!(holder(&arbiter), Some(if first { 0 } else { 1 }));
    });
}

/// A turn that is handed on while somebody takes it for over is added up once, and the device is somebody's or free.
#[test]
fn a_turn_is_added_up_once() {
    check(2, || {
        let arbiter = set();
        let one = tenant(1);
        assert!(goes(one.ask(&arbiter, &wish(NOW_NS))));
        // Past everything that it could still be waited for.
        let later_ns = NOW_NS + QUANTUM_NS + OVERRUN_NS + 5_000_000;
        let other = {
            let arbiter = Arc::clone(&arbiter);
            thread::spawn(move || goes(tenant(2).ask(&arbiter, &wish(later_ns))))
        };
        let released = one.release(&arbiter, later_ns, false);
        let taken = other.join().unwrap();
        let served_ns = arbiter.seats[0].served_ns.load(Ordering::Relaxed);
        assert!(taken || released == Released::Free);
        assert!(served_ns <= later_ns - NOW_NS, "more than there was: {served_ns}");
        assert!(served_ns > 0);
        match holder(&arbiter) {
            Some(place) => assert!(taken && place == 1),
            None => assert_eq!(released, Released::Free),
        }
    });
}

/// Who dies right after any of its steps keeps nobody waiting for longer than its turn and what may come after.
#[test]
fn who_dies_holds_nothing() {
    check(2, || {
        let arbiter = set();
        let dying = {
            let arbiter = Arc::clone(&arbiter);
            // Never heard of again, whatever it was told.
            thread::spawn(move || {
                let _ = tenant(1).ask(&arbiter, &wish(NOW_NS));
            })
        };
        let two = tenant(2);
        let at_once = goes(two.ask(&arbiter, &wish(NOW_NS)));
        dying.join().unwrap();
        let later_ns = NOW_NS + 2 * QUANTUM_NS + OVERRUN_NS;
        assert!(at_once || goes(two.ask(&arbiter, &wish(later_ns))));
    });
}
