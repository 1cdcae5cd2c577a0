//! What happens on the host when a stream gets there: host functions and writes of values, done by one
//! thread at their time.

use crate::raw;
use crate::stream::Stream;
use parking_lot::{Condvar, Mutex};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ffi::c_void;
use std::sync::Once;
use std::sync::atomic::Ordering::{AcqRel, Acquire};
use vcuda_driver::cuda::types::CUstream;
use vcuda_driver::result::{CUerror, CUresult};
use vcuda_fake_machine::{now_ns, sleep_until};

/// What to do.
pub enum Action {
    /// A function that takes its data.
    Call {
        function: usize,
        data: usize,
    },
    /// A function that also takes the stream and the code of an error.
    CallWithStream {
        function: usize,
        stream: CUstream,
        data: usize,
    },
    Write32 {
        address: u64,
        value: u32,
    },
    Write64 {
        address: u64,
        value: u64,
    },
}

struct Job {
    time_ns: u64,
    number: u64,
    stream: &'static Stream,
    context_id: u64,
    action: Action,
}

impl PartialEq for Job {
    fn eq(&self, other: &Job) -> bool {
        self.number == other.number
    }
}
impl Eq for Job {}
impl PartialOrd for Job {
    fn partial_cmp(&self, other: &Job) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Job {
    fn cmp(&self, other: &Job) -> std::cmp::Ordering {
        (self.time_ns, self.number).cmp(&(other.time_ns, other.number))
    }
}

struct Queue {
    jobs: BinaryHeap<Reverse<Job>>,
    next_number: u64,
    /// Context of the job under way.
    running: Option<u64>,
}

static QUEUE: Mutex<Queue> = Mutex::new(Queue { jobs: BinaryHeap::new(), next_number: 0, running: None });
static ADDED: Condvar = Condvar::new();
static DONE: Condvar = Condvar::new();

/// Has `action` happen when the stream gets there.
pub fn at_end_of(stream: &'static Stream, action: Action) -> CUresult {
    static START: Once = Once::new();
    let time_ns = stream.end_ns()?;
    let context_id = stream.context()?.id.load(Acquire);
    START.call_once(|| {
        std::thread::spawn(serve);
    });
    stream.pending.fetch_add(1, AcqRel);
    let mut queue = QUEUE.lock();
    let number = queue.next_number;
    queue.next_number += 1;
    queue.jobs.push(Reverse(Job { time_ns, number, stream, context_id, action }));
    ADDED.notify_one();
    Ok(())
}

fn serve() {
    let mut queue = QUEUE.lock();
    loop {
        let Some(Reverse(next)) = queue.jobs.peek() else {
            ADDED.wait(&mut queue);
            continue;
        };
        let wait_ns = next.time_ns.saturating_sub(now_ns());
        if wait_ns > 100_000 {
            ADDED.wait_for(&mut queue, std::time::Duration::from_nanos(wait_ns - 60_000));
            continue;
        }
        let Some(Reverse(job)) = queue.jobs.pop() else { continue };
        queue.running = Some(job.context_id);
        drop(queue);
        sleep_until(job.time_ns);
        perform(&job.action);
        job.stream.pending.fetch_sub(1, AcqRel);
        queue = QUEUE.lock();
        queue.running = None;
        DONE.notify_all();
    }
}

fn perform(action: &Action) {
    match *action {
        Action::Call { function, data } => {
            // SAFETY: the program gave the address of a function of this type.
            let function: extern "C" fn(*mut c_void) = unsafe { std::mem::transmute(function) };
            function(data as *mut c_void);
        }
        Action::CallWithStream { function, stream, data } => {
            // SAFETY: the program gave the address of a function of this type.
            let function: extern "C" fn(CUstream, u32, *mut c_void) =
                unsafe { std::mem::transmute(function) };
            function(stream, 0, data as *mut c_void);
        }
        Action::Write32 { address, value } => raw::write(address, value),
        Action::Write64 { address, value } => raw::write(address, value),
    }
}

/// Waits until nothing of a stream is still to happen.
pub fn wait_for_stream(stream: &Stream) {
    if stream.pending.load(Acquire) == 0 {
        return;
    }
    let mut queue = QUEUE.lock();
    while stream.pending.load(Acquire) > 0 {
        DONE.wait(&mut queue);
    }
}

/// Waits until nothing of a context is still to happen.
pub fn wait_for_context(context_id: u64) {
    let mut queue = QUEUE.lock();
    let concerns = |queue: &Queue| {
        queue.running == Some(context_id)
            || queue.jobs.iter().any(|Reverse(job)| job.context_id == context_id)
    };
    while concerns(&queue) {
        DONE.wait(&mut queue);
    }
}

pub fn launch(stream: &'static Stream, function: *mut c_void, data: *mut c_void) -> CUresult {
    if function.is_null() {
        return Err(CUerror::INVALID_VALUE);
    }
    let work = crate::work::Work::Host { function: function as usize, data: data as usize };
    work.submit(stream)
}

pub fn launch_v2(stream: &'static Stream, function: *mut c_void, data: *mut c_void, _sync: u32) -> CUresult {
    launch(stream, function, data)
}

pub fn add(handle: CUstream, function: *mut c_void, data: *mut c_void, _flags: u32) -> CUresult {
    let stream = crate::stream::find(handle)?;
    crate::capture::forbid_on(stream)?;
    if function.is_null() {
        return Err(CUerror::INVALID_VALUE);
    }
    let action = Action::CallWithStream { function: function as usize, stream: handle, data: data as usize };
    at_end_of(stream, action)
}

/// Bit of the flags that means: only if the value there is smaller, or equal, and so on.
const COMPARISON: u32 = 3;

pub fn write32(stream: &'static Stream, address: u64, value: u32) -> CUresult {
    crate::work::Work::Write32 { address, value }.submit(stream)
}

pub fn write_value32(
    stream: &'static Stream,
    address: vcuda_driver::cuda::types::CUdeviceptr,
    value: u32,
    _flags: u32,
) -> CUresult {
    write32(stream, address.0, value)
}

pub fn write_value64(
    stream: &'static Stream,
    address: vcuda_driver::cuda::types::CUdeviceptr,
    value: u64,
    _flags: u32,
) -> CUresult {
    crate::work::Work::Write64 { address: address.0, value }.submit(stream)
}

/// A wait whose condition holds once the work before it is done; any other would need to be woken by
/// later work, which the virtual time line can't express.
fn wait_value(stream: &'static Stream, holds: impl Fn() -> bool) -> CUresult {
    crate::capture::forbid_on(stream)?;
    if holds() {
        return Ok(());
    }
    stream.wait()?;
    if holds() { Ok(()) } else { Err(CUerror::NOT_SUPPORTED) }
}

pub fn wait_value32(
    stream: &'static Stream,
    address: vcuda_driver::cuda::types::CUdeviceptr,
    value: u32,
    flags: u32,
) -> CUresult {
    wait_value(stream, || {
        let now: u32 = raw::read(address.0);
        match flags & COMPARISON {
            0 => now.wrapping_sub(value) as i32 >= 0,
            1 => now == value,
            2 => now & value != 0,
            _ => !(now | value) != 0,
        }
    })
}

pub fn wait_value64(
    stream: &'static Stream,
    address: vcuda_driver::cuda::types::CUdeviceptr,
    value: u64,
    flags: u32,
) -> CUresult {
    wait_value(stream, || {
        let now: u64 = raw::read(address.0);
        match flags & COMPARISON {
            0 => now.wrapping_sub(value) as i64 >= 0,
            1 => now == value,
            2 => now & value != 0,
            _ => !(now | value) != 0,
        }
    })
}
