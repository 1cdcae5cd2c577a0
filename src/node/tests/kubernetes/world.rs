//! A node with two GPUs, its directories, and an API server that knows of it.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::watch::{Sender, channel};
use vcuda_core::device::Uuid;
use vcuda_fake_cluster::{Cluster as Server, write_kubeconfig};
use vcuda_node::kubernetes::cluster::Cluster;
use vcuda_node::kubernetes::driver::Driver;
use vcuda_node::kubernetes::inventory::{Gpu, Inventory};
use vcuda_node::kubernetes::messages::dra::{Claim, Device};
use vcuda_node::kubernetes::prepare::Preparer;
use vcuda_shares::{Places, Share, Store};

pub const GIB: u64 = 1 << 30;
pub const GPUS: [&str; 2] =
    ["gpu-01010101-0101-0101-0101-010101010101", "gpu-02020202-0202-0202-0202-020202020202"];

/// The directories of a node, removed in the end.
pub struct Node {
    root: tempfile::TempDir,
}

impl Node {
    pub fn new() -> Node {
        let node = Node { root: tempfile::tempdir().unwrap() };
        fs::write(node.path("libvcuda.so"), "the library").unwrap();
        node
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    pub fn store(&self) -> Store {
        // As on a node, control files are elsewhere.
        let places = Places::of(self.path("shares"), self.path("cdi"), self.path("libvcuda.so"));
        Store::open(Places { control: self.path("run/shares"), ..places })
    }

    pub fn preparer(&self) -> Preparer {
        Preparer::new(self.store(), "nvidia.com/gpu".to_owned(), None)
    }

    pub fn shares(&self) -> Vec<Share> {
        self.store().list().unwrap()
    }

    /// The names of shares, and of those that container runtimes see; nothing else may be there.
    #[track_caller]
    pub fn names(&self) -> Vec<String> {
        let shares: Vec<String> = self.shares().iter().map(|share| share.name().to_owned()).collect();
        let listed = |directory: &str| -> Vec<String> {
            let entries = fs::read_dir(self.path(directory)).into_iter().flatten();
            let mut names: Vec<String> =
                entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        };
        // The store's own lock lies among the shares.
        let directories: Vec<String> =
            listed("shares").into_iter().filter(|name| self.path("shares").join(name).is_dir()).collect();
        assert_eq!(directories, shares, "remains");
        let shown: Vec<String> = shares.iter().map(|name| format!("vcuda-{name}.json")).collect();
        assert_eq!(listed("cdi"), shown, "what runtimes see");
        shares
    }
}

/// Two GPUs of 24 GiB.
pub fn inventory() -> Inventory {
    let gpu = |number: u8| Gpu {
        uuid: Uuid::gpu([number; 16]),
        index: u32::from(number) - 1,
        product: "Simulated GPU".to_owned(),
        architecture: None,
        compute_capability: None,
        memory_bytes: 24 * GIB,
        pci_bus_id: None,
        pcie_root: None,
        numa_node: None,
        mig_parent: None,
        trouble: None,
        xid: None,
    };
    Inventory { gpus: vec![gpu(1), gpu(2)], ..Inventory::default() }
}

/// What a request was given.
pub fn result(request: &str, gpu: usize, memory: &str, cores: &str, share_id: u32) -> Value {
    json!({
        "request": request, "driver": "gpu.vcuda.dev", "pool": "n1", "device": GPUS[gpu],
        "shareID": format!("00000000-0000-4000-8000-{share_id:012x}"),
        "consumedCapacity": {"memory": memory, "cores": cores},
    })
}

/// A claim as the server has it, for the pod NAME-pod.
pub fn claim(name: &str, uid: &str, results: &[Value]) -> Value {
    json!({
        "apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim",
        "metadata": {"name": name, "namespace": "team-a", "uid": uid},
        "spec": {"devices": {"requests": []}},
        "status": {
            "allocation": {"devices": {"results": results}},
            "reservedFor": [{"resource": "pods", "name": format!("{name}-pod"), "uid": format!("{uid}-pod")}],
        },
    })
}

pub fn claim_path(name: &str) -> String {
    format!("/apis/resource.k8s.io/v1/namespaces/team-a/resourceclaims/{name}")
}

/// How kubelet names a claim.
pub fn asked(name: &str, uid: &str) -> Claim {
    Claim { namespace: "team-a".to_owned(), uid: uid.to_owned(), name: name.to_owned() }
}

/// A node with its driver and its server.
pub struct World {
    pub node: Node,
    pub server: Server,
    pub driver: Driver,
    pub inventory: Sender<Option<Arc<Inventory>>>,
}

impl World {
    pub async fn new() -> World {
        let node = Node::new();
        let server = Server::default();
        let address = server.serve(([127, 0, 0, 1], 0).into()).await;
        let kubeconfig = write_kubeconfig(node.root.path(), address).unwrap();
        let cluster = Cluster::connect(Some(&kubeconfig), "n1").await.unwrap();
        let (sender, inventory) = channel(Some(Arc::new(inventory())));
        let driver = Driver::new("n1".to_owned(), cluster, node.preparer(), inventory);
        World { node, server, driver, inventory: sender }
    }

    pub fn put_claim(&self, name: &str, uid: &str, results: &[Value]) {
        self.server.put(&claim_path(name), claim(name, uid, results));
    }

    /// Why a claim is refused.
    pub async fn refusal(&self, name: &str, uid: &str) -> String {
        self.driver.prepare(&asked(name, uid)).await.expect_err("it was prepared")
    }

    /// The events of an object when there are some: reason and note.
    pub async fn events(&self, kind: &str, name: &str) -> Vec<(String, String)> {
        let begin = Instant::now();
        loop {
            let events = self.server.list("/apis/events.k8s.io/v1/events");
            let ours = events.iter().filter(|event| {
                event["regarding"]["kind"] == *kind
                    && event["regarding"]["name"] == *name
                    && event["type"] == "Warning"
            });
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let found: Vec<_> = ours.map(|event| (text(&event["reason"]), text(&event["note"]))).collect();
            if !found.is_empty() {
                return found;
            }
            assert!(begin.elapsed() < Duration::from_secs(30), "no event: {events:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// By request, the CDI devices that were answered.
pub fn cdi_devices(devices: &[Device]) -> BTreeMap<&str, Vec<&str>> {
    devices
        .iter()
        .map(|device| {
            (device.request_names[0].as_str(), device.cdi_device_ids.iter().map(String::as_str).collect())
        })
        .collect()
}
