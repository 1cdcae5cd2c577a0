//! Where a process is on its way off its GPUs and back, in words.

use crate::size;
use vcuda_core::snapshot::{ProcessView, Snapshot};
use vcuda_core::suspension::{Phase, Suspension};

/// Where a process is, as its slot says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProcessState {
    /// It runs.
    #[default]
    Running,
    /// It runs, but an allocation of it waits for so much memory, in bytes.
    WaitingForMemory(u64),
    /// It is on its way off its GPUs, because it is idle or because somebody wants it to be.
    Leaving {
        /// Because it is idle.
        is_idle: bool,
    },
    /// Suspended until it is resumed.
    Suspended,
    /// Put aside until it is called.
    Aside,
    /// Put aside, and a call of it waits for room to come back.
    WaitingToReturn,
    /// On its way back.
    ComingBack,
    /// The driver could not bring it back.
    Lost,
}

impl ProcessState {
    /// Of a slot's word.
    pub fn of(word: Suspension) -> ProcessState {
        match word.phase() {
            Phase::Running => match word.needed() {
                Some((mib, _)) => ProcessState::WaitingForMemory(mib << 20),
                None => ProcessState::Running,
            },
            Phase::Suspending => ProcessState::Leaving { is_idle: word.is_idle() },
            Phase::Suspended if !word.is_idle() => ProcessState::Suspended,
            Phase::Suspended if word.is_wanted() => ProcessState::WaitingToReturn,
            Phase::Suspended => ProcessState::Aside,
            Phase::Resuming => ProcessState::ComingBack,
            Phase::Lost => ProcessState::Lost,
        }
    }

    /// In a word of at most nine letters, for tables and programs.
    pub fn word(self) -> &'static str {
        match self {
            ProcessState::Running => "running",
            ProcessState::WaitingForMemory(_) | ProcessState::WaitingToReturn => "waiting",
            ProcessState::Leaving { .. } => "stopping",
            ProcessState::Suspended => "suspended",
            ProcessState::Aside => "aside",
            ProcessState::ComingBack => "resuming",
            ProcessState::Lost => "lost",
        }
    }

    /// In as many as it takes, in at most 35 columns.
    pub fn text(self) -> String {
        match self {
            ProcessState::Running => "running".to_owned(),
            ProcessState::WaitingForMemory(bytes) => format!("waiting for {} of memory", size::text(bytes)),
            ProcessState::Leaving { is_idle: false } => "being suspended".to_owned(),
            ProcessState::Leaving { is_idle: true } => "idle, being put aside".to_owned(),
            ProcessState::Suspended => "suspended, not on the GPU".to_owned(),
            ProcessState::Aside => "put aside, back when it calls".to_owned(),
            ProcessState::WaitingToReturn => "put aside, waiting for memory".to_owned(),
            ProcessState::ComingBack => "coming back".to_owned(),
            ProcessState::Lost => "lost, can only be ended".to_owned(),
        }
    }

    /// Whether nothing of the process is on its GPUs.
    pub fn is_away(self) -> bool {
        matches!(
            self,
            ProcessState::Suspended
                | ProcessState::Aside
                | ProcessState::WaitingToReturn
                | ProcessState::Lost
        )
    }

    /// Whether the process waits for memory that others have.
    pub fn is_waiting(self) -> bool {
        matches!(self, ProcessState::WaitingForMemory(_) | ProcessState::WaitingToReturn)
    }
}

impl From<&ProcessView> for ProcessState {
    fn from(process: &ProcessView) -> ProcessState {
        ProcessState::of(process.suspension)
    }
}

/// Whether anything in the slice is to be said about states.
pub fn has_states(snapshot: &Snapshot) -> bool {
    super::living(snapshot).any(|process| ProcessState::from(process) != ProcessState::Running)
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use std::time::Duration;
    use vcuda_core::control::Control;
    use vcuda_core::suspension::SuspensionWords;

    /// A slot's word after `change`.
    pub fn word(change: impl FnOnce(SuspensionWords)) -> Suspension {
        let directory = tempfile::tempdir().unwrap();
        let control = Control::open_or_create(directory.path().join("control")).unwrap();
        let slot = control.claim("any").unwrap();
        let words = control.suspension_words(slot.index()).unwrap();
        words.set_idle_release(Some(Duration::from_secs(60)));
        change(words);
        words.load()
    }

    #[test]
    fn every_state_has_words_that_fit() {
        let phase = |phase, is_idle| ProcessState::of(word(|words| words.set_phase(phase, is_idle)));
        let states = [
            (ProcessState::of(word(|_| {})), "running"),
            (ProcessState::of(word(|words| words.ask_for(4096, 0))), "waiting"),
            (phase(Phase::Suspending, false), "stopping"),
            (phase(Phase::Suspending, true), "stopping"),
            (phase(Phase::Suspended, false), "suspended"),
            (phase(Phase::Suspended, true), "aside"),
            (phase(Phase::Resuming, true), "resuming"),
            (phase(Phase::Lost, false), "lost"),
        ];
        for (state, expected) in states {
            assert_eq!(state.word(), expected);
            assert!(state.text().chars().count() <= 35, "{}", state.text());
            assert_eq!(state.is_away(), ["suspended", "aside", "lost"].contains(&expected));
        }
        assert_eq!(states[1].0.text(), "waiting for 4.00 GiB of memory");
    }
}
