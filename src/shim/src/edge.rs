//! The C edge: turns what a C caller passes into values that safe code can use, and keeps a bug of ours
//! from unwinding into the program.
//!
//! [`Out`] and [`In`] wrap pointer arguments. They are made only by the exported functions, from what the
//! program passed to a function whose C signature says what the pointer must point to; that contract, and
//! their use within the call only, is what makes their accessors sound.
#![allow(unsafe_code)]

use crate::{idle, mode};
use std::ffi::{CStr, c_char, c_void};
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use vcuda_driver::cuda::types::*;
use vcuda_driver::nvml::types::*;
use vcuda_driver::result::RawCode;

/// A pointer argument that the callee may write through.
pub struct Out<T>(*mut T);

impl<T> Clone for Out<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Out<T> {}

impl<T> Out<T> {
    /// The address itself, where that is the argument's meaning.
    pub fn address(self) -> u64 {
        self.0 as u64
    }

    /// Whether the caller passed no place to write to.
    pub fn is_null(self) -> bool {
        self.0.is_null()
    }
}

impl<T: Copy> Out<T> {
    /// What is there now; `None` for a null pointer.
    pub fn get(self) -> Option<T> {
        // SAFETY: see the module: the C caller vouches for a non-null pointer during the call.
        (!self.0.is_null()).then(|| unsafe { self.0.read_unaligned() })
    }

    /// Writes `value`, unless the pointer is null.
    pub fn set(self, value: T) {
        if !self.0.is_null() {
            // SAFETY: see the module.
            unsafe { self.0.write_unaligned(value) }
        }
    }

    /// Writes `values` from the pointer on, at most as many as the caller said there is room for.
    pub fn fill(self, values: impl Iterator<Item = T>, room: u32) {
        for (index, value) in values.take(room as usize).enumerate() {
            // SAFETY: see the module; the caller vouches for this many.
            unsafe { self.0.add(index).write_unaligned(value) }
        }
    }

    /// A pointer that the caller passed inside a structure.
    pub fn of_caller(pointer: *mut T) -> Out<T> {
        Out(pointer)
    }
}

/// A pointer argument that the callee may only read through.
pub struct In<T>(*const T);

impl<T> Clone for In<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for In<T> {}

impl<T: Copy> In<T> {
    /// What is there; `None` for a null pointer.
    pub fn get(self) -> Option<T> {
        // SAFETY: see the module.
        (!self.0.is_null()).then(|| unsafe { self.0.read_unaligned() })
    }
}

impl<T: Copy> Out<T> {
    /// The first `count` values there, as far as the caller vouches for them.
    pub fn values(self, count: usize) -> Vec<T> {
        self.iter(count).collect()
    }

    /// As [`Out::values`], one after the other.
    pub fn iter(self, count: usize) -> impl Iterator<Item = T> {
        let count = if self.0.is_null() { 0 } else { count };
        // SAFETY: see the module; the caller vouches for this many.
        (0..count).map(move |index| unsafe { self.0.add(index).read_unaligned() })
    }
}

impl In<c_void> {
    /// What the function's own description says is there, where its C signature or the driver table doesn't.
    pub fn seen_as<T>(self) -> In<T> {
        In(self.0.cast())
    }
}

impl Out<c_void> {
    /// As [`In::seen_as`].
    pub fn seen_as<T>(self) -> Out<T> {
        Out(self.0.cast())
    }
}

impl In<c_char> {
    /// The C string that is there; `None` for a null pointer.
    pub fn text<'a>(self) -> Option<&'a CStr> {
        // SAFETY: see the module; used within the call only.
        (!self.0.is_null()).then(|| unsafe { CStr::from_ptr(self.0) })
    }
}

/// How a C argument type reaches a hook body.
pub trait IntoSafe {
    /// The type the body sees.
    type Safe;
    /// # Safety
    /// `self` must be the argument of a C call that is still running.
    unsafe fn into_safe(self) -> Self::Safe;
}

impl<T> IntoSafe for *mut T {
    type Safe = Out<T>;
    unsafe fn into_safe(self) -> Out<T> {
        Out(self)
    }
}

impl<T> IntoSafe for *const T {
    type Safe = In<T>;
    unsafe fn into_safe(self) -> In<T> {
        In(self)
    }
}

macro_rules! passed_as_is {
    ($($type:ty),* $(,)?) => { $(
        impl IntoSafe for $type {
            type Safe = $type;
            unsafe fn into_safe(self) -> $type {
                self
            }
        }
    )* };
}

passed_as_is! {
    u8, u16, u32, u64, usize, i32, f32,
    CUcontext, CUmodule, CUfunction, CUlibrary, CUkernel, CUstream, CUarray, CUmipmappedArray, CUmemoryPool,
    CUevent, CUgraph, CUgraphNode, CUgraphExec, CUgreenCtx, CUdevResourceDesc, CUdeviceptr, CUdeviceptr_v1,
    CUmemGenericAllocationHandle, CUmemLocation, CUexternalSemaphore, CUgraphicsResource, nvmlDevice_t,
}

/// A closure by reference, like `&dyn Fn() -> R`. There are hundreds, two for each hook, and a table of functions for
/// each, which has to be relocated when the library is loaded, would be a tenth of the library.
pub struct Call<'a, R> {
    run: unsafe fn(*const ()) -> R,
    closure: *const (),
    lifetime: PhantomData<&'a ()>,
}

impl<'a, R> Call<'a, R> {
    /// Refers to `closure`.
    pub fn new<F: Fn() -> R>(closure: &'a F) -> Call<'a, R> {
        unsafe fn run<R, F: Fn() -> R>(closure: *const ()) -> R {
            // SAFETY: a `Call` keeps this function together with a closure of this type, and no longer than that lives.
            unsafe { (*closure.cast::<F>())() }
        }
        Call { run: run::<R, F>, closure: ptr::from_ref(closure).cast(), lifetime: PhantomData }
    }

    /// As a closure, whose type does not depend on the one referred to.
    pub fn into_fn(self) -> impl Fn() -> R + 'a
    where
        R: 'a,
    {
        // SAFETY: the closure lives.
        move || unsafe { (self.run)(self.closure) }
    }
}

/// Runs a hook body; a panic in it, which would be a bug of ours, becomes `fallback` and one line.
///
/// Takes any body by reference, so that there is one guard and not one for each of the hooks.
#[inline(never)]
pub fn guard<R: RawCode + Copy>(fallback: R, name: &str, body: Call<R>) -> R {
    let body = body.into_fn();
    let run = || {
        catch_unwind(AssertUnwindSafe(&body)).unwrap_or_else(|_| {
            crate::log::error!("{name}: internal error, please report it; the call was refused");
            fallback
        })
    };
    // The management library's names begin otherwise: who only looks does nothing.
    if mode::noted() && name.starts_with("cu") { idle::call(run, |result| result.to_raw()) } else { run() }
}
