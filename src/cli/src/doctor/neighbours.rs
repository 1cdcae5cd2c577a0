//! What works beside slices that nobody holds back.

use super::finding::Finding;
use crate::neighbours::{MEANING, OnGpu, Watch, shared_gpus};
use crate::ps::text::short_uuid;
use vcuda_core::control::Control;
use vcuda_core::device::Uuid;
use vcuda_core::limits::{DeviceEntries, Gpu, Limits};
use vcuda_core::snapshot::Snapshot;

/// Findings about the GPUs of whose time running slices have a share, or a program started here would have one.
pub fn examine(gpus: &[Gpu]) -> Vec<Finding> {
    // Some of the files are other people's, who may do with them what they like. Without it, we read all the same.
    let _ = vcuda_slices::truncation::survive();
    let files = vcuda_slices::find(&[]);
    let slices: Vec<Snapshot> =
        files.iter().filter_map(|path| Control::open_existing(path).ok()?.snapshot().ok()).collect();
    let mut concerned = shared_gpus(&slices);
    for gpu in configured(gpus) {
        if !concerned.contains(&gpu) {
            concerned.push(gpu);
        }
    }
    Watch::default().look_at(&concerned).iter().map(finding).collect()
}

/// The GPUs of which a program started here would have a share, or where it would take turns with others.
fn configured(gpus: &[Gpu]) -> Vec<Uuid> {
    // What is wrong with them is said elsewhere.
    let Ok(limits) = Limits::of_this_process() else { return Vec::new() };
    let Ok(entries) = limits.entries_of(gpus) else { return Vec::new() };
    let has_part = |entries: &DeviceEntries| {
        let has_share = entries.cores.is_some_and(|entry| !entry.value.is_whole());
        has_share || entries.elastic.is_some() || entries.weight.is_some() || entries.priority.is_some()
    };
    gpus.iter().zip(entries).filter(|(_, entries)| has_part(entries)).map(|(gpu, _)| gpu.uuid).collect()
}

fn finding(found: &OnGpu) -> Finding {
    let gpu = short_uuid(found.gpu);
    if found.neighbours.foreign.is_empty() {
        return Finding::note(format!(
            "{gpu}: some of the processes on it can't be looked at from here, so it isn't known whether all have vcuda"
        ));
    }
    Finding::warning(
        format!("{gpu}: {} beside slices: {MEANING} as long as that is so", found.neighbours.text()),
        "start them under vcuda run too, with --elastic if they are to use what others leave; memory limits hold all \
         the same",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Level;
    use vcuda_slices::neighbours::{Foreign, Neighbours};

    #[test]
    fn who_is_there_and_what_it_means_is_said() {
        let foreign = vec![Foreign { pid: 42, name: "python3".to_owned() }];
        let on_gpu = |neighbours| OnGpu { gpu: Uuid::gpu([0xaa; 16]), neighbours };
        let found = finding(&on_gpu(Neighbours { foreign, has_unknown: true }));
        assert_eq!(found.level, Level::Warning);
        assert_eq!(
            found.what,
            "GPU-aaaaaaaa: 1 process without vcuda (python3 42) beside slices: shares of its time are best effort as \
             long as that is so"
        );
        let unknown = finding(&on_gpu(Neighbours { foreign: Vec::new(), has_unknown: true }));
        assert_eq!(unknown.level, Level::Note);
    }
}
