//! Idle release as it happens: looks at the slices of a machine, asks the [`policy`](crate::policy), and does what it says.
//!
//! One [`turn`](Agent::turn) looks once and does at most one thing, which may take as long as moving a process's memory.
//! Whoever runs the agent takes turns until it is to stop; a turn with nothing to do is cheap. Killed at any moment, it
//! leaves what the next agent finishes or undoes. Slices without idle release are only looked at.

use crate::driver::Checkpoint;
use crate::lease::{Terms, Waiting};
use crate::look::threads_in_driver;
use crate::memory::DeviceMemory;
use crate::policy::{Policy, ProcessId, Step, View};
use crate::preflight::Host;
use crate::resume::{needs_recovery, recover, resume};
use crate::sight::{Glance, Gpus, Known, Patience, Sight, is_concerned};
use crate::suspend::{Idle, Request, suspend};
use crate::target::Target;
use crate::{Error, Slice};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use vcuda_core::compute::monotonic_ns;
use vcuda_core::control::Control;
use vcuda_core::snapshot::Snapshot;

/// How often to take a turn while somebody is away or in need, and for how long after.
const TURN: Duration = Duration::from_millis(50);
const AFTER: Duration = Duration::from_secs(10);
/// And otherwise: at most so long does it take until somebody in need is seen.
const QUIET_TURN: Duration = Duration::from_millis(100);
/// For an idle process to come to rest: it should be at rest.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);
/// How long one turn waits for memory that was there a moment ago.
const LEASE_WAIT: Duration = Duration::from_millis(500);
/// For how long processes believe that there is an agent after it was last seen.
const ATTENDED: Duration = Duration::from_secs(10);
/// The slowest that memory is reckoned to be moved, in bytes a second.
const SLOWEST_MOVE: u64 = 500 << 20;

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

impl Event {
    /// Whether a process was put aside or came back, so that there may be more to do at once.
    fn is_move(&self) -> bool {
        matches!(self, Event::PutAside { .. } | Event::BroughtBack { .. })
    }
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

/// What an agent works with.
#[derive(Clone, Copy)]
struct Tools<'a> {
    driver: &'a dyn Checkpoint,
    memory: &'a dyn DeviceMemory,
}

impl Tools<'_> {
    fn with_terms<T>(self, slices: &[Arc<Control>], act: impl FnOnce(&dyn Checkpoint, &mut Terms) -> T) -> T {
        let mut quiet = |_: &Waiting| {};
        let mut terms = Terms {
            slices,
            memory: self.memory,
            overcommit: true,
            timeout: Some(LEASE_WAIT),
            tell: &mut quiet,
        };
        act(self.driver, &mut terms)
    }
}

/// The agent of a machine.
pub struct Agent<'a> {
    tools: Tools<'a>,
    policy: Policy,
    begin: Instant,
    turns: u64,
    /// Processes that waited for memory in the last turn.
    in_need: usize,
    /// When somebody was away or in need last.
    busy: Option<Instant>,
    /// Whether the last turn has moved a process.
    has_moved: bool,
    next_id: u64,
    /// By where the slice is in memory, which nothing else is for as long as the sight has it.
    sights: BTreeMap<usize, Sight>,
    gpus: Gpus,
}

impl<'a> Agent<'a> {
    /// An agent that has not seen anything yet.
    pub fn new(driver: &'a dyn Checkpoint, memory: &'a dyn DeviceMemory) -> Agent<'a> {
        Agent {
            tools: Tools { driver, memory },
            policy: Policy::default(),
            begin: Instant::now(),
            turns: 0,
            in_need: 0,
            busy: None,
            has_moved: false,
            next_id: 0,
            sights: BTreeMap::new(),
            gpus: Gpus::default(),
        }
    }

    /// Looks at `slices`, which must be all of the machine, and does the next thing that is to be done.
    pub fn turn(&mut self, slices: &[Arc<Control>]) -> Vec<Event> {
        let mut events = Vec::new();
        self.turns += 1;
        let patience = Patience::of(self.sights.values(), self.in_need > 0);
        let looks = slices.iter().filter(|slice| self.see(slice, slices, patience, &mut events)).count();
        let turns = self.turns;
        self.sights.retain(|_, sight| sight.turn == turns);
        let known = || self.sights.values().flat_map(|sight| &sight.known);
        // Who is away comes back unasked when there is room, which is worth a question now and then.
        let in_need = known().filter(|known| known.is_in_need()).count();
        let is_away = known().any(Known::is_away);
        if in_need > 0 || is_away {
            self.busy = Some(Instant::now());
        }
        let is_due = in_need > 0 || looks > 0 && is_away;
        let is_news = in_need > self.in_need;
        self.in_need = in_need;
        if is_due && (is_news || self.decide().is_some()) {
            // That would be decided on what was so a while ago.
            for slice in slices {
                self.look_again(slice, slices, &mut events);
            }
            if let Some(step) = self.decide() {
                events.extend(self.take(step, slices));
            }
        }
        self.has_moved = events.iter().any(Event::is_move);
        events
    }

    /// How long to wait until the next turn: not at all where one that did something may have more to do.
    pub fn pause(&self) -> Duration {
        match self.busy {
            _ if self.has_moved => Duration::ZERO,
            Some(busy) if busy.elapsed() < AFTER => TURN,
            _ => QUIET_TURN,
        }
    }

    /// Glances at a slice, and looks at it if need be; whether it did.
    fn see(
        &mut self,
        slice: &Arc<Control>,
        slices: &[Arc<Control>],
        patience: Patience,
        events: &mut Vec<Event>,
    ) -> bool {
        let sight = self.sights.entry(key(slice)).or_insert_with(|| Sight::new(Arc::clone(slice)));
        sight.turn = self.turns;
        let is_due = sight.glance(patience) == Glance::Due;
        if is_due {
            self.look(slice, slices, events);
        }
        is_due
    }

    /// Looks at a slice that was only glanced at in this turn.
    fn look_again(&mut self, slice: &Arc<Control>, slices: &[Arc<Control>], events: &mut Vec<Event>) {
        let Some(sight) = self.sights.get_mut(&key(slice)) else { return };
        let now = Patience::default();
        if sight.glance(now) != Glance::Unconcerned {
            self.look(slice, slices, events);
        }
    }

    fn look(&mut self, slice: &Arc<Control>, slices: &[Arc<Control>], events: &mut Vec<Event>) {
        let Some(sight) = self.sights.get_mut(&key(slice)) else { return };
        if sight.is_half_way() {
            let handle = Slice::of(Arc::clone(slice));
            if needs_recovery(&handle).unwrap_or(false) {
                // Who runs again can make room: without it, others would be told that nobody can.
                match self.tools.with_terms(slices, |driver, terms| recover(&handle, driver, terms)) {
                    Ok(_) => events.push(Event::Recovered(handle.path())),
                    Err(error) => events.push(Event::Failed(error.to_string())),
                }
            }
        }
        sight.look(&mut self.gpus, &mut self.next_id, |snapshot| attend(slice, snapshot, ATTENDED));
    }

    /// What is to be done next, by what is known.
    fn decide(&mut self) -> Option<Step> {
        let memory = self.tools.memory;
        let free = |(number, gpu)| (number, memory.memory(gpu).map_or(0, |memory| memory.free_bytes));
        let known = self.sights.values().flat_map(|sight| &sight.known);
        let mut processes: Vec<_> = known.map(Known::as_process).collect();
        // Of those who come to be in need at once, who was known first is served first.
        processes.sort_by_key(|process| process.id);
        let view = View { free_bytes: self.gpus.all().map(free).collect(), processes };
        self.policy.decide(&view, self.begin.elapsed())
    }

    fn find(&mut self, id: ProcessId) -> Option<(&Arc<Control>, &mut Known)> {
        self.sights.values_mut().find_map(|sight| {
            let known = sight.known.iter_mut().find(|known| known.id == id)?;
            Some((&sight.slice, known))
        })
    }

    fn take(&mut self, step: Step, slices: &[Arc<Control>]) -> Option<Event> {
        let (Step::PutAside(id) | Step::BringBack(id) | Step::Admit(id) | Step::Deny(id)) = step;
        let (slice, who) = self.find(id)?;
        let (slice, slot, name, bytes) = (Arc::clone(slice), who.slot, who.name.clone(), who.bytes());
        if matches!(step, Step::PutAside(_) | Step::BringBack(_)) {
            // Who waits must not take the agent for dead while it moves memory.
            let longest = ATTENDED + Duration::from_secs(bytes / SLOWEST_MOVE);
            for sight in self.sights.values().filter(|sight| !sight.known.is_empty()) {
                if let Ok(snapshot) = sight.slice.snapshot() {
                    attend(&sight.slice, &snapshot, longest);
                }
            }
        }
        let handle = Slice::of(Arc::clone(&slice));
        match step {
            Step::PutAside(_) => self.put_aside(id, &handle, slices),
            Step::BringBack(_) => {
                let outcome =
                    self.tools.with_terms(slices, |driver, terms| resume(&handle, driver, Some(slot), terms));
                match outcome {
                    Ok(_) => {
                        self.find(id)?.1.note_back();
                        Some(Event::BroughtBack { who: name, slice: handle.path() })
                    }
                    // Somebody was faster; it is asked for again in the next turn.
                    Err(Error::TimedOut(_) | Error::Busy | Error::NoProcesses) => None,
                    Err(error) => Some(Event::Failed(error.to_string())),
                }
            }
            Step::Admit(_) | Step::Deny(_) => {
                let is_denied = matches!(step, Step::Deny(_));
                slice.suspension_words(slot).ok()?.answer_need(is_denied);
                is_denied.then_some(Event::Denied(name))
            }
        }
    }

    fn put_aside(&mut self, id: ProcessId, handle: &Slice, slices: &[Arc<Control>]) -> Option<Event> {
        let (slice, who) = self.find(id)?;
        let (slot, activity, name) = (who.slot, who.activity, who.name.clone());
        let snapshot = slice.snapshot().ok()?;
        let process = snapshot.processes.iter().find(|process| process.slot == slot)?;
        let own_threads = threads_in_driver(Target::find(process, &snapshot).ok()?.pid);
        let outcome = self.tools.with_terms(slices, |driver, terms| {
            let request = Request {
                driver,
                host: Host::here(),
                lock_timeout: LOCK_TIMEOUT,
                idle: Some(Idle { slot, activity }),
            };
            suspend(handle, &request, terms)
        });
        match outcome {
            Ok(done) if done.processes == 1 => {
                self.policy.note_success(id);
                self.find(id)?.1.note_away(own_threads);
                Some(Event::PutAside { who: name, slice: handle.path() })
            }
            // It became active again, or ended.
            Ok(_) | Err(Error::NoProcesses | Error::Busy) => None,
            Err(error) => {
                self.policy.note_failure(id, self.begin.elapsed());
                Some(Event::Failed(error.to_string()))
            }
        }
    }
}

fn key(slice: &Arc<Control>) -> usize {
    Arc::as_ptr(slice).addr()
}

/// Whether a slice has a living process that may be put aside, or is: whether it needs an agent.
pub fn has_idle_release(snapshot: &Snapshot) -> bool {
    let mut living = snapshot.processes.iter().filter(|process| process.alive != Some(false));
    living.any(|process| is_concerned(process.suspension))
}

/// Tells the processes of a slice that for this long there is somebody who makes room.
fn attend(slice: &Control, snapshot: &Snapshot, time: Duration) {
    let until_ns = monotonic_ns().saturating_add(time.as_nanos() as u64);
    for device in &snapshot.devices {
        // A slice that can't be written to has no agent here.
        let _ = slice.attend_until(device.index, until_ns);
    }
}
