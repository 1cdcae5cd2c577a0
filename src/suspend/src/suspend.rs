//! Suspending: all processes of a slice, or none.
//!
//! In this order: what can't be suspended is refused; what each takes is written down; each is marked as being
//! suspended; all are locked; all are checkpointed; the quota they hold is set aside. A failure on the way brings
//! everything back to running. A process that dies on the way is no failure: there is nothing left of it to suspend.

use crate::driver::{Checkpoint, ProcessState};
use crate::error::{Error, Fate, Problem};
use crate::lease::Terms;
use crate::memory::DeviceMemory;
use crate::preflight::{self, Host};
use crate::record::{Entry, Record, path_of};
use crate::resume::{self, Back};
use crate::slice::{Slice, Work};
use crate::target::Target;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use vcuda_core::device::Uuid;
use vcuda_core::error::Lost;
use vcuda_core::suspension::{Activity, Phase};
use vcuda_driver::result::CUerror;

/// How long a rollback waits for the memory that it needs.
const ROLLBACK_WAIT: Duration = Duration::from_secs(60);

/// What is to be suspended, and how.
pub struct Request<'a> {
    /// The driver.
    pub driver: &'a dyn Checkpoint,
    /// This machine.
    pub host: Host,
    /// For all processes together to come to rest.
    pub lock_timeout: Duration,
    /// One process, if it still is as idle as it was seen; `None`: all, whatever they do.
    pub idle: Option<Idle>,
}

/// A process that was judged idle.
#[derive(Clone, Copy, Debug)]
pub struct Idle {
    /// Its slot.
    pub slot: u16,
    /// What it had done by then.
    pub activity: Activity,
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Suspended {
    /// Processes suspended now.
    pub processes: usize,
    /// Processes that were suspended before.
    pub already: usize,
    /// Bytes given back, over all GPUs.
    pub bytes: u64,
    /// Processes that ended on the way.
    pub ended: usize,
    /// The process was idle no more, and runs.
    pub is_active: bool,
}

/// A process, and what it takes of each GPU.
type Holder = (Target, Vec<(Uuid, u64)>);

/// Suspends what `request` says of a slice. `terms` are for bringing everything back if that fails.
///
/// # Errors
/// [`Error`]; everything runs as before, unless it says otherwise.
pub fn suspend(slice: &Slice, request: &Request, terms: &mut Terms) -> Result<Suspended, Error> {
    let work = slice.begin()?;
    let all = work.targets(|slot| request.idle.is_none_or(|idle| idle.slot == slot))?;
    if all.is_empty() {
        return Err(Error::NoProcesses);
    }
    let is_done = |target: &Target| matches!(target.suspension.phase(), Phase::Suspended | Phase::Lost);
    let (done, todo): (Vec<Target>, Vec<Target>) = all.into_iter().partition(is_done);
    let mut outcome = Suspended { already: done.len(), ..Suspended::default() };
    if request.idle.is_none() {
        // Put aside for being idle; from now on a call doesn't bring it back.
        for target in done.iter().filter(|target| target.suspension.phase() == Phase::Suspended) {
            work.control.suspension_words(target.slot)?.set_phase(Phase::Suspended, false);
        }
    }
    let mut record = Record::load(slice.control().path());
    let todo: Vec<Holder> = todo.into_iter().map(|target| measured(target, terms.memory, &record)).collect();
    let problems = preflight::examine(&todo, terms.memory, request.host);
    if !problems.is_empty() {
        return Err(Error::Refused(problems));
    }
    for (target, gpus) in &todo {
        record.enter(entry(target, gpus));
    }
    let written = record.save(slice.control().path());
    written.map_err(|source| Error::Record { path: path_of(slice.control().path()), source })?;

    match stop_and_move(&work, &todo, request) {
        Ok(Moved { ended, is_active }) => {
            outcome.is_active = is_active;
            outcome.ended = ended.len();
            let kept = todo.iter().filter(|(target, _)| !is_active && !ended.contains(&target.slot));
            for (_, gpus) in kept {
                outcome.processes += 1;
                outcome.bytes += gpus.iter().map(|(_, bytes)| *bytes).sum::<u64>();
            }
            let gone = todo.iter().filter(|(target, _)| is_active || ended.contains(&target.slot));
            gone.for_each(|(target, _)| record.forget(target.slot));
            // What is in it too much does no harm.
            let _ = record.save(slice.control().path());
            Ok(outcome)
        }
        Err(problem) => {
            let targets: Vec<Target> = todo.into_iter().map(|(target, _)| target).collect();
            let timeout = Some(terms.timeout.unwrap_or(ROLLBACK_WAIT).min(ROLLBACK_WAIT));
            let mut terms = Terms { timeout, overcommit: true, tell: &mut *terms.tell, ..*terms };
            match resume::bring_back(&work, request.driver, &targets, &mut record, &mut terms)? {
                Back::Running { lost, .. } if lost.is_empty() => Err(Error::RolledBack(problem)),
                Back::Running { mut lost, .. } => {
                    lost.insert(0, problem);
                    Err(Error::ProcessesLost(lost))
                }
                Back::Waiting(_) => Err(Error::HalfWay(problem)),
            }
        }
    }
}

/// What happened to those that nothing went wrong with.
struct Moved {
    /// Slots of processes that ended.
    ended: Vec<u16>,
    /// The idle process was idle no more.
    is_active: bool,
}

fn stop_and_move(work: &Work, todo: &[Holder], request: &Request) -> Result<Moved, Problem> {
    let mut ended = Vec::new();
    for (target, _) in todo {
        let words = work.control.suspension_words(target.slot).map_err(|lost| of_file(target, lost))?;
        words.set_phase(Phase::Suspending, request.idle.is_some());
        // In this order: a call that began since has seen the phase, or is seen here.
        if request.idle.is_some_and(|idle| words.activity() != idle.activity) {
            words.set_phase(Phase::Running, false);
            return Ok(Moved { ended, is_active: true });
        }
    }
    let begin = Instant::now();
    for (target, _) in todo {
        let left = request.lock_timeout.saturating_sub(begin.elapsed());
        match lock(target, request.driver, left) {
            Ok(()) => {}
            Err(_) if target.fate() == Fate::Died => ended.push(target.slot),
            Err(error) => return Err(target.failed("lock", error)),
        }
    }
    for (target, _) in todo {
        if ended.contains(&target.slot) {
            continue;
        }
        match checkpoint(target, request.driver) {
            Ok(()) => {}
            Err(_) if target.fate() == Fate::Died => {
                ended.push(target.slot);
                continue;
            }
            Err(error) => return Err(target.failed("checkpoint", error)),
        }
        work.agent.set_aside(target.slot).map_err(|lost| of_file(target, lost))?;
    }
    for (target, _) in todo.iter().filter(|(target, _)| !ended.contains(&target.slot)) {
        let words = work.control.suspension_words(target.slot).map_err(|lost| of_file(target, lost))?;
        words.set_phase(Phase::Suspended, request.idle.is_some());
    }
    Ok(Moved { ended, is_active: false })
}

fn of_file(target: &Target, lost: Lost) -> Problem {
    target.problem(format!("the slice's control file {lost}"))
}

/// Locks a process, unless somebody who was killed has done so already.
fn lock(target: &Target, driver: &dyn Checkpoint, timeout: Duration) -> Result<(), CUerror> {
    match driver.state(target.pid)? {
        ProcessState::Running => driver.lock(target.pid, timeout),
        ProcessState::Locked | ProcessState::Checkpointed => Ok(()),
        ProcessState::Changing => settle(target, driver),
        ProcessState::Failed | ProcessState::Unknown(_) => Err(CUerror::ILLEGAL_STATE),
    }
}

fn checkpoint(target: &Target, driver: &dyn Checkpoint) -> Result<(), CUerror> {
    match driver.state(target.pid)? {
        ProcessState::Checkpointed => Ok(()),
        _ => driver.checkpoint(target.pid),
    }
}

/// Waits for what an agent that was killed had asked the driver to do.
pub(crate) fn settle(target: &Target, driver: &dyn Checkpoint) -> Result<(), CUerror> {
    const MOST_WAIT: Duration = Duration::from_secs(300);
    let begin = Instant::now();
    while driver.state(target.pid)? == ProcessState::Changing {
        if begin.elapsed() > MOST_WAIT {
            return Err(CUerror::NOT_READY);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// What a process takes of each GPU: what the driver says, or the slice's books, whichever is more; and no less than was
/// written down by somebody who was killed after it was checkpointed.
fn measured(target: Target, memory: &dyn DeviceMemory, record: &Record) -> Holder {
    let before = record.find(target.slot, target.identity.start_time_ticks);
    let written = before.map(|entry| entry.gpus.clone()).unwrap_or_default();
    let mut gpus = target.charged.clone();
    for (gpu, bytes) in written {
        enter_most(&mut gpus, gpu, bytes);
    }
    for (gpu, bytes) in &mut gpus {
        *bytes = (*bytes).max(memory.process_bytes(*gpu, target.pid).unwrap_or(0));
    }
    gpus.retain(|(_, bytes)| *bytes > 0);
    (target, gpus)
}

fn enter_most(gpus: &mut Vec<(Uuid, u64)>, gpu: Uuid, bytes: u64) {
    match gpus.iter_mut().find(|(known, _)| *known == gpu) {
        Some((_, known)) => *known = (*known).max(bytes),
        None => gpus.push((gpu, bytes)),
    }
}

fn entry(target: &Target, gpus: &[(Uuid, u64)]) -> Entry {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Entry {
        slot: target.slot,
        start_time_ticks: target.identity.start_time_ticks,
        since_unix_ns: now.as_nanos() as u64,
        gpus: gpus.to_vec(),
    }
}
