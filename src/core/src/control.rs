//! A control file in use: opening it, the devices in it, and the words of a device that are for information.
//!
//! Owns the device entries. It must never change a quota word; that is the business of [`quota`](crate::quota).
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![deny(clippy::arithmetic_side_effects)]

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::abi::{self, Arbiter, ControlFile, Device, UNLIMITED};
use crate::aside;
use crate::atomic::{AtomicU64, Ordering};
use crate::device::{DeviceIndex, Uuid, UuidKind};
use crate::error::{ControlError, ControlErrorKind as Kind, Lost};
use crate::quota::{Quota, SlotWords, Words};
use crate::region::Region;
use crate::suspension;

/// A mapped control file. No descriptor stays open; removing or replacing the file does not disturb it.
///
/// A forked child may go on using it, but must claim a slot of its own.
pub struct Control {
    pub(crate) region: Region,
    path: PathBuf,
}

impl Control {
    /// Opens the control file at `path`, making it first if there is none.
    ///
    /// # Errors
    /// Everything in [`ControlErrorKind`](crate::error::ControlErrorKind) that concerns a file; nothing is left behind.
    pub fn open_or_create(path: impl AsRef<Path>) -> Result<Arc<Self>, ControlError> {
        let path = path.as_ref();
        Ok(Arc::new(Self { region: Region::open_or_create(path)?, path: path.to_owned() }))
    }

    /// Opens the control file at `path` if there is one; for reading only if this user may not write to it.
    ///
    /// # Errors
    /// As [`open_or_create`](Self::open_or_create), and `Missing`.
    pub fn open_existing(path: impl AsRef<Path>) -> Result<Arc<Self>, ControlError> {
        let path = path.as_ref();
        Ok(Arc::new(Self { region: Region::open_existing(path)?, path: path.to_owned() }))
    }

    /// Where the file was found.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether slots can be claimed and reaped, and devices added.
    pub fn is_writable(&self) -> bool {
        self.region.is_writable()
    }

    /// Whether the file still is whole and the one that was opened. Costs one system call, never faults.
    pub fn is_intact(&self) -> bool {
        self.region.check().is_ok()
    }

    /// Whether the path still names the file in use. If not, programs started from now on count apart.
    ///
    /// # Errors
    /// The system's, if the path cannot be examined.
    pub fn is_at_path(&self) -> Result<bool, ControlError> {
        self.region.is_at(&self.path)
    }

    /// The entry of the device `uuid`, added if there is none.
    ///
    /// Two exchanges, first half then second; entries are taken in order and never given back, so all processes agree
    /// on the first that fits. A claimer killed between the two leaves an entry that the same device, or another
    /// with the same first half, completes.
    ///
    /// # Errors
    /// `DevicesFull`, `ImpossibleUuid`, `Lost`; `ReadOnly` if the device would have to be added.
    pub fn device(&self, uuid: Uuid) -> Result<DeviceIndex, ControlError> {
        let (high, low) = uuid.halves();
        if high == 0 || low == 0 {
            return Err(self.error(Kind::ImpossibleUuid { uuid }));
        }
        let file = self.region.check().map_err(|lost| self.error(Kind::Lost(lost)))?;
        for (entry, index) in file.devices.iter().zip(DeviceIndex::all()) {
            if !self.is_writable() {
                match (entry.uuid_high.load(Ordering::Acquire), entry.uuid_low.load(Ordering::Acquire)) {
                    found if found == (high, low) => return Ok(index),
                    (0, _) => return Err(self.error(Kind::ReadOnly)),
                    _ => continue,
                }
            }
            if claim_word(&entry.uuid_high, high) && claim_word(&entry.uuid_low, low) {
                let kind = if uuid.kind() == UuidKind::Mig { abi::DEVICE_MIG } else { abi::DEVICE_GPU };
                entry.kind.store(kind, Ordering::Relaxed);
                return Ok(index);
            }
        }
        Err(self.error(Kind::DevicesFull { uuid }))
    }

    /// The entry of the device `uuid`; `None` if no process has used it yet.
    ///
    /// # Errors
    /// [`Lost`].
    pub fn find_device(&self, uuid: Uuid) -> Result<Option<DeviceIndex>, Lost> {
        let (high, low) = uuid.halves();
        let file = self.region.check()?;
        let is_it = |entry: &Device| {
            entry.uuid_high.load(Ordering::Acquire) == high && entry.uuid_low.load(Ordering::Acquire) == low
        };
        let mut entries = file.devices.iter().zip(DeviceIndex::all());
        // No device has a half of 0, which is what entries not in use hold.
        Ok(entries.find(|(entry, _)| high != 0 && low != 0 && is_it(entry)).map(|(_, index)| index))
    }

    /// Pages of the device in use by all processes but suspended ones.
    ///
    /// # Errors
    /// [`Lost`].
    pub fn used_pages(&self, device: DeviceIndex) -> Result<u64, Lost> {
        let device = entry(self.region.check()?, device)?;
        let total = Quota::unpack(device.quota.load(Ordering::Acquire)).used_pages;
        Ok(total.saturating_sub(aside::pages(device)))
    }

    /// The limit last enforced on the device, in bytes; `None` if none is.
    ///
    /// # Errors
    /// [`Lost`].
    pub fn limit_bytes(&self, device: DeviceIndex) -> Result<Option<u64>, Lost> {
        let limit = entry(self.region.check()?, device)?.limit_bytes.load(Ordering::Relaxed);
        Ok((limit != UNLIMITED).then_some(limit))
    }

    /// Notes the limit that this process enforces on the device, in bytes, for others to show.
    ///
    /// # Errors
    /// [`Lost`].
    pub fn set_limit_bytes(&self, device: DeviceIndex, limit_bytes: Option<u64>) -> Result<(), Lost> {
        let file = self.region.check_writable()?;
        set(&entry(file, device)?.limit_bytes, limit_bytes.unwrap_or(UNLIMITED));
        Ok(())
    }

    /// The device's memory in bytes; 0 while nobody noted it.
    ///
    /// # Errors
    /// [`Lost`].
    pub fn physical_bytes(&self, device: DeviceIndex) -> Result<u64, Lost> {
        Ok(entry(self.region.check()?, device)?.physical_bytes.load(Ordering::Relaxed))
    }

    /// Notes the device's memory in bytes.
    ///
    /// # Errors
    /// [`Lost`].
    pub fn set_physical_bytes(&self, device: DeviceIndex, physical_bytes: u64) -> Result<(), Lost> {
        let file = self.region.check_writable()?;
        set(&entry(file, device)?.physical_bytes, physical_bytes);
        Ok(())
    }

    /// Pages that a primary context on the device was last measured to take; `None` while nobody measured.
    ///
    /// # Errors
    /// [`Lost`].
    pub fn context_pages_learned(&self, device: DeviceIndex) -> Result<Option<u64>, Lost> {
        let pages = entry(self.region.check()?, device)?.context_pages_learned.load(Ordering::Relaxed);
        Ok((pages != 0).then_some(pages))
    }

    /// Notes what a primary context on the device was measured to take.
    ///
    /// # Errors
    /// [`Lost`].
    pub fn learn_context_pages(&self, device: DeviceIndex, pages: u64) -> Result<(), Lost> {
        let file = self.region.check_writable()?;
        set(&entry(file, device)?.context_pages_learned, pages);
        Ok(())
    }

    /// Tells this file from all others.
    pub fn generation(&self) -> u64 {
        self.region.generation()
    }

    /// Whose turn it is on a device, in a file that containers share. To be used for a few accesses: asks once whether the
    /// file is whole, which costs one system call.
    ///
    /// # Errors
    /// [`Lost`].
    pub fn arbiter(&self, device: DeviceIndex) -> Result<&Arbiter, Lost> {
        self.region.check_writable()?.arbiters.get(device.get()).ok_or(Lost::Contradictory)
    }

    pub(crate) fn error(&self, kind: Kind) -> ControlError {
        ControlError::new(&self.path, kind)
    }
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control").field("path", &self.path).field("writable", &self.is_writable()).finish()
    }
}

/// The entry of a device. An index without one cannot be made; a file without one was never opened.
pub(crate) fn entry(file: &ControlFile, device: DeviceIndex) -> Result<&Device, Lost> {
    file.devices.get(device.get()).ok_or(Lost::Contradictory)
}

/// Stores only what is new, so that noting the same again costs no other process its cache line.
fn set(word: &AtomicU64, value: u64) {
    if word.load(Ordering::Relaxed) != value {
        word.store(value, Ordering::Relaxed);
    }
}

/// Puts `value` into a word that is 0. True if the word has that value now, whoever put it there.
fn claim_word(word: &AtomicU64, value: u64) -> bool {
    match word.compare_exchange(0, value, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => true,
        Err(found) => found == value,
    }
}

/// The quota protocol's words for one device of a mapped file.
pub(crate) struct DeviceWords<'a> {
    file: &'a ControlFile,
    entry: &'a Device,
    device: DeviceIndex,
}

impl<'a> DeviceWords<'a> {
    pub(crate) fn new(file: &'a ControlFile, device: DeviceIndex) -> Result<Self, Lost> {
        Ok(Self { file, entry: entry(file, device)?, device })
    }

    pub(crate) fn entry(&self) -> &'a Device {
        self.entry
    }

    /// Waits a while for a slot that is set aside, and says in it that somebody does.
    pub(crate) fn wait_while_frozen(&self, slot: u16) {
        if let Some(slot) = self.file.slots.get(usize::from(slot)) {
            suspension::wait(slot);
        }
    }
}

impl Words for DeviceWords<'_> {
    fn quota(&self) -> &AtomicU64 {
        &self.entry.quota
    }

    fn slot(&self, slot: u16) -> Option<SlotWords<'_>> {
        let words = self.file.slots.get(usize::from(slot))?.devices.get(self.device.get())?;
        Some(SlotWords { settled: &words.settled, proposed: &words.proposed })
    }

    fn set_aside_pages(&self) -> u64 {
        aside::pages(self.entry)
    }

    fn is_frozen(&self, slot: u16) -> bool {
        self.file.slots.get(usize::from(slot)).is_some_and(|slot| aside::is_set_aside(self.file, slot))
    }
}
