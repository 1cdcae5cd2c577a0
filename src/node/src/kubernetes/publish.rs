//! Publishing this node's ResourceSlices, and keeping them published.
//!
//! Kubelet deletes all slices of its node whenever it starts, people delete them, and GPUs fail: the server's slices are
//! watched, and put right when they are not what they should be. Only one agent of a node does so at a time. Must never
//! touch another driver's slices or another node's.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use futures_util::StreamExt;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::resource::v1::ResourceSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch};
use kube::{Api, ResourceExt};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use tokio::sync::watch::Receiver;
use tracing::{info, warn};

use super::DRIVER;
use super::cluster::{Cluster, answer, chain};
use super::inventory::Inventory;
use super::slices::{is_ours, slices};
use super::troubles::Troubles;
use crate::jobs::Pulse;

/// What the server is told of who owns the fields.
const FIELD_MANAGER: &str = "vcuda-node";
/// How often it is tried to become the one that publishes, and signs of life are shown.
const TURN: Duration = Duration::from_secs(5);
/// How long another agent may go on publishing before that is told, as when one replaces another.
const HANDOVER: Duration = Duration::from_secs(300);
/// Slices that somebody else changes so often in [`CONTEST_TIME`] are in dispute.
const CONTEST_CHANGES: usize = 5;
const CONTEST_TIME: Duration = Duration::from_secs(60);
/// Pause between two corrections in a dispute.
const CONTEST_PAUSE: Duration = Duration::from_secs(30);
/// How long the job may be silent.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// The resource, for people.
const SLICES: &str = "resourceslices.resource.k8s.io";

type Slices = BTreeMap<String, ResourceSlice>;

/// Who publishes, for one node.
#[derive(Clone)]
pub struct Publisher {
    /// The node's name.
    pub node: String,
    /// The server.
    pub cluster: Cluster,
    /// What is published.
    pub inventory: Receiver<Option<Arc<Inventory>>>,
    /// The file that tells which of several agents of the node does it.
    pub lock: PathBuf,
}

/// The job: publishes what the inventory says.
pub async fn run(mut publisher: Publisher, pulse: Pulse) -> anyhow::Result<()> {
    let Some(turn) = pulse.unless_shut_down(sole(&publisher.lock, &pulse)).await else { return Ok(()) };
    let _turn = turn?;
    let mut inventory = publisher.inventory.clone();
    loop {
        pulse.beat();
        let known = tokio::time::timeout(TURN, inventory.wait_for(Option::is_some));
        match pulse.unless_shut_down(known).await {
            None | Some(Ok(Err(_))) => return Ok(()),
            Some(Ok(Ok(_))) => break,
            Some(Err(_)) => {}
        }
    }
    pulse.unless_shut_down(publisher.keep_published(&pulse)).await.unwrap_or(Ok(()))
}

/// Waits until this agent is the only one of the node that publishes.
async fn sole(path: &Path, pulse: &Pulse) -> anyhow::Result<File> {
    let shown = path.display();
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).with_context(|| format!("can't make {}", parent.display()))?;
    }
    let opened = OpenOptions::new().create(true).truncate(false).write(true).open(path);
    let file = opened.with_context(|| format!("can't open {shown}"))?;
    let begin = Instant::now();
    let mut is_told = false;
    loop {
        pulse.beat();
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(Errno::WOULDBLOCK) => {}
            Err(error) => return Err(error).with_context(|| format!("can't lock {shown}")),
        }
        if begin.elapsed() > HANDOVER && !is_told {
            is_told = true;
            warn!(
                "two drivers on this node: another vcuda-node publishes its GPUs and does not end; stop one of them"
            );
        }
        tokio::time::sleep(TURN).await;
    }
}

impl Publisher {
    async fn keep_published(&mut self, pulse: &Pulse) -> anyhow::Result<()> {
        let api: Api<ResourceSlice> = Api::all(self.cluster.client());
        let owner = self.owner().await?;
        let fields = format!("spec.nodeName={},spec.driver={DRIVER}", self.node);
        let mut events =
            Box::pin(watch(api.clone(), watcher::Config::default().fields(&fields)).default_backoff());
        let mut inventory = self.inventory.clone();
        let mut known: Option<Slices> = None;
        let mut listing = Slices::new();
        let mut dispute = Dispute::default();
        let mut troubles = Troubles::default();
        let mut is_blind = false;
        loop {
            pulse.beat();
            tokio::select! {
                event = events.next() => match event {
                    Some(Ok(Event::Init)) => listing = Slices::new(),
                    Some(Ok(Event::InitApply(slice))) => _ = listing.insert(slice.name_any(), slice),
                    Some(Ok(Event::InitDone)) => {
                        known = Some(std::mem::take(&mut listing));
                        is_blind = false;
                    }
                    // The server's own word on what was written here may be ahead of the watch.
                    Some(Ok(Event::Apply(slice) | Event::Delete(slice))) if is_older(&slice, known.as_ref()) => continue,
                    Some(Ok(Event::Apply(slice))) => {
                        known.get_or_insert_default().insert(slice.name_any(), slice);
                    }
                    Some(Ok(Event::Delete(slice))) => _ = known.get_or_insert_default().remove(&slice.name_any()),
                    Some(Err(error)) => {
                        if is_forbidden(&error) {
                            bail!(
                                "the API server does not let this agent watch {SLICES}; its service account needs the \
                                 rights of the driver's ClusterRole"
                            );
                        }
                        if !std::mem::replace(&mut is_blind, true) {
                            warn!("can't watch {SLICES}, trying again: {}", chain(&error));
                        }
                        continue;
                    }
                    None => bail!("the watch of {SLICES} ended"),
                },
                changed = inventory.changed() => if changed.is_err() { return Ok(()) },
                () = tokio::time::sleep(TURN) => continue,
            }
            let (Some(known), Some(wanted)) = (&mut known, inventory.borrow_and_update().clone()) else {
                continue;
            };
            for trouble in troubles.news(&wanted) {
                self.cluster.warn_of(self.reference(), "GpuUnhealthy", "Publish", &trouble);
            }
            if let Some(changes) = corrections(&self.node, owner.as_ref(), known, &wanted) {
                if dispute.goes_on() {
                    self.tell_of_dispute("somebody else keeps changing or deleting this driver's slices");
                    tokio::time::sleep(CONTEST_PAUSE).await;
                }
                self.correct(&api, known, changes).await?;
            }
            self.tell_of_others(known, &mut dispute);
        }
    }

    /// The node, so that its slices end with it.
    async fn owner(&self) -> anyhow::Result<Option<OwnerReference>> {
        let node = self.cluster.node(&self.node).await.map_err(anyhow::Error::msg)?;
        let Some(node) = node else {
            bail!(
                "the cluster has no node {}; --kubernetes-node must be this node's name there (kubectl get nodes)",
                self.node
            )
        };
        Ok(node.metadata.uid.map(|uid| OwnerReference {
            api_version: "v1".to_owned(),
            kind: "Node".to_owned(),
            name: self.node.clone(),
            uid,
            controller: Some(true),
            block_owner_deletion: None,
        }))
    }

    async fn correct(
        &self,
        api: &Api<ResourceSlice>,
        known: &mut Slices,
        corrections: Corrections,
    ) -> anyhow::Result<()> {
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        for slice in corrections.apply {
            let name = slice.name_any();
            let applied = answer(SLICES, api.patch(&name, &parameters, &Patch::Apply(&slice))).await;
            let applied = applied.map_err(anyhow::Error::msg)?;
            let devices = applied.spec.devices.as_ref().map_or(0, Vec::len);
            info!("published {name}: {devices} devices, generation {}", applied.spec.pool.generation);
            known.insert(name, applied);
        }
        for name in corrections.delete {
            let gone = answer(SLICES, async {
                match api.delete(&name, &DeleteParams::default()).await {
                    Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
                    deleted => deleted.map(|_| ()),
                }
            });
            gone.await.map_err(anyhow::Error::msg)?;
            info!("deleted {name}, which is not needed any more");
            known.remove(&name);
        }
        Ok(())
    }

    /// Two drivers on one node would promise each GPU twice.
    fn tell_of_others(&self, known: &Slices, dispute: &mut Dispute) {
        let Some(other) = known.values().find(|slice| !is_ours(&self.node, &slice.name_any())) else {
            dispute.is_told = false;
            return;
        };
        if !std::mem::replace(&mut dispute.is_told, true) {
            let manager =
                other.metadata.managed_fields.iter().flatten().find_map(|entry| entry.manager.clone());
            let by = manager.map_or_else(String::new, |manager| format!(", by {manager}"));
            self.tell_of_dispute(&format!(
                "there is a slice {} that is not this agent's{by}",
                other.name_any()
            ));
        }
    }

    fn tell_of_dispute(&self, what: &str) {
        let told = format!(
            "two drivers {DRIVER} on node {}: {what}. They promise the same GPUs twice; remove one of them",
            self.node
        );
        warn!("{told}");
        self.cluster.warn_of(self.reference(), "TwoDrivers", "Publish", &told);
    }

    /// The node, as events name it.
    fn reference(&self) -> ObjectReference {
        ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Node".to_owned()),
            name: Some(self.node.clone()),
            uid: Some(self.node.clone()),
            ..ObjectReference::default()
        }
    }
}

/// What is wrong with the slices on the server.
#[derive(Debug, Default)]
struct Corrections {
    apply: Vec<ResourceSlice>,
    delete: Vec<String>,
}

/// How `known` becomes what `wanted` says; none if it is so. Whatever changes gets a new generation, by which the
/// scheduler tells what belongs together.
fn corrections(
    node: &str,
    owner: Option<&OwnerReference>,
    known: &Slices,
    wanted: &Inventory,
) -> Option<Corrections> {
    let ours = || known.iter().filter(|(name, _)| is_ours(node, name));
    let of_pool = known.values().filter(|slice| slice.spec.pool.name == node);
    let newest = of_pool.map(|slice| slice.spec.pool.generation).max().unwrap_or(0);
    let as_is = slices(node, owner, wanted, newest);
    let is_right = ours().count() == as_is.len()
        && as_is.iter().all(|slice| known.get(&slice.name_any()).is_some_and(|found| says(found, slice)));
    if is_right {
        return None;
    }
    let apply = slices(node, owner, wanted, newest + 1);
    let is_left = |name: &&String| !apply.iter().any(|slice| slice.name_any() == **name);
    let delete = ours().map(|(name, _)| name).filter(is_left).cloned().collect();
    Some(Corrections { apply, delete })
}

/// Whether a slice on the server says what `wanted` does.
fn says(found: &ResourceSlice, wanted: &ResourceSlice) -> bool {
    let mut spec = found.spec.clone();
    // The server notes when.
    for taint in spec.devices.iter_mut().flatten().flat_map(|device| device.taints.iter_mut().flatten()) {
        taint.time_added = None;
    }
    // Nothing is the same as an empty list.
    spec.devices.get_or_insert_default();
    spec == wanted.spec && found.metadata.owner_references == wanted.metadata.owner_references
}

/// Whether a slice is of before the one that is known.
fn is_older(slice: &ResourceSlice, known: Option<&Slices>) -> bool {
    let version = |slice: &ResourceSlice| slice.resource_version()?.parse::<u64>().ok();
    let known = known.and_then(|known| known.get(&slice.name_any())).and_then(version);
    known.is_some_and(|known| version(slice).is_some_and(|version| version < known))
}

fn is_forbidden(error: &watcher::Error) -> bool {
    use watcher::Error::{InitialListFailed, WatchFailed, WatchStartFailed};
    match error {
        InitialListFailed(kube::Error::Api(status))
        | WatchStartFailed(kube::Error::Api(status))
        | WatchFailed(kube::Error::Api(status)) => [401, 403].contains(&status.code),
        _ => false,
    }
}

/// How often slices had to be put right.
#[derive(Default)]
struct Dispute {
    corrected: Vec<Instant>,
    is_told: bool,
}

impl Dispute {
    /// Counts one correction; whether there are too many.
    fn goes_on(&mut self) -> bool {
        self.corrected.retain(|at| at.elapsed() < CONTEST_TIME);
        self.corrected.push(Instant::now());
        self.corrected.len() > CONTEST_CHANGES
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubernetes::example;

    fn on_server(slices: Vec<ResourceSlice>) -> Slices {
        slices.into_iter().map(|slice| (slice.name_any(), slice)).collect()
    }

    #[test]
    fn what_is_right_is_left() {
        let inventory = example::inventory();
        let mut known = on_server(slices("n1", None, &inventory, 4));
        assert!(corrections("n1", None, &known, &inventory).is_none());
        // Others' slices are no business of ours.
        let mut other = known["n1-gpu.vcuda.dev-0"].clone();
        other.metadata.name = Some("n1-somebody".to_owned());
        other.spec.pool.name = "theirs".to_owned();
        known.insert("n1-somebody".to_owned(), other);
        assert!(corrections("n1", None, &known, &inventory).is_none());
    }

    #[test]
    fn what_is_wrong_gets_a_new_generation() {
        let inventory = example::inventory();
        let corrected = |known: &Slices, inventory: &Inventory| {
            let found = corrections("n1", None, known, inventory).expect("right");
            let generations: Vec<i64> = found.apply.iter().map(|slice| slice.spec.pool.generation).collect();
            (generations, found.delete)
        };
        assert_eq!(corrected(&Slices::new(), &inventory), (vec![1], vec![]), "kubelet has deleted all");
        let known = on_server(slices("n1", None, &inventory, 4));
        let mut sick = inventory.clone();
        sick.gpus[0].trouble = Some("lost".to_owned());
        assert_eq!(corrected(&known, &sick), (vec![5], vec![]));
        let mut changed = known.clone();
        changed.get_mut("n1-gpu.vcuda.dev-0").unwrap().spec.devices.as_mut().unwrap().pop();
        assert_eq!(corrected(&changed, &inventory), (vec![5], vec![]));
        // Another's slice of the same pool counts: what is older than it would not be looked at.
        let mut contested = known.clone();
        let mut other = known["n1-gpu.vcuda.dev-0"].clone();
        other.metadata.name = Some("n1-other".to_owned());
        other.spec.pool.generation = 9;
        contested.insert("n1-other".to_owned(), other);
        assert_eq!(corrected(&contested, &inventory), (vec![10], vec![]));
        // One that is too many goes.
        let mut many = known;
        let mut extra = many["n1-gpu.vcuda.dev-0"].clone();
        extra.metadata.name = Some("n1-gpu.vcuda.dev-1".to_owned());
        many.insert("n1-gpu.vcuda.dev-1".to_owned(), extra);
        assert_eq!(corrected(&many, &inventory), (vec![5], vec!["n1-gpu.vcuda.dev-1".to_owned()]));
    }

    #[test]
    fn the_servers_own_notes_are_no_change() {
        let mut inventory = example::inventory();
        inventory.gpus[0].trouble = Some("lost".to_owned());
        let mut known = on_server(slices("n1", None, &inventory, 4));
        let slice = known.get_mut("n1-gpu.vcuda.dev-0").unwrap();
        slice.metadata.resource_version = Some("17".to_owned());
        let taint = &mut slice.spec.devices.as_mut().unwrap()[0].taints.as_mut().unwrap()[0];
        taint.time_added = serde_json::from_str("\"2026-11-24T12:00:00Z\"").unwrap();
        assert!(taint.time_added.is_some());
        assert!(corrections("n1", None, &known, &inventory).is_none());
        let empty = Inventory::default();
        let mut known = on_server(slices("n1", None, &empty, 4));
        known.get_mut("n1-gpu.vcuda.dev-0").unwrap().spec.devices = None;
        assert!(corrections("n1", None, &known, &empty).is_none());
    }

    #[test]
    fn a_dispute_is_many_corrections() {
        let mut dispute = Dispute::default();
        let goes_on: Vec<bool> = (0..7).map(|_| dispute.goes_on()).collect();
        assert_eq!(goes_on, [false, false, false, false, false, true, true]);
    }
}
