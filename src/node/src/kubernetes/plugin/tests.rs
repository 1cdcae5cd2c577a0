//! What slices become, on a store of a test's own.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Status};
use vcuda_core::device::Uuid;
use vcuda_shares::{MadeBy, Places, Store, Wanted};

use super::super::inventory::{Gpu, Inventory};
use super::super::messages::device_plugin::device_plugin_server::DevicePlugin;
use super::super::messages::device_plugin::{Empty, ListAndWatchResponse};
use super::super::messages::pod_resources::{
    ContainerDevices, ContainerResources, ListPodResourcesResponse, PodResources,
};
use super::RESOURCE;
use super::answer::answer;
use super::checkpoint::{FILE, Held};
use super::cut::device_id;
use super::grants::Grants;
use super::owners::Owners;
use super::service::{self, Service};

const GIB: u64 = 1 << 30;

/// A GPU whose UUID is made of one number.
pub fn gpu(number: u8, memory_bytes: u64) -> Gpu {
    Gpu {
        uuid: Uuid::gpu([number; 16]),
        index: u32::from(number),
        product: "Test".to_owned(),
        architecture: None,
        compute_capability: None,
        memory_bytes,
        pci_bus_id: None,
        pcie_root: None,
        numa_node: Some(i64::from(number)),
        mig_parent: None,
        trouble: None,
        xid: None,
    }
}

struct Node {
    directory: TempDir,
    inventory: Inventory,
    grants: Grants,
}

impl Node {
    /// Two GPUs of 80 GiB, cut as `cut` says.
    fn new(cut: &str, kept: Duration) -> Node {
        let directory = tempfile::tempdir().unwrap();
        let library = directory.path().join("libvcuda.so");
        fs::write(&library, "").unwrap();
        let places = Places::of(directory.path().join("shares"), directory.path().join("cdi"), library);
        let grants = Grants::new(Store::open(places), cut.parse().unwrap(), kept);
        let gpus = vec![gpu(1, 80 * GIB), gpu(2, 80 * GIB)];
        Node { directory, inventory: Inventory { gpus, ..Inventory::default() }, grants }
    }

    fn allocate(&self, slices: &[(u8, u32)]) -> Result<Vec<vcuda_shares::Share>, String> {
        self.grants.allocate(&self.inventory, &ids(slices))
    }

    fn store(&self) -> Store {
        let path = |name: &str| self.directory.path().join(name);
        Store::open(Places::of(path("shares"), path("cdi"), path("libvcuda.so")))
    }

    fn names(&self) -> Vec<String> {
        self.store().list().unwrap().iter().map(|share| share.name().to_owned()).collect()
    }

    /// Looks through the shares while kubelet's record has these containers' slices.
    fn reclaim(&self, containers: &[&[(u8, u32)]]) -> Vec<String> {
        let entries: Vec<_> = containers
            .iter()
            .map(|slices| serde_json::json!({ "ResourceName": RESOURCE, "DeviceIDs": { "-1": ids(slices) } }))
            .collect();
        let record = serde_json::json!({ "Data": { "PodDeviceEntries": entries } });
        let path = self.directory.path().join(FILE);
        fs::write(&path, record.to_string()).unwrap();
        self.grants.reclaim(Held::read(&path, RESOURCE).unwrap().as_ref()).unwrap().removed
    }
}

fn ids(slices: &[(u8, u32)]) -> Vec<String> {
    slices.iter().map(|&(gpu, number)| device_id(Uuid::gpu([gpu; 16]), number)).collect()
}

#[test]
fn slices_become_one_share_of_their_gpu() {
    let node = Node::new("8", Duration::ZERO);
    let [share] = &node.allocate(&[(1, 6), (1, 2)]).unwrap()[..] else { panic!("one share") };
    let (memory, cores) = share.granted().unwrap();
    assert_eq!((memory, cores.map(|cores| cores.ppm())), (Some(20 * GIB), Some(250_000)));
    assert_eq!(share.wanted.made_by, MadeBy::Plugin);
    // Asked again for the same: the same share, new if nobody uses it.
    let [again] = &node.allocate(&[(1, 2), (1, 6)]).unwrap()[..] else { panic!("one share") };
    assert_eq!(again, share);
    let all: Vec<(u8, u32)> = (0..8).map(|number| (2, number)).collect();
    let [whole] = &node.allocate(&all).unwrap()[..] else { panic!("one share") };
    assert_eq!(whole.granted().unwrap(), (Some(80 * GIB), None));
    assert_eq!(node.names().len(), 2);
}

#[test]
fn an_earlier_containers_changes_are_not_the_next_ones() {
    let node = Node::new("8", Duration::ZERO);
    let share = node.allocate(&[(1, 0)]).unwrap().remove(0);
    // Open, so that its number is not given to another file.
    let control = fs::File::open(share.control_file()).unwrap();
    let text = fs::read_to_string(share.limits_file()).unwrap();
    fs::write(share.limits_file(), text.replace("10GiB", "60GiB")).unwrap();
    assert_eq!(share.granted().unwrap().0, Some(60 * GIB));
    let next = node.allocate(&[(1, 0)]).unwrap().remove(0);
    assert_eq!(next.granted().unwrap().0, Some(10 * GIB));
    let numbers = [control.metadata(), fs::metadata(next.control_file())].map(|file| file.unwrap().ino());
    assert_ne!(numbers[0], numbers[1], "counters begin anew");
}

#[test]
fn what_can_not_be_given_is_refused_with_words() {
    let mut node = Node::new("8", Duration::ZERO);
    let refused = |node: &Node, slices: &[(u8, u32)], words: &str| {
        let what = node.allocate(slices).expect_err("given");
        assert!(what.contains(words), "{what}");
        assert!(node.names().is_empty());
    };
    refused(&node, &[(1, 0), (2, 0)], "are on 2 GPUs, and one container's must be on 1");
    refused(&node, &[], "no slice was asked for");
    refused(&node, &[(1, 8)], "has 8 slices only; kubelet knows an older cut");
    refused(&node, &[(1, 3), (1, 3)], "asked for twice");
    refused(&node, &[(3, 0)], "this node has no GPU-03030303");
    node.inventory.gpus[0].trouble = Some("it fell off the bus".to_owned());
    refused(&node, &[(1, 0)], "is not given to anybody: it fell off the bus");
    let what = node.grants.allocate(&node.inventory, &["GPU-1".to_owned()]).expect_err("given");
    assert!(what.contains("\"GPU-1\" is no slice"), "{what}");
    // More than one GPU has, on as few as hold them.
    node.inventory.gpus[0].trouble = None;
    let many: Vec<(u8, u32)> = (0..8).map(|number| (1, number)).chain([(2, 5)]).collect();
    assert_eq!(node.allocate(&many).unwrap().len(), 2);
}

#[test]
fn what_others_were_promised_is_left_to_them() {
    let node = Node::new("8", Duration::ZERO);
    let mut half = Wanted::new("half", Uuid::gpu([1; 16]), MadeBy::Cli);
    half.memory_bytes = Some(40 * GIB);
    node.store().create(&half).unwrap();
    node.allocate(&[(1, 0), (1, 1), (1, 2)]).unwrap();
    node.allocate(&[(1, 3)]).unwrap();
    let what = node.allocate(&[(1, 4)]).expect_err("promised twice");
    assert!(what.contains("has 40GiB promised to shares that are no slices of this cut (half)"), "{what}");
    node.allocate(&[(2, 4)]).unwrap();
    // An init container's slices are those of the container after it: promised once.
    node.allocate(&[(1, 0), (1, 1)]).unwrap();
}

#[test]
fn shares_are_kept_for_as_long_as_kubelet_knows_them() {
    let node = Node::new("8", Duration::from_millis(50));
    let init = node.allocate(&[(1, 0), (1, 1)]).unwrap().remove(0);
    let main = node.allocate(&[(1, 0)]).unwrap().remove(0);
    let mut cli = Wanted::new("half", Uuid::gpu([2; 16]), MadeBy::Cli);
    cli.memory_bytes = Some(GIB);
    node.store().create(&cli).unwrap();
    let pause = || std::thread::sleep(Duration::from_millis(60));
    // Not yet written down.
    assert!(node.reclaim(&[]).is_empty());
    // Written down: time does nothing to them.
    let (both, one) = ([(1, 0), (1, 1)], [(1, 0)]);
    for _ in 0..3 {
        pause();
        assert!(node.reclaim(&[&both, &one]).is_empty());
    }
    // A record that says nothing removes nothing.
    assert!(node.grants.reclaim(None).unwrap().removed.is_empty());
    // The pod has only its second container any more.
    assert!(node.reclaim(&[&one]).is_empty(), "not at once");
    pause();
    assert_eq!(node.reclaim(&[&one]), [init.name()]);
    assert!(!init.directory.exists() && !init.cdi_file().exists());
    // Given anew just before it would be removed.
    assert!(node.reclaim(&[]).is_empty());
    pause();
    node.allocate(&[(1, 0)]).unwrap();
    assert!(node.reclaim(&[]).is_empty());
    pause();
    assert_eq!(node.reclaim(&[]), [main.name()]);
    assert_eq!(node.names(), ["half"], "others' shares are others' business");
}

/// Kubelet's answer: one pod of that name has these slices.
fn owners(pod: &str, slices: &[(u8, u32)]) -> Owners {
    let devices = ContainerDevices { resource_name: RESOURCE.to_owned(), device_ids: ids(slices) };
    let containers = vec![ContainerResources { name: "main".to_owned(), devices: vec![devices] }];
    let pod = PodResources { name: pod.to_owned(), namespace: "team".to_owned(), containers };
    Owners::of(ListPodResourcesResponse { pod_resources: vec![pod] })
}

#[test]
fn shares_are_labelled_with_whose_they_are_once_kubelet_says() {
    let node = Node::new("8", Duration::ZERO);
    let before = Instant::now();
    let share = node.allocate(&[(1, 0), (1, 1)]).unwrap().remove(0);
    let pod = || node.store().find(share.name()).unwrap().unwrap().wanted.labels.get("pod").cloned();
    let slices = [(1, 1), (1, 0)];
    let label = |pod: &str, asked| node.grants.label(&owners(pod, &slices), asked).unwrap();
    // Who had them before.
    assert!(label("old", before).is_empty());
    assert_eq!(pod(), None);
    assert_eq!(label("a", Instant::now()), [share.name()]);
    assert!(label("a", Instant::now()).is_empty(), "nothing new");
    assert_eq!(pod().as_deref(), Some("a"));
    // It has ended; the share is still its own.
    assert!(node.grants.label(&owners("b", &[(2, 0)]), Instant::now()).unwrap().is_empty());
    assert_eq!(pod().as_deref(), Some("a"));
    // Others' shares are labelled by others.
    let mut cli = Wanted::new("half", Uuid::gpu([2; 16]), MadeBy::Cli);
    cli.memory_bytes = Some(GIB);
    node.store().create(&cli).unwrap();
    // The next container is another's until it is known whose it is.
    node.allocate(&slices).unwrap();
    assert_eq!(pod(), None);
    assert_eq!(label("b", Instant::now()), [share.name()]);
    assert_eq!(pod().as_deref(), Some("b"));
    assert!(node.store().find("half").unwrap().unwrap().wanted.labels.is_empty());
}

#[test]
fn what_containers_need_is_there_again_after_the_machines_restart() {
    let node = Node::new("8", Duration::ZERO);
    let share = node.allocate(&[(1, 0)]).unwrap().remove(0);
    fs::remove_dir_all(node.directory.path().join("cdi")).unwrap();
    assert_eq!(node.grants.reclaim(None).unwrap().restored, [share.name()]);
    assert!(share.cdi_file().exists());
}

#[test]
fn the_answer_has_all_that_a_share_is_with_cdi_and_without() {
    let node = Node::new("8", Duration::ZERO);
    let shares = node.allocate(&[(1, 7)]).unwrap();
    let share = &shares[0];
    let with = answer(&shares, Some("nvidia.com/gpu")).unwrap();
    let names: Vec<&str> = with.cdi_devices.iter().map(|device| device.name.as_str()).collect();
    let gpu = Uuid::gpu([1; 16]).to_string();
    assert_eq!(names, [format!("nvidia.com/gpu={gpu}"), share.cdi_id()]);
    assert_eq!(with.envs["NVIDIA_VISIBLE_DEVICES"], gpu);
    let (library, control) = (node.directory.path().join("libvcuda.so"), share.control_file());
    let mounted = |place: &std::path::Path| {
        let found: Vec<_> =
            with.mounts.iter().filter(|mount| mount.host_path == place.to_str().unwrap()).collect();
        let [mount] = found[..] else { panic!("{} is mounted {} times", place.display(), found.len()) };
        (mount.container_path.clone(), mount.read_only)
    };
    assert_eq!(mounted(&library), ("/usr/local/vcuda/libvcuda.so".to_owned(), true));
    assert_eq!(mounted(&share.limits_file()), (format!("/etc/vcuda/shares.d/{}.json", share.name()), true));
    assert!(!mounted(&control).1, "programs count in it");
    assert!(with.mounts.iter().any(|mount| mount.container_path == "/etc/ld.so.preload" && mount.read_only));
    // What two shares have in common is mounted once.
    let other = node.allocate(&[(2, 0)]).unwrap();
    let both = answer(&[share.clone(), other[0].clone()], None).unwrap();
    assert_eq!(both.mounts.len(), with.mounts.len() + 2);
    let own_only = answer(&shares, Some("")).unwrap().cdi_devices;
    assert_eq!(own_only.iter().map(|device| &*device.name).collect::<Vec<_>>(), [share.cdi_id()]);
    let without = answer(&shares, None).unwrap();
    assert!(without.cdi_devices.is_empty());
    assert_eq!((without.mounts, without.envs), (with.mounts, with.envs));
}

#[test]
fn all_slices_are_told_with_their_health() {
    let mut node = Node::new("40GiB", Duration::ZERO);
    node.inventory.gpus[1].trouble = Some("gone".to_owned());
    let devices = service::devices(&node.inventory, &node.grants);
    let told: Vec<_> = devices.iter().map(|device| (device.id.clone(), device.health.as_str())).collect();
    let ids = ids(&[(1, 0), (1, 1), (2, 0), (2, 1)]);
    let health = ["Healthy", "Healthy", "Unhealthy", "Unhealthy"];
    assert_eq!(told, ids.into_iter().zip(health).collect::<Vec<_>>());
    assert_eq!(devices[2].topology.as_ref().unwrap().nodes[0].id, 2);
}

#[tokio::test(start_paused = true)]
async fn a_list_is_sent_again_with_each_change_and_ends_with_the_socket() {
    let Node { inventory, grants, directory } = Node::new("1", Duration::ZERO);
    let (sender, receiver) = watch::channel(Some(Arc::new(inventory.clone())));
    let (listeners, stop) = (Arc::new(AtomicUsize::new(0)), CancellationToken::new());
    let service = Service {
        grants: Arc::new(grants),
        inventory: receiver,
        cdi: None,
        listeners: Arc::clone(&listeners),
        stop: stop.clone(),
    };
    let mut list = service.list_and_watch(Request::new(Empty {})).await.unwrap().into_inner();
    assert_eq!(listeners.load(Ordering::Relaxed), 1);
    let health = |answer: Option<Result<ListAndWatchResponse, Status>>| -> Vec<String> {
        answer.unwrap().unwrap().devices.into_iter().map(|device| device.health).collect()
    };
    assert_eq!(health(list.next().await), ["Healthy", "Healthy"]);
    let mut ill = inventory;
    ill.gpus[0].trouble = Some("gone".to_owned());
    sender.send_replace(Some(Arc::new(ill)));
    assert_eq!(health(list.next().await), ["Unhealthy", "Healthy"]);
    assert_eq!(
        health(list.next().await),
        ["Unhealthy", "Healthy"],
        "again after a while, though nothing changed"
    );
    stop.cancel();
    assert!(list.next().await.is_none());
    drop(list);
    assert_eq!(listeners.load(Ordering::Relaxed), 0);
    drop(directory);
}
