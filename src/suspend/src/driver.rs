//! The driver's checkpoint calls.
//!
//! Owns the only calls into `libcuda.so.1`. The driver is initialised on opening, as restoring needs that; it makes no
//! context. Must not be used in a process that itself is limited: its calls would be hooked.
#![allow(unsafe_code)]

use libloading::Library;
use std::ffi::c_void;
use std::time::Duration;
use thiserror::Error;
use vcuda_driver::cuda::types::CUcheckpointLockArgs;
use vcuda_driver::result::{CUerror, CUresult};

/// The CUDA version whose drivers know checkpoints: 12.8, of release 570.
const FIRST_VERSION: i32 = 12_080;

/// How the driver says a process stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcessState {
    /// Its calls go through.
    Running,
    /// Its calls wait; it is at rest.
    Locked,
    /// The same, and it holds nothing of any GPU.
    Checkpointed,
    /// A checkpoint or restore went wrong in a way that can't be undone.
    Failed,
    /// On the way from or to [`ProcessState::Checkpointed`].
    Changing,
    /// Something newer than this version.
    Unknown(u32),
}

/// What can be done to a process, by its id here. Every method blocks.
pub trait Checkpoint {
    /// How it stands.
    ///
    /// # Errors
    /// The driver's, for a process without CUDA and one that may not be traced as well.
    fn state(&self, pid: u32) -> Result<ProcessState, CUerror>;

    /// Lets what it submitted come to its end, and has its calls wait from then on. It goes on as before after an error.
    ///
    /// # Errors
    /// `NOT_READY` after `timeout`, or the driver's.
    fn lock(&self, pid: u32, timeout: Duration) -> CUresult;

    /// Moves what a locked process has on its GPUs to the host.
    ///
    /// # Errors
    /// The driver's; `NOT_SUPPORTED` for memory that can't be moved.
    fn checkpoint(&self, pid: u32) -> CUresult;

    /// Moves it back; the process stays locked. After an error it can't be tried again.
    ///
    /// # Errors
    /// The driver's.
    fn restore(&self, pid: u32) -> CUresult;

    /// Lets its calls go on.
    ///
    /// # Errors
    /// The driver's.
    fn unlock(&self, pid: u32) -> CUresult;
}

/// Why this machine's driver can't suspend anything.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Unavailable {
    /// There is no driver.
    #[error("libcuda.so.1 can't be opened: {0}")]
    NoDriver(String),
    /// The driver has no checkpoints.
    #[error("the driver is for CUDA {}.{}; suspending needs release 570 or newer, for CUDA 12.8", .0 / 1000, .0 % 1000 / 10)]
    TooOld(i32),
    /// The driver doesn't start.
    #[error("cuInit answers {0}; see vcuda doctor")]
    NotInitialised(CUerror),
}

type StateFunction = unsafe extern "C" fn(i32, *mut u32) -> CUresult;
type ActFunction = unsafe extern "C" fn(i32, *mut c_void) -> CUresult;

/// The installed driver.
pub struct CudaDriver {
    state: StateFunction,
    lock: ActFunction,
    checkpoint: ActFunction,
    restore: ActFunction,
    unlock: ActFunction,
}

impl CudaDriver {
    /// Opens and initialises the driver. It stays loaded as long as the process lives.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub fn open() -> Result<CudaDriver, Unavailable> {
        let (library, driver) = open()?;
        // SAFETY: cuInit, as NVIDIA's header declares it.
        let init = unsafe { library.get::<unsafe extern "C" fn(u32) -> CUresult>("cuInit\0") };
        let init = init.map_err(|error| Unavailable::NoDriver(error.to_string()))?;
        // SAFETY: takes no pointer.
        unsafe { init(0) }.map_err(Unavailable::NotInitialised)?;
        // Its threads may run as long as this process does.
        std::mem::forget(library);
        Ok(driver)
    }
}

/// Whether the installed driver could suspend processes, without initialising it. Gives its CUDA version.
///
/// # Errors
/// [`Unavailable`].
pub fn support() -> Result<i32, Unavailable> {
    let (library, _) = open()?;
    version(&library)
}

fn open() -> Result<(Library, CudaDriver), Unavailable> {
    // SAFETY: the driver's initialisers are those every program runs that opens it.
    let library =
        unsafe { Library::new("libcuda.so.1") }.map_err(|error| Unavailable::NoDriver(error.to_string()))?;
    let version = version(&library)?;
    if version < FIRST_VERSION {
        return Err(Unavailable::TooOld(version));
    }
    let act = |name: &str| {
        // SAFETY: all four take a process id and a pointer, as NVIDIA's header declares them.
        let function = unsafe { library.get::<ActFunction>(name) };
        function.map(|function| *function).map_err(|_| Unavailable::TooOld(version))
    };
    // SAFETY: the function's type as NVIDIA's header declares it.
    let state = unsafe { library.get::<StateFunction>("cuCheckpointProcessGetState") };
    let driver = CudaDriver {
        state: *state.map_err(|_| Unavailable::TooOld(version))?,
        lock: act("cuCheckpointProcessLock")?,
        checkpoint: act("cuCheckpointProcessCheckpoint")?,
        restore: act("cuCheckpointProcessRestore")?,
        unlock: act("cuCheckpointProcessUnlock")?,
    };
    Ok((library, driver))
}

fn version(library: &Library) -> Result<i32, Unavailable> {
    let mut version = 0;
    // SAFETY: the function's type as NVIDIA's header declares it.
    let ask = unsafe { library.get::<unsafe extern "C" fn(*mut i32) -> CUresult>("cuDriverGetVersion") };
    let ask = ask.map_err(|error| Unavailable::NoDriver(error.to_string()))?;
    // SAFETY: the pointer is to a local of the right type.
    unsafe { ask(&raw mut version) }.map_err(Unavailable::NotInitialised)?;
    Ok(version)
}

/// A process id as the driver takes it.
fn id(pid: u32) -> Result<i32, CUerror> {
    i32::try_from(pid).map_err(|_| CUerror::INVALID_VALUE)
}

/// Arguments that say nothing.
fn no_arguments() -> [u64; 8] {
    [0; 8]
}

impl CudaDriver {
    fn act(&self, function: ActFunction, pid: u32) -> CUresult {
        let mut arguments = no_arguments();
        // SAFETY: the function's own type, and 64 bytes of zeros, which every release takes for "nothing special".
        unsafe { function(id(pid)?, arguments.as_mut_ptr().cast()) }
    }
}

impl Checkpoint for CudaDriver {
    fn state(&self, pid: u32) -> Result<ProcessState, CUerror> {
        let mut state = 0;
        // SAFETY: the function's own type; the pointer is to a local of the right type.
        unsafe { (self.state)(id(pid)?, &raw mut state) }?;
        Ok(match state {
            0 => ProcessState::Running,
            1 => ProcessState::Locked,
            2 => ProcessState::Checkpointed,
            3 => ProcessState::Failed,
            4 | 5 => ProcessState::Changing,
            other => ProcessState::Unknown(other),
        })
    }

    fn lock(&self, pid: u32, timeout: Duration) -> CUresult {
        // 0 would be as long as it takes.
        let timeout_ms = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX).max(1);
        let mut arguments = CUcheckpointLockArgs { timeoutMs: timeout_ms, ..CUcheckpointLockArgs::default() };
        // SAFETY: the function's own type and arguments, which outlive the call.
        unsafe { (self.lock)(id(pid)?, (&raw mut arguments).cast()) }
    }

    fn checkpoint(&self, pid: u32) -> CUresult {
        self.act(self.checkpoint, pid)
    }

    fn restore(&self, pid: u32) -> CUresult {
        self.act(self.restore, pid)
    }

    fn unlock(&self, pid: u32) -> CUresult {
        self.act(self.unlock, pid)
    }
}
