//! Idle release as it happens: looks at the slices of a machine, asks the [`policy`](crate::policy), and does what it says.
//!
//! One [`turn`](Agent::turn) looks once and does at most one thing, which may take as long as moving a process's memory.
//! Whoever runs the agent takes turns until it is to stop; a turn with nothing to do is cheap. Killed at any moment, it
//! leaves what the next agent finishes or undoes. Slices without idle release are only looked at.

use crate::driver::Checkpoint;
use crate::lease::{Need, Terms, Waiting};
use crate::look::threads_in_driver;
use crate::memory::DeviceMemory;
use crate::policy::{Doing, Policy, Process, ProcessId, Step, View};
use crate::preflight::Host;
use crate::record::Record;
use crate::resume::{needs_recovery, recover, resume};
use crate::suspend::{Idle, Request, suspend};
use crate::target::Target;
use crate::{Error, Slice};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use vcuda_core::compute::monotonic_ns;
use vcuda_core::control::Control;
use vcuda_core::device::Uuid;
use vcuda_core::snapshot::Snapshot;
use vcuda_core::suspension::{Activity, Phase};

/// How often to take a turn.
pub const TURN: Duration = Duration::from_millis(50);
/// For an idle process to come to rest: it should be at rest.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);
/// How long one turn waits for memory that was there a moment ago.
const LEASE_WAIT: Duration = Duration::from_millis(500);
/// For how long processes believe that there is an agent after it was last seen.
const ATTENDED: Duration = Duration::from_secs(10);
/// The slowest that memory is reckoned to be moved, in bytes a second.
const SLOWEST_MOVE: u64 = 500 << 20;
/// How often it is looked where threads wait.
const LOOK: Duration = Duration::from_millis(200);
/// How often slices without idle release are looked at: a program that asks for room waits a second for an agent.
const LOOK_AGAIN: Duration = Duration::from_millis(400);
/// Left free beside what an allocation asks for: the driver rounds.
const ROUNDING_BYTES: u64 = 4 << 20;

/// What happened in a turn.
#[derive(Debug)]
pub enum Event {
    /// A process was put aside.
    PutAside {
        /// Its name and id.
        who: String,
        /// Its slice's control file.
        slice: PathBuf,
    },
    /// A process came back.
    BroughtBack {
        /// Its name and id.
        who: String,
        /// Its slice's control file.
        slice: PathBuf,
    },
    /// No room could be made for an allocation.
    Denied(String),
    /// What another agent had left was finished.
    Recovered(PathBuf),
    /// Something did not work; what, in words.
    Failed(String),
}

impl std::fmt::Display for Event {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Event::PutAside { who, .. } => write!(f, "put aside: {who}"),
            Event::BroughtBack { who, .. } => write!(f, "brought back: {who}"),
            Event::Denied(who) => write!(f, "no room can be made for {who}"),
            Event::Recovered(path) => write!(f, "finished what another agent had left: {}", path.display()),
            Event::Failed(reason) => f.write_str(reason),
        }
    }
}

/// What is known of a process beyond its slot.
struct Seen {
    id: ProcessId,
    activity: Activity,
    /// When it last did anything.
    active: Instant,
    aside: Option<Away>,
}

/// Of a process that was put aside.
struct Away {
    since: Instant,
    /// Threads that wait in the driver all the time.
    own_threads: BTreeSet<u32>,
    looked: Instant,
    /// One more waits there since.
    is_called: bool,
}

/// A slot's process, told from a later one in the same slot.
type Key = (PathBuf, u16, u64);

/// A process of the view.
struct Known {
    slice: Arc<Control>,
    slot: u16,
    key: Key,
    name: String,
    /// What it takes of all GPUs.
    bytes: u64,
}

/// The agent of a machine.
pub struct Agent<'a> {
    driver: &'a dyn Checkpoint,
    memory: &'a dyn DeviceMemory,
    policy: Policy,
    begin: Instant,
    next_id: u64,
    seen: BTreeMap<Key, Seen>,
    /// Slices without idle release, and when they were looked at.
    unconcerned: BTreeMap<PathBuf, Instant>,
    gpus: Vec<Uuid>,
}

impl<'a> Agent<'a> {
    /// An agent that has not seen anything yet.
    pub fn new(driver: &'a dyn Checkpoint, memory: &'a dyn DeviceMemory) -> Agent<'a> {
        Agent {
            driver,
            memory,
            policy: Policy::default(),
            begin: Instant::now(),
            next_id: 0,
            seen: BTreeMap::new(),
            unconcerned: BTreeMap::new(),
            gpus: Vec::new(),
        }
    }

    /// Looks at `slices`, which must be all of the machine, and does the next thing that is to be done.
    pub fn turn(&mut self, slices: &[Arc<Control>]) -> Vec<Event> {
        let mut events = Vec::new();
        let mut known = BTreeMap::new();
        let mut view = View::default();
        let mut keys = BTreeSet::new();
        self.unconcerned.retain(|_, looked| looked.elapsed() < LOOK_AGAIN);
        for slice in slices {
            if self.unconcerned.contains_key(slice.path()) {
                continue;
            }
            let Ok(mut snapshot) = slice.snapshot() else { continue };
            if !has_idle_release(&snapshot) {
                self.unconcerned.insert(slice.path().to_owned(), Instant::now());
                continue;
            }
            attend(slice, &snapshot, ATTENDED);
            let handle = Slice::of(Arc::clone(slice));
            if needs_recovery(&handle).unwrap_or(false) {
                let outcome = self.with_terms(slices, |agent, terms| recover(&handle, agent.driver, terms));
                match outcome {
                    Ok(_) => events.push(Event::Recovered(handle.path())),
                    Err(error) => {
                        events.push(Event::Failed(error.to_string()));
                        continue;
                    }
                }
                // Who runs again can make room: without it, others would be told that nobody can.
                let Ok(now) = slice.snapshot() else { continue };
                snapshot = now;
            }
            self.look_at(slice, &snapshot, &mut view, &mut known, &mut keys);
        }
        self.seen.retain(|key, _| keys.contains(key));
        for (number, gpu) in self.gpus.iter().enumerate() {
            view.free_bytes.insert(number, self.memory.memory(*gpu).map_or(0, |memory| memory.free_bytes));
        }
        let now = self.begin.elapsed();
        if let Some(step) = self.policy.decide(&view, now) {
            events.extend(self.take(step, &known, slices));
        }
        events
    }

    fn look_at(
        &mut self,
        slice: &Arc<Control>,
        snapshot: &Snapshot,
        view: &mut View,
        known: &mut BTreeMap<ProcessId, Known>,
        keys: &mut BTreeSet<Key>,
    ) {
        let mut record = None;
        for process in snapshot.processes.iter().filter(|process| process.alive != Some(false)) {
            let word = process.suspension;
            let (Some(idle_release), Ok(target)) = (word.idle_release(), Target::find(process, snapshot))
            else {
                continue;
            };
            let Ok(words) = slice.suspension_words(process.slot) else { continue };
            let key = (slice.path().to_owned(), process.slot, target.identity.start_time_ticks);
            keys.insert(key.clone());
            let next_id = &mut self.next_id;
            let seen = self.seen.entry(key.clone()).or_insert_with(|| {
                *next_id += 1;
                let id = ProcessId(*next_id);
                Seen { id, activity: words.activity(), active: Instant::now(), aside: None }
            });
            let activity = words.activity();
            if activity != seen.activity || activity.under_way > 0 {
                (seen.activity, seen.active) = (activity, Instant::now());
            }
            let doing = match word.phase() {
                Phase::Running => {
                    seen.aside = None;
                    Doing::Running { idle: seen.active.elapsed() }
                }
                Phase::Suspended if word.is_idle() => {
                    let away = seen.aside.get_or_insert_with(|| Away::found(&target));
                    away.look(&target);
                    Doing::Aside {
                        since: away.since.elapsed(),
                        is_wanted: word.is_wanted() || away.is_called,
                    }
                }
                // Suspended by hand, or lost: not ours to change.
                _ => continue,
            };
            let record = record.get_or_insert_with(|| Record::load(slice.path()));
            let written = record.find(process.slot, target.identity.start_time_ticks);
            let is_aside = matches!(doing, Doing::Aside { .. });
            let gpus = written.filter(|_| is_aside).map_or(&target.charged, |entry| &entry.gpus);
            let holds = gpus.iter().filter(|(_, bytes)| *bytes > 0).map(|&(gpu, bytes)| {
                let bytes = if is_aside { Need { gpu, bytes }.with_margin() } else { bytes };
                (number(&mut self.gpus, gpu), bytes)
            });
            let holds: Vec<(usize, u64)> = holds.collect();
            let bytes = holds.iter().map(|(_, bytes)| *bytes).sum();
            let needs = word.needed().and_then(|(mib, device)| {
                let device =
                    snapshot.devices.iter().find(|known| known.index.get() == usize::from(device))?;
                Some((number(&mut self.gpus, device.uuid), (mib << 20).saturating_add(ROUNDING_BYTES)))
            });
            view.processes.push(Process {
                id: seen.id,
                doing,
                idle_release: Some(idle_release),
                holds,
                needs,
            });
            let name = format!("process {} ({})", target.pid, target.identity.name);
            known.insert(seen.id, Known { slice: Arc::clone(slice), slot: process.slot, key, name, bytes });
        }
    }

    fn take(
        &mut self,
        step: Step,
        known: &BTreeMap<ProcessId, Known>,
        slices: &[Arc<Control>],
    ) -> Option<Event> {
        let (Step::PutAside(id) | Step::BringBack(id) | Step::Admit(id) | Step::Deny(id)) = step;
        let who = known.get(&id)?;
        if matches!(step, Step::PutAside(_) | Step::BringBack(_)) {
            // Who waits must not take the agent for dead while it moves memory.
            let longest = ATTENDED + Duration::from_secs(who.bytes / SLOWEST_MOVE);
            for slice in slices {
                let is_attended = known.values().any(|other| Arc::ptr_eq(&other.slice, slice));
                if let (true, Ok(snapshot)) = (is_attended, slice.snapshot()) {
                    attend(slice, &snapshot, longest);
                }
            }
        }
        let handle = Slice::of(Arc::clone(&who.slice));
        match step {
            Step::PutAside(_) => self.put_aside(id, who, &handle, slices),
            Step::BringBack(_) => {
                let only = Some(who.slot);
                let outcome =
                    self.with_terms(slices, |agent, terms| resume(&handle, agent.driver, only, terms));
                match outcome {
                    Ok(_) => {
                        let seen = self.seen.get_mut(&who.key)?;
                        (seen.aside, seen.active) = (None, Instant::now());
                        Some(Event::BroughtBack { who: who.name.clone(), slice: handle.path() })
                    }
                    // Somebody was faster; it is asked for again in the next turn.
                    Err(Error::TimedOut(_) | Error::Busy | Error::NoProcesses) => None,
                    Err(error) => Some(Event::Failed(error.to_string())),
                }
            }
            Step::Admit(_) | Step::Deny(_) => {
                let is_denied = matches!(step, Step::Deny(_));
                who.slice.suspension_words(who.slot).ok()?.answer_need(is_denied);
                is_denied.then(|| Event::Denied(who.name.clone()))
            }
        }
    }

    fn put_aside(
        &mut self,
        id: ProcessId,
        who: &Known,
        handle: &Slice,
        slices: &[Arc<Control>],
    ) -> Option<Event> {
        let activity = self.seen.get(&who.key)?.activity;
        let snapshot = who.slice.snapshot().ok()?;
        let process = snapshot.processes.iter().find(|process| process.slot == who.slot)?;
        let own_threads = threads_in_driver(Target::find(process, &snapshot).ok()?.pid);
        let outcome = self.with_terms(slices, |agent, terms| {
            let request = Request {
                driver: agent.driver,
                host: Host::here(),
                lock_timeout: LOCK_TIMEOUT,
                idle: Some(Idle { slot: who.slot, activity }),
            };
            suspend(handle, &request, terms)
        });
        let now = self.begin.elapsed();
        match outcome {
            Ok(done) if done.processes == 1 => {
                self.policy.note_success(id);
                let since = Instant::now();
                let away = Away { since, own_threads, looked: since, is_called: false };
                self.seen.get_mut(&who.key)?.aside = Some(away);
                Some(Event::PutAside { who: who.name.clone(), slice: handle.path() })
            }
            // It became active again, or ended.
            Ok(_) | Err(Error::NoProcesses | Error::Busy) => None,
            Err(error) => {
                self.policy.note_failure(id, now);
                Some(Event::Failed(error.to_string()))
            }
        }
    }

    fn with_terms<T>(&self, slices: &[Arc<Control>], act: impl FnOnce(&Self, &mut Terms) -> T) -> T {
        let mut quiet = |_: &Waiting| {};
        let mut terms = Terms {
            slices,
            memory: self.memory,
            overcommit: true,
            timeout: Some(LEASE_WAIT),
            tell: &mut quiet,
        };
        act(self, &mut terms)
    }
}

impl Away {
    /// Of a process that an earlier agent has put aside: a thread that waits in the driver may have called since.
    fn found(target: &Target) -> Away {
        let now = Instant::now();
        let is_called = !threads_in_driver(target.pid).is_empty();
        Away { since: now, own_threads: BTreeSet::new(), looked: now, is_called }
    }

    fn look(&mut self, target: &Target) {
        if !self.is_called && self.looked.elapsed() >= LOOK {
            self.looked = Instant::now();
            self.is_called =
                threads_in_driver(target.pid).iter().any(|thread| !self.own_threads.contains(thread));
        }
    }
}

/// Whether a slice has a living process that may be put aside: whether it needs an agent.
pub fn has_idle_release(snapshot: &Snapshot) -> bool {
    let mut living = snapshot.processes.iter().filter(|process| process.alive != Some(false));
    living.any(|process| process.suspension.idle_release().is_some())
}

/// Tells the processes of a slice that for this long there is somebody who makes room.
fn attend(slice: &Control, snapshot: &Snapshot, time: Duration) {
    let until_ns = monotonic_ns().saturating_add(time.as_nanos() as u64);
    for device in &snapshot.devices {
        // A slice that can't be written to has no agent here.
        let _ = slice.attend_until(device.index, until_ns);
    }
}

/// The number of a GPU, a new one if need be.
fn number(gpus: &mut Vec<Uuid>, gpu: Uuid) -> usize {
    match gpus.iter().position(|known| *known == gpu) {
        Some(number) => number,
        None => {
            gpus.push(gpu);
            gpus.len() - 1
        }
    }
}
