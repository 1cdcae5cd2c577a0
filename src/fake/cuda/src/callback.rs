//! Host functions: called by one thread when a stream gets there, which goes on when they return.

use crate::driver::driver;
use crate::settings::settings;
use crate::stream::Stream;
use parking_lot::{Condvar, Mutex};
use std::ffi::c_void;
use std::sync::Once;
use std::sync::atomic::Ordering::{AcqRel, Acquire};
use std::time::Duration;
use vcuda_driver::cuda::types::CUstream;
use vcuda_driver::result::{CUerror, CUresult};
use vcuda_fake_machine::{Engine, Length, LineId, Mark, Progress, Unit, now_ns};

/// What to do.
#[derive(Clone, Copy)]
pub enum Action {
    /// A function that takes its data.
    Call { function: usize, data: usize },
    /// A function that also takes the stream and the code of an error.
    CallWithStream { function: usize, stream: CUstream, data: usize },
}

struct Job {
    /// Its place on the stream's line, which lasts until the function has returned.
    mark: Mark,
    stream: &'static Stream,
    context_id: u64,
    action: Action,
}

struct Queue {
    jobs: Vec<Job>,
    /// Context of the job under way.
    running: Option<u64>,
}

static QUEUE: Mutex<Queue> = Mutex::new(Queue { jobs: Vec::new(), running: None });
static ADDED: Condvar = Condvar::new();
static DONE: Condvar = Condvar::new();

/// A place on a line where the stream stays until it is told to go on.
pub const STOP: Unit =
    Unit { engine: Engine::None, length: Length::Open { most_ns: u64::MAX }, ..Unit::MARK };

/// Has `action` happen when the stream gets there.
pub fn at_end_of(stream: &'static Stream, action: Action) -> CUresult {
    static START: Once = Once::new();
    let context_id = stream.context()?.id.load(Acquire);
    START.call_once(|| {
        std::thread::spawn(serve);
    });
    stream.pending.fetch_add(1, AcqRel);
    let add = |mark| {
        QUEUE.lock().jobs.push(Job { mark, stream, context_id, action });
        ADDED.notify_one();
    };
    if settings().is_null {
        add(Mark::NONE);
        return Ok(());
    }
    stream.queue(STOP, add).inspect_err(|_| {
        stream.pending.fetch_sub(1, AcqRel);
    })
}

/// Which of some places a stream was first to get to; if none yet, when one can be at the earliest.
pub fn first_begun(marks: &[Mark]) -> Result<usize, u64> {
    let mut first: Option<(u64, usize)> = None;
    let mut soonest_ns = u64::MAX;
    // Of one line, only the first place can be it.
    let mut seen: Vec<LineId> = Vec::new();
    driver().member.timeline(|timeline| {
        for (number, &mark) in marks.iter().enumerate() {
            if mark != Mark::NONE && seen.contains(&mark.line()) {
                continue;
            }
            seen.push(mark.line());
            let start_ns = match timeline.progress(mark) {
                Progress::Queued => {
                    soonest_ns = soonest_ns.min(timeline.earliest_end_ns(mark));
                    continue;
                }
                Progress::Begun { start_ns } => start_ns,
                Progress::Over { .. } => 0,
            };
            if first.is_none_or(|(least, _)| start_ns < least) {
                first = Some((start_ns, number));
            }
        }
    });
    first.map(|(_, number)| number).ok_or(soonest_ns)
}

/// Waits on the way to a time, or until there is more to do.
pub fn pause<T>(added: &Condvar, queue: &Mutex<T>, until_ns: u64) {
    const NEAR_NS: u64 = 100_000;
    const FAR_NS: u64 = 10_000_000;
    let wait_ns = until_ns.saturating_sub(now_ns());
    if wait_ns < NEAR_NS {
        driver().member.doze_until(until_ns);
    } else {
        added.wait_for(&mut queue.lock(), Duration::from_nanos((wait_ns - NEAR_NS / 2).min(FAR_NS)));
    }
}

fn serve() {
    let mut queue = QUEUE.lock();
    loop {
        if queue.jobs.is_empty() {
            ADDED.wait(&mut queue);
            continue;
        }
        let marks: Vec<Mark> = queue.jobs.iter().map(|job| job.mark).collect();
        // Whoever queues holds the time line and then asks for the queue.
        drop(queue);
        match first_begun(&marks) {
            Ok(number) => do_job(number),
            Err(soonest_ns) => pause(&ADDED, &QUEUE, soonest_ns),
        }
        queue = QUEUE.lock();
    }
}

/// Does the job of this number; others may be added meanwhile, but none is taken away.
fn do_job(number: usize) {
    let job = {
        let mut queue = QUEUE.lock();
        let job = queue.jobs.remove(number);
        queue.running = Some(job.context_id);
        job
    };
    perform(&job.action);
    driver().member.timeline(|timeline| timeline.finish(job.mark));
    job.stream.pending.fetch_sub(1, AcqRel);
    QUEUE.lock().running = None;
    DONE.notify_all();
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
        queue.running == Some(context_id) || queue.jobs.iter().any(|job| job.context_id == context_id)
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
