//! The quota protocol under a model checker: every interleaving, every reading the memory order allows, and a kill
//! before every access to a shared word.
//!
//! Run by `RUSTFLAGS="--cfg loom" cargo test -p vcuda-core --release --target-dir target/loom --test loom_quota`.
#![cfg(loom)]

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use loom::sync::Arc;
use loom::sync::atomic::{AtomicU64, Ordering};
use loom::thread;

use vcuda_core::quota::{
    Change, Done, Holding, NotDone, Quota, SlotWords, Words, give_all_back, holding, operate,
};

const LIMIT_PAGES: u64 = 3;

/// One device and its slots.
struct Device {
    quota: AtomicU64,
    set_aside: AtomicU64,
    slots: Vec<(AtomicU64, AtomicU64)>,
}

impl Device {
    /// As if every slot had made `operations` so far, slot 0 the last.
    fn new(slots: usize, operations: u32) -> Arc<Self> {
        let settled = Holding { used_pages: 0, sequence: operations }.pack();
        let quota = Quota { used_pages: 0, slot: 0, sequence: operations as u16 }.pack();
        Arc::new(Self {
            quota: AtomicU64::new(quota),
            set_aside: AtomicU64::new(0),
            slots: (0..slots).map(|_| (AtomicU64::new(settled), AtomicU64::new(settled))).collect(),
        })
    }

    /// With nobody at work: the total is what the slots hold, and that is `expected`.
    fn assert_settled(&self, expected: &[u64]) {
        let view = View::immortal(self);
        let held: Vec<u64> =
            (0..expected.len()).map(|slot| holding(&view, slot as u16).unwrap().used_pages).collect();
        assert_eq!(held, expected);
        let total = Quota::unpack(self.quota.load(Ordering::Acquire)).used_pages;
        assert_eq!(total, expected.iter().sum::<u64>());
        assert!(total <= LIMIT_PAGES);
    }
}

/// A process's view of the device, and the accesses it has left to live.
struct View<'a> {
    device: &'a Device,
    accesses_left: Cell<Option<u32>>,
}

struct Killed;

impl<'a> View<'a> {
    fn immortal(device: &'a Device) -> Self {
        Self { device, accesses_left: Cell::new(None) }
    }

    fn killed_after(device: &'a Device, accesses: u32) -> Self {
        Self { device, accesses_left: Cell::new(Some(accesses)) }
    }
}

impl Words for View<'_> {
    fn quota(&self) -> &AtomicU64 {
        &self.device.quota
    }

    fn slot(&self, slot: u16) -> Option<SlotWords<'_>> {
        let (settled, proposed) = self.device.slots.get(usize::from(slot))?;
        Some(SlotWords { settled, proposed })
    }

    fn set_aside_pages(&self) -> u64 {
        self.device.set_aside.load(Ordering::Acquire)
    }

    fn before_access(&self) {
        match self.accesses_left.get() {
            Some(0) => resume_unwind(Box::new(Killed)),
            left => self.accesses_left.set(left.map(|left| left - 1)),
        }
    }
}

/// Runs a process; `None` if it was killed.
fn run<T>(process: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(process))
        .map_err(|cause| {
            if !cause.is::<Killed>() {
                resume_unwind(cause)
            }
        })
        .ok()
}

/// Reserves and releases as told, positive and negative, and returns what the slot holds then.
fn work(view: &View, slot: u16, changes: &[i64]) -> u64 {
    let mut held = holding(view, slot).unwrap();
    for &change in changes {
        let pages = change.unsigned_abs();
        let change = match change {
            0.. => Change::Reserve { pages, limit_pages: LIMIT_PAGES },
            _ => Change::Release { pages },
        };
        match operate(view, slot, held, change) {
            Ok(Done { holding, total_pages }) => {
                assert!(total_pages <= LIMIT_PAGES);
                held = holding;
            }
            Err(NotDone::OverLimit { used_pages }) => assert!(used_pages + pages > LIMIT_PAGES),
            Err(other) => panic!("slot {slot}: {other:?}"),
        }
    }
    held.used_pages
}

fn check(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(model);
}

/// Operations made before the model starts: none, and just before the numbers' 16 and 28 bits run out.
const BEGINNINGS: [u32; 3] = [0, 0xfffe, (1 << 28) - 2];

#[test]
fn two_living_processes_account_for_every_page() {
    for beginning in BEGINNINGS {
        check(4, move || {
            let device = Device::new(2, beginning);
            let other = {
                let device = Arc::clone(&device);
                thread::spawn(move || work(&View::immortal(&device), 1, &[2, -1]))
            };
            let first = work(&View::immortal(&device), 0, &[2, -2, 1]);
            let second = other.join().unwrap();
            device.assert_settled(&[first, second]);
        });
    }
}

#[test]
fn three_living_processes_never_pass_the_limit() {
    check(2, || {
        let device = Device::new(3, 0);
        let others: Vec<_> = (1..3)
            .map(|slot| {
                let device = Arc::clone(&device);
                thread::spawn(move || work(&View::immortal(&device), slot, &[2]))
            })
            .collect();
        let mut held = vec![work(&View::immortal(&device), 0, &[1, -1])];
        held.extend(others.into_iter().map(|other| other.join().unwrap()));
        device.assert_settled(&held);
    });
}

/// The victim dies before its `k`-th access, for every `k` until it always survives; whoever comes next takes over.
#[test]
fn a_process_killed_anywhere_gives_everything_back() {
    for beginning in BEGINNINGS {
        for accesses in 0.. {
            let kills = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
            let count = std::sync::Arc::clone(&kills);
            check(3, move || {
                let device = Device::new(2, beginning);
                let victim = {
                    let device = Arc::clone(&device);
                    thread::spawn(move || run(|| work(&View::killed_after(&device, accesses), 0, &[2, -1])))
                };
                let bystander = work(&View::immortal(&device), 1, &[1, -1, 1]);
                let survivor = victim.join().unwrap();
                if survivor.is_none() {
                    count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    give_all_back(&View::immortal(&device), 0).unwrap();
                }
                device.assert_settled(&[survivor.unwrap_or(0), bystander]);
            });
            if kills.load(std::sync::atomic::Ordering::Relaxed) == 0 {
                assert!(accesses > 12, "too few accesses for two operations: {accesses}");
                break;
            }
        }
    }
}

/// As above, but a taker comes while the bystander still works, and is killed as well, anywhere.
#[test]
fn a_taker_killed_anywhere_is_finished_by_the_next() {
    for victim_accesses in 0..18 {
        for taker_accesses in 0..18 {
            check(2, move || {
                let device = Device::new(2, 0);
                let taker = {
                    let device = Arc::clone(&device);
                    thread::spawn(move || {
                        // One thread for both, as the lock passes from one to the other.
                        run(|| work(&View::killed_after(&device, victim_accesses), 0, &[2]));
                        run(|| give_all_back(&View::killed_after(&device, taker_accesses), 0).unwrap());
                    })
                };
                let bystander = work(&View::immortal(&device), 1, &[1, -1]);
                taker.join().unwrap();
                give_all_back(&View::immortal(&device), 0).unwrap();
                device.assert_settled(&[0, bystander]);
            });
        }
    }
}

/// A helper that stalled anywhere while settling somebody's operation does no harm to later ones of the same slot.
#[test]
fn a_late_helper_changes_nothing() {
    check(2, || {
        let device = Device::new(3, 0);
        let helpers: Vec<_> = (1..3)
            .map(|slot| {
                let device = Arc::clone(&device);
                thread::spawn(move || work(&View::immortal(&device), slot, &[1]))
            })
            .collect();
        let mut held = vec![work(&View::immortal(&device), 0, &[1, -1])];
        held.extend(helpers.into_iter().map(|helper| helper.join().unwrap()));
        device.assert_settled(&held);
    });
}

/// Slot 0 is suspended and holds 2 of 3 pages. An agent takes them back by slot 2 while slot 1 wants all it can get.
#[test]
fn what_was_set_aside_comes_back_within_the_limit() {
    loom::model(|| {
        let device = Device::new(3, 0);
        let view = View::immortal(&device);
        operate(&view, 0, Holding::default(), Change::Reserve { pages: 2, limit_pages: LIMIT_PAGES })
            .unwrap();
        device.set_aside.store(2, Ordering::Release);
        let other = {
            let device = Arc::clone(&device);
            thread::spawn(move || {
                let view = View::immortal(&device);
                let held = holding(&view, 1).unwrap();
                operate(&view, 1, held, Change::Reserve { pages: 2, limit_pages: LIMIT_PAGES }).is_ok()
            })
        };
        let held = holding(&view, 2).unwrap();
        let reserve = Change::Reserve { pages: 2, limit_pages: LIMIT_PAGES };
        let taken_back = match operate(&view, 2, held, reserve) {
            Ok(Done { holding: held, .. }) => {
                device.set_aside.store(0, Ordering::SeqCst);
                operate(&view, 2, held, Change::Release { pages: 2 }).unwrap();
                true
            }
            Err(NotDone::OverLimit { .. }) => false,
            Err(other) => panic!("{other:?}"),
        };
        let got = other.join().unwrap();
        let total = Quota::unpack(device.quota.load(Ordering::Acquire)).used_pages;
        let in_use = total - device.set_aside.load(Ordering::Acquire);
        assert_eq!(in_use, 2 * (u64::from(taken_back) + u64::from(got)));
        assert!(in_use <= LIMIT_PAGES);
    });
}
