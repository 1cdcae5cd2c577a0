//! Resuming: everything of a slice that isn't running, from wherever it stands.
//!
//! First the quota is taken back, then the memory lease is had; only then is anything restored. Whoever has to wait for
//! either waits with nothing begun. The same way brings back what an agent that was killed left half-way.

use crate::driver::{Checkpoint, ProcessState};
use crate::error::{Error, Fate, Problem};
use crate::lease::{Deadline, Lease, Need, Terms, Waiting};
use crate::record::Record;
use crate::slice::{Slice, Work};
use crate::suspend::settle;
use crate::target::Target;
use std::thread::sleep;
use std::time::Duration;
use vcuda_core::device::Uuid;
use vcuda_core::error::ReserveError;
use vcuda_core::quota::bytes_of_pages;
use vcuda_core::suspension::Phase;
use vcuda_driver::result::CUerror;

/// How often it is looked whether the quota has room.
const POLL: Duration = Duration::from_millis(100);

/// What came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resumed {
    /// Processes that run again.
    pub processes: usize,
    /// Processes that ran all the time.
    pub running: usize,
    /// Processes that ended before they could be brought back.
    pub ended: usize,
}

/// How far it got.
pub(crate) enum Back {
    /// All run but those that are lost for good.
    Running {
        /// Slots of those that run.
        resumed: usize,
        /// Those that ended.
        ended: usize,
        lost: Vec<Problem>,
    },
    /// There was no room in time; all stay suspended.
    Waiting(Waiting),
}

/// Brings back all processes of a slice that are suspended or were left half-way, or the one in slot `only`.
///
/// # Errors
/// [`Error`]. `TimedOut` leaves everything suspended; `ProcessesLost` tells of some, and the others run.
pub fn resume(
    slice: &Slice,
    driver: &dyn Checkpoint,
    only: Option<u16>,
    terms: &mut Terms,
) -> Result<Resumed, Error> {
    let work = slice.begin()?;
    bring_back_those(&work, driver, only, |_| true, terms)
}

/// Brings to running what agents that were killed left half-way, suspending or resuming. What was suspended to the end
/// stays so. For an agent that starts.
///
/// # Errors
/// As [`resume`].
pub fn recover(slice: &Slice, driver: &dyn Checkpoint, terms: &mut Terms) -> Result<Resumed, Error> {
    let work = slice.begin()?;
    let is_half_way = |phase| matches!(phase, Phase::Suspending | Phase::Resuming);
    match bring_back_those(&work, driver, None, is_half_way, terms) {
        Err(Error::NoProcesses) => Ok(Resumed::default()),
        done => done,
    }
}

/// Whether something of the slice was left half-way and nobody is at work on it.
///
/// # Errors
/// The control file's.
pub fn needs_recovery(slice: &Slice) -> Result<bool, Error> {
    let snapshot = slice.control().snapshot()?;
    let mut living = snapshot.processes.iter().filter(|process| process.alive != Some(false));
    let is_half_way =
        living.any(|process| matches!(process.suspension.phase(), Phase::Suspending | Phase::Resuming));
    Ok(is_half_way && slice.control().begin_operation()?.is_some())
}

fn bring_back_those(
    work: &Work,
    driver: &dyn Checkpoint,
    only: Option<u16>,
    is_concerned: impl Fn(Phase) -> bool,
    terms: &mut Terms,
) -> Result<Resumed, Error> {
    let all = work.targets(|slot| only.is_none_or(|only| only == slot))?;
    if all.is_empty() {
        return Err(Error::NoProcesses);
    }
    let count = all.len();
    let is_away = |target: &Target| {
        target.suspension.phase() != Phase::Running && is_concerned(target.suspension.phase())
    };
    let todo: Vec<Target> = all.into_iter().filter(is_away).collect();
    let running = count - todo.len();
    if todo.is_empty() {
        return Ok(Resumed { running, ..Resumed::default() });
    }
    let mut record = Record::load(work.control.path());
    match bring_back(work, driver, &todo, &mut record, terms)? {
        Back::Running { resumed, ended, lost } if lost.is_empty() => {
            Ok(Resumed { processes: resumed, running, ended })
        }
        Back::Running { lost, .. } => Err(Error::ProcessesLost(lost)),
        Back::Waiting(waiting) => Err(Error::TimedOut(waiting.to_string())),
    }
}

/// Brings `targets` to running, whatever state the driver has them in.
pub(crate) fn bring_back(
    work: &Work,
    driver: &dyn Checkpoint,
    targets: &[Target],
    record: &mut Record,
    terms: &mut Terms,
) -> Result<Back, Error> {
    let deadline = Deadline::after(terms.timeout);
    let (mut lost, mut ended, mut away) = (Vec::new(), 0, Vec::new());
    for target in targets {
        if target.suspension.phase() == Phase::Lost {
            lost.push(
                target.problem(format!("was lost in an earlier attempt; end it: kill -9 {}", target.pid)),
            );
            continue;
        }
        // One that dies now is not found by the driver either.
        let state = settle(target, driver).and_then(|()| driver.state(target.pid));
        match state {
            Ok(state) => away.push((target, state)),
            Err(_) if target.fate() == Fate::Died => ended += 1,
            Err(error) => lost.push(target.failed("look at", error)),
        }
    }
    let is_moved = |state: ProcessState| state == ProcessState::Checkpointed;
    for (target, _) in &away {
        work.control.suspension_words(target.slot)?.set_phase(Phase::Resuming, target.suspension.is_idle());
    }
    let stay = |waiting: Waiting| -> Result<Back, Error> {
        for (target, state) in &away {
            let words = work.control.suspension_words(target.slot)?;
            if is_moved(*state) {
                work.agent.set_aside(target.slot)?;
                words.set_phase(Phase::Suspended, target.suspension.is_idle());
            } else {
                // It has kept its memory; if it can't be unlocked it ended, or somebody else has done so.
                let _ = driver.unlock(target.pid);
                words.set_phase(Phase::Running, false);
            }
        }
        Ok(Back::Waiting(waiting))
    };
    for (target, _) in &away {
        if let Some(waiting) = take_back(work, target, &deadline, terms)? {
            return stay(waiting);
        }
    }
    let moved = away.iter().filter(|(_, state)| is_moved(*state)).map(|(target, _)| *target);
    let needs = needs(moved, record);
    let mut lease_terms = Terms { timeout: deadline.left(), tell: &mut *terms.tell, ..*terms };
    let lease = match Lease::acquire(&needs, work.control, &mut lease_terms) {
        Ok(lease) => lease,
        Err(waiting) => return stay(waiting),
    };
    let mut restored = Vec::new();
    for (target, state) in away {
        match restore(target, state, driver) {
            Ok(()) => restored.push(target),
            Err(_) if target.fate() == Fate::Died => ended += 1,
            Err(error) => {
                // It will never hold its memory again, though it stays in the books until it ends.
                work.agent.set_aside(target.slot)?;
                work.control.suspension_words(target.slot)?.set_phase(Phase::Lost, false);
                lost.push(target.failed("restore", error));
            }
        }
    }
    drop(lease);
    let mut resumed = 0;
    for target in restored {
        match driver.unlock(target.pid) {
            Ok(()) => {}
            Err(_) if target.fate() == Fate::Died => {
                ended += 1;
                continue;
            }
            // Somebody else has unlocked it.
            Err(_) if driver.state(target.pid) == Ok(ProcessState::Running) => {}
            Err(error) => {
                lost.push(target.failed("unlock", error));
                continue;
            }
        }
        work.control.suspension_words(target.slot)?.set_phase(Phase::Running, false);
        resumed += 1;
    }
    for target in targets {
        record.forget(target.slot);
    }
    // What is in it too much does no harm.
    let _ = record.save(work.control.path());
    Ok(Back::Running { resumed, ended, lost })
}

/// Takes back a process's quota, waiting for others of the slice; gives what was waited for to the end.
fn take_back(
    work: &Work,
    target: &Target,
    deadline: &Deadline,
    terms: &mut Terms,
) -> Result<Option<Waiting>, Error> {
    loop {
        let refused = match work.agent.take_back(target.slot) {
            Ok(()) => return Ok(None),
            Err(ReserveError::Lost(lost)) => return Err(lost.into()),
            Err(ReserveError::Refused(refused)) => refused,
            // Not asked of whoever takes back what was set aside.
            Err(ReserveError::Held) => continue,
        };
        if target.fate() == Fate::Died {
            return Ok(None);
        }
        // What is in the way may be a dead one's.
        work.control.reap()?;
        let waiting = Waiting::Quota {
            used_bytes: bytes_of_pages(refused.used_pages),
            limit_bytes: bytes_of_pages(refused.limit_pages),
        };
        if deadline.is_over() {
            return Ok(Some(waiting));
        }
        (terms.tell)(&waiting);
        sleep(deadline.left().map_or(POLL, |left| left.min(POLL)));
    }
}

/// What all of them took of each GPU: as written down, or by the slice's books.
fn needs<'a>(targets: impl Iterator<Item = &'a Target>, record: &Record) -> Vec<Need> {
    let mut needs: Vec<Need> = Vec::new();
    for target in targets {
        let written = record.find(target.slot, target.identity.start_time_ticks);
        let gpus: &[(Uuid, u64)] = written.map_or(&target.charged, |entry| &entry.gpus);
        for &(gpu, bytes) in gpus {
            match needs.iter_mut().find(|need| need.gpu == gpu) {
                Some(need) => need.bytes = need.bytes.saturating_add(bytes),
                None => needs.push(Need { gpu, bytes }),
            }
        }
    }
    needs
}

fn restore(target: &Target, state: ProcessState, driver: &dyn Checkpoint) -> Result<(), CUerror> {
    match state {
        ProcessState::Running | ProcessState::Locked => Ok(()),
        ProcessState::Checkpointed => driver.restore(target.pid),
        ProcessState::Failed | ProcessState::Changing | ProcessState::Unknown(_) => {
            Err(CUerror::ILLEGAL_STATE)
        }
    }
}
