//! What this process holds of one device, and the three ways to change it.
//!
//! Owns one slot's words for one device while it lives: one account per slot and device, changed through `&mut`, so
//! that the one-operation-at-a-time rule of [`quota`] is the compiler's to keep. It must never touch the
//! file without having asked whether it still is whole, nor from a forked child.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![deny(clippy::arithmetic_side_effects)]

use std::fmt;
use std::sync::Arc;

use crate::abi::ControlFile;
use crate::aside;
use crate::atomic::{AtomicU64, Ordering};
use crate::control::DeviceWords;
use crate::device::DeviceIndex;
use crate::error::{Lost, Refused, ReserveError};
use crate::quota::{self, Change, Holding, MAX_PAGES, NotDone, Words};
use crate::slots::Claim;

/// What one slot holds of one device. See [`Slot::account`](crate::slots::Slot::account).
///
/// Dropping it gives nothing back; that happens when the slot goes.
pub struct Account {
    claim: Arc<Claim>,
    device: DeviceIndex,
    held: Holding,
}

/// Why an operation changed nothing, though the file is whole.
enum Stop {
    /// A process is being restored on the device.
    Held,
    /// The device's total would have passed the limit.
    Over { used_pages: u64 },
}

impl Account {
    pub(crate) fn new(claim: Arc<Claim>, device: DeviceIndex) -> Result<Self, Lost> {
        let words = DeviceWords::new(claim.file()?, device)?;
        let held = quota::holding(&words, claim.index()).map_err(lost)?;
        Ok(Self { claim, device, held })
    }

    /// The device.
    pub fn device(&self) -> DeviceIndex {
        self.device
    }

    /// Takes `pages` more if the device's total over all processes stays within `limit_pages`. To be called before the
    /// driver is.
    ///
    /// # Errors
    /// `Refused` with the amounts at that instant, `Held` while a process is restored on the device; nothing changed
    /// then. `Lost` if the file cannot be used.
    pub fn reserve(&mut self, pages: u64, limit_pages: u64) -> Result<(), ReserveError> {
        if pages == 0 {
            return Ok(());
        }
        match self.operate(Change::Reserve { pages, limit_pages }, true)? {
            Ok(()) => Ok(()),
            Err(Stop::Held) => Err(ReserveError::Held),
            Err(Stop::Over { used_pages }) => Err(ReserveError::Refused(Refused { used_pages, limit_pages })),
        }
    }

    /// As [`reserve`](Self::reserve), also while others are held back.
    pub(crate) fn take_again(&mut self, pages: u64, limit_pages: u64) -> Result<(), ReserveError> {
        match self.operate(Change::Reserve { pages, limit_pages }, false)? {
            Err(Stop::Over { used_pages }) => Err(ReserveError::Refused(Refused { used_pages, limit_pages })),
            _ => Ok(()),
        }
    }

    /// Takes `pages` whatever the limit: for memory that the driver has taken already.
    ///
    /// # Errors
    /// [`Lost`], also if the total would pass 256 TiB.
    pub fn force(&mut self, pages: u64) -> Result<(), Lost> {
        if pages == 0 {
            return Ok(());
        }
        self.operate(Change::Reserve { pages, limit_pages: MAX_PAGES }, false)?
            .map_err(|_| Lost::Contradictory)
    }

    /// Gives back `pages`, at most what this account holds, and returns the excess: 0 if all is well.
    ///
    /// # Errors
    /// [`Lost`].
    pub fn release(&mut self, pages: u64) -> Result<u64, Lost> {
        let excess = pages.saturating_sub(self.held.used_pages);
        let pages = pages.saturating_sub(excess);
        if pages > 0 {
            self.operate(Change::Release { pages }, false)?.map_err(|_| Lost::Contradictory)?;
        }
        Ok(excess)
    }

    /// Makes an operation that changes no amount: every other one that is on its way has to look again.
    ///
    /// # Errors
    /// [`Lost`].
    pub(crate) fn touch(&mut self) -> Result<(), Lost> {
        self.operate(Change::Release { pages: 0 }, false)?.map_err(|_| Lost::Contradictory)
    }

    /// Pages this account holds. Asks no one.
    pub fn used_pages(&self) -> u64 {
        self.held.used_pages
    }

    /// Pages of the device in use by all processes.
    ///
    /// # Errors
    /// [`Lost`].
    pub fn device_used_pages(&self) -> Result<u64, Lost> {
        self.claim.control().used_pages(self.device)
    }

    /// Counts a request that was refused for good, for the tools.
    ///
    /// # Errors
    /// [`Lost`].
    pub fn count_refusal(&mut self) -> Result<(), Lost> {
        DeviceWords::new(self.claim.file()?, self.device)?
            .entry()
            .refused_count
            .fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Notes what a context on this device was measured to take, for processes to come.
    ///
    /// # Errors
    /// [`Lost`].
    pub fn learn_context_pages(&mut self, pages: u64) -> Result<(), Lost> {
        self.claim.control().learn_context_pages(self.device, pages)
    }

    /// Notes how many of the pages held are contexts' and modules' rather than the program's own allocations, for
    /// others to show.
    ///
    /// # Errors
    /// [`Lost`].
    pub fn set_overhead_pages(&mut self, pages: u64) -> Result<(), Lost> {
        let file = self.claim.file()?;
        self.overhead_word(file)?.store(pages, Ordering::Relaxed);
        Ok(())
    }

    /// What [`set_overhead_pages`](Self::set_overhead_pages) noted last, 0 at first.
    ///
    /// # Errors
    /// [`Lost`].
    pub fn overhead_pages(&self) -> Result<u64, Lost> {
        let file = self.claim.file()?;
        Ok(self.overhead_word(file)?.load(Ordering::Relaxed))
    }

    fn overhead_word<'a>(&self, file: &'a ControlFile) -> Result<&'a AtomicU64, Lost> {
        let slot = file.slots.get(usize::from(self.claim.index())).ok_or(Lost::Contradictory)?;
        Ok(&slot.devices.get(self.device.get()).ok_or(Lost::Contradictory)?.overhead_pages)
    }

    /// The inner error says why nothing changed.
    fn operate(&mut self, change: Change, minds_hold: bool) -> Result<Result<(), Stop>, Lost> {
        loop {
            let words = DeviceWords::new(self.claim.file()?, self.device)?;
            let entry = words.entry();
            if minds_hold && aside::is_held(entry) {
                return Ok(Err(Stop::Held));
            }
            match quota::operate(&words, self.claim.index(), self.held, change) {
                Ok(done) => {
                    self.held = done.holding;
                    let used_pages = done.total_pages.saturating_sub(words.set_aside_pages());
                    if entry.peak_pages.load(Ordering::Relaxed) < used_pages {
                        entry.peak_pages.fetch_max(used_pages, Ordering::Relaxed);
                    }
                    return Ok(Ok(()));
                }
                Err(NotDone::OverLimit { used_pages }) => return Ok(Err(Stop::Over { used_pages })),
                // This process is suspended: the call that led here waits, as it would in the driver.
                Err(NotDone::Frozen) => words.wait_while_frozen(self.claim.index()),
                Err(other) => return Err(lost(other)),
            }
        }
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.claim.return_account(self.device);
    }
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account")
            .field("slot", &self.claim.index())
            .field("device", &self.device.get())
            .field("used_pages", &self.held.used_pages)
            .finish()
    }
}

pub(crate) fn lost(reason: NotDone) -> Lost {
    match reason {
        NotDone::Starved => Lost::Starved,
        NotDone::OverLimit { .. } | NotDone::Frozen | NotDone::NoSuchSlot | NotDone::Contradiction => {
            Lost::Contradictory
        }
    }
}
