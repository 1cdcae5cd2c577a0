//! Who is alive: a slot's owner holds a write lock on one byte of the file, and loses it when its memory is torn down.
//!
//! Owns the locks and the mark that tells a process from a child forked from it. It must never keep a descriptor open
//! and never conclude anything from a process id: ids mean nothing across PID namespaces and are used again.
//!
//! # How a lock outlives its descriptor, and nothing else
//!
//! The lock is an *open file description* lock, so it belongs to what `open` made, not to the process. A page is
//! then mapped through that description and the descriptor closed. The mapping keeps the description, and with it the
//! lock, until the process's memory goes: at exit, at a kill, at `exec`. Other descriptors of the same file can come
//! and go. The mapping is marked not to be inherited by `fork`, so a child does not prolong its parent's life. The
//! page is never read.
//!
//! One gap is left to the caller: a child forked by *another thread* between `open` and `close` in
//! [`Control::claim`](crate::control::Control::claim) has inherited the descriptor and keeps the description until it
//! ends or calls `exec`. Fork must be held off during a claim, which a `pthread_atfork` prepare handler can do by taking
//! the lock under which the claim is made.
#![allow(unsafe_code)]
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::fs::File;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::AsRawFd;

use memmap2::{Advice, MmapMut, MmapOptions, MmapRaw};

use crate::abi::LOCK_BASE;
use crate::quota::PAGE_BYTES;

/// Takes the lock of `slot` on the description behind `file`. False if somebody else has it.
pub(crate) fn try_lock(file: &File, slot: u16) -> io::Result<bool> {
    let mut request = byte_of(slot, libc::F_WRLCK);
    match lock_call(file, libc::F_OFD_SETLK, &mut request) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => Ok(false),
        answer => answer.map(|()| true),
    }
}

/// Lets go of the lock of `slot` on the description behind `file`.
pub(crate) fn unlock(file: &File, slot: u16) -> io::Result<()> {
    lock_call(file, libc::F_OFD_SETLK, &mut byte_of(slot, libc::F_UNLCK))
}

/// Whether somebody other than the description behind `file` has the lock of `slot`. Works on a read-only descriptor.
pub(crate) fn is_locked(file: &File, slot: u16) -> io::Result<bool> {
    let mut request = byte_of(slot, libc::F_WRLCK);
    lock_call(file, libc::F_OFD_GETLK, &mut request)?;
    Ok(libc::c_int::from(request.l_type) != libc::F_UNLCK)
}

fn byte_of(slot: u16, kind: libc::c_int) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: (LOCK_BASE + u64::from(slot)) as libc::off_t,
        l_len: 1,
        l_pid: 0,
    }
}

fn lock_call(file: &File, operation: libc::c_int, request: &mut libc::flock) -> io::Result<()> {
    // SAFETY: an open descriptor, and a lock description that outlives the call.
    let answer = unsafe { libc::fcntl(file.as_raw_fd(), operation, request as *mut libc::flock) };
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A lock held for as long as this process has its memory.
pub(crate) struct Hold {
    /// Not unmapped in a forked child: the child never had it, and may have something else at its address.
    page: ManuallyDrop<MmapRaw>,
    owner: OwnerMark,
}

impl Hold {
    /// Hands the locks of `file` over from its descriptor to this process's memory.
    pub(crate) fn new(file: File) -> io::Result<Self> {
        let owner = OwnerMark::new()?;
        let page = MmapOptions::new().len(PAGE_BYTES as usize).map_raw_read_only(&file)?;
        page.advise(Advice::DontFork)?;
        Ok(Self { page: ManuallyDrop::new(page), owner })
    }

    /// False in a child forked after the claim.
    pub(crate) fn is_own(&self) -> bool {
        self.owner.is_own()
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if self.is_own() {
            // SAFETY: dropped once, here, and not used after.
            unsafe { ManuallyDrop::drop(&mut self.page) }
        }
    }
}

/// A page that the kernel empties in a forked child.
struct OwnerMark {
    page: MmapMut,
    /// Where the kernel cannot empty pages (before Linux 4.14), the process id must do.
    process: Option<u32>,
}

impl OwnerMark {
    fn new() -> io::Result<Self> {
        let mut page = MmapMut::map_anon(PAGE_BYTES as usize)?;
        // SAFETY: a whole mapping of our own, private and anonymous, as this advice requires.
        let answer = unsafe { libc::madvise(page.as_mut_ptr().cast(), page.len(), libc::MADV_WIPEONFORK) };
        if let Some(mark) = page.first_mut() {
            *mark = 1;
        }
        Ok(Self { page, process: (answer != 0).then(std::process::id) })
    }

    fn is_own(&self) -> bool {
        match self.process {
            Some(process) => process == std::process::id(),
            // SAFETY: reads one byte of a mapping that lives as long as `self`; volatile, as the kernel writes to it.
            None => unsafe { self.page.as_ptr().read_volatile() == 1 },
        }
    }
}
