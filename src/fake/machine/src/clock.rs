//! The one clock of the simulation, shared by all processes: the monotonic one.

use std::hint::spin_loop;

/// Sleeping wakes up late by about this; the rest is spent spinning.
const SPIN_NS: u64 = 60_000;

/// Nanoseconds on the monotonic clock.
pub fn now_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a live, writable timespec.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Returns once the clock has passed `deadline_ns`, within about a microsecond.
pub fn sleep_until(deadline_ns: u64) {
    loop {
        let now = now_ns();
        if now >= deadline_ns {
            return;
        }
        if deadline_ns - now <= SPIN_NS {
            spin_loop();
            continue;
        }
        let wake = deadline_ns - SPIN_NS;
        let time = libc::timespec {
            tv_sec: (wake / 1_000_000_000) as libc::time_t,
            tv_nsec: (wake % 1_000_000_000) as libc::c_long,
        };
        // SAFETY: the pointer is to a live timespec; the remainder isn't asked for with an absolute time.
        unsafe {
            libc::clock_nanosleep(libc::CLOCK_MONOTONIC, libc::TIMER_ABSTIME, &time, std::ptr::null_mut())
        };
    }
}

/// Sleeps for a while on the way to `deadline_ns`, which may turn out to be later: until then if it is near, for
/// some milliseconds if it is far, for some microseconds if it has passed.
pub fn doze_until(deadline_ns: u64) {
    const FAR_NS: u64 = 10_000_000;
    const NEAR_NS: u64 = 20_000;
    let now = now_ns();
    if deadline_ns > now.saturating_add(FAR_NS) {
        sleep_for(FAR_NS);
    } else if deadline_ns > now {
        sleep_until(deadline_ns);
    } else {
        sleep_for(NEAR_NS);
    }
}

fn sleep_for(time_ns: u64) {
    std::thread::sleep(std::time::Duration::from_nanos(time_ns));
}
