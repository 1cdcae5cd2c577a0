//! Kernel launches: work that is charged to the compute share; and the moment at which code that was loaded
//! lazily, or a stack grown for a kernel's needs, is measured.
//!
//! Must never look at a kernel's parameters. With a memory quota alone a launch is passed on with a jump,
//! unless something waits to be measured.

use crate::compute::{self, DefaultStream, Legacy, StreamName};
use crate::edge::{In, Out};
use crate::hash::spread;
use crate::mode;
use crate::slice;
use std::ffi::c_void;
use vcuda_driver::cuda::types::{CUDA_LAUNCH_PARAMS, CUfunction, CUlaunchConfig, CUstream};
use vcuda_driver::result::CUresult;
use vcuda_limiter::cost::Unit;

/// What a kernel is taken to cost before any launch of its function was measured.
const GUESS_NS: u64 = 10_000;

/// How much is launched: blocks, threads of a block, and shared memory.
#[derive(Clone, Copy, Default)]
struct Shape {
    grid: [u32; 3],
    block: [u32; 3],
    shared_bytes: u32,
}

/// A launch as the cost model tells it from others: by function and shape.
fn unit(function: CUfunction, shape: Shape) -> Unit {
    let word = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
    let Shape { grid: [grid_x, grid_y, grid_z], block: [block_x, block_y, block_z], shared_bytes } = shape;
    let family = spread(function.as_u64());
    let grid = spread(family ^ word(grid_x, grid_y)) ^ u64::from(grid_z);
    let block = word(block_x, block_y) ^ word(shared_bytes, block_z).rotate_left(17);
    Unit {
        // Never 0, and never the family's own.
        kind: spread(grid ^ block.rotate_left(32)) | 1,
        family: family | 1,
        size: u64::from(grid_x).saturating_mul(u64::from(grid_y)).saturating_mul(u64::from(grid_z)).max(1),
        guess_ns: GUESS_NS,
        waits: false,
    }
}

/// Charges the launch, makes it, and measures memory that it may have made the driver take.
#[inline]
fn launched(stream: StreamName, unit: Unit, driver: &dyn Fn() -> CUresult) -> CUresult {
    let Some(slice) = slice::current()? else { return driver() };
    compute::submit(slice, stream, unit, driver)?;
    if mode::watched() {
        slice.measure_stale();
    }
    Ok(())
}

/// `cuLaunchKernel`: like a cooperative launch, which differs in what its blocks may do, with one argument more.
#[allow(clippy::too_many_arguments)]
pub fn kernel<D: DefaultStream>(
    driver: impl Fn() -> CUresult,
    function: CUfunction,
    grid_x: u32,
    grid_y: u32,
    grid_z: u32,
    block_x: u32,
    block_y: u32,
    block_z: u32,
    shared_bytes: u32,
    stream: CUstream,
    parameters: Out<*mut c_void>,
    _extra: Out<*mut c_void>,
) -> CUresult {
    cooperative::<D>(
        driver,
        function,
        grid_x,
        grid_y,
        grid_z,
        block_x,
        block_y,
        block_z,
        shared_bytes,
        stream,
        parameters,
    )
}

/// `cuLaunchCooperativeKernel`.
#[allow(clippy::too_many_arguments)]
pub fn cooperative<D: DefaultStream>(
    driver: impl Fn() -> CUresult,
    function: CUfunction,
    grid_x: u32,
    grid_y: u32,
    grid_z: u32,
    block_x: u32,
    block_y: u32,
    block_z: u32,
    shared_bytes: u32,
    stream: CUstream,
    _parameters: Out<*mut c_void>,
) -> CUresult {
    let shape = Shape { grid: [grid_x, grid_y, grid_z], block: [block_x, block_y, block_z], shared_bytes };
    launched(D::name(stream), unit(function, shape), &driver)
}

/// `cuLaunchKernelEx`, with clusters, programmatic dependent launch and what else its attributes say.
pub fn kernel_ex<D: DefaultStream>(
    driver: impl Fn() -> CUresult,
    config: In<CUlaunchConfig>,
    function: CUfunction,
    _parameters: Out<*mut c_void>,
    _extra: Out<*mut c_void>,
) -> CUresult {
    // Without a configuration the driver refuses.
    let Some(config) = config.get() else { return driver() };
    let shape = Shape {
        grid: [config.gridDimX, config.gridDimY, config.gridDimZ],
        block: [config.blockDimX, config.blockDimY, config.blockDimZ],
        shared_bytes: config.sharedMemBytes,
    };
    launched(D::name(config.hStream), unit(function, shape), &driver)
}

/// `cuLaunchCooperativeKernelMultiDevice`: one launch on each of several devices, each charged on its own.
pub fn cooperative_on_many(
    driver: impl Fn() -> CUresult,
    launches: Out<CUDA_LAUNCH_PARAMS>,
    count: u32,
    _flags: u32,
) -> CUresult {
    fn on_the_rest(launches: &[CUDA_LAUNCH_PARAMS], driver: &dyn Fn() -> CUresult) -> CUresult {
        let Some((launch, rest)) = launches.split_first() else { return driver() };
        let shape = Shape {
            grid: [launch.gridDimX, launch.gridDimY, launch.gridDimZ],
            block: [launch.blockDimX, launch.blockDimY, launch.blockDimZ],
            shared_bytes: launch.sharedMemBytes,
        };
        let stream = Legacy::name(launch.hStream);
        launched(stream, unit(launch.function, shape), &|| on_the_rest(rest, driver))
    }
    // More devices than any machine has: the driver refuses.
    on_the_rest(&launches.values(count.min(64) as usize), &driver)
}

/// `cuLaunch`: one block of the shape that was set on the function.
pub fn shapeless(driver: impl Fn() -> CUresult, function: CUfunction) -> CUresult {
    grid(driver, function, 1, 1)
}

/// `cuLaunchGrid`.
pub fn grid(driver: impl Fn() -> CUresult, function: CUfunction, width: i32, height: i32) -> CUresult {
    grid_async(driver, function, width, height, CUstream::NULL)
}

/// `cuLaunchGridAsync`.
pub fn grid_async(
    driver: impl Fn() -> CUresult,
    function: CUfunction,
    width: i32,
    height: i32,
    stream: CUstream,
) -> CUresult {
    let shape = Shape { grid: [width.max(1) as u32, height.max(1) as u32, 1], ..Shape::default() };
    launched(Legacy::name(stream), unit(function, shape), &driver)
}
