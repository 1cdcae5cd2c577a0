//! What `vcuda top` knows: the last look and what came before it, and what the user wants to see of it.
//!
//! Knows no terminal.

use super::rows::{self, GpuRow, Look, ProcessRow, SliceRow};
use crate::ps::living;
use crate::ps::state::ProcessState;
use std::cmp::Ordering;
use std::collections::{HashMap, HashSet, VecDeque};
use std::path::{Path, PathBuf};
use std::time::Duration;
use vcuda_core::device::Uuid;

/// Looks that are remembered: more than any terminal has columns for.
const REMEMBERED: usize = 240;

/// What rows are sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    Memory,
    Share,
    Throttled,
    Name,
}

impl Sort {
    /// The next in turn.
    pub fn next(self) -> Sort {
        match self {
            Sort::Memory => Sort::Share,
            Sort::Share => Sort::Throttled,
            Sort::Throttled => Sort::Name,
            Sort::Name => Sort::Memory,
        }
    }

    /// For people.
    pub fn text(self) -> &'static str {
        match self {
            Sort::Memory => "memory",
            Sort::Share => "share",
            Sort::Throttled => "throttled",
            Sort::Name => "name",
        }
    }
}

/// The last looks at one slice on one GPU, oldest first.
#[derive(Default)]
pub struct History {
    pub memory: VecDeque<f64>,
    pub share: VecDeque<f64>,
}

/// All of it.
pub struct State {
    pub interval: Duration,
    pub sort: Sort,
    pub is_reversed: bool,
    /// Part of a name, of a GPU's or process's too.
    pub filter: String,
    pub is_typing_filter: bool,
    pub shows_processes: bool,
    pub shows_help: bool,
    pub is_paused: bool,
    /// Lines that are scrolled out of sight.
    pub scroll: usize,
    last: Option<Look>,
    rows: Vec<SliceRow>,
    gpus: Vec<GpuRow>,
    histories: HashMap<(PathBuf, [u8; 16]), History>,
}

impl State {
    /// Before the first look.
    pub fn new(interval: Duration) -> State {
        State {
            interval,
            sort: Sort::Memory,
            is_reversed: false,
            filter: String::new(),
            is_typing_filter: false,
            shows_processes: true,
            shows_help: false,
            is_paused: false,
            scroll: 0,
            last: None,
            rows: Vec::new(),
            gpus: Vec::new(),
            histories: HashMap::new(),
        }
    }

    /// Takes in another look.
    pub fn see(&mut self, look: Look) {
        self.rows = rows::of(&look, self.last.as_ref());
        self.gpus = rows::gpus(&look, &self.rows);
        let mut seen = HashSet::new();
        for row in &self.rows {
            let physical_bytes = rows::physical_bytes(&self.gpus, row.device);
            let key = (row.path.clone(), row.device.bytes());
            let history = self.histories.entry(key.clone()).or_default();
            remember(&mut history.memory, row.memory_ratio(physical_bytes));
            remember(&mut history.share, row.share_ratio());
            seen.insert(key);
        }
        self.histories.retain(|key, _| seen.contains(key));
        self.last = Some(look);
    }

    /// What works beside slices on a GPU, if that matters for them.
    pub fn foreign_on(&self, gpu: Uuid) -> usize {
        let found = self.last.iter().flat_map(|look| &look.neighbours);
        found.filter(|one| one.gpu == gpu).map(|one| one.neighbours.foreign.len()).sum()
    }

    /// The GPUs.
    pub fn gpus(&self) -> &[GpuRow] {
        &self.gpus
    }

    /// What is remembered of a row.
    pub fn history(&self, row: &SliceRow) -> Option<&History> {
        self.histories.get(&(row.path.clone(), row.device.bytes()))
    }

    /// Memory of a row's GPU, 0 while unknown.
    pub fn physical_bytes(&self, row: &SliceRow) -> u64 {
        rows::physical_bytes(&self.gpus, row.device)
    }

    /// How many slices and processes there are, whatever is shown.
    pub fn counts(&self) -> (usize, usize) {
        let slices: HashSet<&Path> = self.rows.iter().map(|row| row.path.as_path()).collect();
        let looked = self.last.iter().flat_map(|look| &look.slices);
        (slices.len(), looked.map(|snapshot| living(snapshot).count()).sum())
    }

    /// What is to be shown, in order.
    pub fn shown(&self) -> Vec<SliceRow> {
        let wanted = self.filter.to_lowercase();
        let mut rows: Vec<SliceRow> = self.rows.iter().filter_map(|row| filtered(row, &wanted)).collect();
        let in_order = |order: Ordering| if self.is_reversed { order.reverse() } else { order };
        for row in &mut rows {
            row.processes.sort_by(|a, b| in_order(self.process_order(a, b)).then(a.pid.cmp(&b.pid)));
        }
        rows.sort_by(|a, b| in_order(self.slice_order(a, b)).then_with(|| a.name.cmp(&b.name)));
        rows
    }

    fn slice_order(&self, a: &SliceRow, b: &SliceRow) -> Ordering {
        match self.sort {
            Sort::Memory => b.used_bytes.cmp(&a.used_bytes),
            Sort::Share => b.busy_ratio.total_cmp(&a.busy_ratio),
            Sort::Throttled => b.throttled_ratio.total_cmp(&a.throttled_ratio),
            Sort::Name => a.name.cmp(&b.name),
        }
    }

    fn process_order(&self, a: &ProcessRow, b: &ProcessRow) -> Ordering {
        match self.sort {
            Sort::Memory => b.used_bytes.cmp(&a.used_bytes),
            Sort::Share => b.busy_ratio.total_cmp(&a.busy_ratio),
            Sort::Throttled => b.throttled_ratio.total_cmp(&a.throttled_ratio),
            Sort::Name => a.name.cmp(&b.name),
        }
    }
}

fn remember(values: &mut VecDeque<f64>, value: f64) {
    if values.len() == REMEMBERED {
        values.pop_front();
    }
    values.push_back(value);
}

/// The row, with all processes if it is wanted itself, or with those that are wanted.
fn filtered(row: &SliceRow, wanted: &str) -> Option<SliceRow> {
    let has = |text: &str| text.to_lowercase().contains(wanted);
    let mut row = row.clone();
    if !has(&row.name) && !has(&row.device.to_string()) {
        row.processes.retain(|process| {
            let has_state = process.state != ProcessState::Running && has(&process.state.text());
            has(&process.name) || has_state || process.pid.to_string() == wanted
        });
        if row.processes.is_empty() {
            return None;
        }
    }
    Some(row)
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::ps::state::tests::word;
    use vcuda_core::device::{DeviceIndex, Uuid};
    use vcuda_core::identity::Identity;
    use vcuda_core::sharing::Sharing;
    use vcuda_core::snapshot::{ComputeView, DeviceView, HoldingView, ProcessView, Snapshot};
    use vcuda_core::suspension::Phase;

    const GIB: u64 = 1 << 30;
    const SECOND_NS: u64 = 1_000_000_000;

    /// A slice on one GPU whose processes hold and use as said: name, GiB, busy milliseconds, milliseconds held back.
    pub fn slice(name: &str, share: u32, processes: &[(&str, u64, u64, u64)]) -> Snapshot {
        let index = DeviceIndex::new(0).unwrap();
        let sum = |value: fn(&(&str, u64, u64, u64)) -> u64| processes.iter().map(value).sum::<u64>();
        let mut uuid = [0x20; 16];
        uuid[0] = 0xaa;
        let device = DeviceView {
            index,
            uuid: Uuid::gpu(uuid),
            limit_bytes: Some(8 * GIB),
            physical_bytes: 80 * GIB,
            used_bytes: sum(|process| process.1) * GIB,
            set_aside_bytes: 0,
            peak_bytes: 8 * GIB,
            refused_count: 3,
            context_bytes_learned: 0,
            compute: ComputeView {
                share_ppm: Some(share * 10_000),
                busy_ns: sum(|process| process.2) * 1_000_000,
                throttled_ns: sum(|process| process.3) * 1_000_000,
                ..ComputeView::default()
            },
        };
        let views = processes.iter().enumerate().map(|(number, &(name, gib, busy, throttled))| ProcessView {
            slot: number as u16,
            identity: Identity { pid: 100 + number as u32, name: name.to_owned(), ..Identity::default() },
            alive: Some(true),
            suspension: Default::default(),
            devices: vec![HoldingView {
                device: index,
                used_bytes: gib * GIB,
                overhead_bytes: 0,
                busy_ns: busy * 1_000_000,
                work_count: busy * 10,
                throttled_ns: throttled * 1_000_000,
            }],
        });
        Snapshot {
            path: format!("/run/{name}").into(),
            created_unix_ns: 1,
            at_path: true,
            devices: vec![device],
            processes: views.collect(),
        }
    }

    /// Three slices, a second apart.
    pub fn seen() -> State {
        seen_sharing(None)
    }

    /// The same, all of them sharing their GPU so.
    pub fn seen_sharing(sharing: Option<Sharing>) -> State {
        let mut state = State::new(Duration::from_secs(1));
        for second in 0..8 {
            let mut slices = vec![
                slice(
                    "training",
                    50,
                    &[("python3", 4, 300 * second, 200 * second), ("dataset", 1, 150 * second, 0)],
                ),
                slice("serving", 30, &[("triton", 7, 290 * second, 650 * second)]),
                slice("notebook", 10, &[("ipykernel", 2, 0, 0)]),
            ];
            for device in slices.iter_mut().flat_map(|slice| &mut slice.devices) {
                device.compute.sharing = sharing;
            }
            state.see(Look { at_ns: (100 + second) * SECOND_NS, slices, neighbours: Vec::new() });
        }
        state
    }

    #[test]
    fn rates_are_differences_of_counters() {
        let state = seen();
        let rows = state.shown();
        let training = rows.iter().find(|row| row.name == "/run/training").unwrap();
        assert!((training.busy_ratio - 0.45).abs() < 1e-9);
        assert!((training.share_ratio() - 0.9).abs() < 1e-9);
        assert!((training.throttled_ratio - 0.2).abs() < 1e-9);
        assert_eq!(training.processes[0].calls_per_second.round(), 3000.0);
        assert_eq!(state.history(training).unwrap().share.len(), 8);
        let [gpu] = state.gpus() else { panic!("{:?}", state.gpus()) };
        assert_eq!((gpu.used_bytes, gpu.slice_count), (14 * GIB, 3));
        assert!((gpu.busy_ratio - 0.74).abs() < 1e-9);
        assert_eq!(state.counts(), (3, 4));
    }

    #[test]
    fn rows_are_sorted_and_filtered_as_asked() {
        let mut state = seen();
        let names = |state: &State| {
            state
                .shown()
                .iter()
                .map(|row| row.name.trim_start_matches("/run/").to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(names(&state), ["serving", "training", "notebook"]);
        state.sort = Sort::Share;
        assert_eq!(names(&state), ["training", "serving", "notebook"]);
        state.is_reversed = true;
        assert_eq!(names(&state), ["notebook", "serving", "training"]);
        state.is_reversed = false;
        state.sort = Sort::Throttled;
        assert_eq!(names(&state), ["serving", "training", "notebook"]);
        state.sort = Sort::Name;
        assert_eq!(names(&state), ["notebook", "serving", "training"]);
        state.filter = "PYTHON".to_owned();
        assert_eq!(names(&state), ["training"]);
        assert_eq!(state.shown()[0].processes.len(), 1, "of its processes the one that was asked for");
        state.filter = "GPU-AA".to_owned();
        assert_eq!(names(&state).len(), 3);
        state.filter = "101".to_owned();
        assert_eq!(state.shown()[0].processes[0].name, "dataset");
        state.filter = "running".to_owned();
        assert_eq!(names(&state).len(), 0, "what all do is no mark of one");
        state.filter = "nothing".to_owned();
        assert_eq!(names(&state).len(), 0);
    }

    /// Two slices whose processes are not at work.
    pub fn seen_away() -> State {
        let mut state = State::new(Duration::from_secs(1));
        let mut slices = vec![
            slice("first", 50, &[("python3", 0, 0, 0), ("dataset", 0, 0, 0)]),
            slice("second", 30, &[("triton", 7, 0, 0), ("lab", 1, 0, 0)]),
        ];
        let words = [
            word(|words| words.set_phase(Phase::Suspended, true)),
            word(|words| words.set_phase(Phase::Suspended, false)),
            word(|words| words.ask_for(4096, 0)),
            word(|words| words.set_phase(Phase::Resuming, true)),
        ];
        let processes = slices.iter_mut().flat_map(|slice| &mut slice.processes);
        processes.zip(words).for_each(|(process, word)| process.suspension = word);
        state.see(Look { at_ns: 100 * SECOND_NS, slices, neighbours: Vec::new() });
        state
    }

    #[test]
    fn who_is_not_at_work_is_found_by_that() {
        let mut state = seen_away();
        state.filter = "put aside".to_owned();
        assert_eq!(state.shown().len(), 1);
        assert_eq!(state.shown()[0].processes[0].name, "python3");
        state.filter = "waiting".to_owned();
        assert_eq!(state.shown()[0].processes[0].name, "triton");
    }

    #[test]
    fn a_slice_that_is_made_anew_starts_from_nothing() {
        let mut state = seen();
        let mut again = slice("serving", 30, &[("triton", 7, 10, 0)]);
        again.created_unix_ns = 2;
        state.see(Look { at_ns: 200 * SECOND_NS, slices: vec![again], neighbours: Vec::new() });
        assert_eq!(state.shown()[0].busy_ratio, 0.0);
        assert_eq!(state.counts(), (1, 1));
        state.see(Look { at_ns: 201 * SECOND_NS, slices: Vec::new(), neighbours: Vec::new() });
        assert!(state.histories.is_empty(), "what is gone is forgotten");
    }
}
