//! Everything that the control files say, for programs: amounts in bytes, times in nanoseconds.

use super::state::ProcessState;
use super::{living, recent_busy_ratio};
use serde_json::{Value, json};
use vcuda_core::snapshot::{DeviceView, ProcessView, Snapshot};

/// All of `snapshots`.
pub fn slices(snapshots: &[Snapshot]) -> Value {
    json!({ "slices": snapshots.iter().map(slice).collect::<Vec<_>>() })
}

/// One of them.
pub fn slice(snapshot: &Snapshot) -> Value {
    json!({
        "name": vcuda_slices::name_of(&snapshot.path),
        "control_file": snapshot.path.to_string_lossy(),
        "created_unix_ns": snapshot.created_unix_ns,
        "is_at_path": snapshot.at_path,
        "devices": snapshot.devices.iter().map(|one| device(one, snapshot)).collect::<Vec<_>>(),
    })
}

fn device(device: &DeviceView, snapshot: &Snapshot) -> Value {
    let compute = &device.compute;
    json!({
        "uuid": device.uuid.to_string(),
        "limit_bytes": device.limit_bytes,
        "physical_bytes": device.physical_bytes,
        "used_bytes": device.used_bytes,
        "suspended_bytes": device.set_aside_bytes,
        "peak_bytes": device.peak_bytes,
        "refused_count": device.refused_count,
        "context_bytes_learned": device.context_bytes_learned,
        "compute": {
            "share_ppm": compute.share_ppm,
            "sharing": compute.sharing.map(|sharing| json!({
                "elastic": sharing.elastic,
                "weight": sharing.weight.get(),
                "priority": sharing.priority.name(),
            })),
            "recent_busy_ratio": recent_busy_ratio(compute),
            "busy_ns": compute.busy_ns,
            "work_count": compute.work_count,
            "throttled_ns": compute.throttled_ns,
            "throttled_count": compute.throttled_count,
            "debt_ns": compute.debt_ns,
        },
        "processes": living(snapshot).map(|one| process(one, device)).collect::<Vec<_>>(),
    })
}

fn process(process: &ProcessView, device: &DeviceView) -> Value {
    let held = process.devices.iter().find(|view| view.device == device.index);
    json!({
        "pid": process.identity.pid,
        "pid_namespace": process.identity.pid_namespace,
        "uid": process.identity.uid,
        "name": process.identity.name,
        "since_unix_ns": process.identity.started_unix_ns,
        "limits_digest": (process.identity.limits_digest != 0)
            .then(|| format!("{:016x}", process.identity.limits_digest)),
        "used_bytes": held.map_or(0, |view| view.used_bytes),
        "context_bytes": held.map_or(0, |view| view.overhead_bytes),
        "state": ProcessState::from(process).word(),
        "waits_for_bytes": process.suspension.needed().map(|(mib, _)| mib << 20),
        "idle_release_ns": process.suspension.idle_release().map(|after| after.as_nanos() as u64),
        "compute": {
            "busy_ns": held.map_or(0, |view| view.busy_ns),
            "work_count": held.map_or(0, |view| view.work_count),
            "throttled_ns": held.map_or(0, |view| view.throttled_ns),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use vcuda_core::device::{DeviceIndex, Uuid};
    use vcuda_core::identity::Identity;
    use vcuda_core::sharing::{self, Sharing};
    use vcuda_core::snapshot::{ComputeView, RECENT_NS};
    use vcuda_core::suspension::Suspension;

    #[test]
    fn idle_slices_are_told_without_their_dead() {
        let device = DeviceView {
            index: DeviceIndex::new(0).unwrap(),
            uuid: Uuid::gpu([1; 16]),
            limit_bytes: None,
            physical_bytes: 0,
            used_bytes: 0,
            set_aside_bytes: 0,
            peak_bytes: 0,
            refused_count: 0,
            context_bytes_learned: 0,
            compute: ComputeView {
                share_ppm: Some(1),
                sharing: Sharing::from_word(sharing::HIGH_PRIORITY_BIT | 30),
                recent_busy_ns: RECENT_NS / 4,
                ..ComputeView::default()
            },
        };
        let dead = ProcessView {
            slot: 0,
            identity: Identity::default(),
            alive: Some(false),
            suspension: Suspension::default(),
            devices: Vec::new(),
        };
        let path = "/dev/shm/vcuda-0/run-4711".into();
        let idle = Snapshot {
            path,
            created_unix_ns: 0,
            at_path: true,
            devices: vec![device],
            processes: vec![dead],
        };
        let json = slices(&[idle]);
        let device = &json["slices"][0]["devices"][0];
        assert_eq!(device["limit_bytes"], Value::Null);
        assert_eq!(device["compute"]["share_ppm"], 1);
        let sharing = json!({ "elastic": false, "weight": 30, "priority": "high" });
        assert_eq!(device["compute"]["sharing"], sharing);
        assert_eq!(device["compute"]["recent_busy_ratio"], 0.25);
        assert_eq!(device["processes"].as_array().unwrap().len(), 0);
    }
}
