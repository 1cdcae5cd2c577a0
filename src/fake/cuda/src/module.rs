//! Modules, libraries and the functions in them.

use crate::context::Context;
use crate::edge::{FromC, Out, Text};
use crate::image::{Entry, Image};
use crate::raw;
use crate::slab::{Slab, handle_of};
use crate::space::{self, Allocation, Kind};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::ffi::{CString, c_char, c_void};
use std::sync::atomic::Ordering::{AcqRel, Relaxed};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, AtomicUsize};
use std::sync::{Arc, OnceLock};
use vcuda_driver::cuda::types::*;
use vcuda_driver::result::{CUerror, CUresult};

pub static MODULES: Slab<Module> = Slab::new();
pub static LIBRARIES: Slab<Library> = Slab::new();
pub static FUNCTIONS: Slab<Function> = Slab::new();
pub static KERNELS: Slab<Kernel> = Slab::new();

/// An image loaded into one context.
#[derive(Default)]
pub struct Module {
    context_id: AtomicU64,
    /// Whether the image's room is taken; with a library, not before a function is needed.
    is_loaded: AtomicBool,
    state: Mutex<ModuleState>,
}

#[derive(Default)]
struct ModuleState {
    image: Arc<Image>,
    functions: HashMap<String, usize>,
    globals: HashMap<String, (u64, u64)>,
}

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

/// A function of a module. It outlives its module, as a thing that does nothing.
#[derive(Default)]
pub struct Function {
    pub entry: OnceLock<Entry>,
    module: AtomicUsize,
    dynamic_shared_bytes: AtomicI32,
}

/// A function of a library.
#[derive(Default)]
pub struct Kernel {
    pub entry: OnceLock<Entry>,
    library: AtomicUsize,
}

impl FromC<CUmodule> for &'static Module {
    unsafe fn from_c(value: CUmodule) -> Result<&'static Module, CUerror> {
        MODULES.get(value.0).ok_or(CUerror::INVALID_HANDLE)
    }
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

impl FromC<CUfunction> for &'static Function {
    unsafe fn from_c(value: CUfunction) -> Result<&'static Function, CUerror> {
        find_function(value)
    }
}

/// The function of a handle, which may be a kernel's.
#[inline]
pub fn find_function(handle: CUfunction) -> Result<&'static Function, CUerror> {
    match FUNCTIONS.get(handle.0) {
        Some(function) => Ok(function),
        None => KERNELS.get(handle.0).ok_or(CUerror::INVALID_HANDLE)?.function(),
    }
}

impl Function {
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

impl Module {
    fn create(image: Arc<Image>, context: &Context) -> Result<&'static Module, CUerror> {
        let module = MODULES.add().ok_or(CUerror::OUT_OF_MEMORY)?;
        module.context_id.store(context.id.load(Relaxed), Relaxed);
        module.is_loaded.store(false, Relaxed);
        *module.state.lock() = ModuleState { image, ..ModuleState::default() };
        Ok(module)
    }

    #[inline]
    fn load(&self) -> CUresult {
        if self.is_loaded.load(Relaxed) { Ok(()) } else { self.load_now() }
    }

    #[cold]
    fn load_now(&self) -> CUresult {
        let state = self.state.lock();
        if self.is_loaded.load(Relaxed) {
            return Ok(());
        }
        if let Some(context) = self.context() {
            context.take_image(state.image.bytes, state.image.global_bytes())?;
        }
        self.is_loaded.store(true, Relaxed);
        Ok(())
    }

    fn context(&self) -> Option<&'static Context> {
        crate::context::find_by_id(self.context_id.load(Relaxed))
    }

    fn function(&self, name: &str) -> Result<&'static Function, CUerror> {
        let mut state = self.state.lock();
        if let Some(function) = state.functions.get(name).and_then(|&handle| FUNCTIONS.get(handle)) {
            return Ok(function);
        }
        let entry = state.image.entry(name).ok_or(CUerror::NOT_FOUND)?;
        let function = FUNCTIONS.add().ok_or(CUerror::OUT_OF_MEMORY)?;
        // Slots of functions are never used twice, so this is the first entry.
        function.entry.get_or_init(|| entry);
        function.module.store(handle_of(self), Relaxed);
        function.dynamic_shared_bytes.store(49152, Relaxed);
        state.functions.insert(name.to_owned(), handle_of(function));
        Ok(function)
    }

    /// Address and size of a variable.
    fn global(&self, name: &str) -> Result<(u64, u64), CUerror> {
        let mut state = self.state.lock();
        if let Some(&place) = state.globals.get(name) {
            return Ok(place);
        }
        let bytes = *state.image.globals.get(name).ok_or(CUerror::NOT_FOUND)?;
        let context = self.context().ok_or(CUerror::INVALID_CONTEXT)?;
        let window = crate::backing::window().ok_or(CUerror::OUT_OF_MEMORY)?;
        let address = window.take(bytes).ok_or(CUerror::OUT_OF_MEMORY)?;
        space::insert(Allocation {
            address,
            bytes,
            ordinal: context.device().ordinal,
            context_id: self.context_id.load(Relaxed),
            kind: Kind::Global,
            flags: 0,
            id: space::next_id(),
        });
        state.globals.insert(name.to_owned(), (address, bytes));
        Ok((address, bytes))
    }

    fn unload(&'static self) -> bool {
        if !MODULES.remove(self) {
            return false;
        }
        let state = std::mem::take(&mut *self.state.lock());
        for (address, bytes) in state.globals.into_values() {
            if space::remove_if(address, |found| found.kind == Kind::Global).is_some()
                && let Some(window) = crate::backing::window()
            {
                window.give(address, bytes);
            }
        }
        if self.is_loaded.swap(false, AcqRel)
            && let Some(context) = self.context()
        {
            context.give_image(state.image.bytes, state.image.global_bytes());
        }
        true
    }
}

/// Ends the modules of a context that ended, whose room is given back with it.
pub fn unload_of_context(context_id: u64) {
    for module in MODULES.live() {
        if module.context_id.load(Relaxed) == context_id {
            module.is_loaded.store(false, Relaxed);
            module.unload();
        }
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
    fn function(&self) -> Result<&'static Function, CUerror> {
        let module = self.library()?.module(Context::current()?)?;
        module.function(&self.entry()?.name.to_string_lossy())
    }
}

fn read_image(image: *const c_void) -> Result<Arc<Image>, CUerror> {
    let found = raw::read_program(image as u64).ok_or(CUerror::INVALID_IMAGE)?;
    let image = match found {
        raw::Program::Text(text) => Image::from_ptx(&text).ok_or(CUerror::INVALID_IMAGE)?,
        raw::Program::Binary(bytes) => Image::binary(bytes),
    };
    Ok(Arc::new(image))
}

fn load_image(image: Arc<Image>) -> Result<&'static Module, CUerror> {
    let context = Context::current()?;
    context.check()?;
    let module = Module::create(image, context)?;
    module.load().inspect_err(|_| {
        MODULES.remove(module);
    })?;
    Ok(module)
}

pub fn load_data(out: Out<CUmodule>, image: *const c_void) -> CUresult {
    out.set(CUmodule(handle_of(load_image(read_image(image)?)?)));
    Ok(())
}

/// Compiler options change nothing here.
pub fn load_data_ex(
    out: Out<CUmodule>,
    image: *const c_void,
    _count: u32,
    _options: *mut u32,
    _values: *mut *mut c_void,
) -> CUresult {
    load_data(out, image)
}

fn read_file(name: &str) -> Result<Arc<Image>, CUerror> {
    let mut bytes = std::fs::read(name).map_err(|_| CUerror::FILE_NOT_FOUND)?;
    // Texts in memory end with a zero.
    bytes.push(0);
    read_image(bytes.as_ptr().cast())
}

pub fn load(out: Out<CUmodule>, name: Text) -> CUresult {
    out.set(CUmodule(handle_of(load_image(read_file(&name.0)?)?)));
    Ok(())
}

pub fn unload(module: &'static Module) -> CUresult {
    if let Some(context) = module.context() {
        context.wait();
    }
    if module.unload() { Ok(()) } else { Err(CUerror::INVALID_HANDLE) }
}

pub fn loading_mode(out: Out<u32>) -> CUresult {
    let is_eager = std::env::var("CUDA_MODULE_LOADING").is_ok_and(|mode| mode == "EAGER");
    out.set(if is_eager { 1 } else { 2 });
    Ok(())
}

pub fn get_function(out: Out<CUfunction>, module: &'static Module, name: Text) -> CUresult {
    out.set(CUfunction(handle_of(module.function(&name.0)?)));
    Ok(())
}

pub fn function_count(out: Out<u32>, module: &'static Module) -> CUresult {
    out.set(module.state.lock().image.entries.len() as u32);
    Ok(())
}

pub fn enumerate_functions(out: Out<CUfunction>, room: u32, module: &'static Module) -> CUresult {
    let names: Vec<String> = module.state.lock().image.entries.keys().cloned().collect();
    for (index, name) in names.iter().take(room as usize).enumerate() {
        out.set_at(index, CUfunction(handle_of(module.function(name)?)));
    }
    Ok(())
}

fn set_place(address: Option<Out<CUdeviceptr>>, bytes: Option<Out<usize>>, place: (u64, u64)) -> CUresult {
    if let Some(address) = address {
        address.set(CUdeviceptr(place.0));
    }
    if let Some(bytes) = bytes {
        bytes.set(place.1 as usize);
    }
    Ok(())
}

pub fn get_global(
    address: Option<Out<CUdeviceptr>>,
    bytes: Option<Out<usize>>,
    module: &'static Module,
    name: Text,
) -> CUresult {
    set_place(address, bytes, module.global(&name.0)?)
}

/// Options change nothing here.
#[expect(clippy::too_many_arguments, reason = "the driver's own signature")]
pub fn library_load_data(
    out: Out<CUlibrary>,
    image: *const c_void,
    _options: *mut u32,
    _values: *mut *mut c_void,
    _count: u32,
    _library_options: *mut u32,
    _library_values: *mut *mut c_void,
    _library_count: u32,
) -> CUresult {
    out.set(create_library(read_image(image)?)?);
    Ok(())
}

/// Options change nothing here.
#[expect(clippy::too_many_arguments, reason = "the driver's own signature")]
pub fn library_load_file(
    out: Out<CUlibrary>,
    name: Text,
    _options: *mut u32,
    _values: *mut *mut c_void,
    _count: u32,
    _library_options: *mut u32,
    _library_values: *mut *mut c_void,
    _library_count: u32,
) -> CUresult {
    out.set(create_library(read_file(&name.0)?)?);
    Ok(())
}

fn create_library(image: Arc<Image>) -> Result<CUlibrary, CUerror> {
    let library = LIBRARIES.add().ok_or(CUerror::OUT_OF_MEMORY)?;
    *library.0.lock() = LibraryState { image, ..LibraryState::default() };
    Ok(CUlibrary(handle_of(library)))
}

pub fn library_unload(library: &'static Library) -> CUresult {
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

pub fn library_kernel(out: Out<CUkernel>, library: &'static Library, name: Text) -> CUresult {
    out.set(kernel_of(library, &name.0)?);
    Ok(())
}

pub fn library_kernel_count(out: Out<u32>, library: &'static Library) -> CUresult {
    out.set(library.0.lock().image.entries.len() as u32);
    Ok(())
}

pub fn library_enumerate_kernels(out: Out<CUkernel>, room: u32, library: &'static Library) -> CUresult {
    let names: Vec<String> = library.0.lock().image.entries.keys().cloned().collect();
    for (index, name) in names.iter().take(room as usize).enumerate() {
        out.set_at(index, kernel_of(library, name)?);
    }
    Ok(())
}

pub fn library_module(out: Out<CUmodule>, library: &'static Library) -> CUresult {
    let module = library.module(Context::current()?)?;
    module.load()?;
    out.set(CUmodule(handle_of(module)));
    Ok(())
}

pub fn library_global(
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
    set_param_info(kernel.entry()?, index, offset, bytes)
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
    out.set(attribute_of(attribute, 49152).ok_or(CUerror::INVALID_VALUE)?);
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

/// What a small kernel answers on an H200.
fn attribute_of(attribute: u32, dynamic_shared_bytes: i32) -> Option<i32> {
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

pub fn function_attribute(out: Out<i32>, attribute: u32, function: &'static Function) -> CUresult {
    let shared = function.dynamic_shared_bytes.load(Relaxed);
    out.set(attribute_of(attribute, shared).ok_or(CUerror::INVALID_VALUE)?);
    Ok(())
}

pub fn set_function_attribute(function: &'static Function, attribute: u32, value: i32) -> CUresult {
    match attribute {
        CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES if value <= 232_448 => {
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
pub fn set_function_config(function: &'static Function, _config: u32) -> CUresult {
    function.entry().map(|_| ())
}

pub fn function_module(out: Out<CUmodule>, function: &'static Function) -> CUresult {
    out.set(CUmodule(function.module.load(Relaxed)));
    Ok(())
}

pub fn function_name(out: Out<*const c_char>, function: &'static Function) -> CUresult {
    let name: &CString = &function.entry()?.name;
    out.set(name.as_ptr());
    Ok(())
}

fn set_param_info(entry: &Entry, index: usize, offset: Out<usize>, bytes: Option<Out<usize>>) -> CUresult {
    let parameter = entry.parameters.get(index).ok_or(CUerror::INVALID_VALUE)?;
    offset.set(parameter.offset);
    if let Some(bytes) = bytes {
        bytes.set(parameter.bytes);
    }
    Ok(())
}

pub fn function_param_info(
    function: &'static Function,
    index: usize,
    offset: Out<usize>,
    bytes: Option<Out<usize>>,
) -> CUresult {
    set_param_info(function.entry()?, index, offset, bytes)
}

pub fn function_param_count(function: &'static Function, out: Out<usize>) -> CUresult {
    out.set(function.entry()?.parameters.len());
    Ok(())
}

pub fn function_is_loaded(out: Out<u32>, function: &'static Function) -> CUresult {
    let module = MODULES.get(function.module.load(Relaxed));
    out.set(u32::from(module.is_some_and(|module| module.is_loaded.load(Relaxed))));
    Ok(())
}

pub fn function_load(function: &'static Function) -> CUresult {
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
    out.set(232_448 / usize::try_from(blocks.max(1)).unwrap_or(1));
    Ok(())
}

/// Links nothing: the first text that was added is the result.
#[derive(Default)]
pub struct Link(Mutex<Vec<u8>>);

pub static LINKS: Slab<Link> = Slab::new();

impl FromC<CUlinkState> for &'static Link {
    unsafe fn from_c(value: CUlinkState) -> Result<&'static Link, CUerror> {
        LINKS.get(value.0).ok_or(CUerror::INVALID_HANDLE)
    }
}

pub fn link_create(
    _count: u32,
    _options: *mut u32,
    _values: *mut *mut c_void,
    out: Out<CUlinkState>,
) -> CUresult {
    Context::current()?;
    let link = LINKS.add().ok_or(CUerror::OUT_OF_MEMORY)?;
    link.0.lock().clear();
    out.set(CUlinkState(handle_of(link)));
    Ok(())
}

#[expect(clippy::too_many_arguments, reason = "the driver's own signature")]
pub fn link_add_data(
    link: &'static Link,
    _kind: u32,
    data: *mut c_void,
    bytes: usize,
    _name: *const c_char,
    _count: u32,
    _options: *mut u32,
    _values: *mut *mut c_void,
) -> CUresult {
    let mut linked = link.0.lock();
    if linked.is_empty() && !data.is_null() {
        *linked = vec![0; bytes + 1];
        raw::copy(linked.as_mut_ptr() as u64, data as u64, bytes);
    }
    Ok(())
}

pub fn link_complete(link: &'static Link, out: Out<*mut c_void>, bytes: Option<Out<usize>>) -> CUresult {
    let linked = link.0.lock();
    if linked.is_empty() {
        return Err(CUerror::INVALID_IMAGE);
    }
    out.set(linked.as_ptr().cast_mut().cast());
    if let Some(bytes) = bytes {
        bytes.set(linked.len());
    }
    Ok(())
}

pub fn link_destroy(link: &'static Link) -> CUresult {
    if LINKS.remove(link) { Ok(()) } else { Err(CUerror::INVALID_HANDLE) }
}
