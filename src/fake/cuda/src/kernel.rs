//! Kernels: how long a launch lasts and what it does to memory.

use crate::context::Context;
use crate::function::{self, Function};
use crate::image::{Duration, Effect, Entry};
use crate::settings::settings;
use crate::slab::handle_of;
use crate::stream::Stream;
use crate::values::{self, Value};
use crate::{capture, cost, memory, raw, space};
use std::ffi::c_void;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use vcuda_driver::cuda::types::*;
use vcuda_driver::result::{CUerror, CUresult};
use vcuda_fake_machine::{Engine, Length, Unit};

/// How long a kernel waits for a value at most.
const LONGEST_WAIT_NS: u64 = 10_000_000_000;
/// Marks in the `extra` array of a launch.
const LAUNCH_PARAM_END: u64 = 0;
const LAUNCH_PARAM_BUFFER_POINTER: u64 = 1;
const LAUNCH_PARAM_BUFFER_SIZE: u64 = 2;

/// How much is launched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub shared_bytes: u32,
}

impl Shape {
    fn check(&self) -> CUresult {
        let threads: u64 = self.block.iter().map(|&size| u64::from(size)).product();
        let blocks: u64 = self.grid.iter().map(|&size| u64::from(size)).product();
        let [x, y, z] = self.grid;
        let fits = threads > 0
            && threads <= 1024
            && self.block[2] <= 64
            && blocks > 0
            && x <= i32::MAX as u32
            && y <= 65535
            && z <= 65535;
        if fits { Ok(()) } else { Err(CUerror::INVALID_VALUE) }
    }
}

/// A launch whose parameters were copied, as graphs keep it.
#[derive(Clone)]
pub struct Launch {
    function: usize,
    pub shape: Shape,
    /// All parameters in one block.
    pub parameters: Arc<[u8]>,
}

/// Where a launch's parameters are.
#[derive(Clone, Copy)]
enum Parameters {
    /// An array of pointers, one per parameter.
    Pointers(u64),
    /// One block of all.
    Block(u64, u64),
}

impl Parameters {
    /// From the two ways that a launch can be given them.
    fn find(
        entry: &Entry,
        pointers: *mut *mut c_void,
        extra: *mut *mut c_void,
    ) -> Result<Parameters, CUerror> {
        if !extra.is_null() {
            return Parameters::in_extra(extra as u64);
        }
        if pointers.is_null() && !entry.parameters.is_empty() {
            return Err(CUerror::INVALID_VALUE);
        }
        Ok(Parameters::Pointers(pointers as u64))
    }

    fn in_extra(extra: u64) -> Result<Parameters, CUerror> {
        let (mut block, mut bytes, mut at) = (0, 0, extra);
        loop {
            match raw::read::<u64>(at) {
                LAUNCH_PARAM_END => return Ok(Parameters::Block(block, bytes)),
                LAUNCH_PARAM_BUFFER_POINTER => block = raw::read(at + 8),
                LAUNCH_PARAM_BUFFER_SIZE => bytes = raw::read(raw::read::<u64>(at + 8)),
                _ => return Err(CUerror::INVALID_VALUE),
            }
            at += 16;
        }
    }

    /// Address of one parameter.
    fn place(self, entry: &Entry, index: usize) -> Option<u64> {
        let parameter = entry.parameters.get(index)?;
        match self {
            Parameters::Pointers(pointers) => {
                let place = raw::read::<u64>(pointers + 8 * index as u64);
                (place != 0).then_some(place)
            }
            Parameters::Block(block, bytes) => {
                let fits = (parameter.offset + parameter.bytes) as u64 <= bytes;
                fits.then_some(block + parameter.offset as u64)
            }
        }
    }

    /// One parameter as a number.
    fn number(self, entry: &Entry, index: usize) -> Option<u64> {
        let place = self.place(entry, index)?;
        Some(match entry.parameters[index].bytes {
            1 => u64::from(raw::read::<u8>(place)),
            2 => u64::from(raw::read::<u16>(place)),
            4 => u64::from(raw::read::<u32>(place)),
            8 => raw::read(place),
            _ => return None,
        })
    }

    /// All parameters in one block of our own.
    fn copied(self, entry: &Entry) -> Result<Arc<[u8]>, CUerror> {
        let bytes = entry.parameters.last().map_or(0, |last| last.offset + last.bytes);
        let mut block = vec![0; bytes];
        for (index, parameter) in entry.parameters.iter().enumerate() {
            let place = self.place(entry, index).ok_or(CUerror::INVALID_VALUE)?;
            raw::copy(block.as_mut_ptr() as u64 + parameter.offset as u64, place, parameter.bytes);
        }
        Ok(block.into())
    }
}

impl Launch {
    /// Copies a launch's parameters.
    pub fn new(
        function: &'static Function,
        shape: Shape,
        pointers: *mut *mut c_void,
        extra: *mut *mut c_void,
    ) -> Result<Launch, CUerror> {
        shape.check()?;
        let entry = function.entry()?;
        let parameters = Parameters::find(entry, pointers, extra)?.copied(entry)?;
        Ok(Launch { function: handle_of(function), shape, parameters })
    }

    pub fn function(&self) -> Result<&'static Function, CUerror> {
        function::find(CUfunction(self.function))
    }

    /// Queues the launch.
    pub fn run(&self, stream: &Stream) -> CUresult {
        let block = Parameters::Block(self.parameters.as_ptr() as u64, self.parameters.len() as u64);
        run(self.function()?, block, stream)
    }
}

fn run(function: &Function, parameters: Parameters, stream: &Stream) -> CUresult {
    let entry = function.entry()?;
    function.load()?;
    let is_null = settings().is_null;
    if is_null && entry.effect == Effect::None {
        return Ok(());
    }
    if space::is_any_managed() {
        for index in 0..entry.parameters.len() {
            if let Some(address) = parameters.number(entry, index) {
                memory::touch(address);
            }
        }
    }
    let context = stream.context()?;
    if let Err(error) = act(entry, parameters) {
        // As on a GPU, a bad access shows at the next wait and ends the context's usefulness.
        context.break_with(error);
    }
    let number = |index| parameters.number(entry, index).ok_or(CUerror::INVALID_VALUE);
    let (percent, slowness) = part_of(context);
    let engine = Engine::Processors { percent: entry.percent.min(percent) };
    match entry.duration {
        Duration::Fixed(duration_ns) => stream.queue_work(engine, slowness.of(duration_ns)),
        Duration::Parameter(index) => stream.queue_work(engine, slowness.of(number(index)?)),
        Duration::Until(index) => {
            let value = Value::set_at(number(index)?);
            let length = Length::Open { most_ns: LONGEST_WAIT_NS };
            let earliest_ns = settings().times.launch_delay_ns;
            let unit = Unit { engine, length, earliest_ns, ..Unit::MARK };
            stream.queue(unit, |mark| values::watch(mark, value))
        }
    }
}

/// How much longer a kernel takes that has only some of the multiprocessors.
struct Slowness {
    all: u64,
    part: u64,
}

impl Slowness {
    fn of(&self, duration_ns: u64) -> u64 {
        if self.all == self.part { duration_ns } else { duration_ns.saturating_mul(self.all) / self.part }
    }
}

/// The hundredths of the GPU that a context has, and how much longer kernels take there.
fn part_of(context: &Context) -> (u32, Slowness) {
    let all = context.device().facts().multiprocessors;
    match context.multiprocessors.load(Relaxed) {
        0 => (100, Slowness { all: 1, part: 1 }),
        part => (part * 100 / all, Slowness { all: u64::from(all), part: u64::from(part) }),
    }
}

/// What the kernel does to memory.
fn act(entry: &Entry, parameters: Parameters) -> CUresult {
    let number = |index| parameters.number(entry, index).ok_or(CUerror::INVALID_VALUE);
    let has_contents = settings().has_contents;
    let checked = |address: u64, count: u64| {
        let bytes = count.checked_mul(4).ok_or(CUerror::ILLEGAL_ADDRESS)?;
        space::check(address, bytes).map_err(|_| CUerror::ILLEGAL_ADDRESS)
    };
    match entry.effect {
        Effect::None => {}
        Effect::FillU32 => {
            let (address, value, count) = (number(0)?, number(1)? as u32, number(2)?);
            if count > 0 {
                checked(address, count)?;
            }
            if has_contents {
                raw::fill(address, value, count as usize);
            }
        }
        Effect::SaxpyF32 => {
            let (count, factor) = (number(0)?, f32::from_bits(number(1)? as u32));
            let (x, y) = (number(2)?, number(3)?);
            if count > 0 {
                checked(x, count)?;
                checked(y, count)?;
            }
            for place in 0..if has_contents { count } else { 0 } {
                let sum = factor * raw::read::<f32>(x + 4 * place) + raw::read::<f32>(y + 4 * place);
                raw::write(y + 4 * place, sum);
            }
        }
    }
    Ok(())
}

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
    let parameters = Parameters::find(function.entry()?, pointers, extra)?;
    run(function, parameters, stream)
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
    crate::work::Work::Kernel(launch).submit(stream)
}

#[expect(clippy::too_many_arguments, reason = "the driver's own signature")]
pub fn launch(
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
pub fn launch_cooperative(
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
    let shape = Shape { grid: [grid_x, grid_y, grid_z], block: [block_x, block_y, block_z], shared_bytes };
    launch_on(stream, function, shape, pointers, std::ptr::null_mut())
}

/// Attributes of a launch change nothing that is simulated.
pub fn launch_ex(
    config: crate::edge::Value<CUlaunchConfig>,
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
    launch_on(crate::stream::find(config.hStream)?, function, shape, pointers, extra)
}

pub fn launch_cooperative_multi_device(
    list: crate::edge::Items<CUDA_LAUNCH_PARAMS>,
    count: u32,
    _flags: u32,
) -> CUresult {
    for params in list.first(count as usize) {
        let shape = Shape {
            grid: [params.gridDimX, params.gridDimY, params.gridDimZ],
            block: [params.blockDimX, params.blockDimY, params.blockDimZ],
            shared_bytes: params.sharedMemBytes,
        };
        let function = function::find(params.function)?;
        let stream = crate::stream::find(params.hStream)?;
        launch_on(stream, function, shape, params.kernelParams, std::ptr::null_mut())?;
    }
    Ok(())
}
