//! Functions: what a launch names. And what can be asked about them before.

use crate::context::Context;
use crate::edge::{FromC, Out};
use crate::image::Entry;
use crate::launch::Prepared;
use crate::library::KERNELS;
use crate::module::{MODULES, Module};
use crate::slab::{Slab, handle_of};
use parking_lot::Mutex;
use std::ffi::{CString, c_char, c_void};
use std::sync::OnceLock;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicI32, AtomicUsize};
use vcuda_driver::cuda::types::*;
use vcuda_driver::result::{CUerror, CUresult};

/// Dynamic shared memory that a launch may ask for without more ado, and with.
pub const USUAL_SHARED_BYTES: i32 = 49152;
const MOST_SHARED_BYTES: i32 = 232_448;

static FUNCTIONS: Slab<Function> = Slab::new();

/// A function of a module. It outlives its module, as a thing that does nothing.
#[derive(Default)]
pub struct Function {
    entry: OnceLock<Entry>,
    module: AtomicUsize,
    dynamic_shared_bytes: AtomicI32,
    /// What the next launch in the old way is to be like.
    pub prepared: Mutex<Prepared>,
}

impl FromC<CUfunction> for &'static Function {
    unsafe fn from_c(value: CUfunction) -> Result<&'static Function, CUerror> {
        find(value)
    }
}

/// The function of a handle, which may be a kernel's.
#[inline]
pub fn find(handle: CUfunction) -> Result<&'static Function, CUerror> {
    match FUNCTIONS.get(handle.0) {
        Some(function) => Ok(function),
        None => KERNELS.get(handle.0).ok_or(CUerror::INVALID_HANDLE)?.function(),
    }
}

impl Function {
    /// The function of an entry of a module.
    pub fn create(entry: Entry, module: &Module) -> Result<&'static Function, CUerror> {
        let function = FUNCTIONS.add().ok_or(CUerror::OUT_OF_MEMORY)?;
        // Slots of functions are never used twice, so this is the first entry.
        function.entry.get_or_init(|| entry);
        function.module.store(handle_of(module), Relaxed);
        function.dynamic_shared_bytes.store(USUAL_SHARED_BYTES, Relaxed);
        Ok(function)
    }

    /// The function of a handle that was given out as one.
    #[inline]
    pub fn find(handle: usize) -> Option<&'static Function> {
        FUNCTIONS.get(handle)
    }

    #[inline]
    pub fn entry(&self) -> Result<&Entry, CUerror> {
        self.entry.get().ok_or(CUerror::INVALID_HANDLE)
    }

    /// Takes the room of the function's image, if nothing did before.
    #[inline]
    pub fn load(&self) -> CUresult {
        match MODULES.get(self.module.load(Relaxed)) {
            Some(module) => module.load(),
            None => Ok(()),
        }
    }
}

/// What a small kernel answers on an H200.
pub fn attribute_of(attribute: u32, dynamic_shared_bytes: i32) -> Option<i32> {
    Some(match attribute {
        CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK => 1024,
        CU_FUNC_ATTRIBUTE_NUM_REGS => 32,
        CU_FUNC_ATTRIBUTE_PTX_VERSION => 70,
        CU_FUNC_ATTRIBUTE_BINARY_VERSION => 90,
        CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES => dynamic_shared_bytes,
        CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT => -1,
        1..=17 => 0,
        _ => return None,
    })
}

pub fn attribute(out: Out<i32>, attribute: u32, function: &'static Function) -> CUresult {
    let shared = function.dynamic_shared_bytes.load(Relaxed);
    out.set(attribute_of(attribute, shared).ok_or(CUerror::INVALID_VALUE)?);
    Ok(())
}

pub fn set_attribute(function: &'static Function, attribute: u32, value: i32) -> CUresult {
    match attribute {
        CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES if value <= MOST_SHARED_BYTES => {
            function.dynamic_shared_bytes.store(value, Relaxed);
            Ok(())
        }
        CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT
        | CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_WIDTH..=CU_FUNC_ATTRIBUTE_CLUSTER_SCHEDULING_POLICY_PREFERENCE => {
            Ok(())
        }
        _ => Err(CUerror::INVALID_VALUE),
    }
}

/// Caches and banks aren't simulated.
pub fn set_config(function: &'static Function, _config: u32) -> CUresult {
    function.entry().map(|_| ())
}

pub fn module(out: Out<CUmodule>, function: &'static Function) -> CUresult {
    out.set(CUmodule(function.module.load(Relaxed)));
    Ok(())
}

pub fn name(out: Out<*const c_char>, function: &'static Function) -> CUresult {
    let name: &CString = &function.entry()?.name;
    out.set(name.as_ptr());
    Ok(())
}

pub fn set_param_info(
    entry: &Entry,
    index: usize,
    offset: Out<usize>,
    bytes: Option<Out<usize>>,
) -> CUresult {
    let parameter = entry.parameters.get(index).ok_or(CUerror::INVALID_VALUE)?;
    offset.set(parameter.offset);
    if let Some(bytes) = bytes {
        bytes.set(parameter.bytes);
    }
    Ok(())
}

pub fn param_info(
    function: &'static Function,
    index: usize,
    offset: Out<usize>,
    bytes: Option<Out<usize>>,
) -> CUresult {
    set_param_info(function.entry()?, index, offset, bytes)
}

pub fn param_count(function: &'static Function, out: Out<usize>) -> CUresult {
    out.set(function.entry()?.parameters.len());
    Ok(())
}

pub fn is_loaded(out: Out<u32>, function: &'static Function) -> CUresult {
    let module = MODULES.get(function.module.load(Relaxed));
    out.set(u32::from(module.is_some_and(Module::is_loaded)));
    Ok(())
}

pub fn load(function: &'static Function) -> CUresult {
    function.load()
}

/// There is nothing to enumerate in a place that this driver doesn't know.
pub fn blocks_per_multiprocessor(
    out: Out<i32>,
    function: &'static Function,
    block: i32,
    _shared_bytes: usize,
) -> CUresult {
    function.entry()?;
    if block <= 0 {
        return Err(CUerror::INVALID_VALUE);
    }
    out.set(if block > 1024 { 0 } else { (2048 / block).min(32) });
    Ok(())
}

pub fn blocks_per_multiprocessor_with_flags(
    out: Out<i32>,
    function: &'static Function,
    block: i32,
    shared_bytes: usize,
    _flags: u32,
) -> CUresult {
    blocks_per_multiprocessor(out, function, block, shared_bytes)
}

pub fn potential_block_size(
    grid: Out<i32>,
    block: Out<i32>,
    function: &'static Function,
    _shared: *mut c_void,
    _shared_bytes: usize,
    limit: i32,
) -> CUresult {
    function.entry()?;
    let chosen = if limit > 0 { limit.min(1024) } else { 1024 };
    block.set(chosen);
    let multiprocessors = Context::current()?.device().facts().multiprocessors as i32;
    grid.set(multiprocessors * (2048 / chosen).clamp(1, 32));
    Ok(())
}

pub fn potential_block_size_with_flags(
    grid: Out<i32>,
    block: Out<i32>,
    function: &'static Function,
    shared: *mut c_void,
    shared_bytes: usize,
    limit: i32,
    _flags: u32,
) -> CUresult {
    potential_block_size(grid, block, function, shared, shared_bytes, limit)
}

pub fn available_shared_bytes(
    out: Out<usize>,
    function: &'static Function,
    blocks: i32,
    _block: i32,
) -> CUresult {
    function.entry()?;
    out.set((MOST_SHARED_BYTES / blocks.max(1)) as usize);
    Ok(())
}
