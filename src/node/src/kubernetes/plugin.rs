//! The device plugin: equal slices of GPUs as a resource that is counted, for clusters without dynamic resource allocation.
//!
//! Owns the conversation with kubelet: a socket that it calls, and telling it of that socket, anew whenever kubelet was
//! started anew. A container asks for some of `vcuda.dev/slice`; kubelet chooses which, so what is said of them is all there
//! is to say. What they become is `grants`' business.

mod answer;
mod checkpoint;
mod cut;
mod grants;
mod owners;
mod pack;
mod service;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, anyhow};
use tokio::sync::watch::Receiver;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tracing::{debug, info, warn};
use vcuda_shares::Store;

use self::checkpoint::Held;
pub use self::cut::Cut;
use self::grants::Grants;
use self::owners::Labeller;
use self::service::Service;
use super::inventory::Inventory;
use super::messages::device_plugin::RegisterRequest;
use super::messages::device_plugin::device_plugin_server::DevicePluginServer;
use super::messages::device_plugin::registration_client::RegistrationClient;
use super::sockets::{KubeletDirectory, Presence, Socket, connect, sweep};
use crate::jobs::Pulse;

/// What a container's limits say.
pub const RESOURCE: &str = "vcuda.dev/slice";
/// How long the job may be silent.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// How often sockets are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// How long kubelet may take to listen after it has been told, or to listen again.
const LISTENING: Duration = Duration::from_secs(15);
const VERSION: &str = "v1beta1";
const KUBELET_SOCKET: &str = "kubelet.sock";
const SOCKET_PREFIX: &str = "vcuda-";
const SOCKET_SUFFIX: &str = ".sock";

/// What the plugin was asked to be.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Kubelet's directory.
    pub kubelet: KubeletDirectory,
    /// Distinguishes this agent's socket.
    pub instance: String,
    /// How GPUs are cut.
    pub cut: Cut,
    /// Where shares are.
    pub store: Store,
    /// The CDI kind of the GPUs themselves; empty for none.
    pub gpu_cdi_kind: String,
    /// Whether CDI devices are named.
    pub cdi: bool,
    /// How long a share is kept that kubelet does not know.
    pub kept: Duration,
}

/// The job: serves slices of what is in `inventory` until the agent ends.
///
/// # Errors
/// What keeps it from that; it can be begun again.
pub async fn run(
    setup: Setup,
    mut inventory: Receiver<Option<Arc<Inventory>>>,
    pulse: Pulse,
) -> anyhow::Result<()> {
    let directory = setup.kubelet.device_plugins();
    setup.kubelet.require(&directory)?;
    let grants = Arc::new(Grants::new(setup.store, setup.cut, setup.kept));
    // What kubelet starts again after the machine's restart needs its shares at once.
    reclaim(&grants, None).await;
    // A list from before the driver was asked would take slices from pods that have them.
    while inventory.borrow_and_update().is_none() {
        pulse.beat();
        match pulse.unless_shut_down(timeout(LOOK, inventory.changed())).await {
            None | Some(Ok(Err(_))) => return Ok(()),
            Some(_) => {}
        }
    }
    let name = format!("{SOCKET_PREFIX}{}{SOCKET_SUFFIX}", setup.instance);
    let mut labeller = Labeller::new(setup.kubelet.pod_resources());
    while !pulse.is_shut_down() {
        sweep(&directory, |other| other.starts_with(SOCKET_PREFIX) && other.ends_with(SOCKET_SUFFIX));
        let socket = Socket::bind(directory.join(&name))?;
        let ours = socket.presence();
        let stop = CancellationToken::new();
        let listeners = Arc::new(AtomicUsize::new(0));
        let service = Service {
            grants: Arc::clone(&grants),
            inventory: inventory.clone(),
            cdi: setup.cdi.then(|| setup.gpu_cdi_kind.clone()),
            listeners: Arc::clone(&listeners),
            stop: stop.clone(),
        };
        let server = tokio::spawn(socket.serve(Routes::new(DevicePluginServer::new(service)), stop.clone()));
        let registration = Registration { directory: &directory, name: &name, ours, pulse: &pulse };
        if let Some(kubelet) = registration.register().await {
            registration.stay(&kubelet, &grants, &mut labeller, &listeners).await;
        }
        stop.cancel();
        server.await.context("the server")??;
    }
    Ok(())
}

/// A socket that kubelet is told of.
struct Registration<'a> {
    directory: &'a Path,
    name: &'a str,
    ours: Presence,
    pulse: &'a Pulse,
}

impl Registration<'_> {
    /// Tells kubelet, again and again until it listens. `None` if the socket is gone or the agent ends.
    async fn register(&self) -> Option<Presence> {
        let kubelet = self.directory.join(KUBELET_SOCKET);
        let mut is_told = false;
        loop {
            self.pulse.beat();
            // From before it is called, so that one that is started anew meanwhile is another.
            let presence = Presence::of(&kubelet);
            let called = self.pulse.unless_shut_down(register(kubelet.clone(), self.name)).await?;
            match presence.context("it is not there").and_then(|presence| called.map(|()| presence)) {
                Ok(presence) => {
                    info!("kubelet has been told of {RESOURCE}");
                    return Some(presence);
                }
                // While it starts, that is nothing.
                Err(error) if is_told => debug!("kubelet can't be told of {RESOURCE} yet: {error:#}"),
                Err(error) => warn!("kubelet can't be told of {RESOURCE} yet: {error:#}"),
            }
            is_told = true;
            self.pulse.unless_shut_down(tokio::time::sleep(LOOK)).await?;
            if !self.ours.is_there() {
                return None;
            }
        }
    }

    /// Stays until kubelet must be told again or the agent ends, and meanwhile removes what nobody has any more and writes
    /// down whose the others are.
    async fn stay(
        &self,
        kubelet: &Presence,
        grants: &Arc<Grants>,
        labeller: &mut Labeller,
        listeners: &AtomicUsize,
    ) {
        let mut last_heard = Instant::now();
        let mut last_reclaim: Option<Instant> = None;
        while self.pulse.unless_shut_down(tokio::time::sleep(LOOK)).await.is_some() {
            self.pulse.beat();
            if !self.ours.is_there() || !kubelet.is_there() {
                info!("kubelet has been started anew");
                return;
            }
            if listeners.load(Ordering::Relaxed) > 0 {
                last_heard = Instant::now();
            } else if last_heard.elapsed() > LISTENING {
                warn!("kubelet does not listen; telling it of {RESOURCE} again");
                return;
            }
            if last_reclaim.is_none_or(|last| last.elapsed() >= grants.reclaim_every()) {
                last_reclaim = Some(Instant::now());
                reclaim(grants, Some(self.directory.join(checkpoint::FILE))).await;
            }
            if self.pulse.unless_shut_down(labeller.look(grants)).await.is_none() {
                return;
            }
        }
    }
}

async fn register(kubelet: PathBuf, name: &str) -> anyhow::Result<()> {
    let mut kubelet = RegistrationClient::new(connect(kubelet).await?);
    let request = RegisterRequest {
        version: VERSION.to_owned(),
        endpoint: name.to_owned(),
        resource_name: RESOURCE.to_owned(),
        options: Some(service::OPTIONS),
    };
    let answer = kubelet.register(request).await;
    answer.map(|_| ()).map_err(|status| anyhow!("it says: {}", status.message()))
}

/// Removes shares of slices that kubelet's record does not have, and restores the others.
async fn reclaim(grants: &Arc<Grants>, record: Option<PathBuf>) {
    let grants = Arc::clone(grants);
    let looked = spawn_blocking(move || -> anyhow::Result<_> {
        let held = match &record {
            Some(path) => Held::read(path, RESOURCE)
                .context("kubelet's record can't be read, and no share is removed until it can")?,
            None => None,
        };
        Ok(grants.reclaim(held.as_ref())?)
    });
    match looked.await {
        Ok(Ok(swept)) => {
            for name in swept.removed {
                info!("removed the share {name}: no container has its slices any more");
            }
            for name in swept.restored {
                info!("restored the CDI file of the share {name}");
            }
            for path in swept.remains {
                info!("removed {}, which was left half-made", path.display());
            }
        }
        Ok(Err(error)) => warn!("shares of slices: {error:#}"),
        Err(error) => warn!("shares of slices: {error}"),
    }
}
