//! What the agent was asked to be in a Kubernetes node.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use super::is_plain;
use super::plugin::{self, Cut};
use super::sockets::KubeletDirectory;
use crate::options::Switch;
use vcuda_shares::{CDI_OF_DAEMONS, LIBRARY_IN_CONTAINER, Places, Store};

/// Being the driver of a Kubernetes node.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "In a Kubernetes node")]
pub struct KubernetesOptions {
    /// Give slices of this node's GPUs to pods, by dynamic resource allocation; NODE is its name in the cluster
    #[arg(long, env = "VCUDA_NODE_KUBERNETES_NODE", value_name = "NODE")]
    pub kubernetes_node: Option<String>,
    /// Distinguishes agents that run at the same time, as while one replaces another: the pod's UID, say.
    /// Without it, a random one
    #[arg(long, env = "VCUDA_NODE_KUBERNETES_INSTANCE", value_name = "ID", value_parser = instance)]
    pub kubernetes_instance: Option<String>,
    /// Kubelet's own directory
    #[arg(
        long,
        env = "VCUDA_NODE_KUBELET_DIRECTORY",
        value_name = "DIR",
        default_value = "/var/lib/kubelet"
    )]
    pub kubelet_directory: PathBuf,
    /// How to reach the cluster where this is no pod of it
    #[arg(long, env = "VCUDA_NODE_KUBECONFIG", value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Where container runtimes find devices. In a container, this must be the node's own directory at the same
    /// path, as must be kubelet's and the shares'
    #[arg(long, env = "VCUDA_NODE_CDI", value_name = "DIR", default_value = CDI_OF_DAEMONS)]
    pub cdi: PathBuf,
    /// The library that containers are given
    #[arg(long, env = "VCUDA_NODE_LIBRARY", value_name = "FILE", default_value = LIBRARY_IN_CONTAINER)]
    pub library: PathBuf,
    /// Put the library there first, from this file, as an image brings it
    #[arg(long, env = "VCUDA_NODE_LIBRARY_FROM", value_name = "FILE")]
    pub library_from: Option<PathBuf>,
    /// For images with an /etc/ld.so.preload of their own: the vcuda command on the node, which adds the library
    /// to it in place of a mount over it
    #[arg(long, env = "VCUDA_NODE_MERGE_WITH", value_name = "FILE")]
    pub merge_with: Option<PathBuf>,
    /// The CDI kind by whose device, named by its UUID, a container is given the GPU itself; empty for none
    #[arg(long, env = "VCUDA_NODE_GPU_CDI_KIND", value_name = "KIND", default_value = "nvidia.com/gpu")]
    pub gpu_cdi_kind: String,
    /// For clusters without dynamic resource allocation: cut each GPU into so many equal slices (8), or into
    /// slices of so much memory (10GiB), that pods ask for as vcuda.dev/slice
    #[arg(
        long,
        env = "VCUDA_NODE_KUBERNETES_SLICES",
        value_name = "CUT",
        conflicts_with = "kubernetes_node"
    )]
    pub kubernetes_slices: Option<Cut>,
    /// Whether the device plugin names CDI devices too, beside mounts and the variable of NVIDIA's runtime
    #[arg(long, env = "VCUDA_NODE_KUBERNETES_SLICES_CDI", value_name = "SWITCH", default_value = "on")]
    pub kubernetes_slices_cdi: Switch,
    /// How long a share of slices is kept after kubelet has forgotten its container
    #[arg(
        long,
        env = "VCUDA_NODE_KUBERNETES_SLICES_KEPT",
        value_name = "TIME",
        default_value = "60s",
        value_parser = humantime::parse_duration
    )]
    pub kubernetes_slices_kept: Duration,
    /// Do nothing else than to answer the API server here: make claims of the limits nvidia.com/gpumem and
    /// nvidia.com/gpucores of new pods
    #[arg(
        long,
        env = "VCUDA_NODE_WEBHOOK",
        value_name = "ADDRESS:PORT",
        requires = "webhook_certificates",
        conflicts_with_all = ["kubernetes_node", "kubernetes_slices"]
    )]
    pub webhook: Option<SocketAddr>,
    /// Where the webhook's tls.crt and tls.key are
    #[arg(long, env = "VCUDA_NODE_WEBHOOK_CERTIFICATES", value_name = "DIR")]
    pub webhook_certificates: Option<PathBuf>,
    /// The percentage of a GPU's time for containers that name no gpucores. Without it, all: then nobody else has
    /// a share of that GPU
    #[arg(
        long,
        env = "VCUDA_NODE_WEBHOOK_CORES",
        value_name = "PERCENT",
        value_parser = clap::value_parser!(u64).range(1..=100)
    )]
    pub webhook_cores: Option<u64>,
}

impl KubernetesOptions {
    /// Kubelet's directory.
    pub fn kubelet(&self) -> KubeletDirectory {
        KubeletDirectory::new(&self.kubelet_directory)
    }

    /// The shares in the directory `shares`, and what containers are given with them.
    pub fn store(&self, shares: &Path) -> Store {
        Store::open(Places::of(shares, &self.cdi, &self.library))
    }

    /// What the device plugin is to be, if there is to be one.
    pub fn slices(&self, shares: &Path) -> Option<plugin::Setup> {
        Some(plugin::Setup {
            cut: self.kubernetes_slices?,
            kubelet: self.kubelet(),
            instance: self.instance(),
            store: self.store(shares),
            gpu_cdi_kind: self.gpu_cdi_kind.clone(),
            cdi: self.kubernetes_slices_cdi == Switch::On,
            kept: self.kubernetes_slices_kept,
        })
    }

    /// What distinguishes this agent's sockets from others'; a random one differs each time.
    pub fn instance(&self) -> String {
        let random = || std::fs::read_to_string("/proc/sys/kernel/random/uuid");
        let number = || std::process::id().to_string();
        let chosen = self.kubernetes_instance.clone();
        chosen.unwrap_or_else(|| random().map_or_else(|_| number(), |text| text.trim().to_owned()))
    }
}

fn instance(text: &str) -> Result<String, String> {
    if is_plain(text, 40) {
        Ok(text.to_owned())
    } else {
        Err("must be 1 to 40 letters, digits and \"-\", such as a pod's UID".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_is_a_plain_name() {
        assert_eq!(instance("0f9c1f2e-3b1a-4a3b-8a59-3d5c4fae7d11").unwrap().len(), 36);
        for wrong in ["", "a/b", "..", "a b", &"x".repeat(41)] {
            instance(wrong).expect_err(wrong);
        }
    }
}
