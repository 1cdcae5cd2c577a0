//! Going on when somebody truncates a control file while it is read.
//!
//! Touching a page beyond the end of a mapped file raises SIGBUS, which ends a program. The core library asks first,
//! but whoever may write to the file can truncate it between question and access, and if he tries all day he meets
//! that moment. A tool that looks at many people's files must not be ended by one of them. It may have a signal handler,
//! which the preloaded library may not.
//!
//! The handler puts zeros in the place of the whole mapping and lets the access be repeated. The reader then finds
//! that the file is none, as it does when a file is written over. Any other bus error ends the process as it would
//! have without us.
#![allow(unsafe_code)]

use std::io;
use std::mem::MaybeUninit;
use std::ops::Range;

use vcuda_core::abi::FILE_BYTES;

/// `si_code` of an access beyond the end of the mapped object.
const BEYOND_THE_END: libc::c_int = 2;
/// As much of a line of `/proc/self/maps` as is looked at: two addresses and the permissions.
const LINE_BYTES: usize = 48;

/// From now on, a control file that shrinks while this process reads it reads as zeros. To be called once, early.
///
/// # Errors
/// The system's.
pub fn survive() -> io::Result<()> {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = on_bus_error;
    // SAFETY: all zeros are a valid sigaction, whose fields are then set; the mask is a field of it.
    let action = unsafe {
        let fields = action.assume_init_mut();
        fields.sa_sigaction = handler as libc::sighandler_t;
        fields.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
        libc::sigemptyset(&raw mut fields.sa_mask);
        action.assume_init()
    };
    // SAFETY: a valid action, whose handler calls only what may be called in one.
    let answer = unsafe { libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut()) };
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Runs in whatever the thread was doing: no allocation, no lock, nothing that could panic.
extern "C" fn on_bus_error(_: libc::c_int, information: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel hands over a description that is valid during the handler; the address is set for this signal.
    let (code, address) = unsafe { ((*information).si_code, (*information).si_addr() as usize) };
    // SAFETY: the calling thread's errno, which always exists.
    let errno = unsafe { *libc::__errno_location() };
    let mapping = if code == BEYOND_THE_END { control_file_at(address) } else { None };
    if !mapping.is_some_and(replace_by_zeros) {
        // SAFETY: sets the default action, under which the access that is repeated ends the process.
        unsafe { libc::signal(libc::SIGBUS, libc::SIG_DFL) };
    }
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno };
}

/// Puts private zeros where the control file was mapped.
fn replace_by_zeros(mapping: Range<usize>) -> bool {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE;
    let access = libc::PROT_READ | libc::PROT_WRITE;
    let start = mapping.start as *mut libc::c_void;
    // SAFETY: replaces a mapping that `control_file_at` found to be a control file's. It consists of atomics, for which
    // zeros are as valid as anything that another process could write there; its owner unmaps the same range.
    let answer = unsafe { libc::mmap(start, mapping.len(), access, flags, -1, 0) };
    answer == start
}

/// The mapping at `address`, if it is a control file's: shared, and of its length.
fn control_file_at(address: usize) -> Option<Range<usize>> {
    // SAFETY: a terminated path.
    let file = unsafe { libc::open(c"/proc/self/maps".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) };
    if file < 0 {
        return None;
    }
    let mut lines = Lines::default();
    let mut found = None;
    let mut buffer = [0u8; 2048];
    while found.is_none() {
        // SAFETY: a buffer of that length.
        let length = unsafe { libc::read(file, buffer.as_mut_ptr().cast(), buffer.len()) };
        let Ok(length) = usize::try_from(length) else { break };
        if length == 0 {
            break;
        }
        for byte in buffer.iter().take(length) {
            if let Some(range) = lines.take(*byte).and_then(shared_range).filter(|it| it.contains(&address)) {
                found = Some(range);
            }
        }
    }
    // SAFETY: opened above and closed once.
    unsafe { libc::close(file) };
    found.filter(|range| range.len() == FILE_BYTES)
}

/// Cuts a stream of bytes into the beginnings of its lines.
struct Lines {
    start: [u8; LINE_BYTES],
    length: usize,
}

impl Default for Lines {
    fn default() -> Self {
        Self { start: [0; LINE_BYTES], length: 0 }
    }
}

impl Lines {
    /// Takes one byte; at the end of a line, returns the line's beginning.
    fn take(&mut self, byte: u8) -> Option<&[u8]> {
        if byte == b'\n' {
            let length = std::mem::take(&mut self.length);
            return self.start.get(..length);
        }
        if let Some(place) = self.start.get_mut(self.length) {
            *place = byte;
            self.length += 1;
        }
        None
    }
}

/// The range of a line like `7f00a0000000-7f00a0826000 rw-s …`, if the mapping is shared.
fn shared_range(line: &[u8]) -> Option<Range<usize>> {
    let mut words = line.split(|byte| *byte == b' ');
    let mut addresses = words.next()?.split(|byte| *byte == b'-');
    let mut address = || usize::from_str_radix(std::str::from_utf8(addresses.next()?).ok()?, 16).ok();
    let range = address()?..address()?;
    (words.next()?.get(3) == Some(&b's')).then_some(range)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_mappings_are_read_from_their_lines() {
        const START: usize = 0x7f00_a000_0000;
        let text = format!(
            "55d0-55d8 r--p 00000000 08:01 42 /usr/bin/a\n\
             {START:x}-{:x} rw-s 00000000 00:19 7 /dev/shm/vcuda-0/control\n\
             7fff12345000-7fff12366000 rw-p 00000000 00:00 0 [stack]\n\
             nonsense\n\
             \n",
            START + FILE_BYTES
        );
        let mut lines = Lines::default();
        let mut found = Vec::new();
        for byte in text.bytes() {
            found.extend(lines.take(byte).map(shared_range));
        }
        assert_eq!(found, [None, Some(START..START + FILE_BYTES), None, None, None]);
    }
}
