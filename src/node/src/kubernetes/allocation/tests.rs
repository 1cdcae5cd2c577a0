//! Claims as the scheduler leaves them, and as it should not.

use super::*;
use crate::kubernetes::example::{self, GIB, GPUS, claim, result};
use proptest::prelude::*;
use serde_json::{Value, json};

const UID: &str = "0f9c1f2e-3b1a-4a3b-8a59-3d5c4fae7d11";

fn parts_of(results: &[Value]) -> Result<Vec<Part>, String> {
    parts(&claim("train", UID, results, &[]), "n1", &example::inventory())
}

#[track_caller]
fn refused(results: &[Value], expected: &str) {
    let error = parts_of(results).expect_err(expected);
    assert!(error.contains(expected), "{error}");
}

#[test]
fn each_result_is_a_share() {
    let found = parts_of(&[result("big", 0, "12Gi", "30"), result("small", 1, "256Mi", "1")]).unwrap();
    let [big, small] = &found[..] else { panic!("{found:?}") };
    assert_eq!((big.request.as_str(), big.device.as_str(), big.pool.as_str()), ("big", GPUS[0], "n1"));
    assert_eq!(big.gpu_uuid, "GPU-01010101-0101-0101-0101-010101010101");
    assert_eq!(big.share_id.as_deref(), Some("00000000-0000-4000-8000-00000000001e"));
    let wanted = big.wanted.as_ref().unwrap();
    assert_eq!(wanted.name, format!("claim-{UID}-0"));
    assert!(vcuda_shares::is_usable(&wanted.name));
    assert_eq!(wanted.memory_bytes, Some(12 * GIB));
    assert_eq!(wanted.cores, Some("30".parse().unwrap()));
    assert_eq!(wanted.physical_bytes, Some(79 * GIB + (123 << 20)));
    let label = |name: &str| wanted.labels[name].as_str();
    assert_eq!(
        (label(NAMESPACE), label(CLAIM), label(CLAIM_UID), label(REQUEST)),
        ("team-a", "train", UID, "big")
    );
    assert_eq!(small.wanted.as_ref().unwrap().name, format!("claim-{UID}-1"));
}

#[test]
fn all_that_can_be_granted_is_all_there_is() {
    let found = parts_of(&[result("r", 0, "79Gi", "100")]).unwrap();
    let wanted = found[0].wanted.as_ref().unwrap();
    assert_eq!((wanted.memory_bytes, wanted.cores), (Some(79 * GIB + (123 << 20)), None));
    // Where a cluster knows no such capacities, a GPU is given to one claim only.
    let mut plain = result("r", 1, "", "");
    plain.as_object_mut().unwrap().remove("consumedCapacity");
    let found = parts_of(&[plain]).unwrap();
    let wanted = found[0].wanted.as_ref().unwrap();
    assert_eq!((wanted.memory_bytes, wanted.cores), (Some(24 * GIB), None));
}

#[test]
fn other_drivers_devices_are_theirs() {
    let mut other = result("nic", 0, "1", "1");
    other["driver"] = json!("nic.example.com");
    let found = parts_of(&[other.clone(), result("r", 1, "1Gi", "5")]).unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].wanted.as_ref().unwrap().name, format!("claim-{UID}-0"));
    refused(&[other], "has nothing of the driver gpu.vcuda.dev");
}

#[test]
fn an_administrators_look_is_no_share() {
    let mut look = result("r", 0, "1Gi", "1");
    look["adminAccess"] = json!(true);
    look.as_object_mut().unwrap().remove("consumedCapacity");
    let found = parts_of(&[look]).unwrap();
    assert_eq!((found.len(), found[0].wanted.as_ref()), (1, None));
}

#[test]
fn what_is_off_the_steps_is_refused() {
    for memory in ["300Mi", "0", "80Gi", "1", "1.5", "lots", "-1Gi", ""] {
        refused(&[result("r", 0, memory, "30")], "of memory, which is not a multiple of 256Mi up to 79Gi");
    }
    for cores in ["0", "101", "30500m", "x"] {
        refused(&[result("r", 0, "1Gi", cores)], "of cores, which is not a multiple of 1 up to 100");
    }
    let mut half = result("r", 0, "1Gi", "5");
    half["consumedCapacity"].as_object_mut().unwrap().remove("cores");
    refused(&[half], "request \"r\": its consumedCapacity lacks cores");
}

#[test]
fn what_this_node_does_not_have_is_refused() {
    let mut vanished = result("r", 0, "1Gi", "5");
    vanished["device"] = json!("gpu-09090909-0909-0909-0909-090909090909");
    refused(&[vanished.clone()], "is no GPU of n1 any more; delete the pod");
    let mut elsewhere = result("r", 0, "1Gi", "5");
    elsewhere["pool"] = json!("n2");
    refused(&[elsewhere], "was given a GPU of node n2, and this is n1");

    let with = |inventory: &Inventory, result: Value| {
        parts(&claim("train", UID, &[result], &[]), "n1", inventory).expect_err("given")
    };
    let mut inventory = example::inventory();
    inventory.gpus[0].trouble = Some("the driver says of GPU 0: lost".to_owned());
    let found = parts(&claim("train", UID, &[result("r", 0, "1Gi", "5")], &[]), "n1", &inventory).unwrap();
    assert_eq!(found[0].trouble.as_deref(), Some("the driver says of GPU 0: lost"));
    let none = Inventory { trouble: Some("no library".to_owned()), ..Inventory::default() };
    let error = with(&none, vanished);
    assert!(error.contains("can't be given: no library"), "{error}");
}

#[test]
fn what_is_not_allocated_is_refused() {
    let mut claim = claim("train", UID, &[], &[]);
    claim.status = None;
    let error = parts(&claim, "n1", &example::inventory()).expect_err("given");
    assert!(error.contains("is not allocated"), "{error}");
}

#[test]
fn two_shares_of_a_gpu_in_one_container_are_refused() {
    let twice = [result("r", 0, "1Gi", "5"), result("r", 0, "2Gi", "5")];
    refused(&twice, "was given two shares of gpu-01010101-0101-0101-0101-010101010101");
    refused(&twice, "distinctAttribute: gpu.vcuda.dev/uuid");
    parts_of(&[result("a", 0, "1Gi", "5"), result("b", 0, "2Gi", "5")]).unwrap();
}

#[test]
fn the_configuration_is_in_the_share() {
    let config = json!({
        "source": "FromClaim", "requests": ["r"],
        "opaque": {"driver": "gpu.vcuda.dev", "parameters": {
            "apiVersion": "gpu.vcuda.dev/v1", "kind": "ShareConfig", "elastic": true, "weight": 30, "idleRelease": "5s",
        }},
    });
    let results = [result("r", 0, "1Gi", "5"), result("s", 1, "1Gi", "5")];
    let of = |config: &Value| {
        parts(&claim("train", UID, &results, std::slice::from_ref(config)), "n1", &example::inventory())
    };
    let found = of(&config).unwrap();
    let wanted = |at: usize| found[at].wanted.as_ref().unwrap();
    assert!(wanted(0).elastic && !wanted(1).elastic);
    assert_eq!((wanted(0).weight, wanted(1).weight), (Some(30), None));
    let mut wrong = config;
    wrong["opaque"]["parameters"]["memory"] = json!("1Gi");
    let error = of(&wrong).expect_err("accepted");
    assert!(
        error.starts_with("request \"r\": the claim's config") && error.contains("unknown field `memory`"),
        "{error}"
    );
}

proptest! {
    /// Whatever grants on the grid the scheduler adds up to at most a device's capacity, the shares are at most the GPU.
    #[test]
    fn shares_of_a_gpu_fit_into_it(
        memory_bytes in MEMORY_STEP_BYTES..1 << 40,
        grants in prop::collection::vec((1_u64..400, 1_u64..60), 1..30),
    ) {
        let mut inventory = example::inventory();
        inventory.gpus[0].memory_bytes = memory_bytes;
        let (mut memory_left, mut cores_left) = (grantable_bytes(memory_bytes), WHOLE_CORES);
        let (mut memory_sum, mut cores_sum) = (0, 0);
        for (number, (steps, cores)) in grants.into_iter().enumerate() {
            let memory = steps * MEMORY_STEP_BYTES;
            if memory > memory_left || cores > cores_left {
                continue;
            }
            memory_left -= memory;
            cores_left -= cores;
            let granted = result("r", 0, &quantity::of_bytes(memory), &cores.to_string());
            let claim = claim("c", &format!("uid-{number}"), &[granted], &[]);
            let parts = parts(&claim, "n1", &inventory).unwrap();
            let wanted = parts[0].wanted.as_ref().unwrap();
            memory_sum += wanted.memory_bytes.unwrap();
            cores_sum += wanted.cores.map_or(1_000_000, Cores::ppm);
            prop_assert_eq!(wanted.memory_bytes.unwrap() / MEMORY_STEP_BYTES, steps);
        }
        prop_assert!(memory_sum <= memory_bytes);
        prop_assert!(cores_sum <= 1_000_000);
    }
}
