//! What the quota of a slice makes of a suspended process: its pages are set aside, so that others of the slice may
//! reserve as many, and taken back before it runs again.
//!
//! Owns `Slot::set_aside`, the mark of a slot whose pages are set aside, and `Device::set_aside`, the sum of the pages of
//! all that have it. Whoever sets or takes such a mark makes the sum anew, and must win the exchange that
//! began before the sum; so the last one to win has seen every mark. Somebody killed in between leaves it to the next:
//! until then more is allowed or less, but no suspended process is brought back without a reservation. Must never be
//! used on a process that isn't checkpointed. How the pages leave and come back exactly is told in [`quota`].
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![deny(clippy::arithmetic_side_effects)]

use crate::abi::{ControlFile, Device, Slot};
use crate::account::{Account, lost};
use crate::atomic::Ordering;
use crate::control::{DeviceWords, entry};
use crate::device::DeviceIndex;
use crate::error::{Lost, ReserveError};
use crate::quota::{self, MAX_PAGES, pages_within_limit};
use crate::region::monotonic_ns;
use crate::slots;
use crate::suspension::{self, Phase};

/// Pages above, how often they changed below.
const PAGES_SHIFT: u32 = 28;
const COUNT_MASK: u64 = (1 << PAGES_SHIFT) - 1;

/// Pages of a device that are set aside.
pub(crate) fn pages(device: &Device) -> u64 {
    device.set_aside.load(Ordering::Acquire) >> PAGES_SHIFT
}

/// Whether what a slot holds is set aside.
pub(crate) fn is_set_aside(file: &ControlFile, slot: &Slot) -> bool {
    let mark = slot.set_aside.load(Ordering::SeqCst);
    mark != 0 && mark == file.header.generation.load(Ordering::Relaxed)
}

fn mark(file: &ControlFile, slot: &Slot) {
    slot.set_aside.store(file.header.generation.load(Ordering::Relaxed), Ordering::SeqCst);
}

fn unmark(slot: &Slot) {
    slot.set_aside.store(0, Ordering::SeqCst);
}

/// Longest that anybody is held back: what says more was not written by an agent.
const MOST_HELD_NS: u64 = 600_000_000_000;

/// Whether nothing new is to be taken of a device just now.
pub(crate) fn is_held(device: &Device) -> bool {
    let until_ns = device.held_until_ns.load(Ordering::SeqCst);
    // Nobody is, but for seconds at a time; the clock is asked only then.
    until_ns != 0 && (1..MOST_HELD_NS).contains(&until_ns.saturating_sub(monotonic_ns()))
}

/// Devices that some process has used.
fn known(file: &ControlFile) -> impl Iterator<Item = (DeviceIndex, &Device)> {
    let devices = DeviceIndex::all().zip(&file.devices);
    devices.take_while(|(_, device)| device.uuid_high.load(Ordering::Acquire) != 0)
}

/// Makes the sums anew.
fn add_up(file: &ControlFile) -> Result<(), Lost> {
    for (index, device) in known(file) {
        let words = DeviceWords::new(file, index)?;
        loop {
            let before = device.set_aside.load(Ordering::SeqCst);
            let mut sum = 0u64;
            for (number, slot) in slots::ever_claimed(file) {
                if is_set_aside(file, slot) {
                    sum = sum.saturating_add(quota::holding(&words, number).map_err(lost)?.used_pages);
                }
            }
            let after = sum.min(MAX_PAGES) << PAGES_SHIFT | before.wrapping_add(1) & COUNT_MASK;
            if device.set_aside.compare_exchange(before, after, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
                break;
            }
        }
    }
    Ok(())
}

/// Before a dead process's slot is emptied. The caller has its lock.
pub(crate) fn forget(file: &ControlFile, slot: &Slot) -> Result<(), Lost> {
    // A taker killed between the two steps left the phase, which goes last.
    if is_set_aside(file, slot) || suspension::of(slot).phase() != Phase::Running {
        unmark(slot);
        add_up(file)?;
    }
    Ok(())
}

impl slots::Slot {
    /// Sets aside what the process in slot `suspended` holds: it is checkpointed. This slot is the agent's own.
    ///
    /// # Errors
    /// [`Lost`].
    pub fn set_aside(&self, suspended: u16) -> Result<(), Lost> {
        let file = self.claim().file()?;
        let slot = file.slots.get(usize::from(suspended)).ok_or(Lost::Contradictory)?;
        mark(file, slot);
        for (index, _) in known(file) {
            self.own_account(index)?.touch()?;
        }
        add_up(file)
    }

    /// Takes back what was set aside for the process in slot `suspended`, which may then be restored. Does nothing if
    /// nothing was.
    ///
    /// # Errors
    /// `Refused`, with the amounts, if others of the slice have reserved too much for it to come back now; `Lost`.
    pub fn take_back(&self, suspended: u16) -> Result<(), ReserveError> {
        let file = self.claim().file()?;
        let slot = file.slots.get(usize::from(suspended)).ok_or(Lost::Contradictory)?;
        if !is_set_aside(file, slot) {
            return Ok(());
        }
        let mut reserved = Vec::new();
        let outcome = known(file).try_for_each(|(index, device)| {
            let pages = quota::holding(&DeviceWords::new(file, index)?, suspended).map_err(lost)?.used_pages;
            let limit_pages = pages_within_limit(device.limit_bytes.load(Ordering::Relaxed));
            let mut account = self.own_account(index)?;
            // A limit lowered below what the process alone holds can't be kept by waiting.
            if pages <= limit_pages {
                account.take_again(pages, limit_pages)?;
            }
            reserved.push(account);
            Ok::<(), ReserveError>(())
        });
        if outcome.is_ok() {
            unmark(slot);
            add_up(file)?;
        }
        for account in &mut reserved {
            account.release(account.used_pages())?;
            // Also where nothing was reserved: whoever saw more set aside must look again.
            account.touch()?;
        }
        outcome
    }

    /// The account of a device, which nobody else of this process has.
    fn own_account(&self, device: DeviceIndex) -> Result<Account, Lost> {
        self.account(device)?.ok_or(Lost::Contradictory)
    }
}

impl crate::control::Control {
    /// Has nothing new taken of a device by any process of this slice until `until_ns` on the monotonic clock; 0: go
    /// on. For the time in which a process is restored: reservations wait, at most until then.
    ///
    /// # Errors
    /// [`Lost`].
    pub fn hold_until(&self, device: DeviceIndex, until_ns: u64) -> Result<(), Lost> {
        entry(self.region.check_writable()?, device)?.held_until_ns.store(until_ns, Ordering::SeqCst);
        Ok(())
    }

    /// Until when nothing new is to be taken of a device; 0 if nobody asks for that.
    ///
    /// # Errors
    /// [`Lost`].
    pub fn held_until_ns(&self, device: DeviceIndex) -> Result<u64, Lost> {
        Ok(entry(self.region.check()?, device)?.held_until_ns.load(Ordering::SeqCst))
    }

    /// Says that until `until_ns` on the monotonic clock an agent makes room on a device for those who ask.
    ///
    /// # Errors
    /// [`Lost`].
    pub fn attend_until(&self, device: DeviceIndex, until_ns: u64) -> Result<(), Lost> {
        entry(self.region.check_writable()?, device)?.attended_until_ns.store(until_ns, Ordering::Relaxed);
        Ok(())
    }

    /// Until when an agent that makes room is to be expected; 0 if there never was one.
    ///
    /// # Errors
    /// [`Lost`].
    pub fn attended_until_ns(&self, device: DeviceIndex) -> Result<u64, Lost> {
        Ok(entry(self.region.check()?, device)?.attended_until_ns.load(Ordering::Relaxed))
    }
}
