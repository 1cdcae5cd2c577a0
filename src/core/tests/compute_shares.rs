//! What a process owes of a compute share when it is killed: what has run stays owed, what has not is given back, and
//! nobody else's debt is touched.
//!
//! The tests fork, so they run one at a time: a child forked during another test's claim would prolong that claim.
#![cfg(not(loom))]

mod child;

use std::io::{Read, Write};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use vcuda_core::bucket::LONGEST_DEBT_NS;
use vcuda_core::compute::{Charge, ComputeAccount, ComputeWords, Measured, monotonic_ns};
use vcuda_core::control::Control;
use vcuda_core::device::{DeviceIndex, Uuid};
use vcuda_core::slots::Slot;

use child::Child;

const GPU: Uuid = Uuid::gpu(*b"0123456789abcdef");
const SECOND_NS: u64 = 1_000_000_000;
const HALF_PPM: u32 = 500_000;

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// A control file, and this process's part in it.
struct Place {
    _directory: tempfile::TempDir,
    control: Arc<Control>,
    device: DeviceIndex,
    _slot: Slot,
    account: ComputeAccount,
    _turn: MutexGuard<'static, ()>,
}

fn place() -> Place {
    let turn = ONE_AT_A_TIME.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let directory = tempfile::tempdir().unwrap();
    let control = Control::open_or_create(directory.path().join("control")).unwrap();
    let device = control.device(GPU).unwrap();
    let slot = control.claim("observer").unwrap();
    let account = slot.compute_account(device);
    words(&account).set_share_ppm(HALF_PPM);
    Place { _directory: directory, control, device, _slot: slot, account, _turn: turn }
}

fn words(account: &ComputeAccount) -> ComputeWords<'_> {
    let (words, lost) = account.open();
    assert_eq!(lost, None);
    words
}

/// Charges work that is expected to be done after `lasts_ns` from now.
fn charge(words: &ComputeWords<'_>, busy_ns: u64, lasts_ns: u64) {
    let now_ns = monotonic_ns();
    let charge = Charge { busy_ns, work_count: 1, done_by_ns: now_ns + lasts_ns, ..Charge::default() };
    words.charge(now_ns, charge, HALF_PPM, LONGEST_DEBT_NS);
}

impl Place {
    fn words(&self) -> ComputeWords<'_> {
        words(&self.account)
    }

    fn deadline_ns(&self) -> u64 {
        self.words().compute.deadline_ns.load(Ordering::Relaxed)
    }

    /// A child that claims a slot, does `then` with its words, and stays.
    fn process(&self, then: impl FnOnce(&ComputeWords<'_>)) -> Child {
        let (mut reader, mut writer) = std::io::pipe().unwrap();
        let child = Child::fork(|| {
            let slot = self.control.claim("trainer").unwrap();
            let account = slot.compute_account(self.device);
            then(&words(&account));
            writer.write_all(&[1]).unwrap();
            loop {
                std::thread::sleep(Duration::from_secs(3600));
            }
        });
        drop(writer);
        reader.read_exact(&mut [0]).expect("the child ended before it was ready");
        child
    }

    /// Kills a process and takes its slot back. Returns by how much that moved the deadline back.
    fn bury(&self, process: Child) -> u64 {
        let before_ns = self.deadline_ns();
        process.kill();
        assert_eq!(self.deadline_ns(), before_ns, "until the slot is taken back nothing happens");
        assert_eq!(self.control.reap().unwrap().slots, 1);
        before_ns - self.deadline_ns()
    }
}

#[test]
fn what_had_not_run_is_given_back_and_what_others_owe_is_not() {
    let place = place();
    charge(&place.words(), SECOND_NS, SECOND_NS);
    let began_ns = monotonic_ns();
    let victim = place.process(|words| charge(words, 10 * SECOND_NS, 10 * SECOND_NS));
    let bystander = place.process(|words| charge(words, SECOND_NS, SECOND_NS));
    let given_back_ns = place.bury(victim);
    // It may have run from the charge to now, at half of the device twice as long a debt.
    let ran_ns = monotonic_ns() - began_ns;
    assert!(given_back_ns <= 20 * SECOND_NS, "{given_back_ns}");
    assert!(given_back_ns + 2 * ran_ns >= 20 * SECOND_NS, "{given_back_ns} after {ran_ns}");
    assert!(
        place.deadline_ns() >= began_ns + 3 * SECOND_NS,
        "two seconds each for the others, less the credit"
    );
    bystander.kill();
}

#[test]
fn what_has_run_stays_owed() {
    let place = place();
    let victim = place.process(|words| charge(words, SECOND_NS, 0));
    assert_eq!(place.bury(victim), 0);
}

#[test]
fn what_was_measured_stays_owed_and_counted() {
    let place = place();
    let victim = place.process(|words| {
        charge(words, SECOND_NS, 10 * SECOND_NS);
        let end_ns = monotonic_ns();
        let start_ns = end_ns - 3 * SECOND_NS;
        let measured = Measured { charged_ns: SECOND_NS, start_ns, end_ns, busy_ns: 3 * SECOND_NS };
        let settled = words.settle(end_ns, measured, HALF_PPM, LONGEST_DEBT_NS);
        assert_eq!((settled.new_ns, settled.moved_ns), (3 * SECOND_NS, 4 * SECOND_NS as i64));
    });
    assert_eq!(place.bury(victim), 0);
    let compute = place.words().compute;
    assert_eq!(compute.busy_ns.load(Ordering::Relaxed), 3 * SECOND_NS);
    assert_eq!(compute.work_count.load(Ordering::Relaxed), 1);
}

#[test]
fn a_refund_leaves_nothing_to_give_back() {
    let place = place();
    let victim = place.process(|words| {
        charge(words, 2 * SECOND_NS, 10 * SECOND_NS);
        words.refund(monotonic_ns(), 2 * SECOND_NS, HALF_PPM);
    });
    assert_eq!(place.bury(victim), 0);
}

/// Most of the charge was forgiven, so that what was not run is more than what is owed.
#[test]
fn the_dead_leave_nothing_to_spend() {
    let place = place();
    let victim = place.process(|words| charge(words, 3600 * SECOND_NS, 3600 * SECOND_NS));
    place.bury(victim);
    let deadline_ns = place.deadline_ns();
    let now_ns = monotonic_ns();
    assert!(deadline_ns <= now_ns && now_ns - deadline_ns < SECOND_NS, "{deadline_ns} at {now_ns}");
}

#[test]
fn whoever_leaves_in_peace_gives_back_the_same() {
    let place = place();
    let before_ns = monotonic_ns();
    {
        let slot = place.control.claim("short").unwrap();
        charge(&words(&slot.compute_account(place.device)), 10 * SECOND_NS, 10 * SECOND_NS);
        assert!(place.deadline_ns() > before_ns + 19 * SECOND_NS);
    }
    let ran_ns = monotonic_ns() - before_ns;
    assert!(place.deadline_ns() <= before_ns + 2 * ran_ns);
}
