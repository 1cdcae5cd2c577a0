//! Launches of kernels, by each of the functions that there are for it.

use crate::edge::{Items, Value};
use crate::event::{self, EVENTS};
use crate::function::{self, Function};
use crate::kernel::{self, Launch, Shape};
use crate::settings::settings;
use crate::stream::{self, Stream};
use crate::work::Work;
use crate::{capture, cost, raw};
use std::ffi::c_void;
use std::ptr::null_mut;
use vcuda_driver::cuda::types::*;
use vcuda_driver::result::{CUerror, CUresult};

/// Launches, or adds to the graph that the stream is captured into.
#[inline]
fn launch_on(
    stream: &'static Stream,
    function: &'static Function,
    shape: Shape,
    pointers: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> CUresult {
    if capture::is_captured(stream) || stream.is_legacy() {
        return launch_slowly(stream, function, shape, pointers, extra);
    }
    launch_now(stream, function, shape, pointers, extra)
}

#[inline]
fn launch_now(
    stream: &'static Stream,
    function: &'static Function,
    shape: Shape,
    pointers: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> CUresult {
    stream.context()?.check()?;
    shape.check()?;
    let _cost = cost::begin(settings().times.launch_ns);
    kernel::launch_now(function, pointers, extra, stream)
}

/// Where a capture may be concerned.
fn launch_slowly(
    stream: &'static Stream,
    function: &'static Function,
    shape: Shape,
    pointers: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> CUresult {
    if !capture::is_captured(stream) {
        capture::forbid_on(stream)?;
        return launch_now(stream, function, shape, pointers, extra);
    }
    let launch = Launch::new(function, shape, pointers, extra)?;
    Work::Kernel(launch).submit(stream)
}

#[expect(clippy::too_many_arguments, reason = "the driver's own signature")]
pub fn kernel(
    function: &'static Function,
    grid_x: u32,
    grid_y: u32,
    grid_z: u32,
    block_x: u32,
    block_y: u32,
    block_z: u32,
    shared_bytes: u32,
    stream: &'static Stream,
    pointers: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> CUresult {
    let shape = Shape { grid: [grid_x, grid_y, grid_z], block: [block_x, block_y, block_z], shared_bytes };
    launch_on(stream, function, shape, pointers, extra)
}

#[expect(clippy::too_many_arguments, reason = "the driver's own signature")]
pub fn cooperative(
    function: &'static Function,
    grid_x: u32,
    grid_y: u32,
    grid_z: u32,
    block_x: u32,
    block_y: u32,
    block_z: u32,
    shared_bytes: u32,
    stream: &'static Stream,
    pointers: *mut *mut c_void,
) -> CUresult {
    kernel(
        function,
        grid_x,
        grid_y,
        grid_z,
        block_x,
        block_y,
        block_z,
        shared_bytes,
        stream,
        pointers,
        null_mut(),
    )
}

/// Events among the attributes are recorded; the others change nothing that is simulated: what runs in clusters
/// or may begin before its predecessor has ended takes its time in order all the same.
pub fn ex(
    config: Value<CUlaunchConfig>,
    function: &'static Function,
    pointers: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> CUresult {
    let config = config.0;
    let shape = Shape {
        grid: [config.gridDimX, config.gridDimY, config.gridDimZ],
        block: [config.blockDimX, config.blockDimY, config.blockDimZ],
        shared_bytes: config.sharedMemBytes,
    };
    let stream = stream::find(config.hStream)?;
    launch_on(stream, function, shape, pointers, extra)?;
    for index in 0..u64::from(config.numAttrs) {
        let attribute: CUlaunchAttribute =
            raw::read(config.attrs as u64 + index * size_of::<CUlaunchAttribute>() as u64);
        if matches!(
            attribute.id,
            CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_EVENT | CU_LAUNCH_ATTRIBUTE_LAUNCH_COMPLETION_EVENT
        ) {
            let event = EVENTS.get(attribute.value[0] as usize).ok_or(CUerror::INVALID_HANDLE)?;
            event::record(event, stream)?;
        }
    }
    Ok(())
}

pub fn cooperative_multi_device(list: Items<CUDA_LAUNCH_PARAMS>, count: u32, _flags: u32) -> CUresult {
    for params in list.first(count as usize) {
        let shape = Shape {
            grid: [params.gridDimX, params.gridDimY, params.gridDimZ],
            block: [params.blockDimX, params.blockDimY, params.blockDimZ],
            shared_bytes: params.sharedMemBytes,
        };
        let function = function::find(params.function)?;
        let stream = stream::find(params.hStream)?;
        launch_on(stream, function, shape, params.kernelParams, null_mut())?;
    }
    Ok(())
}

/// What functions of before CUDA 4 say about the next launch of a function, one thing at a time.
#[derive(Clone, Default)]
pub struct Prepared {
    block: [u32; 3],
    shared_bytes: u32,
    parameters: Vec<u8>,
}

impl Prepared {
    fn set(&mut self, offset: i32, value: &[u8]) -> CUresult {
        let offset = usize::try_from(offset).map_err(|_| CUerror::INVALID_VALUE)?;
        let end = offset.checked_add(value.len()).filter(|&end| end <= MOST_PARAMETER_BYTES);
        let end = end.ok_or(CUerror::INVALID_VALUE)?;
        if self.parameters.len() < end {
            self.parameters.resize(end, 0);
        }
        self.parameters[offset..end].copy_from_slice(value);
        Ok(())
    }
}

const MOST_PARAMETER_BYTES: usize = 32_764;

pub fn set_block(function: &'static Function, x: i32, y: i32, z: i32) -> CUresult {
    let size = |size: i32| u32::try_from(size).map_err(|_| CUerror::INVALID_VALUE);
    function.prepared.lock().block = [size(x)?, size(y)?, size(z)?];
    Ok(())
}

pub fn set_shared_bytes(function: &'static Function, bytes: u32) -> CUresult {
    function.prepared.lock().shared_bytes = bytes;
    Ok(())
}

pub fn set_parameter_bytes(function: &'static Function, bytes: u32) -> CUresult {
    if bytes as usize > MOST_PARAMETER_BYTES {
        return Err(CUerror::INVALID_VALUE);
    }
    function.prepared.lock().parameters.resize(bytes as usize, 0);
    Ok(())
}

pub fn set_integer(function: &'static Function, offset: i32, value: u32) -> CUresult {
    function.prepared.lock().set(offset, &value.to_ne_bytes())
}

pub fn set_float(function: &'static Function, offset: i32, value: f32) -> CUresult {
    function.prepared.lock().set(offset, &value.to_ne_bytes())
}

pub fn set_bytes(function: &'static Function, offset: i32, bytes: Items<c_void>, count: u32) -> CUresult {
    function.prepared.lock().set(offset, &bytes.cast::<u8>().first(count as usize))
}

pub fn prepared(function: &'static Function) -> CUresult {
    prepared_grid(function, 1, 1)
}

pub fn prepared_grid(function: &'static Function, width: i32, height: i32) -> CUresult {
    prepared_grid_async(function, width, height, stream::find(CUstream::NULL)?)
}

pub fn prepared_grid_async(
    function: &'static Function,
    width: i32,
    height: i32,
    stream: &'static Stream,
) -> CUresult {
    let Prepared { block, shared_bytes, parameters } = function.prepared.lock().clone();
    let size = |size: i32| u32::try_from(size).map_err(|_| CUerror::INVALID_VALUE);
    let shape = Shape { grid: [size(width)?, size(height)?, 1], block, shared_bytes };
    let bytes = parameters.len();
    let mut extra = kernel::extra_of(&parameters, &bytes);
    launch_on(stream, function, shape, null_mut(), extra.as_mut_ptr())
}
