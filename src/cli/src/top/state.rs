//! What `vcuda top` knows: the last look and what came before it, and what the user wants to see of it.
//!
//! Owns the arithmetic from counters to rates. Knows no terminal.

use crate::ps::{living, recent_busy_ratio};
use anyhow::Result;
use std::cmp::Ordering;
use std::collections::{HashMap, HashSet, VecDeque};
use std::path::{Path, PathBuf};
use std::time::Duration;
use vcuda_core::compute::monotonic_ns;
use vcuda_core::control::Control;
use vcuda_core::device::Uuid;
use vcuda_core::error::ControlErrorKind;
use vcuda_core::identity::pid_namespace_of_this_process;
use vcuda_core::share::Share;
use vcuda_core::snapshot::{DeviceView, HoldingView, ProcessView, Snapshot};

/// Looks that are remembered: more than any terminal has columns for.
const REMEMBERED: usize = 240;

/// One look at all slices.
pub struct Look {
    /// On the monotonic clock.
    pub at_ns: u64,
    /// All slices with a living process.
    pub slices: Vec<Snapshot>,
}

impl Look {
    /// Looks at `named` files, which must exist, and at all others that can be found.
    pub fn take(named: &[PathBuf]) -> Result<Look> {
        let mut slices = Vec::new();
        for path in vcuda_slices::find(named) {
            let control = match Control::open_existing(&path) {
                Ok(control) => control,
                Err(error) if named.contains(&path) && !matches!(error.kind(), ControlErrorKind::Missing) => {
                    return Err(error.into());
                }
                // It may have gone since it was listed, or may hold something else.
                Err(_) => continue,
            };
            // What dead processes left; a file that may only be read is cleaned by others.
            let _ = control.reap();
            // Lost between two looks, it is gone at the next.
            let Ok(snapshot) = control.snapshot() else { continue };
            if living(&snapshot).next().is_some() {
                slices.push(snapshot);
            }
        }
        Ok(Look { at_ns: monotonic_ns(), slices })
    }
}

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

/// One slice on one GPU.
#[derive(Clone, Debug)]
pub struct SliceRow {
    pub name: String,
    pub path: PathBuf,
    pub device: Uuid,
    pub used_bytes: u64,
    pub limit_bytes: Option<u64>,
    pub refused_count: u64,
    /// Part of the GPU's time, 0 to 1.
    pub busy_ratio: f64,
    pub share: Option<Share>,
    /// Seconds that calls were held back in a second, summed over threads.
    pub throttled_ratio: f64,
    pub processes: Vec<ProcessRow>,
}

impl SliceRow {
    /// Of what it may use, 0 to 1; of the GPU where it has no limit.
    pub fn memory_ratio(&self, physical_bytes: u64) -> f64 {
        let most = self.limit_bytes.unwrap_or(physical_bytes);
        if most == 0 { 0.0 } else { self.used_bytes as f64 / most as f64 }
    }

    /// Of its share, 0 to 1; of the GPU where it has none.
    pub fn share_ratio(&self) -> f64 {
        let share = self.share.map_or(1.0, |share| f64::from(share.ppm()) / 1e6);
        self.busy_ratio / share
    }
}

/// One process of a slice on one GPU.
#[derive(Clone, Debug)]
pub struct ProcessRow {
    pub pid: u32,
    /// The id means nothing here.
    pub is_elsewhere: bool,
    pub name: String,
    pub used_bytes: u64,
    pub busy_ratio: f64,
    pub throttled_ratio: f64,
    pub calls_per_second: f64,
}

/// One GPU, of which only what slices have is known.
#[derive(Clone, Debug, PartialEq)]
pub struct GpuRow {
    pub uuid: Uuid,
    pub physical_bytes: u64,
    pub used_bytes: u64,
    pub busy_ratio: f64,
    pub slice_count: usize,
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
        let own_namespace = pid_namespace_of_this_process();
        self.rows.clear();
        for snapshot in &look.slices {
            let before = self.last.as_ref().and_then(|last| Before::of(last, snapshot, look.at_ns));
            for device in &snapshot.devices {
                let has_part = living(snapshot).any(|process| holding(process, device).is_some());
                if has_part || device.used_bytes > 0 {
                    self.rows.push(row(snapshot, device, before.as_ref(), own_namespace));
                }
            }
        }
        self.gpus = gpus(&look, &self.rows);
        let mut seen = HashSet::new();
        for row in &self.rows {
            let physical_bytes = physical_bytes(&self.gpus, row.device);
            let key = (row.path.clone(), row.device.bytes());
            let history = self.histories.entry(key.clone()).or_default();
            remember(&mut history.memory, row.memory_ratio(physical_bytes));
            remember(&mut history.share, row.share_ratio());
            seen.insert(key);
        }
        self.histories.retain(|key, _| seen.contains(key));
        self.last = Some(look);
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
        physical_bytes(&self.gpus, row.device)
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

/// A slice as it was at the look before.
struct Before<'a> {
    snapshot: &'a Snapshot,
    passed_ns: u64,
}

impl<'a> Before<'a> {
    fn of(last: &'a Look, snapshot: &Snapshot, now_ns: u64) -> Option<Before<'a>> {
        // A file that was made anew counts anew.
        let is_same = |other: &&Snapshot| {
            other.path == snapshot.path && other.created_unix_ns == snapshot.created_unix_ns
        };
        let passed_ns = now_ns.saturating_sub(last.at_ns);
        let snapshot = last.slices.iter().find(is_same)?;
        (passed_ns > 0).then_some(Before { snapshot, passed_ns })
    }

    fn device(&self, uuid: Uuid) -> Option<&'a DeviceView> {
        self.snapshot.devices.iter().find(|device| device.uuid == uuid)
    }

    fn holding(&self, process: &ProcessView, device: &DeviceView) -> Option<&'a HoldingView> {
        let is_same = |other: &&ProcessView| {
            other.slot == process.slot && other.identity.started_unix_ns == process.identity.started_unix_ns
        };
        holding(self.snapshot.processes.iter().find(is_same)?, device)
    }

    /// What a counter grew by in a second.
    fn rate(&self, before: u64, now: u64) -> f64 {
        now.saturating_sub(before) as f64 / self.passed_ns as f64
    }
}

fn holding<'a>(process: &'a ProcessView, device: &DeviceView) -> Option<&'a HoldingView> {
    process.devices.iter().find(|view| view.device == device.index)
}

fn row(snapshot: &Snapshot, device: &DeviceView, before: Option<&Before>, own_namespace: u64) -> SliceRow {
    let earlier = before.and_then(|before| Some((before, before.device(device.uuid)?)));
    let compute = &device.compute;
    let (busy_ratio, throttled_ratio) = match earlier {
        Some((before, earlier)) => (
            before.rate(earlier.compute.busy_ns, compute.busy_ns),
            before.rate(earlier.compute.throttled_ns, compute.throttled_ns),
        ),
        None => (recent_busy_ratio(compute), 0.0),
    };
    let process = |process: &ProcessView| {
        let held = holding(process, device)?;
        let earlier = before.and_then(|before| Some((before, before.holding(process, device)?)));
        let rates = earlier.map(|(before, earlier)| {
            let calls = before.rate(earlier.work_count, held.work_count) * 1e9;
            (
                before.rate(earlier.busy_ns, held.busy_ns),
                before.rate(earlier.throttled_ns, held.throttled_ns),
                calls,
            )
        });
        let (busy_ratio, throttled_ratio, calls_per_second) = rates.unwrap_or_default();
        let namespace = process.identity.pid_namespace;
        Some(ProcessRow {
            pid: process.identity.pid,
            is_elsewhere: namespace != 0 && namespace != own_namespace,
            name: process.identity.name.clone(),
            used_bytes: held.used_bytes,
            busy_ratio,
            throttled_ratio,
            calls_per_second,
        })
    };
    SliceRow {
        name: vcuda_slices::shown_name(&snapshot.path),
        path: snapshot.path.clone(),
        device: device.uuid,
        used_bytes: device.used_bytes,
        limit_bytes: device.limit_bytes,
        refused_count: device.refused_count,
        busy_ratio,
        share: compute.share_ppm.and_then(Share::from_ppm),
        throttled_ratio,
        processes: living(snapshot).filter_map(process).collect(),
    }
}

fn gpus(look: &Look, rows: &[SliceRow]) -> Vec<GpuRow> {
    let mut gpus: Vec<GpuRow> = Vec::new();
    for row in rows {
        let position = gpus.iter().position(|gpu| gpu.uuid == row.device).unwrap_or_else(|| {
            let views = look.slices.iter().flat_map(|snapshot| &snapshot.devices);
            let physical =
                views.filter(|device| device.uuid == row.device).map(|device| device.physical_bytes);
            gpus.push(GpuRow {
                uuid: row.device,
                physical_bytes: physical.max().unwrap_or(0),
                used_bytes: 0,
                busy_ratio: 0.0,
                slice_count: 0,
            });
            gpus.len() - 1
        });
        let gpu = &mut gpus[position];
        gpu.used_bytes += row.used_bytes;
        gpu.busy_ratio += row.busy_ratio;
        gpu.slice_count += 1;
    }
    gpus.sort_by_key(|gpu| gpu.uuid.bytes());
    gpus
}

fn physical_bytes(gpus: &[GpuRow], device: Uuid) -> u64 {
    gpus.iter().find(|gpu| gpu.uuid == device).map_or(0, |gpu| gpu.physical_bytes)
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
        row.processes.retain(|process| has(&process.name) || process.pid.to_string() == wanted);
        if row.processes.is_empty() {
            return None;
        }
    }
    Some(row)
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use vcuda_core::device::DeviceIndex;
    use vcuda_core::identity::Identity;
    use vcuda_core::snapshot::ComputeView;

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
        let mut state = State::new(Duration::from_secs(1));
        for second in 0..8 {
            let slices = vec![
                slice(
                    "training",
                    50,
                    &[("python3", 4, 300 * second, 200 * second), ("dataset", 1, 150 * second, 0)],
                ),
                slice("serving", 30, &[("triton", 7, 290 * second, 650 * second)]),
                slice("notebook", 10, &[("ipykernel", 2, 0, 0)]),
            ];
            state.see(Look { at_ns: (100 + second) * SECOND_NS, slices });
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
        state.filter = "nothing".to_owned();
        assert_eq!(names(&state).len(), 0);
    }

    #[test]
    fn a_slice_that_is_made_anew_starts_from_nothing() {
        let mut state = seen();
        let mut again = slice("serving", 30, &[("triton", 7, 10, 0)]);
        again.created_unix_ns = 2;
        state.see(Look { at_ns: 200 * SECOND_NS, slices: vec![again] });
        assert_eq!(state.shown()[0].busy_ratio, 0.0);
        assert_eq!(state.counts(), (1, 1));
        state.see(Look { at_ns: 201 * SECOND_NS, slices: Vec::new() });
        assert!(state.histories.is_empty(), "what is gone is forgotten");
    }
}
