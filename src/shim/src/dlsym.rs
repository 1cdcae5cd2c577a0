//! `dlsym` and `dlvsym`: hands out hooks for driver symbols and leaves every other lookup alone.
//!
//! Both are trampolines in assembly. A lookup that is not ours *jumps* to the C library with the caller's
//! return address still on the stack, because glibc reads that address to know where `RTLD_NEXT` and
//! `RTLD_DEFAULT` start: a wrapper that calls would make every chained interposer find itself.
//!
//! A driver name gets a hook only if the bare lookup would have found a driver's function. Lookups made by
//! the driver itself are never redirected.
#![allow(unsafe_code)]

use crate::export::{self, Hook};
use crate::library::{self, C_DLSYM, C_DLVSYM, Library};
use crate::slice;
use std::arch::naked_asm;
use std::ffi::{CStr, c_char, c_void};
use std::ptr;

/// See dlsym(3). Hooked symbols of the driver libraries resolve to this library.
///
/// # Safety
/// As dlsym(3).
#[unsafe(naked)]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void {
    naked_asm!(
        "push rdi",
        "push rsi",
        "sub rsp, 8",
        "mov rdx, [rsp + 24]", // the return address: who asks
        "call {lookup}",
        "add rsp, 8",
        "pop rsi",
        "pop rdi",
        "test rax, rax",
        "jz 2f",
        "cmp rax, {absent}",
        "je 3f",
        "ret",
        "3: xor eax, eax",
        "ret",
        "2: jmp qword ptr [rip + {original}]",
        lookup = sym hook_for_lookup,
        absent = const ABSENT,
        original = sym C_DLSYM,
    )
}

/// See dlvsym(3). The driver libraries define no versions, but a hooked name is hooked here as well.
///
/// # Safety
/// As dlvsym(3).
#[unsafe(naked)]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dlvsym(
    handle: *mut c_void,
    name: *const c_char,
    version: *const c_char,
) -> *mut c_void {
    naked_asm!(
        "push rdi",
        "push rsi",
        "push rdx",
        "mov rdx, [rsp + 24]",
        "call {lookup}",
        "pop rdx",
        "pop rsi",
        "pop rdi",
        "test rax, rax",
        "jz 2f",
        "cmp rax, {absent}",
        "je 3f",
        "ret",
        "3: xor eax, eax",
        "ret",
        "2: jmp qword ptr [rip + {original}]",
        lookup = sym hook_for_lookup,
        absent = const ABSENT,
        original = sym C_DLVSYM,
    )
}

/// An answer of [`hook_for_lookup`] that no hook has as its address: there is no such symbol.
const ABSENT: usize = 1;

/// The hook to hand out for this lookup, null for the C library to answer it, or [`ABSENT`].
unsafe extern "C" fn hook_for_lookup(
    handle: *mut c_void,
    name: *const c_char,
    caller: *const c_void,
) -> *mut c_void {
    // The trampolines jump through the slots that this fills.
    let Some(original_dlsym) = library::c_library_dlsym() else { return ptr::null_mut() };
    if name.is_null() {
        return ptr::null_mut();
    }
    // SAFETY: the caller of dlsym passes a C string.
    let name = unsafe { CStr::from_ptr(name) };
    let library = match name.to_bytes() {
        [b'c', b'u', b'A'..=b'Z', ..] => Library::Cuda,
        [b'n', b'v', b'm', b'l', ..] => Library::Nvml,
        _ => return ptr::null_mut(),
    };
    let Some(hook) = export::find(name) else { return ptr::null_mut() };
    if is_driver(caller) {
        return ptr::null_mut();
    }
    if handle == libc::RTLD_NEXT || handle == libc::RTLD_DEFAULT {
        return in_global_scope(library, hook, name);
    }
    // SAFETY: the program's own arguments; a real handle is looked up alike whoever asks.
    let found = unsafe { original_dlsym(handle, name.as_ptr()) };
    if ptr::eq(found, hook.address.cast()) {
        return in_global_scope(library, hook, name);
    }
    let is_original = found as usize == hook.original.address() || is_driver(found);
    if found.is_null() || !is_original || slice::is_unlimited() {
        return ptr::null_mut();
    }
    hook.address as *mut c_void
}

/// The answer where the C library would find this library's own export, wherever the search starts. That is
/// right if there is a driver to serve it: a look past us must not be a way out of the slice.
fn in_global_scope(library: Library, hook: &Hook, name: &CStr) -> *mut c_void {
    let original = if library.is_loaded() { hook.original.find() } else { None };
    match original {
        None => {
            library::fail_look_up(name);
            ptr::without_provenance_mut(ABSENT)
        }
        Some(address) if slice::is_unlimited() => address as *mut c_void,
        Some(_) => hook.address as *mut c_void,
    }
}

/// Whether `address` lies in a loaded driver library.
fn is_driver(address: *const c_void) -> bool {
    let mut info = libc::Dl_info {
        dli_fname: ptr::null(),
        dli_fbase: ptr::null_mut(),
        dli_sname: ptr::null(),
        dli_saddr: ptr::null_mut(),
    };
    // SAFETY: `info` is ours; dladdr accepts any address.
    if unsafe { libc::dladdr(address, &raw mut info) } == 0 || info.dli_fname.is_null() {
        return false;
    }
    // SAFETY: dladdr gave a C string that lives as long as the object.
    let file = unsafe { CStr::from_ptr(info.dli_fname) };
    Library::Cuda.is_file(file) || Library::Nvml.is_file(file)
}
