//! The agent as the driver of a Kubernetes node: what kubelet asks of it, and what it tells the API server.
//!
//! Asked for by options; without them nothing of this runs. Kubernetes decides who gets what: nothing here allocates.

pub mod allocation;
pub mod authority;
pub mod cluster;
pub mod configuration;
pub mod consumers;
pub mod driver;
#[cfg(test)]
mod example;
mod hpack;
mod install;
pub mod inventory;
pub mod messages;
pub mod options;
pub mod plugin;
pub mod prepare;
pub mod publish;
mod quantity;
pub mod registration;
pub mod service;
pub mod slices;
pub mod sockets;
pub mod troubles;
pub mod webhook;

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tokio::sync::watch::{self, Receiver};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tracing::warn;

use crate::faults::Known;
use crate::jobs::{Jobs, Pulse};
use crate::options::Options;
use cluster::Cluster;
use driver::Driver;
use inventory::Inventory;
use messages::dra::dra_plugin_server::DraPluginServer;
use messages::dra_health::dra_resource_health_server::DraResourceHealthServer;
use messages::registration::PluginInfo;
use options::KubernetesOptions;
use prepare::Preparer;
use publish::Publisher;
use registration::{Registered, Registrar};
use service::{Health, Plugin};
use sockets::{Presence, Socket};

/// The driver's name, for dynamic resource allocation and in front of what it makes.
pub const DRIVER: &str = "gpu.vcuda.dev";
/// What kubelet may speak with it.
const VERSIONS: [&str; 1] = ["v1.DRAPlugin"];
/// How often it is looked for shares whose claims are gone.
const SWEEP: Duration = Duration::from_secs(600);
/// How often it is looked whether the sockets are there, and signs of life are shown.
const LOOK: Duration = Duration::from_secs(5);
/// How long kubelet may take to find a socket.
const SILENCE: Duration = Duration::from_secs(60);
/// How long these jobs may be silent.
const PATIENCE: Duration = Duration::from_secs(120);

/// Starts what the options ask for. The GPUs are looked for once, for all of it.
///
/// # Errors
/// Where the options can't be followed at all.
pub async fn start(jobs: &mut Jobs, all: &Options, faults: &Receiver<Arc<Known>>) -> anyhow::Result<()> {
    let options = &all.kubernetes;
    let slices = options.slices(&all.shares);
    if slices.is_none() && options.kubernetes_node.is_none() {
        return Ok(());
    }
    if let Some(from) = &options.library_from {
        install::install(from, &options.library)?;
    }
    let (sender, inventory) = watch::channel(None);
    let faults = faults.clone();
    jobs.start("inventory", inventory::PATIENCE, move |pulse| {
        inventory::run(sender.clone(), faults.clone(), pulse)
    });
    if let Some(slices) = slices {
        let inventory = inventory.clone();
        jobs.start("device_plugin", plugin::PATIENCE, move |pulse| {
            plugin::run(slices.clone(), inventory.clone(), pulse)
        });
    }
    let Some(node) = options.kubernetes_node.clone() else { return Ok(()) };
    let instance = options.instance();
    let cluster = Cluster::connect(options.kubeconfig.as_deref(), &node).await?;

    let lock = all.shares.with_file_name("driver.lock");
    let publisher =
        Publisher { node: node.clone(), cluster: cluster.clone(), inventory: inventory.clone(), lock };
    jobs.start("resource_slices", publish::PATIENCE, move |pulse| publish::run(publisher.clone(), pulse));

    let preparer =
        Preparer::new(options.store(&all.shares), options.gpu_cdi_kind.clone(), options.merge_with.clone());
    let driver = Arc::new(Driver::new(node.clone(), cluster, preparer, inventory.clone()));
    let swept = Arc::clone(&driver);
    jobs.start("claims", PATIENCE, move |pulse| sweep_now_and_then(Arc::clone(&swept), pulse));

    let served = Served { options: options.clone(), instance, node, driver, inventory };
    jobs.start("kubelet", PATIENCE, move |pulse| served.clone().run(pulse));
    Ok(())
}

async fn sweep_now_and_then(driver: Arc<Driver>, pulse: Pulse) -> anyhow::Result<()> {
    loop {
        if pulse.unless_shut_down(driver.sweep()).await.is_none() {
            return Ok(());
        }
        let end = tokio::time::Instant::now() + SWEEP;
        while tokio::time::Instant::now() < end {
            pulse.beat();
            if pulse.unless_shut_down(tokio::time::sleep(LOOK)).await.is_none() {
                return Ok(());
            }
        }
    }
}

/// What kubelet is served.
#[derive(Clone)]
struct Served {
    options: KubernetesOptions,
    instance: String,
    node: String,
    driver: Arc<Driver>,
    inventory: Receiver<Option<Arc<Inventory>>>,
}

impl Served {
    /// The job: makes the sockets and answers, until one of them is gone.
    async fn run(self, pulse: Pulse) -> anyhow::Result<()> {
        let kubelet = self.options.kubelet();
        let (registry, directory) = (kubelet.registry(), kubelet.plugin(DRIVER));
        kubelet.require(&registry)?;
        fs::create_dir_all(&directory).with_context(|| format!("can't make {}", directory.display()))?;
        let is_ours = |name: &str| name.starts_with("dra-") || name.starts_with(&format!("{DRIVER}-"));
        sockets::sweep(&registry, is_ours);
        sockets::sweep(&directory, is_ours);

        // First what registration leads to.
        let plugin = Socket::bind(directory.join(format!("dra-{}.sock", self.instance)))?;
        let registration = Socket::bind(registry.join(format!("{DRIVER}-{}-reg.sock", self.instance)))?;
        let presences = [plugin.presence(), registration.presence()];
        let info = PluginInfo {
            r#type: "DRAPlugin".to_owned(),
            name: DRIVER.to_owned(),
            endpoint: plugin.path().display().to_string(),
            supported_versions: VERSIONS.map(str::to_owned).into(),
        };
        let (registrar, registered) = Registrar::new(info);
        let health = Health { node: self.node, inventory: self.inventory };
        let services = Routes::new(DraPluginServer::new(Plugin(self.driver)))
            .add_service(DraResourceHealthServer::new(health));
        let end = CancellationToken::new();
        let mut serve = std::pin::pin!(async {
            tokio::try_join!(
                plugin.serve(services, end.clone()),
                registration.serve(Routes::new(registrar), end.clone()),
            )
        });
        let look = async {
            let begun = Instant::now();
            let mut is_told = false;
            while presences.iter().all(Presence::is_there) {
                pulse.beat();
                if pulse.unless_shut_down(tokio::time::sleep(LOOK)).await.is_none() {
                    return Ok(());
                }
                let is_silent = *registered.borrow() == Registered::NotYet && begun.elapsed() > SILENCE;
                if is_silent && !std::mem::replace(&mut is_told, true) {
                    warn!(
                        "kubelet has not asked at {} for {} s: does it run, and is that its directory? Otherwise choose \
                         with --kubelet-directory",
                        registry.display(),
                        SILENCE.as_secs()
                    );
                }
            }
            bail!("a socket for kubelet was removed")
        };
        let looked = tokio::select! {
            served = &mut serve => return served.map(|_| ()),
            looked = look => looked,
        };
        end.cancel();
        serve.await?;
        looked
    }
}

/// Whether a text may be part of a file's name: letters, digits and `-`, one to `most` of them.
fn is_plain(text: &str, most: usize) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    (1..=most).contains(&text.len()) && text.bytes().all(is_plain)
}
