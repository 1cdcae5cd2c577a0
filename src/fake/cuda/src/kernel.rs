//! Kernels: how long a launch lasts and what it does to memory.

use crate::context::Context;
use crate::function::{self, Function};
use crate::image::{Duration, Effect, Entry};
use crate::settings::settings;
use crate::slab::handle_of;
use crate::stream::Stream;
use crate::values::{self, Value};
use crate::{memory, raw, space};
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
    /// Whether a kernel can have this shape.
    pub fn check(&self) -> CUresult {
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

/// The `extra` array of a launch whose parameters are one block of this many bytes.
pub fn extra_of(block: &[u8], bytes: &usize) -> [*mut c_void; 5] {
    let words = [
        LAUNCH_PARAM_BUFFER_POINTER,
        block.as_ptr() as u64,
        LAUNCH_PARAM_BUFFER_SIZE,
        std::ptr::from_ref(bytes) as u64,
        LAUNCH_PARAM_END,
    ];
    words.map(|word| word as *mut c_void)
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

    /// Does to memory what the kernel does, and says what there is to queue for it.
    pub fn act(&self, stream: &Stream) -> Result<Option<Run>, CUerror> {
        let block = Parameters::Block(self.parameters.as_ptr() as u64, self.parameters.len() as u64);
        act_and_plan(self.function()?, block, stream)
    }

    /// Queues the launch.
    pub fn run(&self, stream: &Stream) -> CUresult {
        self.act(stream)?.map_or(Ok(()), |run| run.queue(stream))
    }
}

/// What a kernel takes of the GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Run {
    For { engine: Engine, duration_ns: u64 },
    Until { engine: Engine, value: Value },
}

impl Run {
    /// Queues it.
    pub fn queue(self, stream: &Stream) -> CUresult {
        match self {
            Run::For { engine, duration_ns } => stream.queue_work(engine, duration_ns),
            Run::Until { engine, value } => {
                let length = Length::Open { most_ns: LONGEST_WAIT_NS };
                let earliest_ns = settings().times.launch_delay_ns;
                let unit = Unit { engine, length, earliest_ns, ..Unit::MARK };
                stream.queue(unit, |mark| values::watch(mark, value))
            }
        }
    }

    /// Both as one, the other behind this, where the GPU can't tell the difference.
    pub fn followed_by(self, other: Run) -> Option<Run> {
        match (self, other) {
            (Run::For { engine, duration_ns }, Run::For { engine: next, duration_ns: more_ns })
                if engine == next =>
            {
                Some(Run::For { engine, duration_ns: duration_ns.saturating_add(more_ns) })
            }
            _ => None,
        }
    }
}

/// Launches with the parameters where the program has them.
#[inline]
pub fn launch_now(
    function: &Function,
    pointers: *mut *mut c_void,
    extra: *mut *mut c_void,
    stream: &Stream,
) -> CUresult {
    let parameters = Parameters::find(function.entry()?, pointers, extra)?;
    act_and_plan(function, parameters, stream)?.map_or(Ok(()), |run| run.queue(stream))
}

fn act_and_plan(
    function: &Function,
    parameters: Parameters,
    stream: &Stream,
) -> Result<Option<Run>, CUerror> {
    let entry = function.entry()?;
    function.load()?;
    let is_null = settings().is_null;
    if is_null && entry.effect == Effect::None {
        return Ok(None);
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
    if is_null {
        return Ok(None);
    }
    let number = |index| parameters.number(entry, index).ok_or(CUerror::INVALID_VALUE);
    let (percent, slowness) = part_of(context);
    let engine = Engine::Processors { percent: entry.percent.min(percent) };
    Ok(Some(match entry.duration {
        Duration::Fixed(duration_ns) => Run::For { engine, duration_ns: slowness.of(duration_ns) },
        Duration::Parameter(index) => Run::For { engine, duration_ns: slowness.of(number(index)?) },
        Duration::Until(index) => Run::Until { engine, value: Value::set_at(number(index)?) },
    }))
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
