//! What the quota of a slice makes of suspended processes.
#![cfg(not(loom))]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use proptest::prelude::*;
use vcuda_core::account::Account;
use vcuda_core::control::Control;
use vcuda_core::device::{DeviceIndex, Uuid};
use vcuda_core::error::ReserveError;
use vcuda_core::slots::Slot;
use vcuda_core::suspension::Phase;

const PAGE: u64 = 4096;
const LIMIT_PAGES: u64 = 100;

struct World {
    _directory: tempfile::TempDir,
    control: Arc<Control>,
    device: DeviceIndex,
    agent: Slot,
}

impl World {
    fn new() -> World {
        let directory = tempfile::tempdir().unwrap();
        let control = Control::open_or_create(directory.path().join("control")).unwrap();
        let device = control.device(Uuid::gpu([9; 16])).unwrap();
        control.set_limit_bytes(device, Some(LIMIT_PAGES * PAGE)).unwrap();
        let agent = control.claim("agent").unwrap();
        World { _directory: directory, control, device, agent }
    }

    fn process(&self) -> (Slot, Account) {
        let slot = self.control.claim("process").unwrap();
        let account = slot.account(self.device).unwrap().unwrap();
        (slot, account)
    }

    fn used(&self) -> u64 {
        self.control.used_pages(self.device).unwrap()
    }
}

fn refused(result: Result<(), ReserveError>) -> bool {
    matches!(result, Err(ReserveError::Refused(_)))
}

#[test]
fn what_is_set_aside_is_room_for_others_until_it_is_taken_back() {
    let world = World::new();
    let ((slot, mut first), (_second_slot, mut second)) = (world.process(), world.process());
    first.reserve(80, LIMIT_PAGES).unwrap();
    assert!(refused(second.reserve(30, LIMIT_PAGES)));
    world.agent.set_aside(slot.index()).unwrap();
    assert_eq!(world.used(), 0);
    second.reserve(30, LIMIT_PAGES).unwrap();
    assert!(refused(second.reserve(71, LIMIT_PAGES)), "the limit holds for the rest");
    assert_eq!(world.used(), 30);
    let snapshot = world.control.snapshot().unwrap();
    assert_eq!((snapshot.devices[0].used_bytes, snapshot.devices[0].set_aside_bytes), (30 * PAGE, 80 * PAGE));

    let Err(ReserveError::Refused(told)) = world.agent.take_back(slot.index()) else { panic!() };
    assert_eq!((told.used_pages, told.limit_pages), (30, LIMIT_PAGES));
    assert_eq!(world.used(), 30, "nothing changed");
    second.release(20).unwrap();
    world.agent.take_back(slot.index()).unwrap();
    assert_eq!(world.used(), 90);
    world.agent.take_back(slot.index()).unwrap();
    first.release(80).unwrap();
    assert_eq!(world.used(), 10);
}

#[test]
fn a_process_set_aside_changes_nothing_until_it_is_back() {
    let world = World::new();
    let (slot, mut account) = world.process();
    account.reserve(10, LIMIT_PAGES).unwrap();
    world.agent.set_aside(slot.index()).unwrap();
    let words = world.control.suspension_words(slot.index()).unwrap();
    std::thread::scope(|scope| {
        let call = scope.spawn(|| account.reserve(5, LIMIT_PAGES));
        while !words.load().is_wanted() {
            std::thread::yield_now();
        }
        std::thread::sleep(Duration::from_millis(100));
        assert!(!call.is_finished());
        assert_eq!(world.used(), 0);
        world.agent.take_back(slot.index()).unwrap();
        words.set_phase(Phase::Running, false);
        call.join().unwrap().unwrap();
    });
    assert_eq!(world.used(), 15);
}

#[test]
fn who_dies_set_aside_leaves_nothing() {
    let world = World::new();
    let (slot, mut account) = world.process();
    account.reserve(60, LIMIT_PAGES).unwrap();
    world.agent.set_aside(slot.index()).unwrap();
    world.control.suspension_words(slot.index()).unwrap().set_phase(Phase::Suspended, false);
    drop((account, slot));
    assert_eq!(world.used(), 0);
    let (_slot, mut next) = world.process();
    assert!(refused(next.reserve(LIMIT_PAGES + 1, LIMIT_PAGES)), "nothing is set aside any more");
    next.reserve(LIMIT_PAGES, LIMIT_PAGES).unwrap();
}

#[test]
fn a_limit_lowered_meanwhile_does_not_keep_a_process_out() {
    let world = World::new();
    let (slot, mut account) = world.process();
    account.reserve(60, LIMIT_PAGES).unwrap();
    world.agent.set_aside(slot.index()).unwrap();
    world.control.set_limit_bytes(world.device, Some(50 * PAGE)).unwrap();
    world.agent.take_back(slot.index()).unwrap();
    assert_eq!(world.used(), 60);
}

/// The rule of all rules, with two that reserve and release as fast as they can.
#[test]
fn the_limit_holds_at_every_instant() {
    let world = World::new();
    let (slot, mut kept) = world.process();
    kept.reserve(50, LIMIT_PAGES).unwrap();
    let is_over = AtomicBool::new(false);
    let (mut taken_back, mut most_used) = (0, 0);
    std::thread::scope(|scope| {
        for pages in [1, 7] {
            let (world, is_over) = (&world, &is_over);
            scope.spawn(move || {
                let (_slot, mut account) = world.process();
                while !is_over.load(Ordering::Relaxed) {
                    if account.reserve(pages, LIMIT_PAGES).is_err() {
                        account.release(account.used_pages()).unwrap();
                    }
                }
            });
        }
        for _ in 0..300 {
            world.agent.set_aside(slot.index()).unwrap();
            std::thread::sleep(Duration::from_micros(300));
            for _ in 0..10_000 {
                if world.agent.take_back(slot.index()).is_ok() {
                    taken_back += 1;
                    break;
                }
            }
            if world.control.snapshot().unwrap().devices[0].set_aside_bytes == 0 {
                most_used = most_used.max(world.used());
            }
        }
        is_over.store(true, Ordering::Relaxed);
    });
    assert!(taken_back > 10, "{taken_back}");
    assert!(most_used <= LIMIT_PAGES, "{most_used}");
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Reserve(usize, u64),
    Release(usize, u64),
    SetAside(usize),
    TakeBack(usize),
    Die(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let who = 0..4usize;
    prop_oneof![
        (who.clone(), 1..60u64).prop_map(|(who, pages)| Step::Reserve(who, pages)),
        (who.clone(), 1..60u64).prop_map(|(who, pages)| Step::Release(who, pages)),
        who.clone().prop_map(Step::SetAside),
        who.clone().prop_map(Step::TakeBack),
        who.prop_map(Step::Die),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn what_runs_stays_within_the_limit_and_adds_up(steps in prop::collection::vec(step(), 1..60)) {
        let world = World::new();
        let mut processes: Vec<_> = (0..4).map(|_| world.process()).collect();
        let mut is_aside = [false; 4];
        for step in steps {
            match step {
                // A process that is set aside waits, which the test above shows.
                Step::Reserve(who, pages) if !is_aside[who] => {
                    let _ = processes[who].1.reserve(pages, LIMIT_PAGES);
                }
                Step::Release(who, pages) if !is_aside[who] => {
                    processes[who].1.release(pages).unwrap();
                }
                Step::SetAside(who) => {
                    world.agent.set_aside(processes[who].0.index()).unwrap();
                    is_aside[who] = true;
                }
                Step::TakeBack(who) => {
                    is_aside[who] &= world.agent.take_back(processes[who].0.index()).is_err();
                }
                Step::Die(who) => {
                    processes.remove(who);
                    processes.insert(who, world.process());
                    is_aside[who] = false;
                }
                _ => {}
            }
            let running = processes.iter().zip(is_aside).filter(|(_, is_aside)| !is_aside);
            let held: u64 = running.map(|((_, account), _)| account.used_pages()).sum();
            prop_assert_eq!(world.used(), held);
            prop_assert!(held <= LIMIT_PAGES);
        }
    }
}
