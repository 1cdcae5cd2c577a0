//! One look at all slices, and what rows come of it together with the look before.
//!
//! Owns the arithmetic from counters to rates.

use crate::neighbours::{OnGpu, Watch};
use crate::ps::state::ProcessState;
use crate::ps::{self, living, recent_busy_ratio};
use anyhow::Result;
use std::path::PathBuf;
use vcuda_core::compute::monotonic_ns;
use vcuda_core::control::Control;
use vcuda_core::device::Uuid;
use vcuda_core::error::ControlErrorKind;
use vcuda_core::identity::pid_namespace_of_this_process;
use vcuda_core::share::Share;
use vcuda_core::snapshot::{DeviceView, HoldingView, ProcessView, Snapshot};

/// One look at all slices.
pub struct Look {
    /// On the monotonic clock.
    pub at_ns: u64,
    /// All slices with a living process.
    pub slices: Vec<Snapshot>,
    /// What works beside them that nobody holds back.
    pub neighbours: Vec<OnGpu>,
}

impl Look {
    /// Looks at `named` files, which must exist, and at all others that can be found.
    pub fn take(named: &[PathBuf], watch: &mut Watch) -> Result<Look> {
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
        let at_ns = monotonic_ns();
        let neighbours = watch.look(&slices);
        Ok(Look { at_ns, slices, neighbours })
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
    /// The share as it is shown; `None` without one.
    pub share_text: Option<String>,
    /// How the GPU is shared with others, where that is not what comes of the share alone.
    pub sharing_text: Option<String>,
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
    pub state: ProcessState,
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

/// The rows of `look`, by slice and device; rates are since `last`.
pub fn of(look: &Look, last: Option<&Look>) -> Vec<SliceRow> {
    let own_namespace = pid_namespace_of_this_process();
    let mut rows = Vec::new();
    for snapshot in &look.slices {
        let before = last.and_then(|last| Before::of(last, snapshot, look.at_ns));
        for device in &snapshot.devices {
            let has_part = living(snapshot).any(|process| holding(process, device).is_some());
            if has_part || device.used_bytes > 0 {
                rows.push(row(snapshot, device, before.as_ref(), own_namespace));
            }
        }
    }
    rows
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
            state: ProcessState::from(process),
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
        share_text: ps::text::share_text(compute),
        sharing_text: ps::text::sharing_text(compute),
        throttled_ratio,
        processes: living(snapshot).filter_map(process).collect(),
    }
}

/// The GPUs of all rows.
pub fn gpus(look: &Look, rows: &[SliceRow]) -> Vec<GpuRow> {
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

/// Memory of a GPU, 0 while unknown.
pub fn physical_bytes(gpus: &[GpuRow], device: Uuid) -> u64 {
    gpus.iter().find(|gpu| gpu.uuid == device).map_or(0, |gpu| gpu.physical_bytes)
}
