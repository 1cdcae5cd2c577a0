//! Values in memory that streams write and wait for, and kernels that last until one is set: done by one thread
//! when the stream gets there, or looked at until it can go on.

use crate::callback::{self, STOP};
use crate::driver::driver;
use crate::edge::Items;
use crate::raw;
use crate::settings::settings;
use crate::stream::Stream;
use crate::work::Work;
use parking_lot::{Condvar, Mutex};
use std::ffi::c_void;
use std::sync::Once;
use std::time::Duration;
use vcuda_driver::cuda::types::CUdeviceptr;
use vcuda_driver::result::{CUerror, CUresult};
use vcuda_fake_machine::{Mark, Progress, Timeline};

/// How often a value is looked at that somebody waits for.
const LOOK: Duration = Duration::from_micros(20);

/// What a stream does with a value when it gets there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Value {
    address: u64,
    value: u64,
    is_wide: bool,
    action: Action,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Write,
    Wait(Comparison),
}

/// What a stream waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    /// As numbers that wrap around.
    GreaterOrEqual,
    Equal,
    /// Any of the bits is set.
    And,
    /// Any of the bits is neither set there nor here.
    Nor,
}

impl Comparison {
    fn of_flags(flags: u32) -> Comparison {
        match flags & 3 {
            0 => Comparison::GreaterOrEqual,
            1 => Comparison::Equal,
            2 => Comparison::And,
            _ => Comparison::Nor,
        }
    }
}

impl Value {
    /// A word at `address` that isn't zero any more.
    pub fn set_at(address: u64) -> Value {
        let value = u64::from(u32::MAX);
        Value { address, value, is_wide: false, action: Action::Wait(Comparison::And) }
    }

    /// Does what can be done now; false if the stream has to go on waiting.
    fn act(&self) -> bool {
        match (self.action, self.is_wide) {
            (Action::Write, false) => raw::write(self.address, self.value as u32),
            (Action::Write, true) => raw::write(self.address, self.value),
            (Action::Wait(comparison), is_wide) => return self.holds(comparison, is_wide),
        }
        true
    }

    fn holds(&self, comparison: Comparison, is_wide: bool) -> bool {
        // A word counts as the upper half of a wide one, with the same sign and the same bits set.
        let shift = if is_wide { 0 } else { 32 };
        let now = if is_wide { raw::read(self.address) } else { u64::from(raw::read::<u32>(self.address)) };
        let (now, value) = (now << shift, self.value << shift);
        match comparison {
            Comparison::GreaterOrEqual => now.wrapping_sub(value) as i64 >= 0,
            Comparison::Equal => now == value,
            Comparison::And => now & value != 0,
            Comparison::Nor => !(now | value) >> shift << shift != 0,
        }
    }

    /// Queues what is to be done.
    pub fn run(self, stream: &'static Stream) -> CUresult {
        if settings().is_null {
            // Time that doesn't pass can't be waited for.
            self.act();
            return Ok(());
        }
        stream.queue(STOP, |mark| watch(mark, self))
    }
}

static WATCHED: Mutex<Vec<(Mark, Value)>> = Mutex::new(Vec::new());
static ADDED: Condvar = Condvar::new();

/// Has an open unit end once it has begun and its value is written, or is what is waited for.
pub fn watch(mark: Mark, value: Value) {
    static START: Once = Once::new();
    START.call_once(|| {
        std::thread::spawn(serve);
    });
    WATCHED.lock().push((mark, value));
    ADDED.notify_one();
}

fn serve() {
    let mut watched = WATCHED.lock();
    loop {
        if watched.is_empty() {
            ADDED.wait(&mut watched);
            continue;
        }
        let all = watched.clone();
        // Whoever queues holds the time line and then asks for the list.
        drop(watched);
        let over = look_at(&all);
        if over.is_empty() {
            wait_for_any(&all);
        }
        watched = WATCHED.lock();
        watched.retain(|(mark, _)| !over.contains(mark));
    }
}

/// Does what can be done now; gives the units that are over.
fn look_at(all: &[(Mark, Value)]) -> Vec<Mark> {
    let member = &driver().member;
    let progress = |timeline: &mut Timeline| -> Vec<Progress> {
        all.iter().map(|&(mark, _)| timeline.progress(mark)).collect()
    };
    let progress = member.timeline(progress);
    let mut over = Vec::new();
    for ((mark, value), progress) in all.iter().zip(progress) {
        let is_over = match progress {
            Progress::Queued => false,
            Progress::Begun { .. } => value.act(),
            // A kernel that waited as long as kernels do.
            Progress::Over { .. } => true,
        };
        if is_over {
            over.push(*mark);
        }
    }
    if !over.is_empty() {
        member.timeline(|timeline| over.iter().for_each(|&mark| timeline.finish(mark)));
    }
    over
}

/// Waits until the next of some units may begin, or for a moment if one has begun that can't be ended yet.
fn wait_for_any(all: &[(Mark, Value)]) {
    let marks: Vec<Mark> = all.iter().map(|&(mark, _)| mark).collect();
    match callback::first_begun(&marks) {
        Ok(_) => std::thread::sleep(LOOK),
        Err(soonest_ns) => callback::pause(&ADDED, &WATCHED, soonest_ns),
    }
}

/// Queues what is to be done with a value, or adds it to a capture.
fn submit(stream: &'static Stream, values: Vec<Value>) -> CUresult {
    Work::Values(values.into()).submit(stream)
}

fn one(address: CUdeviceptr, value: u64, is_wide: bool, action: Action) -> Result<Vec<Value>, CUerror> {
    if address.is_null() {
        return Err(CUerror::INVALID_VALUE);
    }
    Ok(vec![Value { address: address.0, value, is_wide, action }])
}

pub fn write_32(stream: &'static Stream, address: CUdeviceptr, value: u32, _flags: u32) -> CUresult {
    submit(stream, one(address, u64::from(value), false, Action::Write)?)
}

pub fn write_64(stream: &'static Stream, address: CUdeviceptr, value: u64, _flags: u32) -> CUresult {
    submit(stream, one(address, value, true, Action::Write)?)
}

pub fn wait_32(stream: &'static Stream, address: CUdeviceptr, value: u32, flags: u32) -> CUresult {
    submit(stream, one(address, u64::from(value), false, Action::Wait(Comparison::of_flags(flags)))?)
}

pub fn wait_64(stream: &'static Stream, address: CUdeviceptr, value: u64, flags: u32) -> CUresult {
    submit(stream, one(address, value, true, Action::Wait(Comparison::of_flags(flags)))?)
}

/// One operation of a batch. Its first word says what it is.
#[repr(C)]
#[derive(Clone, Copy)]
struct Operation {
    kind: u32,
    /// Of those that have no more than that.
    short_flags: u32,
    address: u64,
    value: u64,
    flags: u32,
    unused: [u32; 5],
}

const _: () = assert!(size_of::<Operation>() == 48);

const WAIT_32: u32 = 1;
const WRITE_32: u32 = 2;
const FLUSH: u32 = 3;
const WAIT_64: u32 = 4;
const WRITE_64: u32 = 5;
const BARRIER: u32 = 6;
/// Operations that a batch may have.
const MOST_OPERATIONS: u32 = 256;

/// What a batch does, in order.
fn of_batch(operations: &[Operation]) -> Result<Vec<Value>, CUerror> {
    let mut values = Vec::new();
    for operation in operations {
        let (is_wide, action) = match operation.kind {
            WAIT_32 => (false, Action::Wait(Comparison::of_flags(operation.flags))),
            WAIT_64 => (true, Action::Wait(Comparison::of_flags(operation.flags))),
            WRITE_32 => (false, Action::Write),
            WRITE_64 => (true, Action::Write),
            FLUSH | BARRIER => continue,
            _ => return Err(CUerror::INVALID_VALUE),
        };
        values.extend(one(CUdeviceptr(operation.address), operation.value, is_wide, action)?);
    }
    Ok(values)
}

/// A batch as a piece of work.
pub fn batch_work(count: u32, operations: &Items<c_void>) -> Result<Work, CUerror> {
    if count > MOST_OPERATIONS {
        return Err(CUerror::INVALID_VALUE);
    }
    Ok(Work::Values(of_batch(&operations.cast().first(count as usize))?.into()))
}

pub fn batch(stream: &'static Stream, count: u32, operations: Items<c_void>, flags: u32) -> CUresult {
    if flags != 0 {
        return Err(CUerror::INVALID_VALUE);
    }
    batch_work(count, &operations)?.submit(stream)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_compared_as_the_manual_says() {
        let holds = |memory: u64, value: u64, flags, is_wide| {
            let address = &raw const memory as u64;
            let action = Action::Wait(Comparison::of_flags(flags));
            Value { address, value, is_wide, action }.act()
        };
        for is_wide in [false, true] {
            assert!(holds(7, 7, 0, is_wide) && holds(8, 7, 0, is_wide) && !holds(6, 7, 0, is_wide));
            assert!(holds(7, 7, 1, is_wide) && !holds(8, 7, 1, is_wide));
            assert!(holds(6, 2, 2, is_wide) && !holds(5, 2, 2, is_wide));
            assert!(holds(5, 2, 3, is_wide));
        }
        let minus_one = u64::from(u32::MAX);
        assert!(holds(1, minus_one, 0, false), "it wrapped around");
        assert!(!holds(1, minus_one, 0, true));
        assert!(!holds(minus_one, 0, 3, false) && holds(minus_one, 0, 3, true));
    }

    #[test]
    fn values_are_written_as_wide_as_asked_for() {
        let memory = [u64::MAX; 1];
        let address = memory.as_ptr() as u64;
        assert!(Value { address, value: 5, is_wide: false, action: Action::Write }.act());
        assert_eq!(raw::read::<u64>(address), 0xffff_ffff_0000_0005);
        assert!(Value { address, value: 5, is_wide: true, action: Action::Write }.act());
        assert_eq!(raw::read::<u64>(address), 5);
    }
}
