//! Slices: published, put right, and told of when somebody else meddles.

use crate::world::{World, inventory};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};
use vcuda_fake_cluster::write_kubeconfig;
use vcuda_node::jobs::Jobs;
use vcuda_node::kubernetes::cluster::Cluster;
use vcuda_node::kubernetes::publish::{self, Publisher};

const SLICES: &str = "/apis/resource.k8s.io/v1/resourceslices";
const OURS: &str = "/apis/resource.k8s.io/v1/resourceslices/n1-gpu.vcuda.dev-0";

async fn publisher(world: &World) -> Publisher {
    world.server.put("/api/v1/nodes/n1", json!({"metadata": {"uid": "node-uid"}}));
    let address = world.server.serve(([127, 0, 0, 1], 0).into()).await;
    let kubeconfig = write_kubeconfig(&world.node.path(""), address).unwrap();
    Publisher {
        node: "n1".to_owned(),
        cluster: Cluster::connect(Some(&kubeconfig), "n1").await.unwrap(),
        inventory: world.inventory.subscribe(),
        lock: world.node.path("plugin/lock"),
    }
}

fn start(publisher: Publisher) -> Jobs {
    let mut jobs = Jobs::default();
    jobs.start("resource_slices", Duration::from_secs(3600), move |pulse| {
        publish::run(publisher.clone(), pulse)
    });
    jobs
}

/// The slice when `is_so`.
async fn slice_when(world: &World, is_so: impl Fn(&Value) -> bool) -> Value {
    let begin = Instant::now();
    loop {
        let slice = world.server.get(OURS);
        if let Some(slice) = slice.filter(|slice| is_so(slice)) {
            return slice;
        }
        assert!(begin.elapsed() < Duration::from_secs(40), "{:#?}", world.server.list(SLICES));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn generation(slice: &Value) -> i64 {
    slice["spec"]["pool"]["generation"].as_i64().unwrap()
}

#[tokio::test]
async fn what_kubelet_deletes_is_published_again_and_changes_are() {
    let world = World::new().await;
    let jobs = start(publisher(&world).await);
    let first = slice_when(&world, |_| true).await;
    assert_eq!(first["spec"]["devices"].as_array().unwrap().len(), 2);
    let owner = &first["metadata"]["ownerReferences"][0];
    assert_eq!((&owner["kind"], &owner["uid"]), (&json!("Node"), &json!("node-uid")));

    assert_eq!(world.server.delete(SLICES), 1, "as kubelet does when it starts");
    slice_when(&world, |_| true).await;

    let mut sick = inventory();
    sick.gpus[1].trouble = Some("lost".to_owned());
    world.inventory.send_replace(Some(Arc::new(sick)));
    let tainted = slice_when(&world, |slice| slice["spec"]["devices"][1]["taints"].is_array()).await;
    assert!(generation(&tainted) > 1, "{tainted}");
    assert!(tainted["spec"]["devices"][0]["taints"].is_null());

    let events = world.events("Node", "n1").await;
    let expected = "GPU-02020202-0202-0202-0202-020202020202 is not given to pods: lost".to_owned();
    assert_eq!(events, [("GpuUnhealthy".to_owned(), expected)]);

    let mut less = inventory();
    less.gpus.pop();
    world.inventory.send_replace(Some(Arc::new(less)));
    let shrunk = slice_when(&world, |slice| slice["spec"]["devices"].as_array().unwrap().len() == 1).await;
    assert!(generation(&shrunk) > generation(&tainted));

    // Nothing is written while nothing changes.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(world.server.get(OURS), Some(shrunk));
    assert!(jobs.end(Duration::from_secs(10)).await);
}

#[tokio::test]
async fn others_slices_are_left_and_another_driver_is_told() {
    let world = World::new().await;
    let publisher = publisher(&world).await;
    let other = |node: &str, driver: &str| {
        json!({
            "apiVersion": "resource.k8s.io/v1", "kind": "ResourceSlice",
            "metadata": {"managedFields": [{"manager": "somebody"}]},
            "spec": {"driver": driver, "nodeName": node, "devices": [],
                     "pool": {"name": "other", "generation": 1, "resourceSliceCount": 1}},
        })
    };
    world.server.put(&format!("{SLICES}/n2-gpu.vcuda.dev-0"), other("n2", "gpu.vcuda.dev"));
    world.server.put(&format!("{SLICES}/n1-gpu.example.com"), other("n1", "gpu.example.com"));
    world.server.put(&format!("{SLICES}/n1-theirs"), other("n1", "gpu.vcuda.dev"));
    let jobs = start(publisher);
    slice_when(&world, |_| true).await;
    let events = world.events("Node", "n1").await;
    assert_eq!(events[0].0, "TwoDrivers");
    assert!(events[0].1.contains("slice n1-theirs that is not this agent's, by somebody"), "{events:?}");
    assert_eq!(world.server.list(SLICES).len(), 4);
    assert!(jobs.end(Duration::from_secs(10)).await);
}

#[tokio::test]
async fn only_one_of_two_agents_publishes_until_it_ends() {
    let world = World::new().await;
    let publisher = publisher(&world).await;
    let first = start(publisher.clone());
    slice_when(&world, |_| true).await;
    let mut second = publisher.clone();
    let mut different = inventory();
    different.gpus.pop();
    let (_sender, inventory) = tokio::sync::watch::channel(Some(Arc::new(different)));
    second.inventory = inventory;
    let second = start(second);
    tokio::time::sleep(Duration::from_millis(300)).await;
    slice_when(&world, |slice| slice["spec"]["devices"].as_array().unwrap().len() == 2).await;
    assert!(first.end(Duration::from_secs(10)).await);
    slice_when(&world, |slice| slice["spec"]["devices"].as_array().unwrap().len() == 1).await;
    assert!(second.end(Duration::from_secs(10)).await);
}

#[tokio::test]
async fn a_node_that_the_cluster_does_not_know_is_a_failure_with_a_way_out() {
    let world = World::new().await;
    let mut publisher = publisher(&world).await;
    publisher.node = "n9".to_owned();
    publisher.lock = world.node.path("plugin/lock");
    let jobs = start(publisher);
    let begin = Instant::now();
    while jobs.health().jobs()[0].failures == 0 {
        assert!(begin.elapsed() < Duration::from_secs(30));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(world.server.list(SLICES).is_empty());
    assert!(jobs.end(Duration::from_secs(10)).await);
}
