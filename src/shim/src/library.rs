//! The real driver libraries: opens them once, finds symbols in them, and keeps one slot per hooked
//! symbol for the original's address.
//!
//! Must never call the `dlsym` this library exports (it would be handed its own hooks): every lookup
//! goes through the C library's own `dlsym`, found by version with `dlvsym`.
#![allow(unsafe_code)]

use crate::elf;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::atomic::{AtomicUsize, Ordering};

/// A driver library whose symbols are hooked.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Library {
    /// `libcuda.so.1`, the CUDA driver API.
    Cuda,
    /// `libnvidia-ml.so.1`, the management library.
    Nvml,
}

impl Library {
    const fn soname(self) -> &'static str {
        match self {
            Library::Cuda => "libcuda.so.1",
            Library::Nvml => "libnvidia-ml.so.1",
        }
    }

    fn handle_slot(self) -> &'static AtomicUsize {
        static CUDA: AtomicUsize = AtomicUsize::new(0);
        static NVML: AtomicUsize = AtomicUsize::new(0);
        match self {
            Library::Cuda => &CUDA,
            Library::Nvml => &NVML,
        }
    }

    /// The library's handle, opening it on first use; `None` when this machine has no such library.
    fn handle(self) -> Option<*mut c_void> {
        let slot = self.handle_slot();
        let known = slot.load(Ordering::Acquire);
        if known != 0 {
            return Some(known as *mut c_void);
        }
        // SAFETY: the driver's initialisers are those the program itself would run by opening it.
        let opened = unsafe {
            libloading::os::unix::Library::open(
                Some(self.soname()),
                libloading::os::unix::RTLD_LAZY | libloading::os::unix::RTLD_LOCAL,
            )
        };
        let handle = opened.ok()?.into_raw();
        slot.store(handle as usize, Ordering::Release);
        Some(handle)
    }

    /// Whether the process has the library loaded already; never loads it.
    pub fn is_loaded(self) -> bool {
        if self.handle_slot().load(Ordering::Acquire) != 0 {
            return true;
        }
        const RTLD_NOLOAD: c_int = libc::RTLD_NOLOAD;
        // SAFETY: RTLD_NOLOAD runs no foreign code; the handle's reference is dropped again below.
        let opened = unsafe {
            libloading::os::unix::Library::open(
                Some(self.soname()),
                libloading::os::unix::RTLD_LAZY | RTLD_NOLOAD,
            )
        };
        opened.is_ok()
    }

    /// The address of `name` in this library, or 0.
    pub fn find(self, name: &CStr) -> usize {
        match (self.handle(), c_library_dlsym()) {
            // SAFETY: the handle is open for good and the name is a C string.
            (Some(handle), Some(dlsym)) => unsafe { dlsym(handle, name.as_ptr()) as usize },
            _ => 0,
        }
    }

    /// Whether `path`, as the loader reports it, is a copy of this library.
    pub fn is_file(self, path: &CStr) -> bool {
        let path = path.to_bytes();
        let start = path.iter().rposition(|&byte| byte == b'/').map_or(0, |slash| slash + 1);
        let stem = match self {
            Library::Cuda => b"libcuda.so".as_slice(),
            Library::Nvml => b"libnvidia-ml.so".as_slice(),
        };
        path.get(start..).is_some_and(|file| file.starts_with(stem))
    }
}

/// Where a hooked symbol's original lives; resolved at first use and then one load.
pub struct Original {
    library: Library,
    /// The ABI symbol.
    pub name: &'static CStr,
    address: AtomicUsize,
}

impl Original {
    /// Where in it the address stands; 0 there means not resolved yet.
    pub const ADDRESS_OFFSET: usize = std::mem::offset_of!(Original, address);

    /// A slot for `name`, not resolved yet.
    pub const fn new(library: Library, name: &'static CStr) -> Original {
        Original { library, name, address: AtomicUsize::new(0) }
    }

    /// The original's address. Where the driver lacks the symbol, a stand-in that answers as a driver
    /// without it would: an error code of the library's own.
    #[inline(always)]
    pub fn address(&self) -> usize {
        match self.address.load(Ordering::Relaxed) {
            0 => self.resolve(),
            address => address,
        }
    }

    /// The original's address if the driver has the symbol.
    pub fn find(&self) -> Option<usize> {
        let address = self.address();
        (address != missing_cuda as *const () as usize && address != missing_nvml as *const () as usize)
            .then_some(address)
    }

    #[cold]
    fn resolve(&self) -> usize {
        let found = self.library.find(self.name);
        if found != 0 {
            self.address.store(found, Ordering::Relaxed);
            return found;
        }
        match self.library {
            Library::Cuda => missing_cuda as *const () as usize,
            Library::Nvml => missing_nvml as *const () as usize,
        }
    }
}

/// A slot for the ABI symbol that an identifier spells; the name is checked when this is compiled.
macro_rules! original {
    ($library:ident $name:ident) => {
        $crate::library::Original::new(
            $crate::library::Library::$library,
            match std::ffi::CStr::from_bytes_with_nul(concat!(stringify!($name), "\0").as_bytes()) {
                Ok(name) => name,
                Err(_) => panic!(),
            },
        )
    };
}
pub(crate) use original;

/// Answers for a driver function that is not there: `CUDA_ERROR_NOT_FOUND`.
extern "C" fn missing_cuda() -> u32 {
    500
}

/// Answers for a management function that is not there: `NVML_ERROR_FUNCTION_NOT_FOUND`.
extern "C" fn missing_nvml() -> u32 {
    13
}

/// `dlsym` as the C library defines it.
pub type Dlsym = unsafe extern "C" fn(*mut c_void, *const c_char) -> *mut c_void;

/// Address of the C library's `dlsym`; 0 until [`c_library_dlsym`] first ran.
pub static C_DLSYM: AtomicUsize = AtomicUsize::new(0);
/// Address of the C library's `dlvsym`; 0 until [`c_library_dlsym`] first ran.
pub static C_DLVSYM: AtomicUsize = AtomicUsize::new(0);

/// The C library's own `dlsym`, whatever this or another preloaded library exports under that name.
/// `None` only in a process without glibc's `dlsym`, where nothing could have loaded a driver either.
pub fn c_library_dlsym() -> Option<Dlsym> {
    let mut address = C_DLSYM.load(Ordering::Acquire);
    if address == 0 {
        C_DLVSYM.store(elf::c_library_function(c"dlvsym"), Ordering::Release);
        address = elf::c_library_function(c"dlsym");
        C_DLSYM.store(address, Ordering::Release);
    }
    // SAFETY: a non-zero address is glibc's function of that name and signature.
    (address != 0).then(|| unsafe { std::mem::transmute::<usize, Dlsym>(address) })
}

/// Leaves the thread's `dlerror` as a look-up of `name` that finds nothing does: programs ask for it.
pub fn fail_look_up(name: &CStr) {
    static C_LIBRARY: AtomicUsize = AtomicUsize::new(0);
    let mut handle = C_LIBRARY.load(Ordering::Acquire);
    if handle == 0 {
        // SAFETY: the C library is loaded already, so none of its code runs here.
        let opened = unsafe {
            libloading::os::unix::Library::open(
                Some("libc.so.6"),
                libloading::os::unix::RTLD_LAZY | libc::RTLD_NOLOAD,
            )
        };
        let Ok(library) = opened else { return };
        handle = library.into_raw() as usize;
        C_LIBRARY.store(handle, Ordering::Release);
    }
    if let Some(dlsym) = c_library_dlsym() {
        // SAFETY: an open handle and a C string. The C library has no symbol of a driver's name.
        unsafe { dlsym(handle as *mut c_void, name.as_ptr()) };
    }
}
