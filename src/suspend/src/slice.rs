//! A slice as an agent sees it: its control file, a slot of the agent's own, and the processes of others.

use crate::error::{Error, Problem};
use crate::target::Target;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};
use vcuda_core::control::Control;
use vcuda_core::slots::Slot;
use vcuda_core::suspension::Operation;

/// How the agent's slot is named in lists of processes: longer than the kernel lets a program's name be.
pub const AGENT_NAME: &str = "vcuda suspending, resuming";

/// How long an agent waits for another one's operation.
const BUSY_WAIT: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(20);

/// A slice whose processes may be suspended and resumed.
pub struct Slice {
    control: Arc<Control>,
}

/// A slice with an operation of ours under way.
pub(crate) struct Work<'a> {
    pub(crate) control: &'a Control,
    pub(crate) agent: Slot,
    _operation: Operation,
}

impl Slice {
    /// Opens the slice of a control file, which must exist.
    ///
    /// # Errors
    /// The control file's.
    pub fn open(path: impl AsRef<Path>) -> Result<Slice, Error> {
        Ok(Slice { control: Control::open_existing(path)? })
    }

    /// The slice of a control file that is open already.
    pub fn of(control: Arc<Control>) -> Slice {
        Slice { control }
    }

    /// The control file.
    pub fn control(&self) -> &Arc<Control> {
        &self.control
    }

    /// The control file's path.
    pub fn path(&self) -> PathBuf {
        self.control.path().to_owned()
    }

    /// Begins an operation on the slice, which no other agent can then.
    pub(crate) fn begin(&self) -> Result<Work<'_>, Error> {
        let begin = Instant::now();
        let operation = loop {
            match self.control.begin_operation()? {
                Some(operation) => break operation,
                None if begin.elapsed() >= BUSY_WAIT => return Err(Error::Busy),
                None => sleep(POLL),
            }
        };
        self.control.reap()?;
        let agent = self.control.claim(AGENT_NAME)?;
        Ok(Work { control: &self.control, agent, _operation: operation })
    }
}

impl Work<'_> {
    /// The living processes of the slice that `wanted` says yes to, agents apart.
    pub(crate) fn targets(&self, wanted: impl Fn(u16) -> bool) -> Result<Vec<Target>, Error> {
        let snapshot = self.control.snapshot()?;
        let living = snapshot.processes.iter().filter(|process| {
            process.alive != Some(false) && process.identity.name != AGENT_NAME && wanted(process.slot)
        });
        let (mut found, mut problems): (Vec<Target>, Vec<Problem>) = (Vec::new(), Vec::new());
        for process in living {
            match Target::find(process, &snapshot) {
                Ok(target) if target.uses(self.control) => found.push(target),
                Ok(target) => problems.push(target.problem(
                    "does not have the slice's control file open, or may not be looked at: run this as its user, or as root",
                )),
                Err(problem) => problems.push(problem),
            }
        }
        // Among them may be one that has died since it was listed.
        if problems.is_empty() || self.control.reap()?.slots > 0 {
            Ok(found)
        } else {
            Err(Error::Refused(problems))
        }
    }
}
