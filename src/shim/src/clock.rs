//! The clock of deadlines, read once per launch, and sleeping by it.
//!
//! `CLOCK_MONOTONIC` costs 34 ns on a virtual machine with an H200, and a launch may cost 50 in all. So between
//! readings of it time is counted by the processor's time-stamp counter, where that is invariant, and tied to the
//! clock again every 20 ms: the counter's own error, and whatever the clock is slewed by, stays far below a
//! microsecond. Where the counter can't be trusted the clock itself is read.
#![allow(unsafe_code)]

use std::arch::x86_64::{__cpuid, _rdtsc};
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU8, AtomicU64, fence};
use vcuda_core::compute::monotonic_ns;

/// After this long the counter is tied to the clock again.
const TIE_NS: u64 = 20_000_000;
/// Over less than this the counter's rate is not known well enough.
const SHORTEST_BASE_NS: u64 = 10_000_000;
/// A tie that is off by more than this tells of a counter that jumped.
const LARGEST_ERROR_NS: u64 = 100_000;
/// Fractional bits of the rate, nanoseconds per tick.
const RATE_BITS: u32 = 32;

fn ticks() -> u64 {
    // SAFETY: every x86-64 processor has the instruction; where it is disabled for programs (`PR_SET_TSC`),
    // the C library's own clock would not work either.
    unsafe { _rdtsc() }
}

/// Whether the counter runs at one rate, whatever the processor does.
pub fn is_counter_invariant() -> bool {
    const UNKNOWN: u8 = 0;
    const YES: u8 = 1;
    const NO: u8 = 2;
    static ANSWER: AtomicU8 = AtomicU8::new(UNKNOWN);
    match ANSWER.load(Relaxed) {
        UNKNOWN => {
            const POWER_LEAF: u32 = 0x8000_0007;
            const INVARIANT: u32 = 1 << 8;
            // SAFETY: every x86-64 processor has the instruction. (A safe call in newer compilers.)
            #[allow(unused_unsafe)]
            let invariant =
                unsafe { __cpuid(0x8000_0000).eax >= POWER_LEAF && __cpuid(POWER_LEAF).edx & INVARIANT != 0 };
            ANSWER.store(if invariant { YES } else { NO }, Relaxed);
            invariant
        }
        answer => answer == YES,
    }
}

/// The last tie between counter and clock, written by one thread at a time under an odd sequence number.
struct Tie {
    sequence: AtomicU64,
    ticks: AtomicU64,
    ns: AtomicU64,
    /// Nanoseconds per tick in units of 2^-[`RATE_BITS`]; 0 while unknown.
    rate: AtomicU64,
    /// An older pair, far enough back to tell the rate.
    base_ticks: AtomicU64,
    base_ns: AtomicU64,
}

static TIE: Tie = Tie {
    sequence: AtomicU64::new(0),
    ticks: AtomicU64::new(0),
    ns: AtomicU64::new(0),
    rate: AtomicU64::new(0),
    base_ticks: AtomicU64::new(0),
    base_ns: AtomicU64::new(0),
};

fn scaled(ticks: u64, rate: u64) -> u64 {
    ((u128::from(ticks) * u128::from(rate)) >> RATE_BITS) as u64
}

/// Nanoseconds of the monotonic clock.
#[inline]
pub fn now_ns() -> u64 {
    let sequence = TIE.sequence.load(Acquire);
    let (tied_ticks, tied_ns) = (TIE.ticks.load(Relaxed), TIE.ns.load(Relaxed));
    let rate = TIE.rate.load(Relaxed);
    fence(Acquire);
    if rate != 0 && sequence & 1 == 0 && TIE.sequence.load(Relaxed) == sequence {
        let since_ns = scaled(ticks().wrapping_sub(tied_ticks), rate);
        if since_ns < TIE_NS {
            return tied_ns + since_ns;
        }
    }
    tie()
}

/// Reads the clock, and ties the counter to it.
#[cold]
fn tie() -> u64 {
    if !is_counter_invariant() {
        return monotonic_ns();
    }
    let sequence = TIE.sequence.load(Relaxed);
    let entered =
        sequence & 1 == 0 && TIE.sequence.compare_exchange(sequence, sequence + 1, Acquire, Relaxed).is_ok();
    let now_ns = monotonic_ns();
    if !entered {
        return now_ns;
    }
    fence(Release);
    let now_ticks = ticks();
    let rate = TIE.rate.load(Relaxed);
    let (base_ticks, base_ns) = (TIE.base_ticks.load(Relaxed), TIE.base_ns.load(Relaxed));
    let (base_span_ticks, base_span_ns) =
        (now_ticks.wrapping_sub(base_ticks), now_ns.saturating_sub(base_ns));
    let expected_ns = TIE.ns.load(Relaxed) + scaled(now_ticks.wrapping_sub(TIE.ticks.load(Relaxed)), rate);
    // The longer nobody asked, the more the clock may have been slewed.
    let error_bound_ns = LARGEST_ERROR_NS.max(now_ns.saturating_sub(TIE.ns.load(Relaxed)) / 1000);
    let jumped = rate != 0 && expected_ns.abs_diff(now_ns) > error_bound_ns;
    if base_ns == 0 || jumped {
        TIE.base_ticks.store(now_ticks, Relaxed);
        TIE.base_ns.store(now_ns, Relaxed);
        TIE.rate.store(0, Relaxed);
    } else if base_span_ns >= SHORTEST_BASE_NS && base_span_ticks != 0 {
        let rate = (u128::from(base_span_ns) << RATE_BITS) / u128::from(base_span_ticks);
        TIE.rate.store(rate as u64, Relaxed);
    }
    TIE.ticks.store(now_ticks, Relaxed);
    TIE.ns.store(now_ns, Relaxed);
    TIE.sequence.store(sequence + 2, Release);
    now_ns
}

/// Sleeps until the clock says `until_ns`, and as little longer as the system can: within tens of microseconds. Signals
/// are handled and slept on after.
pub fn sleep_until(until_ns: u64) {
    let time = timespec(until_ns);
    without_slack(|| {
        loop {
            // SAFETY: the pointer is to a local of the right type; an absolute sleep leaves no remainder.
            let ended = unsafe {
                libc::clock_nanosleep(
                    libc::CLOCK_MONOTONIC,
                    libc::TIMER_ABSTIME,
                    &raw const time,
                    std::ptr::null_mut(),
                )
            };
            if ended != libc::EINTR {
                break;
            }
        }
    });
}

/// As [`sleep_until`], but no longer than until [`wake`] is called for the word, in whichever process, and not at all if it
/// is another than `found` by then. May end sooner.
pub fn sleep_on(word: &AtomicU64, found: u64, until_ns: u64) {
    let time = timespec(until_ns);
    without_slack(|| {
        // SAFETY: the kernel reads four bytes of a word that lives, and answers EFAULT where a mapping has lost its file;
        // the time is a local. Without FUTEX_PRIVATE_FLAG, because other processes wake.
        unsafe {
            libc::syscall(
                libc::SYS_futex,
                lower_half(word),
                libc::FUTEX_WAIT_BITSET,
                found as u32,
                &raw const time,
                std::ptr::null::<u32>(),
                libc::FUTEX_BITSET_MATCH_ANY,
            )
        };
    });
}

/// Wakes up whoever sleeps on a word.
pub fn wake(word: &AtomicU64) {
    // SAFETY: the kernel only compares the address.
    unsafe { libc::syscall(libc::SYS_futex, lower_half(word), libc::FUTEX_WAKE, i32::MAX) };
}

/// A futex is 32 bits: those that change with every change of a word of time, on a little-endian machine.
fn lower_half(word: &AtomicU64) -> *const u32 {
    word.as_ptr().cast_const().cast()
}

fn timespec(at_ns: u64) -> libc::timespec {
    libc::timespec {
        tv_sec: (at_ns / 1_000_000_000) as libc::time_t,
        tv_nsec: (at_ns % 1_000_000_000) as libc::c_long,
    }
}

/// Sleeps by the finest timers there are: the kernel may put a thread's off by its slack, 50 us unless the program says
/// otherwise.
fn without_slack(sleep: impl FnOnce()) {
    const FINEST_NS: libc::c_ulong = 1;
    // SAFETY: reads a setting of this thread.
    let slack_ns = unsafe { libc::prctl(libc::PR_GET_TIMERSLACK, 0, 0, 0, 0) };
    set_slack(FINEST_NS);
    sleep();
    if slack_ns > 0 {
        set_slack(slack_ns as libc::c_ulong);
    }
}

fn set_slack(slack_ns: libc::c_ulong) {
    // SAFETY: a setting of this thread alone; refused, the sleep is a little less exact.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, slack_ns, 0, 0, 0) };
}
