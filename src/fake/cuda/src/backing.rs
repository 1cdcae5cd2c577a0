//! The host memory behind device memory: one sparse file in memory, mapped whole, so that an allocation is
//! a range of addresses and costs the host only what is touched; and files of their own for memory that is
//! handed to other processes.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::OnceLock;

/// Device memory is mapped in steps of this.
pub const STEP_BYTES: u64 = 2 << 20;
/// Where the window is put if nothing is there: far from the program and from its stacks.
const WINDOW_HINT: usize = 0x1000_0000_0000;
const WINDOW_BYTES: usize = 16 << 40;

/// The window that this process sees device memory through.
pub struct Window {
    base: u64,
    bytes: u64,
    file: OwnedFd,
    free: Mutex<Ranges>,
}

/// The window, opened on first use; `None` where the host has no room for it.
pub fn window() -> Option<&'static Window> {
    static WINDOW: OnceLock<Option<Window>> = OnceLock::new();
    WINDOW
        .get_or_init(|| Window::open(WINDOW_BYTES).or_else(|_| Window::open(WINDOW_BYTES >> 6)).ok())
        .as_ref()
}

impl Window {
    fn open(bytes: usize) -> io::Result<Window> {
        let file = memory_file(c"simulated device memory", bytes as u64)?;
        let base = map(WINDOW_HINT, bytes, &file, 0, 0)?;
        // A forked child has no device memory, and a core dump no use for terabytes.
        // SAFETY: the range is exactly the mapping just made.
        unsafe {
            libc::madvise(base as *mut _, bytes, libc::MADV_DONTFORK);
            libc::madvise(base as *mut _, bytes, libc::MADV_DONTDUMP);
        }
        let base = base as u64;
        let start = base.next_multiple_of(STEP_BYTES);
        let free = Ranges::new(start, base + bytes as u64 - start);
        Ok(Window { base, bytes: bytes as u64, file, free: Mutex::new(free) })
    }

    /// A range of `bytes` that nobody else has, at a multiple of 2 MiB.
    pub fn take(&self, bytes: u64) -> Option<u64> {
        self.free.lock().take(bytes.max(1).next_multiple_of(STEP_BYTES))
    }

    /// Ends the use of a range, contents and all.
    pub fn give(&self, address: u64, bytes: u64) {
        let bytes = bytes.max(1).next_multiple_of(STEP_BYTES);
        self.discard(address, bytes);
        self.free.lock().give(address, bytes);
    }

    /// Drops the contents of a range: it reads as zero and takes nothing of the host.
    pub fn discard(&self, address: u64, bytes: u64) {
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        let offset = self.offset(address) as libc::off_t;
        // SAFETY: the descriptor is the window's own. Failing, the memory stays in use, nothing worse.
        unsafe { libc::fallocate(self.file.as_raw_fd(), mode, offset, bytes as libc::off_t) };
    }

    /// Where an address of the window is in its file.
    pub fn offset(&self, address: u64) -> u64 {
        address - self.base
    }

    /// Whether an address lies in the window.
    pub fn contains(&self, address: u64) -> bool {
        address.wrapping_sub(self.base) < self.bytes
    }

    /// The window's file.
    pub fn file(&self) -> &OwnedFd {
        &self.file
    }
}

/// Free ranges of addresses by start.
pub struct Ranges(BTreeMap<u64, u64>);

impl Ranges {
    /// One free range.
    pub fn new(start: u64, bytes: u64) -> Ranges {
        Ranges(BTreeMap::from([(start, bytes)]))
    }

    /// Takes `bytes` from the first range that is large enough.
    pub fn take(&mut self, bytes: u64) -> Option<u64> {
        let (&start, &length) = self.0.iter().find(|&(_, &length)| length >= bytes)?;
        self.0.remove(&start);
        if length > bytes {
            self.0.insert(start + bytes, length - bytes);
        }
        Some(start)
    }

    /// Takes `bytes` at `start`, which must be free.
    pub fn take_at(&mut self, start: u64, bytes: u64) {
        let Some((&from, &length)) = self.0.range(..=start).next_back() else { return };
        self.0.remove(&from);
        if start > from {
            self.0.insert(from, start - from);
        }
        let (end, old_end) = (start + bytes, from + length);
        if old_end > end {
            self.0.insert(end, old_end - end);
        }
    }

    /// Gives a range back, joined with its neighbours.
    pub fn give(&mut self, mut start: u64, mut bytes: u64) {
        if let Some((&before, &length)) = self.0.range(..start).next_back()
            && before + length == start
        {
            self.0.remove(&before);
            (start, bytes) = (before, length + bytes);
        }
        if let Some(after) = self.0.remove(&(start + bytes)) {
            bytes += after;
        }
        self.0.insert(start, bytes);
    }

    /// All free ranges, in order.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64)> {
        self.0.iter().map(|(&start, &bytes)| (start, bytes))
    }

    /// Length of the longest range.
    pub fn longest(&self) -> u64 {
        self.0.values().copied().max().unwrap_or(0)
    }
}

/// A sparse file of `bytes` that lives in memory as long as anybody has it open.
pub fn memory_file(name: &CStr, bytes: u64) -> io::Result<OwnedFd> {
    // SAFETY: the name is a C text; the descriptor is new and owned by nobody else.
    let file = unsafe {
        match libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC) {
            -1 => return Err(io::Error::last_os_error()),
            file => File::from_raw_fd(file),
        }
    };
    file.set_len(bytes)?;
    Ok(file.into())
}

/// Maps a file's `bytes` from `offset` on, shared; at `hint` if that is free, or wherever there is room.
pub fn map(hint: usize, bytes: usize, file: &OwnedFd, offset: u64, flags: i32) -> io::Result<usize> {
    let flags = flags | libc::MAP_SHARED | libc::MAP_NORESERVE;
    map_raw(hint, bytes, libc::PROT_READ | libc::PROT_WRITE, flags, file.as_raw_fd(), offset)
}

/// Maps a file over addresses that this process reserved before.
pub fn map_over(address: u64, bytes: u64, file: &OwnedFd, offset: u64) -> io::Result<()> {
    map(address as usize, bytes as usize, file, offset, libc::MAP_FIXED).map(|_| ())
}

/// Reserves addresses that nothing can be read from.
pub fn reserve_addresses(hint: u64, bytes: u64) -> io::Result<u64> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    map_raw(hint as usize, bytes as usize, libc::PROT_NONE, flags, -1, 0).map(|address| address as u64)
}

/// Makes reserved addresses unreadable again.
pub fn cover(address: u64, bytes: u64) -> io::Result<()> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED;
    map_raw(address as usize, bytes as usize, libc::PROT_NONE, flags, -1, 0).map(|_| ())
}

/// Ends a mapping or reservation.
pub fn unmap(address: u64, bytes: u64) {
    // SAFETY: callers give ranges that they mapped or reserved through this module.
    unsafe { libc::munmap(address as *mut _, bytes as usize) };
}

fn map_raw(
    hint: usize,
    bytes: usize,
    access: i32,
    flags: i32,
    file: RawFd,
    offset: u64,
) -> io::Result<usize> {
    // SAFETY: without MAP_FIXED a new mapping disturbs nothing; with it, callers give addresses that they
    // reserved through this module.
    let place = unsafe {
        libc::mmap(ptr::without_provenance_mut(hint), bytes, access, flags, file, offset as libc::off_t)
    };
    if place == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(place as usize) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_split_and_joined() {
        let mut ranges = Ranges::new(100, 100);
        assert_eq!(ranges.take(30), Some(100));
        assert_eq!(ranges.take(30), Some(130));
        assert_eq!(ranges.take(50), None);
        ranges.give(100, 30);
        assert_eq!(ranges.iter().collect::<Vec<_>>(), [(100, 30), (160, 40)]);
        ranges.give(130, 30);
        assert_eq!(ranges.iter().collect::<Vec<_>>(), [(100, 100)]);
        ranges.take_at(140, 20);
        assert_eq!(ranges.iter().collect::<Vec<_>>(), [(100, 40), (160, 40)]);
        assert_eq!(ranges.longest(), 40);
    }

    #[test]
    fn the_window_takes_nothing_until_touched_and_forgets_what_is_given_back() {
        let window = window().unwrap();
        let bytes = 1 << 40;
        let address = window.take(bytes).unwrap();
        assert!(window.contains(address) && address.is_multiple_of(STEP_BYTES));
        crate::raw::write(address + bytes - 8, 7_u64);
        window.give(address, bytes);
        assert_eq!(window.take(bytes), Some(address));
        assert_eq!(crate::raw::read::<u64>(address + bytes - 8), 0);
        window.give(address, bytes);
    }
}
