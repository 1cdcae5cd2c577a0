//! A node's GPUs and a claim on them, for tests.

use std::collections::BTreeMap;

use k8s_openapi::api::resource::v1::ResourceClaim;
use serde_json::{Value, json};
use vcuda_core::device::Uuid;

use super::inventory::{Gpu, Inventory};

/// Memory of the second GPU of [`inventory`].
pub const GIB: u64 = 1 << 30;
/// The names of its GPUs.
pub const GPUS: [&str; 2] =
    ["gpu-01010101-0101-0101-0101-010101010101", "gpu-02020202-0202-0202-0202-020202020202"];

/// Two GPUs: one with 79 GiB and a bit, one with 24 GiB.
pub fn inventory() -> Inventory {
    let gpu = |number: u8, memory_bytes| Gpu {
        uuid: Uuid::gpu([number; 16]),
        index: u32::from(number) - 1,
        product: "NVIDIA H100 80GB HBM3".to_owned(),
        architecture: Some("Hopper"),
        compute_capability: Some((9, 0)),
        memory_bytes,
        pci_bus_id: Some("0000:3b:00.0".to_owned()),
        pcie_root: Some("pci0000:3a".to_owned()),
        numa_node: Some(1),
        mig_parent: None,
        trouble: None,
        xid: None,
    };
    Inventory {
        gpus: vec![gpu(1, 79 * GIB + (123 << 20)), gpu(2, 24 * GIB)],
        driver_version: Some("580.159.04".to_owned()),
        cuda_version: Some((13, 0)),
        trouble: None,
    }
}

/// A result of an allocation: a request, a GPU of [`GPUS`], and what of it.
pub fn result(request: &str, gpu: usize, memory: &str, cores: &str) -> Value {
    json!({
        "request": request, "driver": "gpu.vcuda.dev", "pool": "n1", "device": GPUS[gpu],
        "shareID": format!("00000000-0000-4000-8000-{:012x}", request.len() * 10 + gpu),
        "consumedCapacity": {"memory": memory, "cores": cores},
    })
}

/// An allocated claim `team-a/NAME`.
pub fn claim(name: &str, uid: &str, results: &[Value], config: &[Value]) -> ResourceClaim {
    let consumer = json!({"resource": "pods", "name": format!("{name}-pod"), "uid": format!("{uid}-pod")});
    let value: BTreeMap<&str, Value> = BTreeMap::from([
        ("metadata", json!({"name": name, "namespace": "team-a", "uid": uid})),
        ("spec", json!({"devices": {}})),
        (
            "status",
            json!({"allocation": {"devices": {"results": results, "config": config}}, "reservedFor": [consumer]}),
        ),
    ]);
    serde_json::from_value(json!(value)).unwrap()
}
