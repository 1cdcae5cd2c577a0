//! The driver's two duties: a claim is prepared before a pod's containers start, and unprepared after they ended.
//!
//! Owns the order: what the API server says of the claim, whether it is the one that kubelet means, what it was given,
//! and then the shares. Calls for the same claim follow one another; those for different claims don't wait.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use k8s_openapi::api::resource::v1::ResourceClaim;
use tokio::sync::watch::Receiver;
use tracing::{debug, info, warn};
use vcuda_shares::MadeBy;

use super::allocation::{CLAIM, CLAIM_UID, NAMESPACE, Part, SHARE_ID, parts};
use super::cluster::Cluster;
use super::consumers;
use super::inventory::Inventory;
use super::messages::dra::{Claim, Device};
use super::prepare::{Preparer, Refusal};
use super::{DRIVER, is_plain};

/// How long it is waited for the first look at the GPUs.
const FIRST_LOOK: Duration = Duration::from_secs(30);

/// The driver of a node.
pub struct Driver {
    node: String,
    cluster: Cluster,
    preparer: Preparer,
    inventory: Receiver<Option<Arc<Inventory>>>,
    /// Claims with calls under way.
    busy: Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>,
}

impl Driver {
    /// The driver of `node`.
    pub fn new(
        node: String,
        cluster: Cluster,
        preparer: Preparer,
        inventory: Receiver<Option<Arc<Inventory>>>,
    ) -> Self {
        Self { node, cluster, preparer, inventory, busy: Mutex::default() }
    }

    /// The devices of a claim, once its shares are there.
    ///
    /// # Errors
    /// Why they can't be, for kubelet's event on the pod; it is an event on the claim as well.
    pub async fn prepare(&self, claim: &Claim) -> Result<Vec<Device>, String> {
        let turn = self.turn(&claim.uid);
        let _turn = turn.lock().await;
        let prepared = self.prepare_in_turn(claim).await;
        let shown = shown(claim);
        match &prepared {
            Ok(devices) => info!("prepared {shown}: {} devices", devices.len()),
            Err(what) => {
                warn!("can't prepare {shown}: {what}");
                self.cluster.warn_of(reference(claim), "PrepareFailed", "Prepare", what);
            }
        }
        prepared.map_err(|what| format!("{shown}: {what}"))
    }

    /// Removes the shares of a claim. There need be none.
    ///
    /// # Errors
    /// Why one could not be removed.
    pub async fn unprepare(&self, claim: &Claim) -> Result<(), String> {
        check_uid(&claim.uid)?;
        let turn = self.turn(&claim.uid);
        let _turn = turn.lock().await;
        let (preparer, uid) = (self.preparer.clone(), claim.uid.clone());
        let removed = blocking(move || preparer.unprepare(&uid)).await.map_err(|refusal| refusal.what);
        let shown = shown(claim);
        match &removed {
            Ok(()) => info!("unprepared {shown}"),
            Err(what) => {
                warn!("can't unprepare {shown}: {what}");
                self.cluster.warn_of(reference(claim), "UnprepareFailed", "Unprepare", what);
            }
        }
        removed.map_err(|what| format!("{shown}: {what}"))
    }

    async fn prepare_in_turn(&self, asked: &Claim) -> Result<Vec<Device>, String> {
        check_uid(&asked.uid)?;
        let claim = self.cluster.claim(&asked.namespace, &asked.name).await?;
        let claim = claim.ok_or("there is no such claim any more")?;
        let uid = claim.metadata.uid.as_deref().unwrap_or_default();
        if uid != asked.uid {
            return Err(format!(
                "the claim of this name is {uid} now: the other was deleted, and kubelet asks anew for whoever uses this one"
            ));
        }
        let inventory = self.inventory().await?;
        let parts = parts(&claim, &self.node, &inventory)?;
        let pod = self.pod_unless_prepared(&claim, &parts).await;
        let preparer = self.preparer.clone();
        let first = {
            let (claim, parts, pod) = (claim.clone(), parts.clone(), pod.clone());
            blocking(move || prepare(&preparer, &claim, pod.as_ref(), &parts)).await
        };
        match first {
            // Of shares that nobody needs any more, perhaps.
            Err(refusal) if refusal.is_lack_of_room && self.sweep().await => {
                let preparer = self.preparer.clone();
                let second = blocking(move || prepare(&preparer, &claim, pod.as_ref(), &parts)).await;
                second.map_err(|refusal| refusal.what)
            }
            first => first.map_err(|refusal| refusal.what),
        }
    }

    async fn inventory(&self) -> Result<Arc<Inventory>, String> {
        let mut inventory = self.inventory.clone();
        let known = tokio::time::timeout(FIRST_LOOK, inventory.wait_for(Option::is_some)).await;
        let known = known.ok().and_then(Result::ok).and_then(|known| known.clone());
        known.ok_or_else(|| {
            "the NVIDIA driver has not told yet which GPUs there are; kubelet will ask again".to_owned()
        })
    }

    /// The pod that the claim is for, where labels are needed.
    async fn pod_unless_prepared(&self, claim: &ResourceClaim, parts: &[Part]) -> Option<Pod> {
        let (name, uid) = consumers::pod_of(claim)?;
        let (preparer, known) = (self.preparer.clone(), parts.to_vec());
        if blocking(move || Ok::<_, Refusal>(preparer.is_prepared(&known))).await == Ok(true) {
            return None;
        }
        let namespace = claim.metadata.namespace.as_deref().unwrap_or_default();
        match self.cluster.pod(namespace, name).await {
            Ok(pod) => pod.filter(|pod| pod.metadata.uid.as_deref() == Some(uid)),
            Err(error) => {
                debug!("metrics of {namespace}/{name} will lack its containers' names: {error}");
                None
            }
        }
    }

    /// Removes shares of claims that are gone or were given back, and what killed calls left. Whether any was removed.
    /// Without the API server only the latter.
    pub async fn sweep(&self) -> bool {
        let store = self.preparer.store().clone();
        let listed = {
            let store = store.clone();
            blocking(move || store.list().map_err(Refusal::from)).await
        };
        let shares = match listed {
            Ok(shares) => shares,
            Err(error) => {
                warn!("can't look for shares that nobody needs: {}", error.what);
                return false;
            }
        };
        let mut stale = Vec::new();
        for share in shares.into_iter().filter(|share| share.wanted.made_by == MadeBy::Dra) {
            let label = |name: &str| share.wanted.labels.get(name).map_or("", String::as_str);
            match self.cluster.claim(label(NAMESPACE), label(CLAIM)).await {
                Ok(claim)
                    if claim.as_ref().is_some_and(|claim| has(claim, label(CLAIM_UID), label(SHARE_ID))) => {}
                Ok(_) => stale.push((share.name().to_owned(), label(SHARE_ID).to_owned())),
                Err(error) => {
                    warn!("can't find out which claims there are, and leaves their shares: {error}");
                    break;
                }
            }
        }
        let swept = blocking(move || {
            let is_needed = |share: &vcuda_shares::Share| {
                let id = share.wanted.labels.get(SHARE_ID).map_or("", String::as_str);
                let is_stale = stale.iter().any(|(name, share_id)| name == share.name() && share_id == id);
                if !is_stale || share.wanted.made_by != MadeBy::Dra {
                    return true;
                }
                let users = share.users();
                if !users.is_empty() {
                    warn!("the claim of share {} is gone, but programs run in it; leaving it", share.name());
                }
                !users.is_empty()
            };
            store.sweep(is_needed).map_err(Refusal::from)
        })
        .await;
        match swept {
            Ok(swept) => {
                for name in &swept.removed {
                    info!("removed share {name}: its claim is gone");
                }
                for path in &swept.remains {
                    info!("removed {}, left by a call that was ended", path.display());
                }
                for name in &swept.restored {
                    info!("share {name} is shown to container runtimes again");
                }
                debug!("all shares have been looked through");
                !swept.removed.is_empty()
            }
            Err(error) => {
                warn!("can't remove what nobody needs: {}", error.what);
                false
            }
        }
    }

    /// What the calls for a claim wait for.
    fn turn(&self, uid: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        busy.retain(|_, turn| turn.strong_count() > 0);
        if let Some(turn) = busy.get(uid).and_then(Weak::upgrade) {
            return turn;
        }
        let turn = Arc::default();
        busy.insert(uid.to_owned(), Arc::downgrade(&turn));
        turn
    }
}

fn prepare(
    preparer: &Preparer,
    claim: &ResourceClaim,
    pod: Option<&Pod>,
    parts: &[Part],
) -> Result<Vec<Device>, Refusal> {
    let uid = claim.metadata.uid.as_deref().unwrap_or_default();
    preparer.prepare(uid, parts, |part| consumers::labels(claim, pod, part))
}

/// Whether the claim has been given what a share was made for.
fn has(claim: &ResourceClaim, uid: &str, share_id: &str) -> bool {
    let allocation = claim.status.as_ref().and_then(|status| status.allocation.as_ref());
    let results = allocation.and_then(|allocation| allocation.devices.as_ref()?.results.as_ref());
    claim.metadata.uid.as_deref() == Some(uid)
        && results.is_some_and(|results| {
            let is_it = |id: Option<&str>| id.unwrap_or_default() == share_id;
            results.iter().any(|result| result.driver == DRIVER && is_it(result.share_id.as_deref()))
        })
}

/// The UID becomes part of a file's name.
fn check_uid(uid: &str) -> Result<(), String> {
    if is_plain(uid, 64) { Ok(()) } else { Err(format!("{uid:?} is no claim's UID")) }
}

fn shown(claim: &Claim) -> String {
    format!("claim {}/{}", claim.namespace, claim.name).replace(char::is_control, " ")
}

fn reference(claim: &Claim) -> ObjectReference {
    ObjectReference {
        api_version: Some("resource.k8s.io/v1".to_owned()),
        kind: Some("ResourceClaim".to_owned()),
        namespace: Some(claim.namespace.clone()),
        name: Some(claim.name.clone()),
        uid: Some(claim.uid.clone()),
        ..ObjectReference::default()
    }
}

/// Work on files, on a thread that may wait.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(format!("an error of this agent's own: {error}").into()))
}
