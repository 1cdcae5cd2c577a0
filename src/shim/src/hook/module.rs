//! Modules and libraries: code and static data take device memory when they are loaded, at once or at the
//! first use of a function, in amounts that only measuring can tell.
//!
//! A load that turns out to have taken the slice over its quota is undone and refused. What a launch loads
//! lazily can't be undone: it is charged, and further requests are refused.

use crate::driver;
use crate::edge::{In, Out};
use crate::slice;
use std::ffi::{c_char, c_void};
use vcuda_driver::cuda::types::{CUdeviceptr, CUdeviceptr_v1, CUfunction, CUkernel, CUlibrary, CUmodule};
use vcuda_driver::result::{CUerror, CUresult};

/// Runs a call that takes an amount only measuring can tell, and undoes it if the slice is over its quota now.
pub fn load(driver: impl FnOnce() -> CUresult, undo: impl FnOnce()) -> CUresult {
    driver()?;
    let Some(slice) = slice::current()? else { return Ok(()) };
    slice.measure_everywhere();
    let Some(over) = slice.quotas().find(|quota| quota.is_over()) else { return Ok(()) };
    undo();
    over.count_refusal();
    slice.measure_everywhere();
    Err(CUerror::OUT_OF_MEMORY)
}

fn unload_module(module: Out<CUmodule>) -> impl FnOnce() {
    move || {
        if let Some(module) = module.get() {
            // A module that can't be unloaded stays charged.
            let _ = driver::unload_module(module);
        }
    }
}

fn unload_library(library: Out<CUlibrary>) -> impl FnOnce() {
    move || {
        if let Some(library) = library.get() {
            // As above.
            let _ = driver::unload_library(library);
        }
    }
}

/// `cuModuleLoad`, `cuModuleLoadData` and `cuModuleLoadFatBinary`: from a path or an image.
pub fn module<Source>(driver: impl Fn() -> CUresult, module: Out<CUmodule>, _source: In<Source>) -> CUresult {
    load(driver, unload_module(module))
}

/// `cuModuleLoadDataEx`.
pub fn module_with_options(
    driver: impl Fn() -> CUresult,
    module: Out<CUmodule>,
    _image: In<c_void>,
    _option_count: u32,
    _options: Out<u32>,
    _values: Out<*mut c_void>,
) -> CUresult {
    load(driver, unload_module(module))
}

/// `cuLibraryLoadData` and `cuLibraryLoadFromFile`.
#[allow(clippy::too_many_arguments)] // as the driver has them
pub fn library<Source>(
    driver: impl Fn() -> CUresult,
    library: Out<CUlibrary>,
    _source: In<Source>,
    _jit_options: Out<u32>,
    _jit_values: Out<*mut c_void>,
    _jit_count: u32,
    _options: Out<u32>,
    _values: Out<*mut c_void>,
    _count: u32,
) -> CUresult {
    load(driver, unload_library(library))
}

/// Calls that give code back: measured at once.
pub fn unload(driver: impl Fn() -> CUresult) -> CUresult {
    driver()?;
    if let Some(slice) = slice::current()? {
        slice.measure_everywhere();
    }
    Ok(())
}

/// Calls after which the driver may keep memory or free it: the next launch measures.
pub fn unsettling(driver: impl Fn() -> CUresult) -> CUresult {
    driver()?;
    if let Some(slice) = slice::current()? {
        slice.mark_stale_everywhere();
    }
    Ok(())
}

/// A look-up, which may load code lazily, now or at its first launch: the next launch measures, unless the
/// program has been given this very thing before.
fn look_up(driver: impl Fn() -> CUresult, found: impl Fn() -> Option<u64>) -> CUresult {
    driver()?;
    let Some(slice) = slice::current()? else { return Ok(()) };
    if found().is_some_and(|number| slice.loaded.lock().insert(number)) {
        slice.mark_stale_everywhere();
    }
    Ok(())
}

/// `cuModuleGetFunction`.
pub fn function(
    driver: impl Fn() -> CUresult,
    function: Out<CUfunction>,
    _module: CUmodule,
    _name: In<c_char>,
) -> CUresult {
    look_up(driver, || function.get().map(CUfunction::as_u64))
}

/// `cuModuleGetGlobal_v2`, `cuLibraryGetGlobal` and `cuLibraryGetManaged`.
pub fn global<Code>(
    driver: impl Fn() -> CUresult,
    address: Out<CUdeviceptr>,
    _bytes: Out<usize>,
    _code: Code,
    _name: In<c_char>,
) -> CUresult {
    look_up(driver, || address.get().map(|address| address.0))
}

/// The 32-bit form of CUDA before 3.2.
pub fn global_v1(
    driver: impl Fn() -> CUresult,
    address: Out<CUdeviceptr_v1>,
    _bytes: Out<u32>,
    _module: CUmodule,
    _name: In<c_char>,
) -> CUresult {
    look_up(driver, || address.get().map(|address| address.0.into()))
}

/// `cuLibraryGetKernel`.
pub fn library_kernel(
    driver: impl Fn() -> CUresult,
    kernel: Out<CUkernel>,
    _library: CUlibrary,
    _name: In<c_char>,
) -> CUresult {
    look_up(driver, || kernel.get().map(CUkernel::as_u64))
}

/// `cuLibraryGetModule`.
pub fn library_module(driver: impl Fn() -> CUresult, module: Out<CUmodule>, _library: CUlibrary) -> CUresult {
    look_up(driver, || module.get().map(CUmodule::as_u64))
}

/// `cuKernelGetFunction`.
pub fn kernel_function(
    driver: impl Fn() -> CUresult,
    function: Out<CUfunction>,
    _kernel: CUkernel,
) -> CUresult {
    look_up(driver, || function.get().map(CUfunction::as_u64))
}

/// `cuFuncLoad`.
pub fn load_function(driver: impl Fn() -> CUresult, function: CUfunction) -> CUresult {
    look_up(driver, || Some(function.as_u64()))
}
