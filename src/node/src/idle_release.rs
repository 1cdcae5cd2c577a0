//! Idle release: making room on this machine's GPUs by putting idle programs aside.
//!
//! The only job that uses CUDA, and only once a slice wants it: initialising the driver takes memory of every GPU. Runs
//! [`vcuda_suspend::agent`] on a thread of its own. Must never be the reason that another job ends or waits, and must
//! not be left in the midst of a turn, which would leave a program locked until the next agent comes.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use tokio::sync::watch::{Receiver, Sender};
use tracing::{debug, info, warn};

use crate::jobs::Pulse;
use crate::places::Places;
use crate::reading::Reading;
use vcuda_core::control::Control;
use vcuda_suspend::agent::{Agent, Event, has_idle_release};
use vcuda_suspend::driver::CudaDriver;
use vcuda_suspend::memory::Nvml;
use vcuda_suspend::sole::Sole;

/// How often it is looked for new slices: programs wait a second for an agent.
const FIND: Duration = Duration::from_millis(400);
/// How often it is tried again where it can't be done.
const RETRY: Duration = Duration::from_secs(60);
/// How often it is looked whether another agent has ended.
const RECLAIM: Duration = Duration::from_secs(1);
/// How often it is looked whether slices still want it: so many files are not kept open for nothing.
const LINGER: Duration = Duration::from_secs(60);
/// Trouble that was away for this long is told again.
const TELL_AGAIN: Duration = Duration::from_secs(600);
/// Different troubles that are told in that time.
const MOST_TOLD: usize = 100;
/// How long one turn may take: all memory of a large GPU is moved in it.
pub const LONGEST_TURN: Duration = Duration::from_secs(300);

/// How it stands with idle release here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Whether it can be done; `None` as long as no slice wants it, or another agent does it.
    pub is_possible: Option<bool>,
    /// Whether a turn is under way.
    pub is_at_work: bool,
    /// What was done since this agent began, by slice.
    pub slices: BTreeMap<PathBuf, Counts>,
    /// Allocations for which no room could be made.
    pub denied: u64,
    /// Attempts that did not work.
    pub failures: u64,
}

/// What was done in a slice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// How often a process was put aside.
    pub put_aside: u64,
    /// How often one came back.
    pub brought_back: u64,
}

/// The job: takes turns as long as the slices of `readings` want them.
pub async fn run(
    places: Places,
    mut readings: Receiver<Arc<Reading>>,
    status: Sender<Status>,
    pulse: Pulse,
) -> anyhow::Result<()> {
    loop {
        pulse.beat();
        let is_wanted = readings.borrow_and_update().slices.iter().any(|slice| slice.has_idle_release);
        if !is_wanted {
            let news = tokio::time::timeout(RETRY, readings.changed());
            match pulse.unless_shut_down(news).await {
                // The readers have ended for good, as the agent does.
                None | Some(Ok(Err(_))) => return Ok(()),
                Some(_) => continue,
            }
        }
        let mut release = Release {
            places: places.clone(),
            status: status.clone(),
            pulse: pulse.clone(),
            slices: HashMap::new(),
            told: BTreeMap::new(),
        };
        let ended = tokio::task::spawn_blocking(move || release.serve_until_unwanted()).await;
        // After a panic as well.
        status.send_modify(|status| status.is_at_work = false);
        ended?;
        if pulse.is_shut_down() {
            return Ok(());
        }
    }
}

/// The job's own state.
struct Release {
    places: Places,
    status: Sender<Status>,
    pulse: Pulse,
    slices: HashMap<PathBuf, Arc<Control>>,
    /// Trouble that was told, and when it was last met.
    told: BTreeMap<String, Instant>,
}

impl Release {
    fn serve_until_unwanted(&mut self) {
        self.find();
        while !self.pulse.is_shut_down() && self.is_wanted() {
            self.serve();
            self.find();
        }
    }

    fn is_wanted(&self) -> bool {
        self.slices.values().any(|slice| slice.snapshot().is_ok_and(|snapshot| has_idle_release(&snapshot)))
    }

    /// Opens all that is needed and takes turns; comes back when something is lacking, after a pause.
    fn serve(&mut self) {
        let sole = match Sole::claim() {
            Ok(sole) => sole,
            Err(other) => {
                self.tell(format!("{other} makes room on this machine already; idle release is left to it"));
                self.set_possible(None);
                return self.pause(RECLAIM);
            }
        };
        let (driver, memory) = match open() {
            Ok(tools) => tools,
            Err(reason) => {
                self.tell(format!("no idle release here: {reason}"));
                self.set_possible(Some(false));
                drop(sole);
                return self.pause(RETRY);
            }
        };
        info!("idle release: making room on this machine's GPUs");
        self.set_possible(Some(true));
        let mut agent = Agent::new(&driver, &memory);
        let (mut found, mut wanted) = (Instant::now(), Instant::now());
        while !self.pulse.is_shut_down() {
            if found.elapsed() >= FIND {
                found = Instant::now();
                self.find();
                if wanted.elapsed() >= LINGER {
                    if !self.is_wanted() {
                        return;
                    }
                    wanted = Instant::now();
                }
                if let Some(other) = sole.superseded() {
                    self.tell(format!(
                        "{other} makes room for all users from now on; idle release is left to it"
                    ));
                    self.set_possible(None);
                    return self.pause(RECLAIM);
                }
            }
            self.turn(&mut agent);
            sleep(agent.pause());
        }
        self.say_who_waits();
    }

    fn turn(&mut self, agent: &mut Agent) {
        // Told before it is asked whether the end has come: who waits for the end of the turn misses none.
        self.set_at_work(true);
        if !self.pulse.is_shut_down() {
            let slices: Vec<_> = self.slices.values().cloned().collect();
            for event in agent.turn(&slices) {
                self.note(event);
            }
            self.pulse.beat();
        }
        self.set_at_work(false);
    }

    fn note(&mut self, event: Event) {
        // Names are what people call their programs: not to be taken for lines of this log.
        let told = format!("idle release: {event}").replace(char::is_control, " ");
        match &event {
            Event::Denied(_) | Event::Failed(_) => self.tell(told),
            Event::Recovered(_) => info!("{told}"),
            Event::PutAside { .. } | Event::BroughtBack { .. } => debug!("{told}"),
        }
        self.status.send_modify(|status| match event {
            Event::PutAside { slice, .. } => status.slices.entry(slice).or_default().put_aside += 1,
            Event::BroughtBack { slice, .. } => status.slices.entry(slice).or_default().brought_back += 1,
            Event::Denied(_) => status.denied += 1,
            Event::Failed(_) => status.failures += 1,
            Event::Recovered(_) => {}
        });
    }

    /// Opens slices that are new, and lets go of those that are gone or spoiled.
    fn find(&mut self) {
        let listed = self.places.list();
        let is_there = |path: &PathBuf, control: &mut Arc<Control>| {
            listed.contains(path) && control.is_intact() && control.is_at_path().unwrap_or(false)
        };
        self.slices.retain(is_there);
        for path in listed {
            if let std::collections::hash_map::Entry::Vacant(place) = self.slices.entry(path)
                && let Ok(control) = Control::open_existing(place.key())
            {
                place.insert(control);
            }
        }
        if self.status.borrow().slices.keys().any(|path| !self.slices.contains_key(path)) {
            self.status.send_modify(|status| status.slices.retain(|path, _| self.slices.contains_key(path)));
        }
        self.pulse.beat();
    }

    /// Programs that were put aside because there is no room for them stay so until there is an agent again.
    fn say_who_waits(&self) {
        let snapshots = self.slices.values().filter_map(|slice| slice.snapshot().ok());
        let count = snapshots.map(|snapshot| crate::watch::put_aside(&snapshot)).sum::<u64>();
        if count > 0 {
            warn!(
                "{count} processes stay put aside, as there is no room for them: vcuda-node, once it runs again, or \
                 vcuda resume brings them back"
            );
        }
    }

    /// Logs trouble when it begins, and not as long as it goes on.
    fn tell(&mut self, what: String) {
        self.told.retain(|_, at| at.elapsed() < TELL_AGAIN);
        if self.told.len() < MOST_TOLD {
            self.told.entry(what).and_modify(|at| *at = Instant::now()).or_insert_with_key(|what| {
                warn!("{what}");
                Instant::now()
            });
        }
    }

    fn pause(&self, time: Duration) {
        let begin = Instant::now();
        while begin.elapsed() < time && !self.pulse.is_shut_down() {
            sleep(FIND.min(time));
            self.pulse.beat();
        }
    }

    fn set_possible(&self, is_possible: Option<bool>) {
        self.status.send_modify(|status| status.is_possible = is_possible);
    }

    fn set_at_work(&self, is_at_work: bool) {
        self.status.send_modify(|status| status.is_at_work = is_at_work);
    }
}

fn open() -> Result<(CudaDriver, Nvml), String> {
    // First what takes no memory of any GPU.
    let memory = Nvml::open().map_err(|reason| format!("libnvidia-ml.so.1 can't be used: {reason}"))?;
    let driver = CudaDriver::open().map_err(|reason| reason.to_string())?;
    Ok((driver, memory))
}
