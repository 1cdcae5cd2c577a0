//! Lines for the person who runs the program: to standard error only, one `write` each, from a buffer on
//! the stack.
//!
//! Must never write to standard output, allocate, take a lock, or write at all below the chosen level:
//! tools parse the output of the programs we live in.
#![allow(unsafe_code)]

use std::fmt::{self, Write};
use std::sync::atomic::{AtomicU8, Ordering};
pub use vcuda_core::limits::LogLevel;

static LEVEL: AtomicU8 = AtomicU8::new(LogLevel::Warn as u8);

/// Sets the most detailed level that is written.
pub fn set_level(level: LogLevel) {
    LEVEL.store(level as u8, Ordering::Relaxed);
}

/// Whether lines of `level` are written.
pub fn enabled(level: LogLevel) -> bool {
    level as u8 <= LEVEL.load(Ordering::Relaxed)
}

/// Writes one line, cut at 1 KiB. Leaves `errno` as it was.
pub fn line(level: LogLevel, message: fmt::Arguments) {
    if !enabled(level) {
        return;
    }
    let mut buffer = Buffer { bytes: [0; 1024], used: 0 };
    // A full buffer cuts the line short; there is nothing better to do with the error.
    let _ = write!(buffer, "vcuda: {message}");
    let end = buffer.used.min(buffer.bytes.len() - 1);
    if let Some(last) = buffer.bytes.get_mut(end) {
        *last = b'\n';
    }
    // SAFETY: errno is this thread's own, and the buffer outlives the call.
    unsafe {
        let saved = *libc::__errno_location();
        libc::write(libc::STDERR_FILENO, buffer.bytes.as_ptr().cast(), end + 1);
        *libc::__errno_location() = saved;
    }
}

struct Buffer {
    bytes: [u8; 1024],
    used: usize,
}

impl Write for Buffer {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = self.bytes.len() - 1 - self.used;
        let taken = text.len().min(room);
        if let (Some(target), Some(source)) =
            (self.bytes.get_mut(self.used..self.used + taken), text.as_bytes().get(..taken))
        {
            target.copy_from_slice(source);
            self.used += taken;
        }
        if taken == text.len() { Ok(()) } else { Err(fmt::Error) }
    }
}

/// Logs a line at error level.
macro_rules! error { ($($part:tt)*) => { $crate::log::line($crate::log::LogLevel::Error, format_args!($($part)*)) } }
/// Logs a line at warning level.
macro_rules! warning { ($($part:tt)*) => { $crate::log::line($crate::log::LogLevel::Warn, format_args!($($part)*)) } }
/// Logs a line at information level.
macro_rules! info { ($($part:tt)*) => { $crate::log::line($crate::log::LogLevel::Info, format_args!($($part)*)) } }
/// Logs a line at debug level.
macro_rules! debug { ($($part:tt)*) => { $crate::log::line($crate::log::LogLevel::Debug, format_args!($($part)*)) } }
pub(crate) use {debug, error, info, warning};
