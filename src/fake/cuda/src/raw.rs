//! Plain memory: ranges of addresses, and what is copied and set in them. Device memory is host memory
//! here, so these few functions are the simulated GPU's load and store.
//!
//! Callers give addresses that they found to lie in memory of the simulated GPU, or that the program gave
//! as its own host memory, which can't be checked.

use std::ptr;

/// Reserves room for `bytes` of readable, writable, zeroed memory that is taken of the host only where it
/// is touched; 0 where there is no such room.
pub fn reserve(bytes: usize) -> usize {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a new anonymous mapping at a place the kernel chooses disturbs nothing.
    let place =
        unsafe { libc::mmap(ptr::null_mut(), bytes, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
    if place == libc::MAP_FAILED { 0 } else { place as usize }
}

/// Copies `bytes`, also between overlapping ranges.
pub fn copy(to: u64, from: u64, bytes: usize) {
    // SAFETY: the module's rule about addresses.
    unsafe { ptr::copy(from as *const u8, to as *mut u8, bytes) }
}

/// Fills `count` elements from `to` on.
pub fn fill<T: Copy>(to: u64, value: T, count: usize) {
    let start = to as *mut T;
    for index in 0..count {
        // SAFETY: the module's rule about addresses; alignment isn't assumed.
        unsafe { start.add(index).write_unaligned(value) }
    }
}

/// Fills `bytes` from `to` on.
pub fn fill_bytes(to: u64, value: u8, bytes: usize) {
    // SAFETY: the module's rule about addresses.
    unsafe { ptr::write_bytes(to as *mut u8, value, bytes) }
}

/// Reads a value.
pub fn read<T: Copy>(from: u64) -> T {
    // SAFETY: the module's rule about addresses; alignment isn't assumed.
    unsafe { (from as *const T).read_unaligned() }
}

/// Writes a value.
pub fn write<T: Copy>(to: u64, value: T) {
    // SAFETY: the module's rule about addresses; alignment isn't assumed.
    unsafe { (to as *mut T).write_unaligned(value) }
}

/// A program image in memory.
pub enum Program {
    Text(String),
    /// Size in bytes of something that isn't text.
    Binary(u64),
}

const ELF_MAGIC: u32 = u32::from_le_bytes(*b"\x7fELF");
const FATBIN_MAGIC: u32 = 0xba55_ed50;
const WRAPPED_FATBIN_MAGIC: u32 = 0x4662_43b1;

/// Reads a program image, which says itself what it is and how long; `None` for null.
pub fn read_program(image: u64) -> Option<Program> {
    if image == 0 {
        return None;
    }
    match read::<u32>(image) {
        // The section headers come last: where they begin, plus how many there are of which size.
        ELF_MAGIC => {
            let sections = u64::from(read::<u16>(image + 0x3a)) * u64::from(read::<u16>(image + 0x3c));
            Some(Program::Binary(read::<u64>(image + 0x28) + sections))
        }
        FATBIN_MAGIC => Some(Program::Binary(u64::from(read::<u16>(image + 6)) + read::<u64>(image + 8))),
        WRAPPED_FATBIN_MAGIC => read_program(read::<u64>(image + 8)),
        _ => {
            // SAFETY: an image that is neither ELF nor fat binary is a text that ends with a zero.
            let text = unsafe { std::ffi::CStr::from_ptr(image as *const std::ffi::c_char) };
            Some(Program::Text(text.to_string_lossy().into_owned()))
        }
    }
}
