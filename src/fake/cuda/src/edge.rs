//! From C's arguments to Rust's, once for all functions: the bodies behind the exported symbols take
//! [`Out`], [`Value`], [`Text`] and objects, and touch no pointer themselves.
//!
//! What C can't promise can't be checked here: a pointer that isn't null is believed to point to what the
//! manual says, as the real driver believes it.

use std::ffi::{CStr, c_char};
use vcuda_driver::result::CUerror;

/// A Rust argument made from the C argument `C`.
pub trait FromC<C>: Sized {
    /// # Safety
    /// A pointer that isn't null must be what the function's manual asks for, until the call returns.
    unsafe fn from_c(value: C) -> Result<Self, CUerror>;
}

/// Numbers and handles that the body takes as they are.
impl<T> FromC<T> for T {
    #[inline]
    unsafe fn from_c(value: T) -> Result<T, CUerror> {
        Ok(value)
    }
}

/// Where a result goes. Never null.
pub struct Out<T>(*mut T);

impl<T> Out<T> {
    /// A place of our own.
    pub fn to(place: &mut T) -> Out<T> {
        Out(place)
    }

    /// Writes the result.
    #[inline]
    pub fn set(&self, value: T) {
        // SAFETY: whoever made this vouched for the pointer (`FromC::from_c`). C's structs may lie anywhere.
        unsafe { self.0.write_unaligned(value) }
    }

    /// Reads what is there now, where a function takes and gives through one pointer.
    pub fn get(&self) -> T
    where
        T: Copy,
    {
        // SAFETY: as above; the function's manual asks for a value there.
        unsafe { self.0.read_unaligned() }
    }

    /// Writes to the `index`-th place of an array that the function's manual asks for.
    pub fn set_at(&self, index: usize, value: T) {
        // SAFETY: the body stays below the length that the program gave with the array.
        unsafe { self.0.add(index).write_unaligned(value) }
    }

    /// The same place as a place for something else.
    pub fn cast<U>(&self) -> Out<U> {
        Out(self.0.cast())
    }

    /// A place that the program gave as one of several; `None` for null.
    pub fn at(place: *mut T) -> Option<Out<T>> {
        (!place.is_null()).then_some(Out(place))
    }
}

impl Out<c_char> {
    /// Writes as much of `text` as fits into `room` bytes, with a zero behind it.
    pub fn set_text(&self, text: &str, room: usize) {
        let Some(length) = room.checked_sub(1).map(|most| most.min(text.len())) else { return };
        for (index, byte) in text.bytes().take(length).chain([0]).enumerate() {
            self.set_at(index, byte as c_char);
        }
    }
}

impl<T> FromC<*mut T> for Out<T> {
    #[inline]
    unsafe fn from_c(value: *mut T) -> Result<Out<T>, CUerror> {
        if value.is_null() { Err(CUerror::INVALID_VALUE) } else { Ok(Out(value)) }
    }
}

impl<T> FromC<*mut T> for Option<Out<T>> {
    #[inline]
    unsafe fn from_c(value: *mut T) -> Result<Option<Out<T>>, CUerror> {
        Ok((!value.is_null()).then_some(Out(value)))
    }
}

/// A struct that a function is given by address.
pub struct Value<T>(pub T);

impl<T: Copy> FromC<*const T> for Value<T> {
    unsafe fn from_c(value: *const T) -> Result<Value<T>, CUerror> {
        if value.is_null() {
            return Err(CUerror::INVALID_VALUE);
        }
        // SAFETY: the caller vouches for the pointer.
        Ok(Value(unsafe { value.read_unaligned() }))
    }
}

impl<T: Copy> FromC<*mut T> for Value<T> {
    unsafe fn from_c(value: *mut T) -> Result<Value<T>, CUerror> {
        // SAFETY: passed on.
        unsafe { FromC::from_c(value.cast_const()) }
    }
}

impl<T: Copy> FromC<*const T> for Option<Value<T>> {
    unsafe fn from_c(value: *const T) -> Result<Option<Value<T>>, CUerror> {
        // SAFETY: the caller vouches for a pointer that isn't null.
        Ok((!value.is_null()).then(|| Value(unsafe { value.read_unaligned() })))
    }
}

impl<T: Copy> FromC<*mut T> for Option<Value<T>> {
    unsafe fn from_c(value: *mut T) -> Result<Option<Value<T>>, CUerror> {
        // SAFETY: passed on.
        unsafe { FromC::from_c(value.cast_const()) }
    }
}

/// A C struct kept as it was given: its pointers are numbers that nothing is reached through.
#[derive(Clone, Copy)]
pub struct Plain<T>(pub T);

// SAFETY: plain data, as the type says.
unsafe impl<T: Copy> Send for Plain<T> {}
// SAFETY: as above.
unsafe impl<T: Copy> Sync for Plain<T> {}

/// An array that a function is given, whose length is another argument.
pub struct Items<T>(*const T);

impl<T> Items<T> {
    /// An array that a struct names.
    pub fn at(place: *const T) -> Items<T> {
        Items(place)
    }

    /// The same place as an array of something else.
    pub fn cast<U>(&self) -> Items<U> {
        Items(self.0.cast())
    }
}

impl<T: Copy> Items<T> {
    /// The first `count` items; none where the program gave no array.
    pub fn first(&self, count: usize) -> Vec<T> {
        if self.0.is_null() {
            return Vec::new();
        }
        // SAFETY: the program gave `count` as the array's length.
        (0..count).map(|index| unsafe { self.0.add(index).read_unaligned() }).collect()
    }
}

impl<T> FromC<*const T> for Items<T> {
    unsafe fn from_c(value: *const T) -> Result<Items<T>, CUerror> {
        Ok(Items(value))
    }
}

impl<T> FromC<*mut T> for Items<T> {
    unsafe fn from_c(value: *mut T) -> Result<Items<T>, CUerror> {
        Ok(Items(value))
    }
}

/// A C text.
pub struct Text(pub String);

impl FromC<*const c_char> for Text {
    unsafe fn from_c(value: *const c_char) -> Result<Text, CUerror> {
        if value.is_null() {
            return Err(CUerror::INVALID_VALUE);
        }
        // SAFETY: the caller vouches for a text that ends with a zero.
        Ok(Text(unsafe { CStr::from_ptr(value) }.to_string_lossy().into_owned()))
    }
}
