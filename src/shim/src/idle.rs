//! What a process does that may be put aside when idle: its calls are noted, so that an agent sees when it is idle; a call
//! waits while the process is put aside; and an allocation for which the device has no room, though the slice has, waits
//! for the agent to make some, or for a second where no agent ever was.
//!
//! Nothing of this runs in a process that never had idle release. Must never wait for an agent that is gone: one that was not seen
//! for seconds is none.

use crate::mode;
use crate::slice;
use std::cell::Cell;
use std::thread;
use std::time::{Duration, Instant};
use vcuda_core::device::DeviceIndex;
use vcuda_core::suspension::SuspensionWords;
use vcuda_driver::result::CUerror;

/// Pages in a MiB, the unit in which memory is asked for.
const MIB_PAGES: u64 = 256;
/// How often a call asks for room before it fails as it would without an agent.
const MOST_ATTEMPTS: u32 = 8;

/// How long an agent takes at most to find a slice that is new.
const FINDING: Duration = Duration::from_millis(1000);
const POLL: Duration = Duration::from_millis(10);

thread_local! {
    /// What the running call was granted by the quota.
    static RESERVED: Cell<Option<(DeviceIndex, u64)>> = const { Cell::new(None) };
}

/// The running call was granted `pages` by the quota.
pub fn note_reserved(device: DeviceIndex, pages: u64) {
    let before = RESERVED.get().filter(|(known, _)| *known == device).map_or(0, |(_, pages)| pages);
    RESERVED.set(Some((device, before.saturating_add(pages))));
}

/// The running call was refused by the quota: no room on the device would help it.
pub fn note_refused() {
    RESERVED.set(None);
}

/// A call under way.
struct Noted(SuspensionWords<'static>);

impl Drop for Noted {
    fn drop(&mut self) {
        self.0.leave();
    }
}

/// Makes a driver call that is noted: `body` gives its result code.
#[cold]
pub fn call<R>(body: impl Fn() -> R, code: impl Fn(&R) -> u32) -> R {
    let Some(slice) = slice::started() else { return body() };
    // What launches alone would not see another idle release otherwise.
    slice::look_at_limits();
    for _ in 0..MOST_ATTEMPTS {
        RESERVED.set(None);
        let noted = slice.suspension_words().map(|words| {
            words.enter();
            Noted(words)
        });
        let result = body();
        drop(noted);
        let lacked = RESERVED.get().filter(|_| code(&result) == CUerror::OUT_OF_MEMORY.code());
        let Some((device, pages)) = lacked else { return result };
        if !wait_for_room(slice, device, pages) {
            return result;
        }
    }
    body()
}

/// Whether there may be room now for `pages` that the quota granted and the driver did not have.
fn wait_for_room(slice: &slice::Slice, device: DeviceIndex, pages: u64) -> bool {
    let begin = Instant::now();
    while !slice.is_attended(device) {
        // A slice that is new may not have been found yet.
        if slice.was_attended(device) || begin.elapsed() >= FINDING {
            return false;
        }
        thread::sleep(POLL);
    }
    let Some(words) = slice.suspension_words() else { return false };
    words.ask_for(pages.div_ceil(MIB_PAGES), device.get() as u8);
    loop {
        if let Some(may_try_again) = words.wait_for_answer() {
            return may_try_again;
        }
        if !slice.is_attended(device) || !mode::noted() {
            words.answer_need(true);
            return false;
        }
    }
}
