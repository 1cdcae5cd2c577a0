//! What an agent knows of the slices: looked at in full when something about them has changed, and glanced at otherwise.
//!
//! A glance reads the words of a slice's slots, which takes two system calls less than a microsecond; a full look asks
//! who lives and what they hold, which takes a hundred times as long. So a glance is had in every turn, and a look
//! only where a word has changed, where somebody is away or waits, or where the last one is old. Owns the idle times.

use crate::lease::Need;
use crate::look::threads_in_driver;
use crate::policy::{Doing, GpuNumber, Process, ProcessId};
use crate::record::Record;
use crate::target::Target;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};
use vcuda_core::control::Control;
use vcuda_core::device::Uuid;
use vcuda_core::snapshot::{ProcessView, Snapshot};
use vcuda_core::suspension::{Activity, Phase, Suspension};

/// How old a look may be where nothing happens: processes may have allocated or ended since. Well within the time for
/// which they believe that there is an agent.
const QUIET: Duration = Duration::from_secs(5);
/// And where somebody is away, half-way or waiting: a call that the library doesn't see is found by a look only.
const RESTLESS: Duration = Duration::from_millis(200);
/// Longest that a look may be put off to save time.
const MOST_PUT_OFF: Duration = QUIET;
/// Of the time, one part in so many is spent on full looks, where that is the reason to put them off.
const LOOKING_PART: u32 = 100;
/// Left free beside what an allocation asks for: the driver rounds.
const ROUNDING_BYTES: u64 = 4 << 20;

/// The GPUs, each by its number.
#[derive(Default)]
pub(crate) struct Gpus(Vec<Uuid>);

impl Gpus {
    /// The number of a GPU, a new one if need be.
    fn number(&mut self, gpu: Uuid) -> GpuNumber {
        match self.0.iter().position(|known| *known == gpu) {
            Some(number) => number,
            None => {
                self.0.push(gpu);
                self.0.len() - 1
            }
        }
    }

    /// All of them, by number.
    pub(crate) fn all(&self) -> impl Iterator<Item = (GpuNumber, Uuid)> {
        self.0.iter().copied().enumerate()
    }
}

/// How old looks may be; by default, not at all.
#[derive(Clone, Copy, Default)]
pub(crate) struct Patience {
    quiet: Duration,
    restless: Duration,
}

impl Patience {
    /// For these slices, of which somebody is in need or not: so that looking at all of them takes little of the time.
    pub(crate) fn of<'a>(sights: impl Iterator<Item = &'a Sight>, is_in_need: bool) -> Patience {
        let (mut quiet, mut restless) = (Duration::ZERO, Duration::ZERO);
        for sight in sights {
            *(if sight.is_restless() { &mut restless } else { &mut quiet }) += sight.took;
        }
        let put_off = |all: Duration, least: Duration| (all * LOOKING_PART).clamp(least, MOST_PUT_OFF);
        let least = if is_in_need { RESTLESS } else { QUIET };
        Patience { quiet: put_off(quiet, least), restless: put_off(restless, RESTLESS) }
    }
}

/// What came of a glance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Glance {
    /// Nobody in the slice may be put aside.
    Unconcerned,
    /// What is known of it is good enough.
    Known,
    /// It is to be looked at.
    Due,
}

/// What is known of one slice.
pub(crate) struct Sight {
    pub(crate) slice: Arc<Control>,
    /// The turn in which it was last glanced at, for the agent.
    pub(crate) turn: u64,
    /// When it was last looked at, and how long that took.
    looked: Option<Instant>,
    took: Duration,
    /// Every slot's word as of that look, or a little before.
    words: Vec<(u16, Suspension)>,
    glanced: Vec<(u16, Suspension)>,
    pub(crate) known: Vec<Known>,
}

impl Sight {
    /// Of a slice that was not looked at yet.
    pub(crate) fn new(slice: Arc<Control>) -> Sight {
        let (words, glanced, known) = (Vec::new(), Vec::new(), Vec::new());
        Sight { slice, turn: 0, looked: None, took: Duration::ZERO, words, glanced, known }
    }

    /// Notes what processes do, and says whether more is to be known.
    pub(crate) fn glance(&mut self, patience: Patience) -> Glance {
        let now = Instant::now();
        let (glanced, known) = (&mut self.glanced, &mut self.known);
        glanced.clear();
        let outcome = self.slice.glance(|slot, word, activity| {
            glanced.push((slot, word));
            if let Some(known) = known.iter_mut().find(|known| known.slot == slot) {
                known.note(activity, now);
            }
        });
        let is_concerned = self.glanced.iter().any(|(_, word)| is_concerned(*word));
        if outcome.is_err() || !is_concerned {
            self.forget();
            return Glance::Unconcerned;
        }
        let most = if self.is_restless() { patience.restless } else { patience.quiet };
        let is_old = self.looked.is_none_or(|looked| now.duration_since(looked) >= most);
        if is_old || self.glanced != self.words { Glance::Due } else { Glance::Known }
    }

    /// Looks at the slice in full. Comes after a glance: what changes from then on is seen by the next one.
    pub(crate) fn look(&mut self, gpus: &mut Gpus, next_id: &mut u64, attend: impl FnOnce(&Snapshot)) {
        let begin = Instant::now();
        self.looked = Some(begin);
        std::mem::swap(&mut self.words, &mut self.glanced);
        let mut before = std::mem::take(&mut self.known);
        let Ok(snapshot) = self.slice.snapshot() else { return };
        attend(&snapshot);
        let mut record = None;
        for process in snapshot.processes.iter().filter(|process| process.alive != Some(false)) {
            let (true, Ok(target)) = (is_concerned(process.suspension), Target::find(process, &snapshot))
            else {
                continue;
            };
            let is_same = |known: &Known| {
                known.slot == process.slot && known.start_time_ticks == target.identity.start_time_ticks
            };
            let mut known = match before.iter().position(is_same) {
                Some(position) => before.swap_remove(position),
                None => {
                    *next_id += 1;
                    Known::new(ProcessId(*next_id), process, begin)
                }
            };
            known.idle_release = process.suspension.idle_release();
            if known.see(process, &snapshot, &target, &self.slice, gpus, &mut record) {
                self.known.push(known);
            }
        }
        self.took = begin.elapsed();
    }

    /// Whether a process was left half-way, as it seems.
    pub(crate) fn is_half_way(&self) -> bool {
        let is = |phase: Phase| matches!(phase, Phase::Suspending | Phase::Resuming);
        self.glanced.iter().any(|(_, word)| is(word.phase()))
    }

    /// Whether somebody is away, half-way or waiting, or was when the slice was looked at.
    fn is_restless(&self) -> bool {
        self.words.iter().any(|(_, word)| word.phase() != Phase::Running || word.needed().is_some())
    }

    fn forget(&mut self) {
        (self.looked, self.took) = (None, Duration::ZERO);
        self.words.clear();
        self.known.clear();
    }
}

/// Whether a process may be put aside, or was before that was forbidden.
pub(crate) fn is_concerned(word: Suspension) -> bool {
    word.idle_release().is_some() || word.phase() == Phase::Suspended && word.is_idle()
}

/// A process that may be put aside.
pub(crate) struct Known {
    pub(crate) id: ProcessId,
    pub(crate) slot: u16,
    start_time_ticks: u64,
    /// Its name and id, for people.
    pub(crate) name: String,
    pub(crate) activity: Activity,
    /// When it last did anything.
    active: Instant,
    idle_release: Option<Duration>,
    away: Option<Away>,
    /// A call that the library has seen waits for it to come back.
    is_wanted: bool,
    holds: Vec<(GpuNumber, u64)>,
    needs: Option<(GpuNumber, u64)>,
}

impl Known {
    fn new(id: ProcessId, process: &ProcessView, now: Instant) -> Known {
        Known {
            id,
            slot: process.slot,
            start_time_ticks: process.identity.start_time_ticks,
            name: String::new(),
            activity: Activity::default(),
            active: now,
            idle_release: None,
            away: None,
            is_wanted: false,
            holds: Vec::new(),
            needs: None,
        }
    }

    fn note(&mut self, activity: Activity, now: Instant) {
        if activity != self.activity || activity.under_way > 0 {
            (self.activity, self.active) = (activity, now);
        }
    }

    /// Takes in what a look has shown; whether the process is one that an agent may move.
    fn see(
        &mut self,
        process: &ProcessView,
        snapshot: &Snapshot,
        target: &Target,
        slice: &Control,
        gpus: &mut Gpus,
        record: &mut Option<Record>,
    ) -> bool {
        let word = process.suspension;
        let Ok(words) = slice.suspension_words(process.slot) else { return false };
        self.note(words.activity(), Instant::now());
        match word.phase() {
            Phase::Running => self.away = None,
            Phase::Suspended if word.is_idle() => {
                self.away.get_or_insert_with(|| Away::found(target)).look(target)
            }
            // Suspended by hand, or lost: not ours to change.
            _ => return false,
        }
        self.is_wanted = word.is_wanted();
        let record = record.get_or_insert_with(|| Record::load(slice.path()));
        let written = record.find(process.slot, target.identity.start_time_ticks);
        let held = match written.filter(|_| self.away.is_some()) {
            Some(entry) => &entry.gpus,
            None => &target.charged,
        };
        let holds = held.iter().filter(|(_, bytes)| *bytes > 0).map(|&(gpu, bytes)| {
            let bytes = if self.away.is_some() { Need { gpu, bytes }.with_margin() } else { bytes };
            (gpus.number(gpu), bytes)
        });
        self.holds = holds.collect();
        self.needs = word.needed().and_then(|(mib, device)| {
            let device = snapshot.devices.iter().find(|known| known.index.get() == usize::from(device))?;
            Some((gpus.number(device.uuid), (mib << 20).saturating_add(ROUNDING_BYTES)))
        });
        self.name = format!("process {} ({})", target.pid, target.identity.name);
        true
    }

    /// What it takes of all GPUs, in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.holds.iter().map(|(_, bytes)| *bytes).sum()
    }

    /// Whether it is put aside.
    pub(crate) fn is_away(&self) -> bool {
        self.away.is_some()
    }

    /// Whether it waits for memory, to allocate it or to come back.
    pub(crate) fn is_in_need(&self) -> bool {
        self.needs.is_some() || self.away.as_ref().is_some_and(|away| away.is_called || self.is_wanted)
    }

    /// As the policy takes it.
    pub(crate) fn as_process(&self) -> Process {
        let doing = match &self.away {
            None => Doing::Running { idle: self.active.elapsed() },
            Some(away) => {
                Doing::Aside { since: away.since.elapsed(), is_wanted: self.is_wanted || away.is_called }
            }
        };
        Process {
            id: self.id,
            doing,
            idle_release: self.idle_release,
            holds: self.holds.clone(),
            needs: self.needs,
        }
    }

    /// It was put aside just now; `own_threads` waited in the driver before.
    pub(crate) fn note_away(&mut self, own_threads: BTreeSet<u32>) {
        let now = Instant::now();
        self.away = Some(Away { since: now, own_threads, looked: now, is_called: false });
    }

    /// It came back just now.
    pub(crate) fn note_back(&mut self) {
        (self.away, self.active) = (None, Instant::now());
    }
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

impl Away {
    /// Of a process that an earlier agent has put aside: a thread that waits in the driver may have called since.
    fn found(target: &Target) -> Away {
        let now = Instant::now();
        let is_called = !threads_in_driver(target.pid).is_empty();
        Away { since: now, own_threads: BTreeSet::new(), looked: now, is_called }
    }

    fn look(&mut self, target: &Target) {
        if !self.is_called && self.looked.elapsed() >= RESTLESS {
            self.looked = Instant::now();
            self.is_called =
                threads_in_driver(target.pid).iter().any(|thread| !self.own_threads.contains(thread));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Patience = Patience { quiet: Duration::from_secs(3600), restless: Duration::from_secs(3600) };

    fn look(sight: &mut Sight) -> usize {
        let mut attended = 0;
        sight.look(&mut Gpus::default(), &mut 0, |_| attended += 1);
        assert_eq!(attended, 1);
        sight.known.len()
    }

    #[test]
    fn a_look_is_due_when_a_word_has_changed_or_time_has_passed() {
        let directory = tempfile::tempdir().unwrap();
        let control = Control::open_or_create(directory.path().join("control")).unwrap();
        let mut sight = Sight::new(Arc::clone(&control));
        let slot = control.claim("test").unwrap();
        let words = control.suspension_words(slot.index()).unwrap();
        assert_eq!(sight.glance(LONG), Glance::Unconcerned);
        words.set_idle_release(Some(Duration::from_secs(60)));
        assert_eq!(sight.glance(LONG), Glance::Due);
        assert_eq!(look(&mut sight), 1);
        assert_eq!(sight.glance(LONG), Glance::Known);
        assert_eq!(sight.glance(Patience::default()), Glance::Due, "it is old");
        assert_eq!((look(&mut sight), sight.known[0].is_in_need()), (1, false));

        words.ask_for(100, 0);
        assert_eq!(sight.glance(LONG), Glance::Due, "somebody is in need");
        assert_eq!(look(&mut sight), 1);
        assert_eq!(sight.glance(LONG), Glance::Known, "that is known by now");
        let second = control.claim("second").unwrap();
        assert_eq!(sight.glance(LONG), Glance::Due, "somebody is new");
        drop(second);
        words.set_phase(Phase::Suspended, true);
        assert_eq!((sight.glance(LONG), look(&mut sight)), (Glance::Due, 1));
        assert!(sight.known[0].is_away());
        words.set_idle_release(None);
        assert_eq!((sight.glance(LONG), look(&mut sight)), (Glance::Due, 1), "it has to come back");
        words.set_phase(Phase::Running, false);
        assert_eq!(sight.glance(LONG), Glance::Unconcerned);
        assert!(sight.known.is_empty());
    }

    #[test]
    fn what_a_process_does_is_no_news_and_ends_its_idleness() {
        let directory = tempfile::tempdir().unwrap();
        let control = Control::open_or_create(directory.path().join("control")).unwrap();
        let slot = control.claim("test").unwrap();
        let words = control.suspension_words(slot.index()).unwrap();
        words.set_idle_release(Some(Duration::from_secs(60)));
        let mut sight = Sight::new(Arc::clone(&control));
        sight.glance(LONG);
        look(&mut sight);
        let id = sight.known[0].id;
        let idle = |sight: &Sight| match sight.known[0].as_process().doing {
            Doing::Running { idle } => idle,
            Doing::Aside { .. } => panic!("it was never put aside"),
        };
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(sight.glance(LONG), Glance::Known);
        assert!(idle(&sight) >= Duration::from_millis(50));
        words.enter();
        let begin = Instant::now();
        assert_eq!(sight.glance(LONG), Glance::Known);
        assert!(idle(&sight) <= begin.elapsed());
        words.leave();
        // It goes on being the same process for the next look.
        sight.glance(Patience::default());
        look(&mut sight);
        assert_eq!(sight.known[0].id, id);
    }

    #[test]
    fn many_slices_are_looked_at_less_often() {
        let directory = tempfile::tempdir().unwrap();
        let control = Control::open_or_create(directory.path().join("control")).unwrap();
        let sight = |took| Sight { took, ..Sight::new(Arc::clone(&control)) };
        let sights = |took| vec![sight(Duration::from_micros(took)), sight(Duration::from_micros(took))];
        let quiet = |took, is_in_need| Patience::of(sights(took).iter(), is_in_need).quiet;
        assert_eq!(quiet(100, false), QUIET);
        assert_eq!(quiet(100, true), RESTLESS);
        assert_eq!(quiet(12_500, true), Duration::from_millis(2500));
        assert_eq!(quiet(1_000_000, true), MOST_PUT_OFF);
    }
}
