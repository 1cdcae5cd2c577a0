//! Claims: prepared, prepared again, unprepared, and refused with words that help.

use crate::world::{GIB, GPUS, World, asked, cdi_devices, claim, claim_path, result};
use serde_json::{Value, json};
use std::fs;
use std::sync::Arc;
use std::time::Duration;
use vcuda_node::kubernetes::inventory::Inventory;
use vcuda_shares::{MadeBy, Wanted};

const UID: &str = "0f9c1f2e-3b1a-4a3b-8a59-3d5c4fae7d11";
const OTHER_UID: &str = "77777777-3b1a-4a3b-8a59-3d5c4fae7d11";

fn two_requests() -> [Value; 2] {
    [result("big", 0, "12Gi", "30", 1), result("small", 1, "1Gi", "5", 2)]
}

#[tokio::test]
async fn a_claim_is_a_share_and_a_device_for_each_request() {
    let world = World::new().await;
    world.put_claim("train", UID, &two_requests());
    world.server.put(
        "/api/v1/namespaces/team-a/pods/train-pod",
        json!({
            "metadata": {"uid": format!("{UID}-pod")},
            "spec": {
                "resourceClaims": [{"name": "gpu", "resourceClaimName": "train"}],
                "containers": [
                    {"name": "main", "resources": {"claims": [{"name": "gpu", "request": "big"}]}},
                    {"name": "side", "resources": {"claims": [{"name": "gpu", "request": "small"}]}},
                ],
            },
        }),
    );
    let devices = world.driver.prepare(&asked("train", UID)).await.unwrap();
    let (big, small) = (format!("vcuda.dev/share=claim-{UID}-0"), format!("vcuda.dev/share=claim-{UID}-1"));
    let shown = cdi_devices(&devices);
    assert_eq!(shown["big"], ["nvidia.com/gpu=GPU-01010101-0101-0101-0101-010101010101", big.as_str()]);
    assert_eq!(shown["small"], ["nvidia.com/gpu=GPU-02020202-0202-0202-0202-020202020202", small.as_str()]);
    assert_eq!(devices[0].share_id.as_deref(), Some("00000000-0000-4000-8000-000000000001"));
    assert_eq!((devices[0].pool_name.as_str(), devices[0].device_name.as_str()), ("n1", GPUS[0]));

    let shares = world.node.shares();
    assert_eq!(world.node.names().len(), 2);
    assert_eq!(shares[0].granted().unwrap(), (Some(12 * GIB), Some("30".parse().unwrap())));
    let text = fs::read_to_string(shares[0].directory.join("share.json")).unwrap();
    let labels: Value = serde_json::from_str(&text).unwrap();
    for (label, expected) in [("namespace", "team-a"), ("pod", "train-pod"), ("container", "main")] {
        assert_eq!(labels[label], expected, "{labels}");
    }
    assert_eq!(shares[1].wanted.labels["container"], "side");
    assert_eq!(shares[1].wanted.labels["claim"], "train");

    // Asked again, as after each start of kubelet, it says the same and makes nothing anew.
    let before = fs::metadata(shares[0].control_file()).unwrap().modified().unwrap();
    assert_eq!(world.driver.prepare(&asked("train", UID)).await.unwrap(), devices);
    assert_eq!(world.node.shares(), shares);
    assert_eq!(fs::metadata(shares[0].control_file()).unwrap().modified().unwrap(), before);

    // What runtimes see is put back, and what an administrator set is kept.
    fs::remove_file(shares[0].cdi_file()).unwrap();
    let limits = fs::read_to_string(shares[0].limits_file()).unwrap();
    fs::write(shares[0].limits_file(), limits.replace("30", "40")).unwrap();
    assert_eq!(world.driver.prepare(&asked("train", UID)).await.unwrap(), devices);
    assert_eq!(world.node.names().len(), 2);
    assert_eq!(world.node.shares()[0].granted().unwrap().1, Some("40".parse().unwrap()));

    world.driver.unprepare(&asked("train", UID)).await.unwrap();
    assert!(world.node.names().is_empty());
    world.driver.unprepare(&asked("train", UID)).await.unwrap();
}

#[tokio::test]
async fn shares_of_other_claims_are_left() {
    let world = World::new().await;
    world.put_claim("train", UID, &[result("r", 0, "1Gi", "5", 1)]);
    world.driver.prepare(&asked("train", UID)).await.unwrap();
    // The claim was deleted and made anew under its name, on this node as well.
    world.put_claim("train", OTHER_UID, &[result("r", 0, "2Gi", "5", 2)]);
    world.driver.prepare(&asked("train", OTHER_UID)).await.unwrap();
    let refusal = world.refusal("train", UID).await;
    assert!(refusal.starts_with("claim team-a/train: the claim of this name is 77777777"), "{refusal}");
    assert_eq!(world.node.names(), [format!("claim-{UID}-0"), format!("claim-{OTHER_UID}-0")]);
    // Somebody else's share, of whatever name.
    let mut wanted = Wanted::new(
        format!("claim-{UID}-x"),
        "GPU-02020202-0202-0202-0202-020202020202".parse().unwrap(),
        MadeBy::Cli,
    );
    wanted.memory_bytes = Some(GIB);
    world.node.store().create(&wanted).unwrap();

    world.driver.unprepare(&asked("train", UID)).await.unwrap();
    assert_eq!(world.node.names(), [format!("claim-{UID}-x"), format!("claim-{OTHER_UID}-0")]);
    for uid in ["", "../x", "a/b", "claim-*"] {
        let refusal = world.driver.unprepare(&asked("train", uid)).await.expect_err(uid);
        assert!(refusal.contains("is no claim's UID"), "{refusal}");
    }
    assert_eq!(world.node.names().len(), 2);
}

#[tokio::test]
async fn a_claim_that_is_given_something_else_is_prepared_anew() {
    let world = World::new().await;
    world.put_claim("train", UID, &two_requests());
    world.driver.prepare(&asked("train", UID)).await.unwrap();
    // It was given back and allocated again without a word from kubelet, as when this agent was not there.
    world.put_claim("train", UID, &[result("big", 1, "20Gi", "60", 3)]);
    let devices = world.driver.prepare(&asked("train", UID)).await.unwrap();
    assert_eq!((devices.len(), devices[0].device_name.as_str()), (1, GPUS[1]));
    assert_eq!(world.node.names(), [format!("claim-{UID}-0")]);
    assert_eq!(world.node.shares()[0].granted().unwrap().0, Some(20 * GIB));
}

#[tokio::test]
async fn what_is_wrong_is_said_to_kubelet_and_on_the_claim() {
    let world = World::new().await;
    let refusal = world.refusal("gone", UID).await;
    assert_eq!(refusal, "claim team-a/gone: there is no such claim any more");

    let mut configured = claim("train", UID, &[result("r", 0, "1Gi", "5", 1)]);
    configured["status"]["allocation"]["devices"]["config"] = json!([{
        "source": "FromClaim",
        "opaque": {"driver": "gpu.vcuda.dev", "parameters": {
            "apiVersion": "gpu.vcuda.dev/v1", "kind": "ShareConfig", "wieght": 7,
        }},
    }]);
    world.server.put(&claim_path("train"), configured);
    let refusal = world.refusal("train", UID).await;
    assert!(refusal.contains("unknown field `wieght`"), "{refusal}");
    let events = world.events("ResourceClaim", "train").await;
    assert_eq!(events[0].0, "PrepareFailed");
    assert!(events[0].1.contains("unknown field `wieght`"), "{events:?}");

    world.put_claim("train", UID, &[result("r", 0, "300Mi", "5", 1)]);
    assert!(world.refusal("train", UID).await.contains("not a multiple of 256Mi"));
    let mut vanished = result("r", 0, "1Gi", "5", 1);
    vanished["device"] = json!("gpu-09090909-0909-0909-0909-090909090909");
    world.put_claim("train", UID, &[vanished]);
    assert!(world.refusal("train", UID).await.contains("is no GPU of n1 any more; delete the pod"));

    let none =
        Inventory { trouble: Some("libnvidia-ml.so.1 can't be used".to_owned()), ..Inventory::default() };
    world.inventory.send_replace(Some(Arc::new(none)));
    world.put_claim("train", UID, &[result("r", 0, "1Gi", "5", 1)]);
    assert!(world.refusal("train", UID).await.contains("libnvidia-ml.so.1 can't be used"));
    assert!(world.node.names().is_empty(), "nothing was left of what was refused");
}

#[tokio::test]
async fn a_gpu_that_fails_is_given_to_nobody_new_and_taken_from_nobody() {
    let world = World::new().await;
    world.put_claim("train", UID, &two_requests());
    world.put_claim("later", OTHER_UID, &[result("r", 1, "1Gi", "5", 3)]);
    let devices = world.driver.prepare(&asked("train", UID)).await.unwrap();
    let mut sick = crate::world::inventory();
    sick.gpus[1].trouble = Some("the driver says of GPU 1: lost".to_owned());
    world.inventory.send_replace(Some(Arc::new(sick)));
    let refusal = world.refusal("later", OTHER_UID).await;
    assert!(refusal.ends_with("does not work: the driver says of GPU 1: lost"), "{refusal}");
    // Kubelet asks for all pods of the node again when it is started anew, also for those that run.
    assert_eq!(world.driver.prepare(&asked("train", UID)).await.unwrap(), devices);
    assert_eq!(world.node.names().len(), 2);
}

#[tokio::test]
async fn what_the_server_refuses_is_said() {
    let world = World::new().await;
    world.put_claim("train", UID, &[result("r", 0, "1Gi", "5", 1)]);
    world.server.fail("GET /apis/resource.k8s.io", 403);
    let refusal = world.refusal("train", UID).await;
    assert!(refusal.contains("does not let this agent use resourceclaims.resource.k8s.io"), "{refusal}");
    assert!(refusal.contains("ClusterRole"), "{refusal}");
    world.server.fail("GET /apis/resource.k8s.io", 500);
    let refusal = world.refusal("train", UID).await;
    assert!(refusal.contains("asking the API server for resourceclaims.resource.k8s.io"), "{refusal}");
    // Without rights to look at pods, a claim is prepared all the same.
    world.server.fail("GET /apis/resource.k8s.io", 0);
    world.server.fail("GET /api/v1/namespaces/team-a/pods", 403);
    world.driver.prepare(&asked("train", UID)).await.unwrap();
    let labels = &world.node.shares()[0].wanted.labels;
    assert_eq!((labels["pod"].as_str(), labels.get("container")), ("train-pod", None));
    // Nor is the server needed to unprepare one.
    world.server.fail("/apis", 500);
    world.driver.unprepare(&asked("train", UID)).await.unwrap();
    assert!(world.node.names().is_empty());
}

#[tokio::test]
async fn the_library_must_be_there() {
    let world = World::new().await;
    world.put_claim("train", UID, &two_requests());
    fs::remove_file(world.node.path("libvcuda.so")).unwrap();
    let refusal = world.refusal("train", UID).await;
    assert!(refusal.contains("there is no library at") && refusal.contains("libvcuda.so"), "{refusal}");
    assert!(world.node.names().is_empty());
}

#[tokio::test]
async fn no_gpu_is_promised_beyond_what_it_has_and_the_rest_is_undone() {
    let world = World::new().await;
    let mut wanted =
        Wanted::new("by-hand", "GPU-02020202-0202-0202-0202-020202020202".parse().unwrap(), MadeBy::Cli);
    wanted.memory_bytes = Some(24 * GIB);
    world.node.store().create(&wanted).unwrap();
    world.put_claim("train", UID, &two_requests());
    let refusal = world.refusal("train", UID).await;
    assert!(
        refusal.contains("has nothing of 24GiB of memory left to promise") && refusal.contains("by-hand"),
        "{refusal}"
    );
    assert_eq!(world.node.names(), ["by-hand"]);
}

#[tokio::test]
async fn room_is_made_of_shares_whose_claims_are_gone() {
    let world = World::new().await;
    world.put_claim("old", OTHER_UID, &[result("r", 0, "20Gi", "80", 1)]);
    world.driver.prepare(&asked("old", OTHER_UID)).await.unwrap();
    world.put_claim("train", UID, &[result("r", 0, "20Gi", "80", 2)]);
    let refusal = world.refusal("train", UID).await;
    assert!(refusal.contains("left to promise"), "{refusal}");
    assert_eq!(world.server.delete(&claim_path("old")), 1);
    world.driver.prepare(&asked("train", UID)).await.unwrap();
    assert_eq!(world.node.names(), [format!("claim-{UID}-0")]);
}

#[tokio::test]
async fn a_sweep_removes_what_the_server_does_not_know_and_nothing_else() {
    let world = World::new().await;
    let uid = |number: u32| format!("{number}0000000-3b1a-4a3b-8a59-3d5c4fae7d11");
    for number in 1..=5 {
        let name = format!("c{number}");
        world.put_claim(&name, &uid(number), &[result("r", 0, "1Gi", "5", number)]);
        world.driver.prepare(&asked(&name, &uid(number))).await.unwrap();
    }
    let mut wanted =
        Wanted::new("by-hand", "GPU-02020202-0202-0202-0202-020202020202".parse().unwrap(), MadeBy::Cli);
    wanted.memory_bytes = Some(GIB);
    world.node.store().create(&wanted).unwrap();
    // Gone; another's of that name; given back; given something else; kept.
    world.server.delete(&claim_path("c1"));
    world.put_claim("c2", OTHER_UID, &[result("r", 0, "1Gi", "5", 2)]);
    let mut free = claim("c3", &uid(3), &[]);
    free["status"] = json!({});
    world.server.put(&claim_path("c3"), free);
    world.put_claim("c4", &uid(4), &[result("r", 0, "1Gi", "5", 44)]);
    // A dead call's remains, and CDI files without a share.
    fs::create_dir(world.node.path("shares/half")).unwrap();
    let stale = json!({"cdiVersion": "0.5.0", "kind": "vcuda.dev/share", "devices": []});
    fs::write(world.node.path("cdi/vcuda-old.json"), stale.to_string()).unwrap();

    world.server.fail("GET /apis", 500);
    assert!(!world.driver.sweep().await, "nobody is judged without the server");
    assert_eq!(world.node.names().len(), 6);
    world.server.fail("GET /apis", 0);
    assert!(world.driver.sweep().await);
    let kept = format!("claim-{}-0", uid(5));
    assert_eq!(world.node.names(), ["by-hand".to_owned(), kept]);
}

#[tokio::test]
async fn many_calls_at_once_for_one_claim_make_it_once() {
    let world = Arc::new(World::new().await);
    world.put_claim("train", UID, &two_requests());
    let calls: Vec<_> = (0..20)
        .map(|number| {
            let world = Arc::clone(&world);
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(number % 3)).await;
                world.driver.prepare(&asked("train", UID)).await.unwrap()
            })
        })
        .collect();
    let mut answers = Vec::new();
    for call in calls {
        answers.push(call.await.unwrap());
    }
    assert!(answers.windows(2).all(|two| two[0] == two[1]));
    assert_eq!(world.node.names().len(), 2);
}
