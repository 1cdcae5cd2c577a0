//! What kubelet calls.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::{Stream, stream};
use tokio::sync::watch::Receiver;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use tracing::{info, warn};

use super::super::inventory::Inventory;
use super::super::messages::device_plugin::device_plugin_server::DevicePlugin;
use super::super::messages::device_plugin::{
    AllocateRequest, AllocateResponse, ContainerPreferredAllocationResponse, Device, DevicePluginOptions,
    Empty, ListAndWatchResponse, NumaNode, PreStartContainerRequest, PreStartContainerResponse,
    PreferredAllocationRequest, PreferredAllocationResponse, TopologyInfo,
};
use super::answer::answer;
use super::cut::{Cutting, device_id};
use super::grants::Grants;
use super::pack;

/// How often the list is sent though nothing changed: a kubelet that lost another plugin of the same resource, as one that
/// was replaced, takes all of its slices for ill.
const REPEAT: Duration = Duration::from_secs(60);

/// What kubelet may call, and should.
pub const OPTIONS: DevicePluginOptions =
    DevicePluginOptions { pre_start_required: false, get_preferred_allocation_available: true };

/// Answers kubelet, for as long as there is one socket.
#[derive(Debug)]
pub struct Service {
    /// Makes shares.
    pub grants: Arc<Grants>,
    /// What there is.
    pub inventory: Receiver<Option<Arc<Inventory>>>,
    /// The CDI kind of GPUs, empty for none of theirs; `None` for no CDI at all.
    pub cdi: Option<String>,
    /// How many lists are being sent.
    pub listeners: Arc<AtomicUsize>,
    /// Ends the lists.
    pub stop: CancellationToken,
}

type List = Result<ListAndWatchResponse, Status>;

#[tonic::async_trait]
impl DevicePlugin for Service {
    type ListAndWatchStream = Pin<Box<dyn Stream<Item = List> + Send>>;

    async fn get_device_plugin_options(
        &self,
        _: Request<Empty>,
    ) -> Result<Response<DevicePluginOptions>, Status> {
        Ok(Response::new(OPTIONS))
    }

    async fn list_and_watch(&self, _: Request<Empty>) -> Result<Response<Self::ListAndWatchStream>, Status> {
        let list = Lister {
            grants: Arc::clone(&self.grants),
            inventory: self.inventory.clone(),
            is_first: true,
            stop: self.stop.clone(),
            _heard: Heard::new(&self.listeners),
        };
        Ok(Response::new(Box::pin(stream::unfold(list, Lister::next))))
    }

    async fn get_preferred_allocation(
        &self,
        request: Request<PreferredAllocationRequest>,
    ) -> Result<Response<PreferredAllocationResponse>, Status> {
        let containers = request.into_inner().container_requests.into_iter();
        let container_responses = containers.map(|container| {
            let size = usize::try_from(container.allocation_size).unwrap_or(0);
            let (available, required) = (container.available_device_ids, container.must_include_device_ids);
            ContainerPreferredAllocationResponse { device_ids: pack::choose(&available, &required, size) }
        });
        Ok(Response::new(PreferredAllocationResponse { container_responses: container_responses.collect() }))
    }

    async fn allocate(
        &self,
        request: Request<AllocateRequest>,
    ) -> Result<Response<AllocateResponse>, Status> {
        let mut container_responses = Vec::new();
        for container in request.into_inner().container_requests {
            let (grants, inventory) = (Arc::clone(&self.grants), latest(&self.inventory));
            let ids = container.device_ids;
            let made = spawn_blocking(move || grants.allocate(&inventory, &ids)).await;
            let shares = made.map_err(|error| Status::internal(error.to_string()))?.map_err(|what| {
                warn!("slices are refused to a container: {what}");
                Status::failed_precondition(what)
            })?;
            for share in &shares {
                info!("a container has the share {} now", share.name());
            }
            let answer = answer(&shares, self.cdi.as_deref()).map_err(Status::internal)?;
            container_responses.push(answer);
        }
        Ok(Response::new(AllocateResponse { container_responses }))
    }

    async fn pre_start_container(
        &self,
        _: Request<PreStartContainerRequest>,
    ) -> Result<Response<PreStartContainerResponse>, Status> {
        Ok(Response::new(PreStartContainerResponse {}))
    }
}

fn latest(inventory: &Receiver<Option<Arc<Inventory>>>) -> Arc<Inventory> {
    inventory.borrow().clone().unwrap_or_default()
}

/// One list that is being sent, and again with each change.
struct Lister {
    grants: Arc<Grants>,
    inventory: Receiver<Option<Arc<Inventory>>>,
    is_first: bool,
    stop: CancellationToken,
    _heard: Heard,
}

impl Lister {
    async fn next(mut self) -> Option<(List, Lister)> {
        if !self.is_first {
            tokio::select! {
                () = self.stop.cancelled() => return None,
                changed = self.inventory.changed() => changed.ok()?,
                () = tokio::time::sleep(REPEAT) => {}
            }
        }
        self.is_first = false;
        let inventory = self.inventory.borrow_and_update().clone().unwrap_or_default();
        let devices = devices(&inventory, &self.grants);
        Some((Ok(ListAndWatchResponse { devices }), self))
    }
}

/// Counts a listener while there is one.
struct Heard(Arc<AtomicUsize>);

impl Heard {
    fn new(listeners: &Arc<AtomicUsize>) -> Heard {
        listeners.fetch_add(1, Ordering::Relaxed);
        Heard(Arc::clone(listeners))
    }
}

impl Drop for Heard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// All slices, as kubelet is told of them.
pub fn devices(inventory: &Inventory, grants: &Grants) -> Vec<Device> {
    let slices = inventory.gpus.iter().flat_map(|gpu| {
        let numbers = grants.cut().of(gpu).into_iter().flat_map(Cutting::all);
        numbers.map(move |number| Device {
            id: device_id(gpu.uuid, number),
            health: if gpu.trouble.is_none() { "Healthy" } else { "Unhealthy" }.to_owned(),
            topology: gpu.numa_node.map(|id| TopologyInfo { nodes: vec![NumaNode { id }] }),
        })
    });
    slices.collect()
}
