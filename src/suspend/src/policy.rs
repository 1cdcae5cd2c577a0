//! Who is put aside and who comes back: the decisions of idle release, and nothing else. No clock, no driver, no file.
//!
//! Demands are served in the order in which they came: a call of a process that was put aside, or an allocation for which
//! the device has no room though its slice has. Room is made by putting aside processes that have been idle for as long
//! as their slice says, the longest idle first, and only if that makes enough. A demand that has to wait keeps later ones
//! off its GPUs. A process comes back when it calls, or when there is room for it anyway.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Longest that an allocation waits for room before it fails as it would have without an agent.
const PATIENCE: Duration = Duration::from_secs(600);
/// How long a process is left alone after it could not be put aside; doubled each time.
const FIRST_BACK_OFF: Duration = Duration::from_secs(5);
const MOST_DOUBLINGS: u32 = 6;

/// A process, for as long as it lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProcessId(pub u64);

/// A GPU, by a number of the caller's.
pub type GpuNumber = usize;

/// What a process is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doing {
    /// On the GPU; for how long nothing has called the driver, 0 while something does.
    Running {
        /// How long.
        idle: Duration,
    },
    /// Put aside, for how long, and whether a call waits for it to come back.
    Aside {
        /// How long.
        since: Duration,
        /// A call waits.
        is_wanted: bool,
    },
}

/// A process as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Which.
    pub id: ProcessId,
    /// What it does.
    pub doing: Doing,
    /// How long it must be idle before it may be put aside; `None` if it never may.
    pub idle_release: Option<Duration>,
    /// What it takes of each GPU, or took before it was put aside, in bytes with the margin that bringing it back needs.
    pub holds: Vec<(GpuNumber, u64)>,
    /// What an allocation of it waits for.
    pub needs: Option<(GpuNumber, u64)>,
}

/// Everything as it is now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// Free bytes of each GPU.
    pub free_bytes: BTreeMap<GpuNumber, u64>,
    /// All processes of slices with idle release.
    pub processes: Vec<Process>,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Take an idle process off its GPUs.
    PutAside(ProcessId),
    /// Bring one back.
    BringBack(ProcessId),
    /// Tell one whose allocation waits that there is room.
    Admit(ProcessId),
    /// Tell one whose allocation waits that there will be none.
    Deny(ProcessId),
}

/// What has to be remembered from one decision to the next.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// Demands in the order in which they came, with the time at which they did.
    queue: Vec<(ProcessId, Duration)>,
    /// Until when a process is left alone, and how often it could not be put aside.
    back_off: BTreeMap<ProcessId, (Duration, u32)>,
}

impl Policy {
    /// The next step, if there is anything to do. `now` is any clock that only goes forward.
    pub fn decide(&mut self, view: &View, now: Duration) -> Option<Step> {
        self.note(view, now);
        let mut blocked: BTreeSet<GpuNumber> = BTreeSet::new();
        for &(id, since) in &self.queue {
            let Some(process) = view.processes.iter().find(|process| process.id == id) else { continue };
            let demand = demand(process);
            let is_aside = matches!(process.doing, Doing::Aside { .. });
            // A later demand must not take what an earlier one waits for. But one who is in the way of the earlier one may
            // go on: it would never be idle otherwise, and it may take what is free without asking at any time.
            let is_blocked = demand.iter().any(|(gpu, _)| blocked.contains(gpu));
            let is_in_the_way = demand.iter().any(|(gpu, _)| !is_aside && held(process, *gpu) > 0);
            match self.room_for(&demand, id, view, now) {
                Room::Now if !is_blocked && is_aside => return Some(Step::BringBack(id)),
                Room::Now if !is_aside && (!is_blocked || is_in_the_way) => return Some(Step::Admit(id)),
                Room::After(victim) if !is_blocked => return Some(Step::PutAside(victim)),
                Room::Never if !is_aside => return Some(Step::Deny(id)),
                _ if !is_aside && now.saturating_sub(since) >= PATIENCE => return Some(Step::Deny(id)),
                _ => blocked.extend(demand.iter().map(|(gpu, _)| *gpu)),
            }
        }
        self.return_unasked(view, &blocked, now)
    }

    /// A process could not be put aside: it did not come to rest, or the driver refused.
    pub fn note_failure(&mut self, id: ProcessId, now: Duration) {
        let (_, failures) = self.back_off.get(&id).copied().unwrap_or_default();
        let wait = FIRST_BACK_OFF * 2u32.pow(failures.min(MOST_DOUBLINGS));
        self.back_off.insert(id, (now.saturating_add(wait), failures.saturating_add(1)));
    }

    /// A process was put aside.
    pub fn note_success(&mut self, id: ProcessId) {
        self.back_off.remove(&id);
    }

    /// Enters new demands behind the others, and forgets those that are over and processes that are gone.
    fn note(&mut self, view: &View, now: Duration) {
        let find = |id: ProcessId| view.processes.iter().find(|process| process.id == id);
        self.queue.retain(|(id, _)| find(*id).is_some_and(|process| !demand(process).is_empty()));
        self.back_off.retain(|id, _| find(*id).is_some());
        for process in view.processes.iter().filter(|process| !demand(process).is_empty()) {
            if !self.queue.iter().any(|(id, _)| *id == process.id) {
                self.queue.push((process.id, now));
            }
        }
    }

    fn room_for(&self, demand: &[(GpuNumber, u64)], own: ProcessId, view: &View, now: Duration) -> Room {
        let lacks = |gpu: GpuNumber, bytes: u64| bytes.saturating_sub(free(view, gpu));
        let Some(&(gpu, bytes)) = demand.iter().find(|&&(gpu, bytes)| lacks(gpu, bytes) > 0) else {
            return Room::Now;
        };
        let lacking = lacks(gpu, bytes);
        let others = || view.processes.iter().filter(|other| other.id != own && held(other, gpu) > 0);
        let mut idle: Vec<(Duration, &Process)> =
            others().filter_map(|other| Some((self.idle_for(other, now)?, other))).collect();
        let enough = |bytes: u64| bytes >= lacking;
        if enough(idle.iter().map(|(_, other)| held(other, gpu)).sum()) {
            idle.sort_by_key(|(idle, other)| (std::cmp::Reverse(*idle), other.id));
            if let Some((_, longest)) = idle.first() {
                return Room::After(longest.id);
            }
        }
        let releasable = others()
            .filter(|other| other.idle_release.is_some() && matches!(other.doing, Doing::Running { .. }));
        if enough(releasable.map(|other| held(other, gpu)).sum()) { Room::Later } else { Room::Never }
    }

    /// How long a process has been idle, if it may be put aside now.
    fn idle_for(&self, process: &Process, now: Duration) -> Option<Duration> {
        let Doing::Running { idle } = process.doing else { return None };
        let is_left_alone = self.back_off.get(&process.id).is_some_and(|(until, _)| now < *until);
        let is_due = process.idle_release.is_some_and(|after| idle >= after) && process.needs.is_none();
        (is_due && !is_left_alone).then_some(idle)
    }

    /// Who was put aside for somebody who is gone comes back, once it has been away as long as it had to be idle.
    fn return_unasked(&self, view: &View, blocked: &BTreeSet<GpuNumber>, _now: Duration) -> Option<Step> {
        let fits = |process: &&Process| {
            process.holds.iter().all(|&(gpu, bytes)| free(view, gpu) >= bytes && !blocked.contains(&gpu))
        };
        let away = view.processes.iter().filter(|process| match process.doing {
            // Who may not be put aside any more, at once.
            Doing::Aside { since, is_wanted: false } => {
                process.idle_release.is_none_or(|after| since >= after)
            }
            _ => false,
        });
        away.into_iter().find(fits).map(|process| Step::BringBack(process.id))
    }
}

/// When there will be room.
enum Room {
    Now,
    /// Once this one is put aside.
    After(ProcessId),
    /// Once somebody has been idle for long enough.
    Later,
    /// Not by putting anybody aside.
    Never,
}

fn demand(process: &Process) -> Vec<(GpuNumber, u64)> {
    match process.doing {
        Doing::Aside { is_wanted: true, .. } => process.holds.clone(),
        Doing::Running { .. } => process.needs.into_iter().collect(),
        Doing::Aside { .. } => Vec::new(),
    }
}

fn free(view: &View, gpu: GpuNumber) -> u64 {
    view.free_bytes.get(&gpu).copied().unwrap_or(0)
}

fn held(process: &Process, gpu: GpuNumber) -> u64 {
    process.holds.iter().filter(|(on, _)| *on == gpu).map(|(_, bytes)| *bytes).sum()
}
