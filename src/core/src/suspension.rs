//! The two words of a slot by which a process is suspended, put aside when idle, and brought back.
//!
//! Owns their packing and who writes which bit. The agent (the `vcuda` command or the node's daemon) writes the phase;
//! the process itself writes what stands in the way of suspending it, that it waits, and what it lacks. Every change is
//! one atomic operation. Nothing here stops or moves anything: the driver does that, asked by the agent.
//!
//! # Putting an idle process aside
//!
//! A process that may be put aside counts its driver calls in `activity`: first it counts, then it reads the phase, and
//! unless that is [`Phase::Running`] it takes the count back and waits. The agent does the reverse: it writes
//! [`Phase::Suspending`], then reads the count, and goes back unless nothing is under way and nothing began since it
//! judged the process idle. Of the two, at least one sees the other, so no counted call is in the driver when the agent
//! locks it. Calls that aren't counted wait in the driver.
#![allow(unsafe_code)]
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![deny(clippy::arithmetic_side_effects)]

use crate::abi::{SLOT_CAPACITY, SLOT_CLAIMED, Slot};
use crate::atomic::{AtomicU64, Ordering};
use crate::control::Control;
use crate::error::{ControlError, Lost};
use crate::identity;
use crate::liveness;
use crate::region::Access;
use crate::slots;
use std::fs::File;
use std::time::Duration;

const PHASE_BITS: u64 = 0xf;
const DEVICE_SHIFT: u32 = 4;
const DEVICE_BITS: u64 = 0x3f << DEVICE_SHIFT;
/// The process counts in other control files as well, one for each share of its container.
pub const SEVERAL: u64 = 1 << 10;
/// Put aside because it was idle: it comes back when it calls.
pub const IDLE: u64 = 1 << 11;
/// A call of the process waits for it to come back.
pub const WANTED: u64 = 1 << 12;
/// The process has managed memory, which the driver can't put aside.
pub const MANAGED: u64 = 1 << 13;
/// The process has shared memory with another one.
pub const SHARED: u64 = 1 << 14;
/// No room could be made for what the process lacks.
pub const DENIED: u64 = 1 << 15;
const NEEDED_SHIFT: u32 = 16;
const NEEDED_BITS: u64 = 0xff_ffff << NEEDED_SHIFT;
const IDLE_RELEASE_SHIFT: u32 = 40;

/// One call begun, in a slot's `activity`.
const CALL_BEGUN: u64 = 1 << 32;

/// Longest sleep before a word is looked at again.
const MOST_WAIT: Duration = Duration::from_millis(50);

/// How far a process is on the way out or back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// It runs.
    #[default]
    Running = 0,
    /// It is being suspended, or somebody died while suspending it.
    Suspending = 1,
    /// Its device memory is in the host's.
    Suspended = 2,
    /// It is being brought back, or somebody died while bringing it back.
    Resuming = 3,
    /// The driver could not bring it back; it can only be ended.
    Lost = 4,
}

/// A slot's `suspension` word.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Suspension(u64);

impl Suspension {
    /// How far it is. What nobody should have written reads as lost.
    pub const fn phase(self) -> Phase {
        match self.0 & PHASE_BITS {
            0 => Phase::Running,
            1 => Phase::Suspending,
            2 => Phase::Suspended,
            3 => Phase::Resuming,
            _ => Phase::Lost,
        }
    }

    /// Whether it was put aside because it was idle.
    pub const fn is_idle(self) -> bool {
        self.0 & IDLE != 0
    }

    /// Whether a call of the process waits for it to come back.
    pub const fn is_wanted(self) -> bool {
        self.0 & WANTED != 0
    }

    /// Whether the process has managed memory.
    pub const fn has_managed(self) -> bool {
        self.0 & MANAGED != 0
    }

    /// Whether the process has shared memory with another one.
    pub const fn has_shared(self) -> bool {
        self.0 & SHARED != 0
    }

    /// Whether the process has several shares: putting it aside takes it off the GPUs of all of them.
    pub const fn has_several(self) -> bool {
        self.0 & SEVERAL != 0
    }

    /// Memory that the process waits for in MiB, and the index of the device; `None` if it lacks nothing.
    pub const fn needed(self) -> Option<(u64, u8)> {
        let mib = (self.0 & NEEDED_BITS) >> NEEDED_SHIFT;
        if mib == 0 { None } else { Some((mib, ((self.0 & DEVICE_BITS) >> DEVICE_SHIFT) as u8)) }
    }

    /// How long the process must have been idle before it may be put aside; `None` if it never may.
    pub const fn idle_release(self) -> Option<Duration> {
        let tenths = self.0 >> IDLE_RELEASE_SHIFT;
        if tenths == 0 { None } else { Some(Duration::from_millis(tenths.saturating_mul(100))) }
    }
}

impl core::fmt::Debug for Suspension {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let mut shown = f.debug_struct("Suspension");
        shown.field("phase", &self.phase()).field("idle_release", &self.idle_release());
        shown.field("needed", &self.needed()).field("bits", &format_args!("{:#x}", self.0)).finish()
    }
}

/// A slot's `activity` word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Activity {
    /// Calls that ever began; wraps.
    pub begun: u32,
    /// Calls under way.
    pub under_way: u32,
}

pub(crate) fn of(slot: &Slot) -> Suspension {
    Suspension(slot.suspension.load(Ordering::Acquire))
}

/// For a slot that changes hands.
pub(crate) fn clear(slot: &Slot) {
    slot.suspension.store(0, Ordering::Release);
    slot.activity.store(0, Ordering::Release);
    slot.set_aside.store(0, Ordering::Release);
}

/// Says that a call waits, and sleeps until the word changes, but not for long.
pub(crate) fn wait(slot: &Slot) {
    slot.suspension.fetch_or(WANTED, Ordering::SeqCst);
    wait_on_change(&slot.suspension);
}

/// Sleeps until the lower half of the word, where all that is waited for is, is another one, but not for long.
fn wait_on_change(word: &AtomicU64) {
    let seen = word.load(Ordering::SeqCst) as u32;
    let most = libc::timespec { tv_sec: 0, tv_nsec: MOST_WAIT.subsec_nanos().into() };
    // SAFETY: on a little-endian machine a word's address is that of its lower half. The word lives as long as the
    // mapping, and the kernel answers EFAULT if the file behind it is gone.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT, seen, &raw const most) };
}

fn wake(word: &AtomicU64) {
    // SAFETY: as above.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, i32::MAX) };
}

/// One slot's two words, for whoever may write to the file.
#[derive(Clone, Copy)]
pub struct SuspensionWords<'a>(&'a Slot);

impl<'a> SuspensionWords<'a> {
    pub(crate) const fn new(slot: &'a Slot) -> Self {
        Self(slot)
    }

    /// What the word says now.
    pub fn load(self) -> Suspension {
        Suspension(self.0.suspension.load(Ordering::SeqCst))
    }

    /// What the process does.
    pub fn activity(self) -> Activity {
        let word = self.0.activity.load(Ordering::SeqCst);
        Activity { begun: (word >> 32) as u32, under_way: word as u32 }
    }

    /// Agent: another phase, and whether the process was put aside for being idle. Wakes who waits.
    pub fn set_phase(self, phase: Phase, is_idle: bool) {
        let bits = u64::from(phase as u8) | if is_idle { IDLE } else { 0 };
        let keep = !(PHASE_BITS | IDLE | if phase == Phase::Running { WANTED } else { 0 });
        self.update(|word| word & keep | bits);
        wake(&self.0.suspension);
    }

    /// Agent: no call is known to wait any more.
    pub fn clear_wanted(self) {
        self.0.suspension.fetch_and(!WANTED, Ordering::SeqCst);
    }

    /// Agent: answers a process that lacks memory: it may try again, or there is no way.
    pub fn answer_need(self, is_denied: bool) {
        self.update(|word| word & !NEEDED_BITS | if is_denied { DENIED } else { 0 });
        wake(&self.0.suspension);
    }

    /// Process: how long it must be idle before it may be put aside, to a tenth of a second and up to 19 days.
    pub fn set_idle_release(self, after: Option<Duration>) {
        let tenths = after.map_or(0, |after| (after.as_millis() / 100).clamp(1, 0xff_ffff) as u64);
        let below = (1u64 << IDLE_RELEASE_SHIFT).wrapping_sub(1);
        self.update(|word| word & below | tenths << IDLE_RELEASE_SHIFT);
    }

    /// Process: something stands in the way of suspending it ([`MANAGED`], [`SHARED`], [`SEVERAL`]), or no longer
    /// does.
    pub fn set_obstacle(self, obstacle: u64, is_there: bool) {
        let obstacle = obstacle & (MANAGED | SHARED | SEVERAL);
        if is_there {
            self.0.suspension.fetch_or(obstacle, Ordering::SeqCst);
        } else {
            self.0.suspension.fetch_and(!obstacle, Ordering::SeqCst);
        }
    }

    /// Process: begins a driver call, waiting while it is put aside.
    pub fn enter(self) {
        loop {
            self.0.activity.fetch_add(CALL_BEGUN | 1, Ordering::SeqCst);
            if self.load().phase() == Phase::Running {
                return;
            }
            self.leave();
            while self.load().phase() != Phase::Running {
                wait(self.0);
            }
        }
    }

    /// Process: ends a driver call.
    pub fn leave(self) {
        self.0.activity.fetch_sub(1, Ordering::SeqCst);
    }

    /// Process: says that it lacks `mib` (at least 1) on a device.
    pub fn ask_for(self, mib: u64, device: u8) {
        let needed = mib.clamp(1, NEEDED_BITS >> NEEDED_SHIFT);
        let bits = needed << NEEDED_SHIFT | u64::from(device) << DEVICE_SHIFT & DEVICE_BITS;
        self.update(|word| word & !(NEEDED_BITS | DEVICE_BITS | DENIED) | bits);
    }

    /// Process: sleeps until its need may have been answered, but not for long. `None`: not yet. Otherwise whether it
    /// may try again.
    pub fn wait_for_answer(self) -> Option<bool> {
        let answer = || {
            let word = self.load();
            word.needed().is_none().then_some(word.0 & DENIED == 0)
        };
        answer().or_else(|| {
            wait_on_change(&self.0.suspension);
            answer()
        })
    }

    fn update(self, change: impl Fn(u64) -> u64) {
        let _ = self.0.suspension.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |word| Some(change(word)));
    }
}

/// One byte behind the slots' own: whoever suspends or brings back processes of a slice has it locked.
const OPERATION_BYTE: u16 = SLOT_CAPACITY as u16;

/// The right to suspend processes of a slice and to bring them back, which one agent has at a time. Ends when dropped, and
/// with the process in any way.
#[derive(Debug)]
pub struct Operation {
    _file: File,
}

impl Control {
    /// Begins an operation; `None` while another agent has one under way.
    ///
    /// # Errors
    /// `Replaced`, or the system's.
    pub fn begin_operation(&self) -> Result<Option<Operation>, ControlError> {
        let file = self.region.reopen(self.path(), Access::ReadWrite)?;
        match liveness::try_lock(&file, OPERATION_BYTE) {
            Ok(is_ours) => Ok(is_ours.then_some(Operation { _file: file })),
            Err(error) => Err(ControlError::io(self.path(), "lock a byte of it (F_OFD_SETLK)", error)),
        }
    }

    /// Says the two words of every slot in use to `look`, in order, and asks for nothing else: no lock, no file, no
    /// identity. The dead are among them until somebody takes back what they hold.
    ///
    /// # Errors
    /// [`Lost`].
    pub fn glance(&self, mut look: impl FnMut(u16, Suspension, Activity)) -> Result<(), Lost> {
        let file = self.region.check()?;
        for (index, slot) in slots::ever_claimed(file) {
            if identity::status(slot) == SLOT_CLAIMED {
                let words = SuspensionWords(slot);
                look(index, words.load(), words.activity());
            }
        }
        Ok(())
    }

    /// The words of a slot, to be changed.
    ///
    /// # Errors
    /// [`Lost`].
    pub fn suspension_words(&self, slot: u16) -> Result<SuspensionWords<'_>, Lost> {
        let file = self.region.check_writable()?;
        file.slots.get(usize::from(slot)).map(SuspensionWords::new).ok_or(Lost::Contradictory)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;
    use crate::device::Uuid;
    use std::sync::Arc;

    fn slot() -> (tempfile::TempDir, Arc<Control>, crate::slots::Slot) {
        let directory = tempfile::tempdir().unwrap();
        let control = Control::open_or_create(directory.path().join("control")).unwrap();
        control.device(Uuid::gpu([7; 16])).unwrap();
        let slot = control.claim("test").unwrap();
        (directory, control, slot)
    }

    #[test]
    fn each_writes_its_own_bits() {
        let (_directory, control, slot) = slot();
        let words = control.suspension_words(slot.index()).unwrap();
        assert_eq!(words.load(), Suspension::default());
        words.set_idle_release(Some(Duration::from_millis(1500)));
        words.ask_for(80 << 10, 63);
        words.set_obstacle(MANAGED, true);
        words.set_obstacle(SEVERAL | IDLE, true);
        assert!(words.load().has_several() && !words.load().is_idle());
        words.set_phase(Phase::Suspending, true);
        let word = words.load();
        assert_eq!((word.phase(), word.is_idle(), word.has_managed()), (Phase::Suspending, true, true));
        assert_eq!(
            (word.idle_release(), word.needed()),
            (Some(Duration::from_millis(1500)), Some((80 << 10, 63)))
        );
        words.set_obstacle(MANAGED, false);
        words.answer_need(true);
        words.set_phase(Phase::Running, false);
        let word = words.load();
        assert_eq!((word.phase(), word.is_idle(), word.has_managed()), (Phase::Running, false, false));
        assert_eq!((word.needed(), words.wait_for_answer()), (None, Some(false)));
        words.set_idle_release(Some(Duration::from_secs(1 << 40)));
        assert_eq!(words.load().idle_release(), Some(Duration::from_millis(0xff_ffff * 100)));
    }

    #[test]
    fn a_call_waits_while_the_process_is_put_aside() {
        let (_directory, control, slot) = slot();
        let words = control.suspension_words(slot.index()).unwrap();
        words.set_phase(Phase::Suspended, true);
        std::thread::scope(|scope| {
            let call = scope.spawn(|| {
                words.enter();
                words.leave();
            });
            while !words.load().is_wanted() {
                std::thread::yield_now();
            }
            assert_eq!(words.activity().under_way, 0);
            assert!(!call.is_finished());
            words.set_phase(Phase::Running, false);
            call.join().unwrap();
        });
        assert!(!words.load().is_wanted());
        assert_eq!(words.activity(), Activity { begun: 2, under_way: 0 });
    }

    #[test]
    fn a_glance_shows_the_words_of_slots_in_use() {
        let (_directory, control, first) = slot();
        let second = control.claim("second").unwrap();
        let words = control.suspension_words(second.index()).unwrap();
        words.ask_for(5, 0);
        words.enter();
        drop(first);
        let mut seen = Vec::new();
        control.glance(|slot, word, activity| seen.push((slot, word.needed(), activity.under_way))).unwrap();
        assert_eq!(seen, [(second.index(), Some((5, 0)), 1)]);
    }

    #[test]
    fn the_next_owner_of_a_slot_starts_anew() {
        let (_directory, control, slot) = slot();
        let index = slot.index();
        control.suspension_words(index).unwrap().set_phase(Phase::Suspended, false);
        drop(slot);
        let _next = control.claim("next").unwrap();
        assert_eq!(control.suspension_words(index).unwrap().load(), Suspension::default());
    }
}
