//! What whoever suspends this process has to know of it, and what it has to know of that.
//!
//! Owns what is noted in the slot's words; the waiting is in [`idle`](crate::idle) and in the quota. Losing the control file
//! loses all of this, which every charge reports.

use crate::mode;
use crate::part::Part;
use crate::slice::{self, Slice};
use std::time::Duration;
use vcuda_core::compute::monotonic_ns;
use vcuda_core::device::DeviceIndex;
use vcuda_core::error::Lost;
use vcuda_core::limits::Limits;
use vcuda_core::suspension::{self, Phase, SuspensionWords};

/// Longest that an agent promises to be there before it is seen again: as long as it may move a process's memory.
const MOST_ATTENDED_NS: u64 = 3_600_000_000_000;

/// Says in each part whether this process may be put aside, and gives after how long. Of a process with several shares,
/// putting it aside for one would take it off the GPUs of the others: it never is.
pub fn declare(parts: &[Part], limits: &[Limits]) -> Result<Option<Duration>, Lost> {
    let idle_release = match limits {
        [only] => only.idle_release,
        _ => None,
    };
    for part in parts {
        let words = part.control.suspension_words(part.slot.index())?;
        words.set_idle_release(idle_release);
        words.set_obstacle(suspension::SEVERAL, parts.len() > 1);
    }
    Ok(idle_release)
}

impl Slice {
    /// Other limits say whether this process may be put aside. With several shares it never is.
    pub fn change_idle_release(&self, after: Option<Duration>) {
        let Some(words) = self.suspension_words().filter(|_| self.parts().len() == 1) else { return };
        if after.is_some() {
            // First, so that calls are noted by the time an agent goes by them. One under way is not: it waits in the
            // driver, as calls that nobody hooks do.
            mode::set_noted();
        }
        words.set_idle_release(after);
    }

    /// Counts an allocation of managed memory, or one less: whoever would suspend this process has to know of any.
    pub fn count_managed(&self, change: i64) {
        let mut managed = self.managed.lock();
        *managed = managed.saturating_add(change);
        self.note_obstacle(suspension::MANAGED, *managed > 0);
    }

    /// Notes that this process has shared memory or an event with another one.
    pub fn note_shared(&self) {
        self.note_obstacle(suspension::SHARED, true);
    }

    /// The words by which this process is put aside and comes back. `None` once the file is lost: then nobody can. With
    /// several parts nobody does, and nobody asks.
    pub fn suspension_words(&self) -> Option<SuspensionWords<'_>> {
        let part = self.parts().first()?;
        part.control.suspension_words(part.slot.index()).ok()
    }

    /// Whether there ever was an agent that makes room on a device.
    pub fn was_attended(&self, device: DeviceIndex) -> bool {
        self.attended_until_ns(device) != Ok(0)
    }

    /// Whether an agent that makes room on a device is to be expected now.
    pub fn is_attended(&self, device: DeviceIndex) -> bool {
        let until_ns = self.attended_until_ns(device).unwrap_or(0);
        // What says more was not written by an agent.
        (1..MOST_ATTENDED_NS).contains(&until_ns.saturating_sub(monotonic_ns()))
    }

    fn attended_until_ns(&self, device: DeviceIndex) -> Result<u64, Lost> {
        self.parts().first().map_or(Ok(0), |part| part.control.attended_until_ns(device))
    }

    fn note_obstacle(&self, obstacle: u64, is_there: bool) {
        // Lost with the file, which every charge reports.
        if let Some(words) = self.suspension_words() {
            words.set_obstacle(obstacle, is_there);
        }
    }
}

/// Whether this process is suspended, or on the way there or back.
pub fn is_suspended() -> bool {
    let words = slice::started().and_then(Slice::suspension_words);
    words.is_some_and(|words| words.load().phase() != Phase::Running)
}
