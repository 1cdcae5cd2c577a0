//! What nearly every program does: make a context, load a kernel, look at memory.

use crate::api::*;
use std::ffi::{CString, c_void};
use std::ptr::null_mut;
use std::time::{Duration, Instant};
use vcuda_driver::cuda::types::*;
use vcuda_driver::result::CUresult;

pub const MIB: usize = 1 << 20;

pub const PTX: &str = "\
.version 7.0
.target sm_70
.address_size 64
// simulated: spin duration_ns=param0
// simulated: narrow duration_ns=param0 width=25%
// simulated: until_set until=param0 width=25%
.visible .global .align 8 .b8 table[64];
.visible .entry spin(.param .u64 ns) { ret; }
.visible .entry narrow(.param .u64 ns) { ret; }
.visible .entry until_set(.param .u64 address) { ret; }
.visible .entry fill_u32(.param .u64 to, .param .u32 value, .param .u64 count) { ret; }
.visible .entry saxpy_f32(.param .u64 n, .param .f32 a, .param .u64 x, .param .u64 y) { ret; }
";

/// Initialises, and makes the first device's primary context current.
pub fn begin() -> CUcontext {
    cuInit(0).unwrap();
    let mut context = CUcontext::NULL;
    cuDevicePrimaryCtxRetain(&mut context, 0).unwrap();
    cuCtxSetCurrent(context).unwrap();
    context
}

/// Free bytes of the current device.
pub fn free_bytes() -> usize {
    let (mut free, mut total) = (0, 0);
    cuMemGetInfo_v2(&mut free, &mut total).unwrap();
    free
}

/// Bytes that `action` takes of the device, rounded to MiB.
pub fn taken_mib<T>(action: impl FnOnce() -> T) -> isize {
    let before = free_bytes() as isize;
    action();
    (before - free_bytes() as isize) / MIB as isize
}

pub fn alloc(bytes: usize) -> CUdeviceptr {
    let mut address = CUdeviceptr::NULL;
    cuMemAlloc_v2(&mut address, bytes).unwrap();
    address
}

pub fn try_alloc(bytes: usize) -> CUresult {
    cuMemAlloc_v2(&mut CUdeviceptr::default(), bytes)
}

pub fn stream() -> CUstream {
    let mut stream = CUstream::NULL;
    cuStreamCreate(&mut stream, CU_STREAM_NON_BLOCKING).unwrap();
    stream
}

pub fn event() -> CUevent {
    let mut event = CUevent::NULL;
    cuEventCreate(&mut event, 0).unwrap();
    event
}

pub fn load(ptx: &str) -> CUmodule {
    let text = CString::new(ptx).unwrap();
    let mut module = CUmodule::NULL;
    cuModuleLoadData(&mut module, text.as_ptr().cast()).unwrap();
    module
}

pub fn function(name: &str) -> CUfunction {
    let name = CString::new(name).unwrap();
    let mut function = CUfunction::NULL;
    cuModuleGetFunction(&mut function, load(PTX), name.as_ptr()).unwrap();
    function
}

/// Launches with parameters given by address.
pub fn launch(function: CUfunction, stream: CUstream, parameters: &mut [*mut c_void]) -> CUresult {
    cuLaunchKernel(function, 1, 1, 1, 32, 1, 1, 0, stream, parameters.as_mut_ptr(), null_mut())
}

/// Launches a kernel that lasts `time`.
pub fn spin(function: CUfunction, stream: CUstream, time: Duration) {
    let mut ns = time.as_nanos() as u64;
    launch(function, stream, &mut [(&raw mut ns).cast()]).unwrap();
}

/// Time for which the first GPU worked so far, for anybody.
pub fn busy() -> Duration {
    Duration::from_nanos(vcuda_fake_machine::Machine::from_environment().unwrap().busy(0).busy_ns)
}

/// How long `action` keeps the first GPU busy, and no more than that.
pub fn busy_for(action: impl FnOnce()) -> Duration {
    cuCtxSynchronize().unwrap();
    let before = busy();
    action();
    cuCtxSynchronize().unwrap();
    busy() - before
}

/// The time between two events.
pub fn elapsed(start: CUevent, end: CUevent) -> Duration {
    let mut ms = 0.0;
    cuEventElapsedTime(&mut ms, start, end).unwrap();
    Duration::from_secs_f64(f64::from(ms) / 1e3)
}

/// How long `action` takes.
pub fn timed(action: impl FnOnce()) -> Duration {
    let start = Instant::now();
    action();
    start.elapsed()
}

/// What is in device memory.
pub fn read<T: Copy + Default>(from: CUdeviceptr, count: usize) -> Vec<T> {
    let mut values = vec![T::default(); count];
    cuMemcpyDtoH_v2(values.as_mut_ptr().cast(), from, size_of::<T>() * count).unwrap();
    values
}

/// Puts values into device memory.
pub fn write<T: Copy>(to: CUdeviceptr, values: &[T]) {
    cuMemcpyHtoD_v2(to, values.as_ptr().cast(), size_of_val(values)).unwrap();
}
