//! The quota protocol on plain memory: what a model checker can't reach, such as 65536 operations within one stall.
#![cfg(not(loom))]

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;
use vcuda_core::quota::{
    Change, Done, Holding, MAX_PAGES, MAX_SLOTS, NotDone, PAGE_BYTES, Quota, SlotWords, Words,
    bytes_of_pages, give_all_back, holding, operate, pages_for_charge, pages_within_limit,
};

#[derive(Default)]
struct Device {
    quota: AtomicU64,
    slots: Vec<[AtomicU64; 2]>,
}

impl Device {
    fn new(slots: usize) -> Self {
        Self { slots: (0..slots).map(|_| Default::default()).collect(), ..Self::default() }
    }

    fn total(&self) -> u64 {
        Quota::unpack(self.quota.load(Ordering::SeqCst)).used_pages
    }

    fn held(&self) -> Vec<u64> {
        (0..self.slots.len() as u16).map(|slot| holding(&Calm(self), slot).unwrap().used_pages).collect()
    }
}

fn words_of(device: &Device, slot: u16) -> Option<SlotWords<'_>> {
    let [settled, proposed] = device.slots.get(usize::from(slot))?;
    Some(SlotWords { settled, proposed })
}

/// Undisturbed.
struct Calm<'a>(&'a Device);

impl Words for Calm<'_> {
    fn quota(&self) -> &AtomicU64 {
        &self.0.quota
    }
    fn slot(&self, slot: u16) -> Option<SlotWords<'_>> {
        words_of(self.0, slot)
    }
}

/// Something happens before the `n`-th access, counted from 0.
struct Disturbed<'a, F: FnOnce()> {
    device: &'a Device,
    accesses_left: Cell<u32>,
    event: RefCell<Option<F>>,
}

impl<'a, F: FnOnce()> Disturbed<'a, F> {
    fn before_access_number(n: u32, device: &'a Device, event: F) -> Self {
        Self { device, accesses_left: Cell::new(n), event: RefCell::new(Some(event)) }
    }
}

impl<F: FnOnce()> Words for Disturbed<'_, F> {
    fn quota(&self) -> &AtomicU64 {
        &self.device.quota
    }
    fn slot(&self, slot: u16) -> Option<SlotWords<'_>> {
        words_of(self.device, slot)
    }
    fn before_access(&self) {
        match self.accesses_left.get() {
            0 => {
                let event = self.event.borrow_mut().take();
                if let Some(event) = event {
                    event();
                }
            }
            left => self.accesses_left.set(left - 1),
        }
    }
}

/// Runs a process that dies before its `n`-th access; `None` if it did.
fn killed_before<T>(
    n: u32,
    device: &Device,
    process: impl FnOnce(&dyn Fn(u16, i64) -> Outcome) -> T,
) -> Option<T> {
    struct Killed;
    let words = Disturbed::before_access_number(n, device, || resume_unwind(Box::new(Killed)));
    let outcome = catch_unwind(AssertUnwindSafe(|| process(&|slot, change| apply(&words, slot, change))));
    outcome
        .map_err(|cause| {
            if !cause.is::<Killed>() {
                resume_unwind(cause)
            }
        })
        .ok()
}

type Outcome = Result<Done, NotDone>;

const LIMIT_PAGES: u64 = 100;

/// Positive reserves, negative releases.
fn apply(words: &impl Words, slot: u16, change: i64) -> Outcome {
    let pages = change.unsigned_abs();
    let change = match change {
        0.. => Change::Reserve { pages, limit_pages: LIMIT_PAGES },
        _ => Change::Release { pages },
    };
    operate(words, slot, holding(words, slot)?, change)
}

#[test]
fn a_settler_that_slept_through_65536_operations_settles_nothing_wrong() {
    // Slot 0 makes its first operation, and is killed before it settles it; operations number 1 and 65537 look alike.
    for stall in 0..12 {
        for victim_dies_before in 0..16 {
            let device = Device::new(2);
            let mut killed_once = false;
            for n in 0.. {
                // The last access of an operation settles it.
                let fresh = Device::new(2);
                if killed_before(n, &fresh, |apply| apply(0, 1)).is_some() {
                    assert!(killed_before(n - 1, &device, |apply| apply(0, 1)).is_none());
                    killed_once = true;
                    break;
                }
            }
            assert!(killed_once && device.total() == 1);

            let meanwhile = || {
                for operation in 0..65_535 {
                    apply(&Calm(&device), 0, if operation % 2 == 0 { -1 } else { 1 }).unwrap();
                }
                let _ = killed_before(victim_dies_before, &device, |apply| apply(0, 7));
            };
            let words = Disturbed::before_access_number(stall, &device, meanwhile);
            apply(&words, 1, 3).unwrap();
            assert_eq!(device.held().iter().sum::<u64>(), device.total(), "stalled before access {stall}");
            give_all_back(&Calm(&device), 0).unwrap();
            assert_eq!((device.held(), device.total()), (vec![0, 3], 3), "stalled before access {stall}");
        }
    }
}

#[test]
fn an_empty_file_owes_nothing() {
    let device = Device::new(2);
    assert_eq!(give_all_back(&Calm(&device), 0), Ok(0));
    assert_eq!(give_all_back(&Calm(&device), 1), Ok(0));
    assert_eq!(device.quota.load(Ordering::SeqCst), 0);
    apply(&Calm(&device), 1, 5).unwrap();
    assert_eq!(device.held(), [0, 5]);
}

#[test]
fn an_owner_notices_foreign_writing() {
    let device = Device::new(1);
    let held = apply(&Calm(&device), 0, 5).unwrap().holding;
    device.slots[0][0].fetch_add(1 << 28, Ordering::SeqCst);
    let release = Change::Release { pages: 1 };
    assert_eq!(operate(&Calm(&device), 0, held, release), Err(NotDone::Contradiction));
    assert_eq!(operate(&Calm(&device), 1, held, release), Err(NotDone::NoSuchSlot));
}

#[test]
fn bytes_become_pages_against_the_tenant() {
    assert_eq!(
        (pages_for_charge(0), pages_for_charge(1), pages_for_charge(4096), pages_for_charge(4097)),
        (0, 1, 1, 2)
    );
    assert_eq!((pages_within_limit(4095), pages_within_limit(4096), pages_within_limit(8191)), (0, 1, 1));
    assert_eq!(pages_for_charge(u64::MAX), 1 << 52);
    assert_eq!(bytes_of_pages(u64::MAX), u64::MAX);
    assert_eq!(bytes_of_pages(3), 3 * PAGE_BYTES);
}

proptest! {
    #[test]
    fn every_word_has_one_value(word: u64) {
        prop_assert_eq!(Quota::unpack(word).pack(), word);
        prop_assert_eq!(Holding::unpack(word).pack(), word);
        prop_assert!(Quota::unpack(word).slot < MAX_SLOTS);
        prop_assert!(Quota::unpack(word).used_pages <= MAX_PAGES);
    }

    /// Any sequence of operations of any slots, each process dying anywhere and being taken over, also repeatedly.
    #[test]
    fn every_page_stays_somebodys(
        steps in prop::collection::vec((0u16..4, -60i64..60, prop::option::of(0u32..14), 0u32..14), 1..60),
    ) {
        let device = Device::new(4);
        let mut expected = [0u64; 4];
        for (slot, change, dies, taker_dies) in steps {
            let own = &mut expected[usize::from(slot)];
            match killed_before(dies.unwrap_or(u32::MAX), &device, |apply| apply(slot, change)) {
                Some(Ok(done)) => {
                    *own = own.saturating_add_signed(change);
                    prop_assert_eq!(done.holding.used_pages, *own);
                }
                Some(Err(refusal)) => {
                    let used_pages = expected.iter().sum();
                    prop_assert_eq!(refusal, NotDone::OverLimit { used_pages });
                    prop_assert!(used_pages.saturating_add_signed(change) > LIMIT_PAGES);
                }
                None => {
                    let words = Disturbed::before_access_number(taker_dies, &device, || resume_unwind(Box::new(())));
                    let _ = catch_unwind(AssertUnwindSafe(|| give_all_back(&words, slot)));
                    give_all_back(&Calm(&device), slot).unwrap();
                    *own = 0;
                }
            }
            prop_assert_eq!(device.held(), expected);
            prop_assert_eq!(device.total(), expected.iter().sum::<u64>());
        }
    }

    /// Words full of anything: no panic, no endless loop, and a total that is a total.
    #[test]
    fn garbage_is_survived(
        quota: u64,
        garbage: [[u64; 2]; 3],
        steps in prop::collection::vec((0u16..5, any::<i64>()), 1..8),
    ) {
        let device = Device::new(3);
        device.quota.store(quota, Ordering::SeqCst);
        for ([settled, proposed], words) in garbage.into_iter().zip(&device.slots) {
            words[0].store(settled, Ordering::SeqCst);
            words[1].store(proposed, Ordering::SeqCst);
        }
        for (slot, change) in steps {
            let _ = apply(&Calm(&device), slot, change);
            let _ = give_all_back(&Calm(&device), slot);
        }
    }
}
