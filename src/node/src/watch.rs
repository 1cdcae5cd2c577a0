//! Reading all slices, again and again, and taking back what the dead left in them.
//!
//! Owns the look at control files: what one of them says can change that slice's numbers and nothing else. A file that
//! can't be read is told once, when that begins and when it ends. Looks run on a thread of their own, where a
//! file system that doesn't answer delays the next look and nothing else.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use tokio::sync::watch::Sender;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{debug, info, warn};

use crate::counters::{Counters, Totals};
use crate::jobs::Pulse;
use crate::labels::Labels;
use crate::options::Options;
use crate::places::{Found, Places, Visitor};
use crate::reading::{Cleaned, Device, Reading, Slice};
use crate::state;
use vcuda_core::control::Control;
use vcuda_core::error::{ControlError, ControlErrorKind as Kind};
use vcuda_core::quota::bytes_of_pages;
use vcuda_core::snapshot::{DeviceView, ProcessView, Snapshot};
use vcuda_core::suspension::Phase;
use vcuda_slices::directory::Directory;
use vcuda_slices::{Sight, remove_ended};
use vcuda_suspend::agent::has_idle_release;

/// Devices of one slice that are told: more than any machine has GPUs, and few enough that nobody can fill others'
/// databases with devices he made up.
const MOST_DEVICES: usize = 32;

/// Lines of log about one look, of each sort: people can spoil many files, and in turns.
const MOST_TOLD: usize = 20;

/// How often what was counted is saved.
const SAVE_EVERY: Duration = Duration::from_secs(60);

/// The job: looks every `interval` and publishes what it found.
pub async fn run(
    watcher: Arc<Mutex<Watcher>>,
    every: Duration,
    readings: Sender<Arc<Reading>>,
    pulse: Pulse,
) -> anyhow::Result<()> {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while pulse.unless_shut_down(ticks.tick()).await.is_some() {
        let watcher = Arc::clone(&watcher);
        let look = tokio::task::spawn_blocking(move || {
            // What a panic left half done is only numbers, which the next look replaces.
            watcher.lock().unwrap_or_else(PoisonError::into_inner).look()
        });
        let Some(reading) = pulse.unless_shut_down(look).await else { break };
        // Nobody may be listening at the moment.
        let _ = readings.send_replace(Arc::new(reading?));
        pulse.beat();
    }
    tokio::task::spawn_blocking(move || watcher.lock().unwrap_or_else(PoisonError::into_inner).save()).await?
}

/// Reads slices and remembers what must be remembered between two looks.
#[derive(Debug)]
pub struct Watcher {
    places: Places,
    /// Whose processes the users' directories are for, if ended runs are to be removed.
    removal: Option<Sight>,
    counters: Counters,
    cleaned: Cleaned,
    /// What is wrong where, as it was told last.
    told: HashMap<PathBuf, String>,
    /// Where counters are saved, and when they last were.
    state: Option<(PathBuf, Instant)>,
}

impl Watcher {
    /// One that looks where `options` say.
    pub fn new(options: &Options) -> Self {
        // The superuser's look goes into every user's directory.
        let is_root =
            std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0);
        let sight = if is_root { Sight::AllUsers } else { Sight::OwnUser };
        let now = Instant::now();
        let saved = options.state_file.as_deref().map(state::read).unwrap_or(Ok(Vec::new()));
        Self {
            places: Places::of(options),
            removal: options.remove_ended.applies().then_some(sight),
            counters: Counters::restore(saved.inspect_err(|what| warn!("{what}")).unwrap_or_default(), now),
            cleaned: Cleaned::default(),
            told: HashMap::new(),
            state: options.state_file.clone().map(|path| (path, now)),
        }
    }

    /// Saves what was counted, if that is wanted.
    ///
    /// # Errors
    /// A sentence about the file.
    pub fn save(&mut self) -> anyhow::Result<()> {
        let Some((path, at)) = &mut self.state else { return Ok(()) };
        *at = Instant::now();
        state::write(path, &self.counters.save())
            .with_context(|| format!("what was counted can't be saved in {}", path.display()))
    }

    /// Looks at everything once.
    pub fn look(&mut self) -> Reading {
        let start = Instant::now();
        let places = self.places.clone();
        let mut look = Look {
            now: start,
            unix_now: SystemTime::now(),
            counters: &mut self.counters,
            removal: self.removal,
            slices: Vec::new(),
            labels: HashSet::new(),
            wrong: BTreeMap::new(),
            unreadable: BTreeMap::new(),
            cleaned: Cleaned::default(),
        };
        let walked = places.walk(&mut look);
        let Look { slices, mut wrong, unreadable, cleaned, .. } = look;
        self.counters.forget(start);
        self.cleaned.processes += cleaned.processes;
        self.cleaned.bytes = self.cleaned.bytes.saturating_add(cleaned.bytes);
        self.cleaned.files += cleaned.files;
        for (path, entered) in &walked.directories {
            if let Err(reason) = entered {
                wrong.insert(path.clone(), format!("can't look into {}: {reason}", path.display()));
            }
        }
        if self.state.as_ref().is_some_and(|(_, at)| at.elapsed() >= SAVE_EVERY)
            && let Err(error) = self.save()
        {
            warn!("{error:#}");
        }
        self.tell(wrong);
        Reading {
            at: Some(SystemTime::now()),
            took: start.elapsed(),
            slices,
            directories: walked
                .directories
                .into_iter()
                .map(|(path, entered)| (path, entered.is_ok()))
                .collect(),
            unreadable,
            left_out: walked.left_out,
            cleaned: self.cleaned,
        }
    }

    /// Logs what is wrong now and was not before, and the other way round.
    fn tell(&mut self, wrong: BTreeMap<PathBuf, String>) {
        let news: Vec<&String> = wrong
            .iter()
            .filter(|(path, what)| self.told.get(*path) != Some(*what))
            .map(|(_, what)| what)
            .collect();
        for what in news.iter().take(MOST_TOLD) {
            warn!("{what}");
        }
        if news.len() > MOST_TOLD {
            warn!("and {} more; vcuda_node_unreadable_files has the numbers", news.len() - MOST_TOLD);
        }
        for path in self.told.keys().filter(|path| !wrong.contains_key(*path)).take(MOST_TOLD) {
            info!("{}: well again, or gone", path.display());
        }
        self.told = wrong.into_iter().collect();
    }
}

/// One look while it goes on.
struct Look<'a> {
    now: Instant,
    unix_now: SystemTime,
    counters: &'a mut Counters,
    removal: Option<Sight>,
    slices: Vec<Slice>,
    labels: HashSet<Labels>,
    wrong: BTreeMap<PathBuf, String>,
    unreadable: BTreeMap<&'static str, u64>,
    cleaned: Cleaned,
}

impl Visitor for Look<'_> {
    fn file(&mut self, mut found: Found<'_>) {
        let path = found.path();
        if let Some(complaint) = found.complaint.take() {
            self.wrong.insert(path.with_file_name(crate::labels::FILE), complaint);
        }
        // There is no known way to make this panic, and the one slice that finds one must not take the others along.
        let read = catch_unwind(AssertUnwindSafe(|| read(&found, &path)));
        match read {
            Ok(Ok((snapshot, cleaned))) => {
                self.cleaned.processes += cleaned.processes;
                self.cleaned.bytes = self.cleaned.bytes.saturating_add(cleaned.bytes);
                let slice = self.slice(found.labels, path, &snapshot);
                self.slices.push(slice);
            }
            Ok(Err(error)) => {
                if let Some(reason) = reason(&error, found.is_expected) {
                    self.note_unreadable(path, reason, error.to_string());
                }
            }
            Err(_) => {
                let what = format!("control file {}: reading it failed; please report this", path.display());
                self.note_unreadable(path, "failure", what);
            }
        }
    }

    fn end_of_user(&mut self, directory: &Directory) {
        if let Some(sight) = self.removal {
            let removed = remove_ended(directory, sight);
            self.cleaned.files += removed as u64;
            if removed > 0 {
                info!("{}: removed {removed} control files of ended runs", directory.path().display());
            }
        }
    }
}

impl Look<'_> {
    fn note_unreadable(&mut self, path: PathBuf, reason: &'static str, what: String) {
        *self.unreadable.entry(reason).or_default() += 1;
        self.wrong.insert(path, what);
    }

    fn slice(&mut self, mut labels: Labels, path: PathBuf, snapshot: &Snapshot) -> Slice {
        // Two slices of one name: the later one goes by its path. That may read as another's if it is no proper text.
        let mut number = 1;
        while !self.labels.insert(labels.clone()) {
            labels.share = match number {
                1 => path.to_string_lossy().into_owned(),
                _ => format!("{} ({number})", path.to_string_lossy()),
            };
            number += 1;
        }
        let mut seen = HashSet::new();
        let devices = snapshot
            .devices
            .iter()
            .map(|view| (view, view.uuid.to_string()))
            .filter(|(_, uuid)| seen.insert(uuid.clone()))
            .take(MOST_DEVICES)
            .map(|(view, uuid)| self.device(&labels, uuid, view, snapshot))
            .collect();
        Slice {
            labels,
            path,
            devices,
            processes: living(snapshot).count() as u64,
            has_idle_release: has_idle_release(snapshot),
            put_aside: put_aside(snapshot),
            waiting: waiting(snapshot),
        }
    }

    fn device(&mut self, labels: &Labels, uuid: String, view: &DeviceView, snapshot: &Snapshot) -> Device {
        let compute = &view.compute;
        let raw = Totals {
            denied: view.refused_count,
            work: compute.work_count,
            busy_ns: compute.busy_ns,
            throttled_ns: compute.throttled_ns,
        };
        let counted = self.counters.count(labels, &uuid, snapshot.created_unix_ns, raw, self.now);
        let share_ratio = compute.share_ppm.map(|ppm| f64::from(ppm) / 1e6);
        let has_it = |process: &&ProcessView| process.devices.iter().any(|held| held.device == view.index);
        Device {
            limit_bytes: view.limit_bytes,
            used_bytes: view.used_bytes,
            peak_bytes: view.peak_bytes,
            share_ratio,
            utilization_ratio: share_ratio.and_then(|share| Some(counted.busy_ratio? / share)),
            processes: living(snapshot).filter(has_it).count() as u64,
            totals: counted.totals,
            last_work: counted
                .last_work
                .and_then(|at| self.unix_now.checked_sub(self.now.duration_since(at))),
            uuid,
        }
    }
}

/// The processes that are not known to be dead.
fn living(snapshot: &Snapshot) -> impl Iterator<Item = &ProcessView> {
    snapshot.processes.iter().filter(|process| process.alive != Some(false))
}

/// How many processes are put aside because they were idle.
pub fn put_aside(snapshot: &Snapshot) -> u64 {
    let is_aside = |process: &&ProcessView| {
        process.suspension.phase() == Phase::Suspended && process.suspension.is_idle()
    };
    living(snapshot).filter(is_aside).count() as u64
}

/// How many processes wait for memory that others have: to allocate it, or to come back because they were called.
fn waiting(snapshot: &Snapshot) -> u64 {
    let is_waiting = |process: &&ProcessView| {
        let word = process.suspension;
        match word.phase() {
            Phase::Running => word.needed().is_some(),
            Phase::Suspended => word.is_idle() && word.is_wanted(),
            _ => false,
        }
    };
    living(snapshot).filter(is_waiting).count() as u64
}

/// Reads one control file, after taking back what dead processes hold in it.
fn read(found: &Found<'_>, path: &Path) -> Result<(Snapshot, Cleaned), ControlError> {
    let shown = |error: ControlError| error.at(path);
    let lost = |lost| ControlError::lost(path, lost);
    let control = Control::open_existing(found.directory.through(found.name)).map_err(shown)?;
    let snapshot = control.snapshot().map_err(lost)?;
    let has_dead = snapshot.processes.iter().any(|process| process.alive == Some(false));
    if !has_dead || !control.is_writable() {
        return Ok((snapshot, Cleaned::default()));
    }
    let reaped = control.reap().map_err(shown)?;
    let cleaned =
        Cleaned { processes: u64::from(reaped.slots), bytes: bytes_of_pages(reaped.pages), files: 0 };
    if reaped.slots > 0 {
        debug!("{}: took back the slots of {} ended processes", path.display(), reaped.slots);
    }
    Ok((control.snapshot().map_err(lost)?, cleaned))
}

/// In a word, why a file could not be read; `None` if nothing is wrong with that.
fn reason(error: &ControlError, is_expected: bool) -> Option<&'static str> {
    match error.kind() {
        // It may have gone since it was listed, or not be there yet.
        Kind::Missing | Kind::Replaced => None,
        Kind::NotControlFile | Kind::Symlink | Kind::NotRegular if !is_expected => None,
        Kind::WrongVersion { .. } => Some("version"),
        Kind::Io { .. } | Kind::ReadOnly => Some("access"),
        _ => Some("damaged"),
    }
}
