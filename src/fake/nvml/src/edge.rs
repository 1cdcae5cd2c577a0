//! From C's arguments to Rust's, once for all functions: bodies take [`Out`] and [`Text`] and touch no
//! pointer themselves. A pointer that isn't null is believed to point to what the manual says.

use std::ffi::{CStr, c_char};
use vcuda_driver::result::NvmlError;

/// A Rust argument made from the C argument `C`.
pub trait FromC<C>: Sized {
    /// # Safety
    /// A pointer that isn't null must be what the function's manual asks for, until the call returns.
    unsafe fn from_c(value: C) -> Result<Self, NvmlError>;
}

impl<T> FromC<T> for T {
    unsafe fn from_c(value: T) -> Result<T, NvmlError> {
        Ok(value)
    }
}

/// Where a result goes. Never null.
pub struct Out<T>(*mut T);

impl<T: Copy> Out<T> {
    /// Writes the result.
    pub fn set(&self, value: T) {
        self.set_at(0, value);
    }

    /// Writes to the `index`-th place of an array; the body stays below the length that it was told.
    pub fn set_at(&self, index: usize, value: T) {
        // SAFETY: whoever made this vouched for the pointer. C's structs may lie anywhere.
        unsafe { self.0.add(index).write_unaligned(value) }
    }

    /// Reads what is there, where a function takes and gives through one pointer.
    pub fn get(&self) -> T {
        // SAFETY: as above; the function's manual asks for a value there.
        unsafe { self.0.read_unaligned() }
    }

    /// A place that a struct names; `None` for null.
    pub fn at(place: *mut T) -> Option<Out<T>> {
        (!place.is_null()).then_some(Out(place))
    }
}

impl Out<c_char> {
    /// Writes `text` with a zero behind it, if it fits into `room` bytes.
    pub fn set_text(&self, text: &str, room: u32) -> Result<(), NvmlError> {
        if text.len() >= room as usize {
            return Err(NvmlError::INSUFFICIENT_SIZE);
        }
        for (index, byte) in text.bytes().chain([0]).enumerate() {
            self.set_at(index, byte as c_char);
        }
        Ok(())
    }
}

impl<T> FromC<*mut T> for Out<T> {
    unsafe fn from_c(value: *mut T) -> Result<Out<T>, NvmlError> {
        if value.is_null() { Err(NvmlError::INVALID_ARGUMENT) } else { Ok(Out(value)) }
    }
}

impl<T> FromC<*mut T> for Option<Out<T>> {
    unsafe fn from_c(value: *mut T) -> Result<Option<Out<T>>, NvmlError> {
        Ok((!value.is_null()).then_some(Out(value)))
    }
}

/// A C text.
pub struct Text(pub String);

impl FromC<*const c_char> for Text {
    unsafe fn from_c(value: *const c_char) -> Result<Text, NvmlError> {
        if value.is_null() {
            return Err(NvmlError::INVALID_ARGUMENT);
        }
        // SAFETY: the caller vouches for a text that ends with a zero.
        Ok(Text(unsafe { CStr::from_ptr(value) }.to_string_lossy().into_owned()))
    }
}
