//! What this process charges of one device's time, and the words it shares with the others for that.
//!
//! Owns the way from a slot to the compute words of a device: the bucket, the record of busy time, the counters. It must
//! never touch the file without having asked whether it still is whole, nor from a forked child, and it must never leave
//! a device unlimited: where the file can't be used, the process goes on with words of its own, so that the share
//! holds for it alone.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![deny(clippy::arithmetic_side_effects)]

use std::sync::Arc;
use std::sync::OnceLock;

use crate::abi::{Compute, ControlFile, SlotDevice};
use crate::atomic::{AtomicU64, Ordering};
use crate::bucket::{Bucket, Charged, rescaled_ns, wall_ns};
use crate::control::entry;
use crate::coverage::Coverage;
use crate::device::DeviceIndex;
use crate::error::Lost;
use crate::share::Share;
use crate::sharing::Sharing;
use crate::slots::{Claim, Slot};

/// This process's part in one device's compute share.
pub struct ComputeAccount {
    claim: Arc<Claim>,
    device: DeviceIndex,
    own: OnceLock<PrivateWords>,
}

/// Words that no other process shares: for one that has lost its control file, and for trying things out.
pub struct PrivateWords {
    compute: Compute,
    slot: SlotDevice,
    coverage: Box<[AtomicU64]>,
}

impl Default for PrivateWords {
    fn default() -> Self {
        Self { compute: Compute::default(), slot: SlotDevice::default(), coverage: idle_record() }
    }
}

impl PrivateWords {
    /// The words.
    pub fn view(&self) -> ComputeWords<'_> {
        ComputeWords { compute: &self.compute, slot: &self.slot, coverage: Coverage::new(&self.coverage) }
    }
}

/// The words of a record of a device that was never busy.
pub fn idle_record() -> Box<[AtomicU64]> {
    (0..crate::coverage::SLOTS).map(|_| AtomicU64::new(0)).collect()
}

impl Slot {
    /// This process's part in the compute share of `device`.
    pub fn compute_account(&self, device: DeviceIndex) -> ComputeAccount {
        ComputeAccount { claim: Arc::clone(self.claim()), device, own: OnceLock::new() }
    }
}

impl ComputeAccount {
    /// The shared words, for the next few accesses: asks once whether the file is whole, which costs one system call.
    ///
    /// The second value is why the file can't be used, if it can't; the words are then this process's own.
    pub fn open(&self) -> (ComputeWords<'_>, Option<Lost>) {
        match self.claim.file().and_then(|file| words(file, self.claim.index(), self.device)) {
            Ok(words) => (words, None),
            Err(lost) => (self.own.get_or_init(PrivateWords::default).view(), Some(lost)),
        }
    }
}

/// The words of one slot and device of a mapped file.
fn words(file: &ControlFile, slot: u16, device: DeviceIndex) -> Result<ComputeWords<'_>, Lost> {
    let slot = file.slots.get(usize::from(slot)).ok_or(Lost::Contradictory)?;
    Ok(ComputeWords {
        compute: &entry(file, device)?.compute,
        slot: slot.devices.get(device.get()).ok_or(Lost::Contradictory)?,
        coverage: Coverage::new(&file.coverage.get(device.get()).ok_or(Lost::Contradictory)?.slots),
    })
}

/// What is charged in advance, see [`ComputeWords::charge`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Charge {
    /// Predicted GPU time.
    pub busy_ns: u64,
    /// Pieces of work it is for.
    pub work_count: u64,
    /// When all this process's work is expected to be done, monotonic clock.
    pub done_by_ns: u64,
    /// How far back a deadline may lie that is still counted from, see [`CREDIT_NS`](crate::bucket::CREDIT_NS).
    pub credit_ns: u64,
}

/// What was measured, see [`ComputeWords::settle`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Measured {
    /// What had been charged for it.
    pub charged_ns: u64,
    /// When it began, monotonic clock.
    pub start_ns: u64,
    /// When it ended.
    pub end_ns: u64,
    /// GPU time in between.
    pub busy_ns: u64,
}

/// What settling did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// GPU time that nobody had reported before: what the work costs.
    pub new_ns: u64,
    /// By how much the deadline moved, in wall time.
    pub moved_ns: i64,
}

/// The shared words of one device and slot. Times are nanoseconds of the monotonic clock.
#[derive(Clone, Copy)]
pub struct ComputeWords<'a> {
    /// The device's.
    pub compute: &'a Compute,
    /// This process's.
    pub slot: &'a SlotDevice,
    /// The device's record of busy time.
    pub coverage: Coverage<'a>,
}

impl ComputeWords<'_> {
    /// The bucket.
    pub fn bucket(&self) -> Bucket<'_> {
        Bucket::new(&self.compute.deadline_ns)
    }

    /// Charges work in advance. The order of the words matters to `give_back`: what is charged is on the slot's account
    /// before it is in the bucket, so a process that dies in between leaves no debt that is not its own.
    pub fn charge(&self, now_ns: u64, charge: Charge, share_ppm: u32, bound_ns: u64) -> Charged {
        add(&self.slot.work_count, charge.work_count);
        add(&self.compute.work_count, charge.work_count);
        self.slot.done_by_ns.fetch_max(charge.done_by_ns, Ordering::Relaxed);
        self.slot.unsettled_ns.fetch_add(charge.busy_ns, Ordering::Relaxed);
        let charged =
            self.bucket().charge_late(now_ns, wall_ns(charge.busy_ns, share_ppm), bound_ns, charge.credit_ns);
        add(&self.compute.forgiven_ns, charged.forgiven_ns);
        charged
    }

    /// Replaces what was charged in advance by what was measured.
    pub fn settle(&self, now_ns: u64, measured: Measured, share_ppm: u32, bound_ns: u64) -> Settled {
        let new_ns = self.coverage.add(measured.start_ns, measured.end_ns, measured.busy_ns);
        add(&self.slot.busy_ns, new_ns);
        add(&self.compute.busy_ns, new_ns);
        add(&self.compute.stream_busy_ns, measured.busy_ns);
        self.take_unsettled(measured.charged_ns);
        let moved_ns = price_ns(new_ns, share_ppm).saturating_sub(price_ns(measured.charged_ns, share_ppm));
        let forgiven_ns = self.bucket().correct(now_ns, moved_ns, bound_ns);
        add(&self.compute.forgiven_ns, forgiven_ns);
        Settled { new_ns, moved_ns }
    }

    /// Takes back a charge for work that did not come about.
    pub fn refund(&self, now_ns: u64, busy_ns: u64, share_ppm: u32) {
        self.take_unsettled(busy_ns);
        self.bucket().correct(now_ns, 0i64.saturating_sub(price_ns(busy_ns, share_ppm)), 0);
    }

    /// Counts a call that was held back.
    pub fn note_throttled(&self, waited_ns: u64) {
        add(&self.slot.throttled_ns, waited_ns);
        add(&self.compute.throttled_ns, waited_ns);
        add(&self.compute.throttled_count, 1);
    }

    /// Notes the share that this process enforces, for others to show; all of the time is none.
    pub fn set_share_ppm(&self, share_ppm: u32) {
        note(&self.compute.share_ppm, shown(share_ppm));
    }

    /// Notes how this process shares the device, for others to show.
    pub fn set_sharing(&self, sharing: Option<Sharing>) {
        note(&self.compute.sharing, sharing.map_or(0, Sharing::to_word));
    }

    /// This process enforces `to_ppm` from now on where it enforced `from_ppm`, all of the time being no share. Of the
    /// processes that take the same change one after the other the first restates the common debt, and the word
    /// that shows the share tells who that is. One that dies between the two leaves the debt as it was, to be paid for in the
    /// time it would have taken. Returns by how much the deadline has moved for this process's waits.
    pub fn change_share(&self, now_ns: u64, from_ppm: u32, to_ppm: u32) -> i64 {
        let [from, to] = [from_ppm, to_ppm].map(shown);
        match self.compute.share_ppm.compare_exchange(from, to, Ordering::AcqRel, Ordering::Relaxed) {
            Ok(_) => self.bucket().restate(now_ns, from_ppm, to_ppm),
            Err(found) if found == to => {
                let debt_ns = self.bucket().debt_ns(now_ns);
                debt_ns.wrapping_sub(rescaled_ns(debt_ns, to_ppm, from_ppm)) as i64
            }
            // Another share was in force here than elsewhere in the container: the debt is in the other's terms.
            Err(_) => {
                self.compute.share_ppm.store(to, Ordering::Relaxed);
                0
            }
        }
    }

    fn take_unsettled(&self, busy_ns: u64) {
        let less = |unsettled: u64| Some(unsettled.saturating_sub(busy_ns));
        let _ = self.slot.unsettled_ns.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }
}

/// A share as [`Compute::share_ppm`] has it: 0 where there is none.
fn shown(share_ppm: u32) -> u64 {
    u64::from(if share_ppm >= Share::WHOLE.ppm() { 0 } else { share_ppm })
}

/// Gives back what a dead process had charged for work that can't have run: the driver ends a process's work with it.
/// The caller has the slot's lock.
pub(crate) fn give_back(file: &ControlFile, slot: &SlotDevice, device: DeviceIndex) -> Result<(), Lost> {
    let unsettled_ns = slot.unsettled_ns.swap(0, Ordering::Relaxed);
    let done_by_ns = slot.done_by_ns.swap(0, Ordering::Relaxed);
    // Asked of every device the file has room for, of which a process uses few.
    let now_ns = if unsettled_ns == 0 { 0 } else { monotonic_ns() };
    let not_run_ns = unsettled_ns.min(done_by_ns.saturating_sub(now_ns));
    let compute = &entry(file, device)?.compute;
    let share_ppm = u32::try_from(compute.share_ppm.load(Ordering::Relaxed)).unwrap_or(u32::MAX);
    // The share may be nobody's by now; then nobody waits for the deadline either.
    if not_run_ns > 0 && share_ppm > 0 {
        let bucket = Bucket::new(&compute.deadline_ns);
        // No further back than now: who is gone owes nothing, but leaves nothing to spend either.
        let debt = i64::try_from(bucket.debt_ns(now_ns)).unwrap_or(i64::MAX);
        bucket.correct(now_ns, 0i64.saturating_sub(price_ns(not_run_ns, share_ppm).min(debt)), 0);
    }
    for word in [&slot.work_count, &slot.busy_ns, &slot.throttled_ns] {
        word.store(0, Ordering::Relaxed);
    }
    Ok(())
}

/// [`wall_ns`] as a distance that a deadline moves by.
fn price_ns(busy_ns: u64, share_ppm: u32) -> i64 {
    i64::try_from(wall_ns(busy_ns, share_ppm)).unwrap_or(i64::MAX)
}

/// Now, on the clock of all deadlines.
pub fn monotonic_ns() -> u64 {
    crate::region::monotonic_ns()
}

/// Writes only what is not there already: the line is everybody's.
fn note(word: &AtomicU64, value: u64) {
    if word.load(Ordering::Relaxed) != value {
        word.store(value, Ordering::Relaxed);
    }
}

fn add(word: &AtomicU64, amount: u64) {
    if amount != 0 {
        word.fetch_add(amount, Ordering::Relaxed);
    }
}
