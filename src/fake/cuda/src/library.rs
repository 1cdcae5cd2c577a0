//! Libraries: images bound to no context, which become modules where they are used.

use crate::context::Context;
use crate::edge::{FromC, Out, Text};
use crate::function::{self, Function, USUAL_SHARED_BYTES};
use crate::image::{Entry, Image};
use crate::module::{MODULES, Module, read_file, read_image, set_place};
use crate::slab::{Slab, handle_of};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::ffi::{c_char, c_void};
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, OnceLock};
use vcuda_driver::cuda::types::*;
use vcuda_driver::result::{CUerror, CUresult};

static LIBRARIES: Slab<Library> = Slab::new();
pub static KERNELS: Slab<Kernel> = Slab::new();

/// An image bound to no context.
#[derive(Default)]
pub struct Library(Mutex<LibraryState>);

#[derive(Default)]
struct LibraryState {
    image: Arc<Image>,
    kernels: HashMap<String, usize>,
    /// The library's module in each context, by the context's id.
    modules: HashMap<u64, usize>,
}

/// A function of a library.
#[derive(Default)]
pub struct Kernel {
    entry: OnceLock<Entry>,
    library: AtomicUsize,
}

impl FromC<CUlibrary> for &'static Library {
    unsafe fn from_c(value: CUlibrary) -> Result<&'static Library, CUerror> {
        LIBRARIES.get(value.0).ok_or(CUerror::INVALID_HANDLE)
    }
}

impl FromC<CUkernel> for &'static Kernel {
    unsafe fn from_c(value: CUkernel) -> Result<&'static Kernel, CUerror> {
        KERNELS.get(value.0).ok_or(CUerror::INVALID_HANDLE)
    }
}

impl Library {
    fn module(&'static self, context: &Context) -> Result<&'static Module, CUerror> {
        let mut state = self.0.lock();
        let id = context.id.load(Relaxed);
        if let Some(module) = state.modules.get(&id).and_then(|&handle| MODULES.get(handle)) {
            return Ok(module);
        }
        let module = Module::create(Arc::clone(&state.image), context)?;
        state.modules.insert(id, handle_of(module));
        Ok(module)
    }
}

impl Kernel {
    fn library(&self) -> Result<&'static Library, CUerror> {
        LIBRARIES.get(self.library.load(Relaxed)).ok_or(CUerror::INVALID_HANDLE)
    }

    fn entry(&self) -> Result<&Entry, CUerror> {
        self.entry.get().ok_or(CUerror::INVALID_HANDLE)
    }

    /// The kernel's function in the current context.
    pub fn function(&self) -> Result<&'static Function, CUerror> {
        let module = self.library()?.module(Context::current()?)?;
        module.function(&self.entry()?.name.to_string_lossy())
    }
}

/// Options change nothing here.
#[expect(clippy::too_many_arguments, reason = "the driver's own signature")]
pub fn load_data(
    out: Out<CUlibrary>,
    image: *const c_void,
    _options: *mut u32,
    _values: *mut *mut c_void,
    _count: u32,
    _library_options: *mut u32,
    _library_values: *mut *mut c_void,
    _library_count: u32,
) -> CUresult {
    out.set(create(read_image(image)?)?);
    Ok(())
}

/// Options change nothing here.
#[expect(clippy::too_many_arguments, reason = "the driver's own signature")]
pub fn load_file(
    out: Out<CUlibrary>,
    name: Text,
    _options: *mut u32,
    _values: *mut *mut c_void,
    _count: u32,
    _library_options: *mut u32,
    _library_values: *mut *mut c_void,
    _library_count: u32,
) -> CUresult {
    out.set(create(read_file(&name.0)?)?);
    Ok(())
}

fn create(image: Arc<Image>) -> Result<CUlibrary, CUerror> {
    let library = LIBRARIES.add().ok_or(CUerror::OUT_OF_MEMORY)?;
    *library.0.lock() = LibraryState { image, ..LibraryState::default() };
    Ok(CUlibrary(handle_of(library)))
}

pub fn unload(library: &'static Library) -> CUresult {
    if !LIBRARIES.remove(library) {
        return Err(CUerror::INVALID_HANDLE);
    }
    let state = std::mem::take(&mut *library.0.lock());
    for module in state.modules.into_values().filter_map(|handle| MODULES.get(handle)) {
        module.unload();
    }
    Ok(())
}

fn kernel_of(library: &'static Library, name: &str) -> Result<CUkernel, CUerror> {
    let mut state = library.0.lock();
    if let Some(&handle) = state.kernels.get(name) {
        return Ok(CUkernel(handle));
    }
    let entry = state.image.entry(name).ok_or(CUerror::NOT_FOUND)?;
    let kernel = KERNELS.add().ok_or(CUerror::OUT_OF_MEMORY)?;
    kernel.entry.get_or_init(|| entry);
    kernel.library.store(handle_of(library), Relaxed);
    state.kernels.insert(name.to_owned(), handle_of(kernel));
    Ok(CUkernel(handle_of(kernel)))
}

pub fn kernel(out: Out<CUkernel>, library: &'static Library, name: Text) -> CUresult {
    out.set(kernel_of(library, &name.0)?);
    Ok(())
}

pub fn kernel_count(out: Out<u32>, library: &'static Library) -> CUresult {
    out.set(library.0.lock().image.entries.len() as u32);
    Ok(())
}

pub fn enumerate_kernels(out: Out<CUkernel>, room: u32, library: &'static Library) -> CUresult {
    let names: Vec<String> = library.0.lock().image.entries.keys().cloned().collect();
    for (index, name) in names.iter().take(room as usize).enumerate() {
        out.set_at(index, kernel_of(library, name)?);
    }
    Ok(())
}

pub fn module(out: Out<CUmodule>, library: &'static Library) -> CUresult {
    let module = library.module(Context::current()?)?;
    module.load()?;
    out.set(CUmodule(handle_of(module)));
    Ok(())
}

pub fn global(
    address: Option<Out<CUdeviceptr>>,
    bytes: Option<Out<usize>>,
    library: &'static Library,
    name: Text,
) -> CUresult {
    set_place(address, bytes, library.module(Context::current()?)?.global(&name.0)?)
}

pub fn kernel_function(out: Out<CUfunction>, kernel: &'static Kernel) -> CUresult {
    let function = kernel.function()?;
    function.load()?;
    out.set(CUfunction(handle_of(function)));
    Ok(())
}

pub fn kernel_library(out: Out<CUlibrary>, kernel: &'static Kernel) -> CUresult {
    out.set(CUlibrary(handle_of(kernel.library()?)));
    Ok(())
}

pub fn kernel_name(out: Out<*const c_char>, kernel: &'static Kernel) -> CUresult {
    out.set(kernel.entry()?.name.as_ptr());
    Ok(())
}

pub fn kernel_param_info(
    kernel: &'static Kernel,
    index: usize,
    offset: Out<usize>,
    bytes: Option<Out<usize>>,
) -> CUresult {
    function::set_param_info(kernel.entry()?, index, offset, bytes)
}

pub fn kernel_param_count(kernel: &'static Kernel, out: Out<usize>) -> CUresult {
    out.set(kernel.entry()?.parameters.len());
    Ok(())
}

pub fn kernel_attribute(
    out: Out<i32>,
    attribute: u32,
    kernel: &'static Kernel,
    _device: CUdevice,
) -> CUresult {
    kernel.entry()?;
    out.set(function::attribute_of(attribute, USUAL_SHARED_BYTES).ok_or(CUerror::INVALID_VALUE)?);
    Ok(())
}

/// Attributes change nothing that is simulated.
pub fn set_kernel_attribute(
    _attribute: u32,
    _value: i32,
    kernel: &'static Kernel,
    _device: CUdevice,
) -> CUresult {
    kernel.entry().map(|_| ())
}

pub fn set_kernel_cache_config(kernel: &'static Kernel, _config: u32, _device: CUdevice) -> CUresult {
    kernel.entry().map(|_| ())
}
