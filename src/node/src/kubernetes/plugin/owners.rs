//! Whose slices are: the pods and containers that kubelet names, as labels of their shares.
//!
//! Allocate does not say for whom it asks, and when it asks, kubelet does not name the pod yet; so it is asked after that, at
//! its pod-resources socket, and what it says is written into the shares. For metrics only: what can't be found out is left
//! out, and keeps nobody from anything. Init containers kubelet leaves out.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::anyhow;
use tokio::task::spawn_blocking;
use tracing::{debug, info, warn};
use vcuda_core::device::Uuid;

use super::super::messages::pod_resources::pod_resources_lister_client::PodResourcesListerClient;
use super::super::messages::pod_resources::{ListPodResourcesRequest, ListPodResourcesResponse};
use super::super::sockets::connect;
use super::RESOURCE;
use super::cut::{Slices, parse_device_id};
use super::grants::Grants;

/// For how long after slices were given kubelet is asked again and again: it names a pod a moment later.
const SOON: Duration = Duration::from_secs(30);
/// How often it is asked otherwise.
const SELDOM: Duration = Duration::from_secs(15);
/// Of an answer: it is of all pods of the node, with all their devices.
const MOST_BYTES: usize = 16 << 20;

/// The pods that have the same slices, by namespace and name, and those of their containers that do.
type Users = BTreeMap<(String, String), BTreeSet<String>>;

/// What a share is labelled with.
pub type Labels = BTreeMap<String, String>;

/// Asks kubelet and has the answers written down.
#[derive(Debug)]
pub struct Labeller {
    socket: PathBuf,
    last: Option<Instant>,
    /// Whether it was said that nobody answers.
    is_told: bool,
}

impl Labeller {
    /// Asks at `socket`.
    pub fn new(socket: PathBuf) -> Labeller {
        Labeller { socket, last: None, is_told: false }
    }

    /// Looks, if it is time to.
    pub async fn look(&mut self, grants: &Arc<Grants>) {
        let is_soon = grants.last_given().is_some_and(|last| last.elapsed() < SOON);
        if !is_soon && self.last.is_some_and(|last| last.elapsed() < SELDOM) {
            return;
        }
        let asked = Instant::now();
        self.last = Some(asked);
        match Owners::ask(self.socket.clone()).await {
            Ok(owners) => {
                self.is_told = false;
                write(Arc::clone(grants), owners, asked).await;
            }
            Err(error) if self.is_told => debug!("whose slices are: {error:#}"),
            Err(error) => {
                self.is_told = true;
                warn!(
                    "metrics of slices have no labels of pods for now: {error:#}; kubelet (1.20 or newer) says whose they are \
                     at {}, which in a container must be mounted at the same path",
                    self.socket.display()
                );
            }
        }
    }
}

async fn write(grants: Arc<Grants>, owners: Owners, asked: Instant) {
    match spawn_blocking(move || grants.label(&owners, asked)).await {
        Ok(Ok(written)) => {
            for name in written {
                info!("wrote down whose the share {name} is");
            }
        }
        Ok(Err(error)) => warn!("labels of slices: {error:#}"),
        Err(error) => warn!("labels of slices: {error}"),
    }
}

/// Whose slices are.
#[derive(Debug, Default)]
pub struct Owners(HashMap<(Uuid, Slices), Labels>);

impl Owners {
    async fn ask(socket: PathBuf) -> anyhow::Result<Owners> {
        let client = PodResourcesListerClient::new(connect(socket).await?);
        let answer = client.max_decoding_message_size(MOST_BYTES).list(ListPodResourcesRequest {}).await;
        let answer = answer.map_err(|status| anyhow!("kubelet says: {}", status.message()))?;
        Ok(Owners::of(answer.into_inner()))
    }

    /// What `answer` says. Slices that several pods have are nobody's; those that several containers of a pod have, all of
    /// these.
    pub fn of(answer: ListPodResourcesResponse) -> Owners {
        let mut users: HashMap<(Uuid, Slices), Users> = HashMap::new();
        for pod in answer.pod_resources {
            for container in pod.containers {
                let mut sets: HashMap<Uuid, Slices> = HashMap::new();
                let ours = container.devices.into_iter().filter(|devices| devices.resource_name == RESOURCE);
                for (gpu, number) in
                    ours.flat_map(|devices| devices.device_ids).filter_map(|id| parse_device_id(&id))
                {
                    sets.entry(gpu).or_default().add(number);
                }
                for set in sets {
                    let pods = users.entry(set).or_default();
                    let containers = pods.entry((pod.namespace.clone(), pod.name.clone())).or_default();
                    containers.insert(container.name.clone());
                }
            }
        }
        let owned = users.into_iter().filter(|(_, pods)| pods.len() == 1);
        Owners(owned.flat_map(|(set, pods)| pods.into_iter().map(move |pod| (set, labels(pod)))).collect())
    }

    /// The labels of the share of `slices`, if somebody has exactly these.
    pub fn labels(&self, gpu: Uuid, slices: Slices) -> Option<&Labels> {
        self.0.get(&(gpu, slices))
    }
}

fn labels(((namespace, pod), containers): ((String, String), BTreeSet<String>)) -> Labels {
    let container = Vec::from_iter(containers).join(",");
    [("namespace", namespace), ("pod", pod), ("container", container)]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
}

#[cfg(test)]
mod tests {
    use super::super::super::messages::pod_resources::{ContainerDevices, ContainerResources, PodResources};
    use super::super::cut::device_id;
    use super::*;

    const GPU: Uuid = Uuid::gpu([1; 16]);

    fn devices(resource: &str, numbers: &[u32]) -> ContainerDevices {
        let device_ids = numbers.iter().map(|&number| device_id(GPU, number)).collect();
        ContainerDevices { resource_name: resource.to_owned(), device_ids }
    }

    fn pod(name: &str, containers: &[(&str, &[ContainerDevices])]) -> PodResources {
        let containers = containers.iter().map(|(name, devices)| ContainerResources {
            name: (*name).to_owned(),
            devices: devices.to_vec(),
        });
        PodResources { name: name.to_owned(), namespace: "team".to_owned(), containers: containers.collect() }
    }

    fn container(owners: &Owners, numbers: &[u32]) -> Option<String> {
        let slices = numbers.iter().copied().collect();
        owners.labels(GPU, slices).map(|labels| format!("{}/{}", labels["pod"], labels["container"]))
    }

    #[test]
    fn slices_are_whose_container_has_exactly_these() {
        let one = |number| devices(RESOURCE, &[number]);
        let owners = Owners::of(ListPodResourcesResponse {
            pod_resources: vec![
                // As kubelet lists them: each by itself, or by memory node.
                pod(
                    "a",
                    &[("main", &[one(1), one(0), devices("nvidia.com/gpu", &[7])]), ("side", &[one(2)])],
                ),
                pod("b", &[("main", &[devices(RESOURCE, &[3, 4])]), ("warm", &[devices(RESOURCE, &[4, 3])])]),
                pod("c", &[("main", &[one(5)])]),
                pod("d", &[("main", &[one(5)]), ("plain", &[])]),
            ],
        });
        assert_eq!(container(&owners, &[0, 1]).as_deref(), Some("a/main"));
        assert_eq!(container(&owners, &[2]).as_deref(), Some("a/side"));
        assert_eq!(container(&owners, &[3, 4]).as_deref(), Some("b/main,warm"));
        for nobodys in [&[0][..], &[5], &[7], &[3]] {
            assert_eq!(container(&owners, nobodys), None, "{nobodys:?}");
        }
        assert_eq!(owners.labels(GPU, [2].into_iter().collect()).unwrap()["namespace"], "team");
    }
}
