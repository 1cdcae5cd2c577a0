//! Modules: images loaded into one context.

use crate::context::{self, Context};
use crate::edge::{FromC, Out, Text};
use crate::function::Function;
use crate::image::Image;
use crate::raw;
use crate::slab::{Slab, handle_of};
use crate::space::{self, Allocation, Kind};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::Arc;
use std::sync::atomic::Ordering::{AcqRel, Relaxed};
use std::sync::atomic::{AtomicBool, AtomicU64};
use vcuda_driver::cuda::types::*;
use vcuda_driver::result::{CUerror, CUresult};

pub static MODULES: Slab<Module> = Slab::new();

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

impl FromC<CUmodule> for &'static Module {
    unsafe fn from_c(value: CUmodule) -> Result<&'static Module, CUerror> {
        MODULES.get(value.0).ok_or(CUerror::INVALID_HANDLE)
    }
}

impl Module {
    pub fn create(image: Arc<Image>, context: &Context) -> Result<&'static Module, CUerror> {
        let module = MODULES.add().ok_or(CUerror::OUT_OF_MEMORY)?;
        module.context_id.store(context.id.load(Relaxed), Relaxed);
        module.is_loaded.store(false, Relaxed);
        *module.state.lock() = ModuleState { image, ..ModuleState::default() };
        Ok(module)
    }

    #[inline]
    pub fn load(&self) -> CUresult {
        if self.is_loaded.load(Relaxed) { Ok(()) } else { self.load_now() }
    }

    #[cold]
    fn load_now(&self) -> CUresult {
        let state = self.state.lock();
        if self.is_loaded.load(Relaxed) {
            return Ok(());
        }
        if let Some(context) = self.context() {
            let held = &mut context.holdings.lock();
            held.take_image(context.device(), state.image.bytes, state.image.global_bytes())?;
        }
        self.is_loaded.store(true, Relaxed);
        Ok(())
    }

    /// Whether the image's room is taken.
    pub fn is_loaded(&self) -> bool {
        self.is_loaded.load(Relaxed)
    }

    fn context(&self) -> Option<&'static Context> {
        context::find_by_id(self.context_id.load(Relaxed))
    }

    pub fn function(&self, name: &str) -> Result<&'static Function, CUerror> {
        let mut state = self.state.lock();
        if let Some(function) = state.functions.get(name).and_then(|&handle| Function::find(handle)) {
            return Ok(function);
        }
        let entry = state.image.entry(name).ok_or(CUerror::NOT_FOUND)?;
        let function = Function::create(entry, self)?;
        state.functions.insert(name.to_owned(), handle_of(function));
        Ok(function)
    }

    /// Address and size of a variable.
    pub fn global(&self, name: &str) -> Result<(u64, u64), CUerror> {
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

    pub fn unload(&'static self) -> bool {
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
            let held = &mut context.holdings.lock();
            held.give_image(context.device(), state.image.bytes, state.image.global_bytes());
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

pub fn read_image(image: *const c_void) -> Result<Arc<Image>, CUerror> {
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

pub fn read_file(name: &str) -> Result<Arc<Image>, CUerror> {
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

pub fn set_place(
    address: Option<Out<CUdeviceptr>>,
    bytes: Option<Out<usize>>,
    place: (u64, u64),
) -> CUresult {
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
