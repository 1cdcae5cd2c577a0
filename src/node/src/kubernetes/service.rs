//! The services that kubelet calls on the driver's socket.
//!
//! Owns the form of the answers: every claim that was asked about has one.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::future::join_all;
use futures_util::{Stream, stream};
use tokio::sync::watch::Receiver;
use tonic::{Request, Response, Status};

use super::driver::Driver;
use super::inventory::Inventory;
use super::messages::dra::dra_plugin_server::DraPlugin;
use super::messages::dra::{
    Claim, NodePrepareResourceResponse, NodePrepareResourcesRequest, NodePrepareResourcesResponse,
    NodeUnprepareResourceResponse, NodeUnprepareResourcesRequest, NodeUnprepareResourcesResponse,
};
use super::messages::dra_health::dra_resource_health_server::DraResourceHealth;
use super::messages::dra_health::{
    DeviceHealth, DeviceIdentifier, HealthStatus, NodeWatchResourcesRequest, NodeWatchResourcesResponse,
};

/// How often health is told where it does not change: kubelet forgets after 30 s.
const REPEAT: Duration = Duration::from_secs(10);

/// Answers for a [`Driver`].
pub struct Plugin(pub Arc<Driver>);

#[tonic::async_trait]
impl DraPlugin for Plugin {
    async fn node_prepare_resources(
        &self,
        request: Request<NodePrepareResourcesRequest>,
    ) -> Result<Response<NodePrepareResourcesResponse>, Status> {
        let answer = async |claim: Claim| {
            let answer = match self.0.prepare(&claim).await {
                Ok(devices) => NodePrepareResourceResponse { devices, error: String::new() },
                Err(error) => NodePrepareResourceResponse { devices: Vec::new(), error },
            };
            (claim.uid, answer)
        };
        let answers = join_all(request.into_inner().claims.into_iter().map(answer)).await;
        Ok(Response::new(NodePrepareResourcesResponse { claims: BTreeMap::from_iter(answers) }))
    }

    async fn node_unprepare_resources(
        &self,
        request: Request<NodeUnprepareResourcesRequest>,
    ) -> Result<Response<NodeUnprepareResourcesResponse>, Status> {
        let answer = async |claim: Claim| {
            let error = self.0.unprepare(&claim).await.err().unwrap_or_default();
            (claim.uid, NodeUnprepareResourceResponse { error })
        };
        let answers = join_all(request.into_inner().claims.into_iter().map(answer)).await;
        Ok(Response::new(NodeUnprepareResourcesResponse { claims: BTreeMap::from_iter(answers) }))
    }
}

/// Tells kubelet of the GPUs' health.
pub struct Health {
    /// The node, which is the pool's name.
    pub node: String,
    /// What is known of the GPUs.
    pub inventory: Receiver<Option<Arc<Inventory>>>,
}

#[tonic::async_trait]
impl DraResourceHealth for Health {
    type NodeWatchResourcesStream =
        Pin<Box<dyn Stream<Item = Result<NodeWatchResourcesResponse, Status>> + Send>>;

    async fn node_watch_resources(
        &self,
        _: Request<NodeWatchResourcesRequest>,
    ) -> Result<Response<Self::NodeWatchResourcesStream>, Status> {
        let node = self.node.clone();
        let begin = (self.inventory.clone(), true);
        let answers = stream::unfold(begin, move |(mut inventory, is_first)| {
            let node = node.clone();
            async move {
                if !is_first && let Ok(Err(_)) = tokio::time::timeout(REPEAT, inventory.changed()).await {
                    return None;
                }
                let known = inventory.borrow_and_update().clone();
                let answer = health(&node, known.as_deref());
                Some((Ok(answer), (inventory, false)))
            }
        });
        Ok(Response::new(Box::pin(answers)))
    }
}

fn health(node: &str, inventory: Option<&Inventory>) -> NodeWatchResourcesResponse {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let gpus = inventory.map_or(&[][..], |inventory| &inventory.gpus);
    let devices = gpus.iter().map(|gpu| DeviceHealth {
        device: Some(DeviceIdentifier { pool_name: node.to_owned(), device_name: gpu.device_name() }),
        health: if gpu.trouble.is_none() { HealthStatus::Healthy } else { HealthStatus::Unhealthy }.into(),
        last_updated_time: i64::try_from(now).unwrap_or(i64::MAX),
    });
    NodeWatchResourcesResponse { devices: devices.collect() }
}
