//! Tells a forked child from its parent without handlers, system calls or cached process ids.
//!
//! One private page is marked `MADV_WIPEONFORK`: the kernel hands a child zeros in its place, also after
//! raw `clone`, where `pthread_atfork` handlers never run. `vfork` and `posix_spawn` children share the
//! parent's memory and are the parent, as they should be until they exec.
#![allow(unsafe_code)]

use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

static PAGE: AtomicPtr<AtomicU32> = AtomicPtr::new(ptr::null_mut());

/// Marks this process as the owner of its state. Returns false where the kernel can't tell children
/// apart (Linux before 4.14); children are then told by process id, one system call per check.
pub fn take_ownership() -> bool {
    let page = PAGE.load(Ordering::Acquire);
    let page = if page.is_null() { map_page() } else { page };
    if page.is_null() {
        FALLBACK_PID.store(std::process::id(), Ordering::Release);
        return false;
    }
    // SAFETY: the page is mapped for good, and an atomic word fits at its start.
    unsafe { (*page).store(1, Ordering::Release) };
    true
}

static FALLBACK_PID: AtomicU32 = AtomicU32::new(0);

/// Whether this process is the one that last called [`take_ownership`], not a child forked from it.
#[inline]
pub fn is_owner() -> bool {
    let page = PAGE.load(Ordering::Acquire);
    if page.is_null() {
        return FALLBACK_PID.load(Ordering::Acquire) == std::process::id();
    }
    // SAFETY: the page is mapped for good, and an atomic word fits at its start.
    unsafe { (*page).load(Ordering::Acquire) == 1 }
}

fn map_page() -> *mut AtomicU32 {
    const SIZE: usize = 4096;
    // SAFETY: a fresh anonymous mapping, owned by this module and never unmapped.
    let page = unsafe {
        libc::mmap(
            ptr::null_mut(),
            SIZE,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if page == libc::MAP_FAILED {
        return ptr::null_mut();
    }
    // SAFETY: the page was mapped above with this size.
    if unsafe { libc::madvise(page, SIZE, libc::MADV_WIPEONFORK) } != 0 {
        // SAFETY: nobody else knows the page yet.
        unsafe { libc::munmap(page, SIZE) };
        return ptr::null_mut();
    }
    let page = page.cast::<AtomicU32>();
    PAGE.store(page, Ordering::Release);
    page
}
