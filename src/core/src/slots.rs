//! Slots: claiming one for this process, and taking back those of the dead.
//!
//! Owns the life of a slot. Claiming and reaping are the same act, *taking over*: get the slot's lock, finish and give
//! back what a former owner left, then either move in or leave it free. A taker killed midway leaves a slot that the
//! next taker takes over the same way. It must never touch a slot without its lock.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![deny(clippy::arithmetic_side_effects)]

use std::fmt;
use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use crate::abi::{self, ControlFile};
use crate::account::{Account, lost};
use crate::aside;
use crate::atomic::{AtomicU64, Ordering};
use crate::compute;
use crate::control::{Control, DeviceWords};
use crate::device::DeviceIndex;
use crate::dying::is_being_torn_down;
use crate::error::{ControlError, ControlErrorKind as Kind, Lost};
use crate::identity::{self, Identity};
use crate::liveness::{self, Hold};
use crate::quota;
use crate::region::Access;
use crate::suspension;

/// What [`Control::reap`] took back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reaped {
    /// Slots of dead processes that are free now.
    pub slots: u32,
    /// Pages they held, over all devices.
    pub pages: u64,
    /// Slots of processes that are being torn down just now and hold device memory until that is done.
    pub dying: u32,
}

/// This process's place in the control file. What it holds is given back when it and its accounts are dropped, or when
/// the process ends in any way.
pub struct Slot {
    claim: Arc<Claim>,
}

impl Slot {
    /// The slot's number in the file, below [`abi::SLOT_CAPACITY`].
    pub fn index(&self) -> u16 {
        self.claim.index
    }

    /// The file.
    pub fn control(&self) -> &Arc<Control> {
        &self.claim.control
    }

    /// Notes which text of its limits file this process goes by, for others to compare (see
    /// [`digest`](crate::limits::digest)).
    ///
    /// # Errors
    /// [`Lost`].
    pub fn note_limits(&self, digest: u64) -> Result<(), Lost> {
        let slots = &self.claim.file()?.slots;
        let slot = slots.get(usize::from(self.claim.index)).ok_or(Lost::Contradictory)?;
        slot.limits_digest.store(digest, Ordering::Release);
        Ok(())
    }

    pub(crate) fn claim(&self) -> &Arc<Claim> {
        &self.claim
    }

    /// False in a child forked after the claim; the child must claim a slot of its own and leave this one alone.
    pub fn is_own(&self) -> bool {
        self.claim.hold.is_own()
    }

    /// The account of `device`, or `None` while there is one already.
    ///
    /// # Errors
    /// [`Lost`].
    pub fn account(&self, device: DeviceIndex) -> Result<Option<Account>, Lost> {
        let bit = account_bit(device);
        if self.claim.accounts.fetch_or(bit, Ordering::Acquire) & bit != 0 {
            return Ok(None);
        }
        // From here on a failure leads through `Account::drop` or gives the bit back itself.
        let account = Account::new(Arc::clone(&self.claim), device);
        if account.is_err() {
            self.claim.return_account(device);
        }
        account.map(Some)
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slot").field("index", &self.claim.index).finish_non_exhaustive()
    }
}

/// A slot's lock, shared by the slot and its accounts.
pub(crate) struct Claim {
    control: Arc<Control>,
    index: u16,
    hold: Hold,
    /// One bit for each device whose account is out.
    accounts: AtomicU64,
}

impl Claim {
    pub(crate) fn control(&self) -> &Control {
        &self.control
    }

    pub(crate) fn index(&self) -> u16 {
        self.index
    }

    /// The file, if it can be written to and this is the process that claimed the slot.
    pub(crate) fn file(&self) -> Result<&ControlFile, Lost> {
        if !self.hold.is_own() {
            return Err(Lost::Forked);
        }
        self.control.region.check_writable()
    }

    pub(crate) fn return_account(&self, device: DeviceIndex) {
        self.accounts.fetch_and(!account_bit(device), Ordering::Release);
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Ok(file) = self.file() {
            // Whatever fails here is left to the next taker; the lock goes with `hold`.
            let _ = vacate(file, self.index);
        }
    }
}

fn account_bit(device: DeviceIndex) -> u64 {
    1u64.wrapping_shl(device.get() as u32)
}

impl Control {
    /// Claims a slot for this process under `name`, of which the first 31 bytes are kept. Takes back what dead
    /// processes hold on the way.
    ///
    /// `fork` must be held off meanwhile (see [`liveness`]).
    ///
    /// # Errors
    /// `SlotsFull`, `Replaced`, `ReadOnly`, `Lost`, or the system's.
    pub fn claim(self: &Arc<Self>, name: &str) -> Result<Slot, ControlError> {
        self.reap()?;
        // A slot being reaped by somebody else is free a moment later, hence more than one round.
        for round in 0..3 {
            if round > 0 {
                std::thread::sleep(Duration::from_millis(2));
            }
            let file = self.region.reopen(self.path(), Access::ReadWrite)?;
            if let Some(index) = self.lock_any(&file)? {
                return self.move_in(file, index, name);
            }
        }
        Err(self.error(Kind::SlotsFull))
    }

    /// Takes back what dead processes hold.
    ///
    /// # Errors
    /// `Replaced` if the path names another file now: the locks are on the old one, where nobody can ask for them any
    /// more. `ReadOnly`, `Lost`, or the system's.
    pub fn reap(&self) -> Result<Reaped, ControlError> {
        let file = self.writable_file()?;
        let locks = self.region.reopen(self.path(), Access::ReadWrite)?;
        let mut reaped = Reaped::default();
        for (index, slot) in ever_claimed(file) {
            if identity::status(slot) == abi::SLOT_FREE || !self.try_lock(&locks, index)? {
                continue;
            }
            // Another taker may have been faster between the look and the lock.
            if is_being_torn_down(slot) {
                reaped.dying = reaped.dying.saturating_add(1);
            } else if identity::status(slot) != abi::SLOT_FREE {
                let pages = vacate(file, index).map_err(|lost| self.error(Kind::Lost(lost)))?;
                reaped.slots = reaped.slots.saturating_add(1);
                reaped.pages = reaped.pages.saturating_add(pages);
            }
            liveness::unlock(&locks, index).map_err(|e| self.lock_error(e))?;
        }
        Ok(reaped)
    }

    /// Locks the first slot nobody has, a clean one if possible.
    fn lock_any(&self, locks: &File) -> Result<Option<u16>, ControlError> {
        let file = self.writable_file()?;
        for clean in [true, false] {
            for (index, slot) in (0..).zip(&file.slots) {
                if clean != (identity::status(slot) == abi::SLOT_FREE) || !self.try_lock(locks, index)? {
                    continue;
                }
                if !is_being_torn_down(slot) {
                    return Ok(Some(index));
                }
                liveness::unlock(locks, index).map_err(|e| self.lock_error(e))?;
            }
        }
        Ok(None)
    }

    /// Makes the locked slot this process's own.
    fn move_in(self: &Arc<Self>, locks: File, index: u16, name: &str) -> Result<Slot, ControlError> {
        // First of all, as a child that another thread forks while the descriptor is open inherits the lock.
        let hold = Hold::new(locks).map_err(|e| ControlError::io(self.path(), "map its lock page", e))?;
        let file = self.writable_file()?;
        let lost = |lost| self.error(Kind::Lost(lost));
        // Before anything in the slot changes, so that no later reader misses it.
        file.header.slots_ever_claimed.fetch_max(u64::from(index).saturating_add(1), Ordering::AcqRel);
        vacate(file, index).map_err(lost)?;
        let slot = file.slots.get(usize::from(index)).ok_or_else(|| lost(Lost::Contradictory))?;
        identity::begin_change(slot);
        identity::end_change(slot, &Identity::of_this_process(name), abi::SLOT_CLAIMED);
        let claim = Claim { control: Arc::clone(self), index, hold, accounts: AtomicU64::new(0) };
        Ok(Slot { claim: Arc::new(claim) })
    }

    fn writable_file(&self) -> Result<&ControlFile, ControlError> {
        self.region.check_writable().map_err(|lost| match lost {
            Lost::ReadOnly => self.error(Kind::ReadOnly),
            lost => self.error(Kind::Lost(lost)),
        })
    }

    fn try_lock(&self, locks: &File, index: u16) -> Result<bool, ControlError> {
        liveness::try_lock(locks, index).map_err(|e| self.lock_error(e))
    }

    fn lock_error(&self, error: std::io::Error) -> ControlError {
        ControlError::io(self.path(), "lock a byte of it (F_OFD_SETLK)", error)
    }
}

/// All slots that ever had an owner, with their numbers.
pub(crate) fn ever_claimed(file: &ControlFile) -> impl Iterator<Item = (u16, &abi::Slot)> {
    let count = file.header.slots_ever_claimed.load(Ordering::Acquire);
    (0..).zip(&file.slots).take(usize::try_from(count).unwrap_or(usize::MAX))
}

/// Gives back all that the slot holds and leaves it free. The caller has its lock.
fn vacate(file: &ControlFile, index: u16) -> Result<u64, Lost> {
    let slot = file.slots.get(usize::from(index)).ok_or(Lost::Contradictory)?;
    identity::begin_change(slot);
    aside::forget(file, slot)?;
    let mut pages = 0u64;
    for device in DeviceIndex::all() {
        let words = DeviceWords::new(file, device)?;
        pages = pages.saturating_add(quota::give_all_back(&words, index).map_err(lost)?);
        if let Some(words) = slot.devices.get(device.get()) {
            words.overhead_pages.store(0, Ordering::Relaxed);
            compute::give_back(file, words, device)?;
        }
    }
    suspension::clear(slot);
    identity::end_change(slot, &Identity::default(), abi::SLOT_FREE);
    Ok(pages)
}
