//! What the scheduler is told of this node's GPUs: ResourceSlices.
//!
//! Each GPU is one device that can be allocated many times, of which each allocation consumes memory and time. The
//! scheduler adds them up, so what is written here is what can be promised: no more than there is, in steps. Owns the
//! objects' contents, and what the amounts of an allocation mean; no talk with the server.

use std::collections::BTreeMap;

use k8s_openapi::api::resource::v1::{
    CapacityRequestPolicy, CapacityRequestPolicyRange, Device, DeviceAttribute, DeviceCapacity, DeviceTaint,
    ResourcePool, ResourceSlice, ResourceSliceSpec,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use super::inventory::{Gpu, Inventory};
use super::{DRIVER, quantity};

/// The capacity that is a GPU's memory.
pub const MEMORY: &str = "memory";
/// The capacity that is a GPU's time, in percent.
pub const CORES: &str = "cores";
/// Memory is granted in steps of so much.
pub const MEMORY_STEP_BYTES: u64 = 256 << 20;
/// All of a GPU's time.
pub const WHOLE_CORES: u64 = 100;
/// The taint of a GPU that must not be given away.
pub const UNHEALTHY: &str = "gpu.vcuda.dev/unhealthy";
/// Devices in one slice at most, where some may have taints.
const MOST_DEVICES: usize = 64;
/// The longest text that an attribute may have.
const LONGEST_ATTRIBUTE: usize = 64;
const PCIE_ROOT: &str = "resource.kubernetes.io/pcieRoot";
const PCI_BUS_ID: &str = "resource.kubernetes.io/pciBusID";

/// Memory of a GPU that can be promised: whole steps.
pub fn grantable_bytes(memory_bytes: u64) -> u64 {
    memory_bytes / MEMORY_STEP_BYTES * MEMORY_STEP_BYTES
}

/// The slices that describe `inventory`, as those of `node`'s pool. There is always one, so that a pool without devices
/// is told from one that nobody tends.
pub fn slices(
    node: &str,
    owner: Option<&OwnerReference>,
    inventory: &Inventory,
    generation: i64,
) -> Vec<ResourceSlice> {
    let gpus = inventory.gpus.iter().filter(|gpu| grantable_bytes(gpu.memory_bytes) > 0);
    let devices: Vec<Device> = gpus.map(|gpu| device(gpu, inventory)).collect();
    let parts: Vec<Vec<Device>> = if devices.is_empty() {
        vec![Vec::new()]
    } else {
        devices.chunks(MOST_DEVICES).map(<[_]>::to_vec).collect()
    };
    let count = i64::try_from(parts.len()).unwrap_or(i64::MAX);
    let slice = |(number, devices): (usize, Vec<Device>)| ResourceSlice {
        metadata: ObjectMeta {
            name: Some(name(node, number)),
            owner_references: owner.map(|owner| vec![owner.clone()]),
            ..ObjectMeta::default()
        },
        spec: ResourceSliceSpec {
            driver: DRIVER.to_owned(),
            node_name: Some(node.to_owned()),
            pool: ResourcePool { name: node.to_owned(), generation, resource_slice_count: count },
            devices: Some(devices),
            ..ResourceSliceSpec::default()
        },
    };
    parts.into_iter().enumerate().map(slice).collect()
}

/// The name of a node's slice.
pub fn name(node: &str, number: usize) -> String {
    format!("{node}-{DRIVER}-{number}")
}

/// Whether a slice of this name is one that this driver makes for `node`.
pub fn is_ours(node: &str, slice_name: &str) -> bool {
    let number = slice_name.strip_prefix(node).and_then(|rest| rest.strip_prefix(&format!("-{DRIVER}-")));
    number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}

fn device(gpu: &Gpu, inventory: &Inventory) -> Device {
    let memory = quantity::of_bytes(grantable_bytes(gpu.memory_bytes));
    let step = quantity::of_bytes(MEMORY_STEP_BYTES);
    let capacity = [(MEMORY, capacity(&memory, &step)), (CORES, capacity(&WHOLE_CORES.to_string(), "1"))];
    let taint = DeviceTaint {
        key: UNHEALTHY.to_owned(),
        // Who runs on it is not driven away: it may come back, and its programs notice by themselves.
        effect: "NoSchedule".to_owned(),
        time_added: None,
        value: gpu.xid.map(|xid| format!("xid-{xid}")),
    };
    Device {
        name: gpu.device_name(),
        allow_multiple_allocations: Some(true),
        attributes: Some(attributes(gpu, inventory)),
        capacity: Some(capacity.map(|(name, capacity)| (name.to_owned(), capacity)).into()),
        taints: gpu.trouble.is_some().then(|| vec![taint]),
        ..Device::default()
    }
}

/// An amount of which requests get all unless they say otherwise, in steps.
fn capacity(all: &str, step: &str) -> DeviceCapacity {
    let quantity = |text: &str| Quantity(text.to_owned());
    DeviceCapacity {
        value: quantity(all),
        request_policy: Some(CapacityRequestPolicy {
            default: Some(quantity(all)),
            valid_range: Some(CapacityRequestPolicyRange {
                min: quantity(step),
                max: None,
                step: Some(quantity(step)),
            }),
            valid_values: None,
        }),
    }
}

fn attributes(gpu: &Gpu, inventory: &Inventory) -> BTreeMap<String, DeviceAttribute> {
    let text = |text: &str| {
        let end =
            text.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|end| *end <= LONGEST_ATTRIBUTE);
        let text = text[..end.last().unwrap_or(0)].to_owned();
        DeviceAttribute { string: Some(text), ..DeviceAttribute::default() }
    };
    let version = |version: String| DeviceAttribute { version: Some(version), ..DeviceAttribute::default() };
    let pair = |(major, minor): (u32, u32)| version(format!("{major}.{minor}.0"));
    let all = [
        ("uuid", Some(text(&gpu.uuid.to_string()))),
        ("type", Some(text(if gpu.is_mig() { "mig" } else { "gpu" }))),
        ("productName", Some(text(&gpu.product))),
        ("architecture", gpu.architecture.map(text)),
        ("cudaComputeCapability", gpu.compute_capability.map(pair)),
        ("driverVersion", inventory.driver_version.as_deref().and_then(semantic_version).map(version)),
        ("cudaDriverVersion", inventory.cuda_version.map(pair)),
        ("parentUUID", gpu.mig_parent.map(|parent| text(&parent.to_string()))),
        (
            "numaNode",
            gpu.numa_node.map(|node| DeviceAttribute { int: Some(node), ..DeviceAttribute::default() }),
        ),
        (PCIE_ROOT, gpu.pcie_root.as_deref().map(text)),
        (PCI_BUS_ID, gpu.pci_bus_id.as_deref().map(text)),
    ];
    all.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}

/// The driver's `580.159.04` as a semantic version, which has three numbers and no zeros in front.
fn semantic_version(text: &str) -> Option<String> {
    let numbers: Option<Vec<u32>> = text.split('.').map(|part| part.parse().ok()).collect();
    let mut numbers = numbers.filter(|numbers| (1..=3).contains(&numbers.len()))?;
    numbers.resize(3, 0);
    Some(format!("{}.{}.{}", numbers[0], numbers[1], numbers[2]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubernetes::example;
    use proptest::prelude::*;
    use serde_json::json;
    use vcuda_core::device::Uuid;

    #[test]
    fn a_slice_says_what_the_scheduler_needs() {
        let inventory = example::inventory();
        let slices = slices("n1", None, &inventory, 7);
        assert_eq!(slices.len(), 1);
        let device = &serde_json::to_value(&slices[0]).unwrap()["spec"]["devices"][0];
        assert_eq!(
            *device,
            json!({
                "name": "gpu-01010101-0101-0101-0101-010101010101",
                "allowMultipleAllocations": true,
                "attributes": {
                    "uuid": {"string": "GPU-01010101-0101-0101-0101-010101010101"},
                    "type": {"string": "gpu"},
                    "productName": {"string": "NVIDIA H100 80GB HBM3"},
                    "architecture": {"string": "Hopper"},
                    "cudaComputeCapability": {"version": "9.0.0"},
                    "driverVersion": {"version": "580.159.4"},
                    "cudaDriverVersion": {"version": "13.0.0"},
                    "numaNode": {"int": 1},
                    "resource.kubernetes.io/pcieRoot": {"string": "pci0000:3a"},
                    "resource.kubernetes.io/pciBusID": {"string": "0000:3b:00.0"},
                },
                "capacity": {
                    "memory": {
                        "value": "79Gi",
                        "requestPolicy": {"default": "79Gi", "validRange": {"min": "256Mi", "step": "256Mi"}},
                    },
                    "cores": {
                        "value": "100",
                        "requestPolicy": {"default": "100", "validRange": {"min": "1", "step": "1"}},
                    },
                },
            })
        );
        let spec = &slices[0].spec;
        assert_eq!((spec.driver.as_str(), spec.node_name.as_deref()), ("gpu.vcuda.dev", Some("n1")));
        assert_eq!(
            (spec.pool.name.as_str(), spec.pool.generation, spec.pool.resource_slice_count),
            ("n1", 7, 1)
        );
    }

    #[test]
    fn trouble_is_a_taint_and_mig_has_a_parent() {
        let mut inventory = example::inventory();
        inventory.gpus[0].trouble = Some("XID 79".to_owned());
        inventory.gpus[0].xid = Some(79);
        let taints = |inventory: &Inventory| {
            let slice = serde_json::to_value(&slices("n1", None, inventory, 1)[0]).unwrap();
            slice["spec"]["devices"][0]["taints"].clone()
        };
        let taint = json!({"key": "gpu.vcuda.dev/unhealthy", "value": "xid-79", "effect": "NoSchedule"});
        assert_eq!(taints(&inventory), json!([taint]));
        inventory.gpus[0].trouble = Some("lost".to_owned());
        inventory.gpus[0].xid = None;
        inventory.gpus[1].uuid = Uuid::mig([7; 16]);
        inventory.gpus[1].mig_parent = Some(Uuid::gpu([2; 16]));
        let slice = serde_json::to_value(&slices("n1", None, &inventory, 1)[0]).unwrap();
        let devices = &slice["spec"]["devices"];
        assert_eq!(devices[0]["taints"], json!([{"key": "gpu.vcuda.dev/unhealthy", "effect": "NoSchedule"}]));
        assert!(devices[1]["taints"].is_null());
        assert_eq!(devices[1]["name"], "mig-07070707-0707-0707-0707-070707070707");
        assert_eq!(devices[1]["attributes"]["type"]["string"], "mig");
        assert_eq!(
            devices[1]["attributes"]["parentUUID"]["string"],
            "GPU-02020202-0202-0202-0202-020202020202"
        );
    }

    #[test]
    fn a_pool_without_devices_is_a_pool_and_many_devices_are_divided() {
        let empty = slices("n1", None, &Inventory::default(), 1);
        assert_eq!(empty.len(), 1);
        assert_eq!(empty[0].spec.devices, Some(Vec::new()));
        let mut inventory = example::inventory();
        let gpu = inventory.gpus[0].clone();
        inventory.gpus =
            (0..130).map(|number| Gpu { uuid: Uuid::gpu([number; 16]), ..gpu.clone() }).collect();
        let many = slices("n1", None, &inventory, 1);
        let counts: Vec<usize> =
            many.iter().map(|slice| slice.spec.devices.as_ref().unwrap().len()).collect();
        assert_eq!(counts, [64, 64, 2]);
        assert!(many.iter().all(|slice| slice.spec.pool.resource_slice_count == 3));
        for (number, slice) in many.iter().enumerate() {
            let name = slice.metadata.name.as_deref().unwrap();
            assert_eq!(name, format!("n1-gpu.vcuda.dev-{number}"));
            assert!(is_ours("n1", name) && !is_ours("n", name) && !is_ours("n12", name));
        }
        assert!(!is_ours("n1", "n1-gpu.vcuda.dev-") && !is_ours("n1", "n1-gpu.vcuda.dev-x"));
    }

    #[test]
    fn versions_are_semantic() {
        for (text, expected) in [
            ("580.159.04", Some("580.159.4")),
            ("575.51", Some("575.51.0")),
            ("1.2.3.4", None),
            ("beta", None),
            ("", None),
        ] {
            assert_eq!(semantic_version(text).as_deref(), expected, "{text}");
        }
    }

    proptest! {
        /// Whatever the scheduler adds up to a device's capacity is there.
        #[test]
        fn what_can_be_promised_is_there_and_on_the_grid(memory_bytes in 0_u64..1 << 42) {
            let mut inventory = example::inventory();
            inventory.gpus.truncate(1);
            inventory.gpus[0].memory_bytes = memory_bytes;
            let slice = &slices("n1", None, &inventory, 1)[0];
            let devices = slice.spec.devices.as_ref().unwrap();
            prop_assert_eq!(devices.is_empty(), memory_bytes < MEMORY_STEP_BYTES);
            for device in devices {
                let capacity = device.capacity.as_ref().unwrap();
                let memory = quantity::parse(&capacity[MEMORY].value.0).unwrap();
                prop_assert!(memory <= memory_bytes && memory_bytes - memory < MEMORY_STEP_BYTES);
                prop_assert_eq!(memory % MEMORY_STEP_BYTES, 0);
                prop_assert_eq!(quantity::parse(&capacity[CORES].value.0), Some(100));
            }
        }

        #[test]
        fn texts_fit(product in ".{0,100}") {
            let mut inventory = example::inventory();
            inventory.gpus[0].product = product;
            let slice = &slices("n1", None, &inventory, 1)[0];
            let devices = slice.spec.devices.as_ref().unwrap();
            let text = devices[0].attributes.as_ref().unwrap()["productName"].string.as_ref().unwrap();
            prop_assert!(text.len() <= 64);
        }
    }
}
