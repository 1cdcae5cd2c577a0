//! What a claim was given: which share of which GPU each of its requests gets.
//!
//! The scheduler has decided, and what it wrote is in the claim. Owns the reading of it. A claim that is not understood, or
//! that this node can't serve as it is written, must be refused as a whole, with words that help: no container comes up
//! with less or more than it was given.

use std::collections::BTreeMap;

use k8s_openapi::api::resource::v1::{DeviceRequestAllocationResult, ResourceClaim};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use vcuda_core::share::Share as Cores;
use vcuda_shares::{MadeBy, Wanted};

use super::configuration::Configuration;
use super::inventory::{Gpu, Inventory};
use super::slices::{CORES, MEMORY, MEMORY_STEP_BYTES, WHOLE_CORES, grantable_bytes};
use super::{DRIVER, quantity};

/// Parts per million in one percent.
const PPM_PER_PERCENT: u64 = 10_000;
/// The label of a share that says which claim it is of.
pub const CLAIM_UID: &str = "claim_uid";
/// The labels that lead to the claim.
pub const CLAIM: &str = "claim";
/// The namespace of claim and pod.
pub const NAMESPACE: &str = "namespace";
/// The request of the claim.
pub const REQUEST: &str = "request";
/// The device that the request was given.
pub const DEVICE: &str = "device";
/// Which allocation of the device it is.
pub const SHARE_ID: &str = "share_id";

/// A part of a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// As kubelet wants it back.
    pub request: String,
    /// As kubelet wants it back.
    pub pool: String,
    /// As kubelet wants it back.
    pub device: String,
    /// As kubelet wants it back.
    pub share_id: Option<String>,
    /// The GPU's UUID, as NVIDIA's own CDI device is named.
    pub gpu_uuid: String,
    /// Why the GPU must not be given to anybody who does not have it, if so.
    pub trouble: Option<String>,
    /// The share to be made; none for an administrator's look at a device that is others'.
    pub wanted: Option<Wanted>,
}

/// The shares of a claim begin with this; what follows is the part's number.
pub fn share_prefix(claim_uid: &str) -> String {
    format!("claim-{claim_uid}-")
}

/// What the claim has of this driver on the node `node`.
///
/// # Errors
/// What is wrong with it and what to do about it, to follow the claim's name.
pub fn parts(claim: &ResourceClaim, node: &str, inventory: &Inventory) -> Result<Vec<Part>, String> {
    let allocation = claim.status.as_ref().and_then(|status| status.allocation.as_ref());
    let Some(allocation) = allocation else {
        return Err(
            "is not allocated: the scheduler has not given it anything, or has taken it back".to_owned()
        );
    };
    let devices = allocation.devices.clone().unwrap_or_default();
    let results: Vec<_> =
        devices.results.unwrap_or_default().into_iter().filter(|result| result.driver == DRIVER).collect();
    if results.is_empty() {
        return Err(format!("has nothing of the driver {DRIVER} in its allocation"));
    }
    let config = devices.config.unwrap_or_default();
    let mut parts = Vec::new();
    for (number, result) in results.iter().enumerate() {
        let says = |what: String| format!("request {:?}: {what}", result.request);
        if result.pool != node {
            return Err(says(format!("was given a GPU of node {}, and this is {node}", result.pool)));
        }
        let gpu = gpu_of(result, node, inventory).map_err(says)?;
        let wanted = if result.admin_access == Some(true) {
            None
        } else {
            let configuration = Configuration::for_request(&config, &result.request).map_err(says)?;
            Some(wanted(claim, number, result, gpu, configuration).map_err(says)?)
        };
        parts.push(Part {
            request: result.request.clone(),
            pool: result.pool.clone(),
            device: result.device.clone(),
            share_id: result.share_id.clone(),
            gpu_uuid: gpu.uuid.to_string(),
            trouble: gpu.trouble.clone(),
            wanted,
        });
    }
    refuse_doubles(&parts)?;
    Ok(parts)
}

fn gpu_of<'a>(
    result: &DeviceRequestAllocationResult,
    node: &str,
    inventory: &'a Inventory,
) -> Result<&'a Gpu, String> {
    inventory.find(&result.device).ok_or_else(|| match &inventory.trouble {
        Some(trouble) => format!("{} can't be given: {trouble}", result.device),
        None => format!(
            "{} is no GPU of {node} any more; delete the pod, so that the scheduler chooses another (nvidia-smi -L lists \
             those that there are)",
            result.device
        ),
    })
}

fn wanted(
    claim: &ResourceClaim,
    number: usize,
    result: &DeviceRequestAllocationResult,
    gpu: &Gpu,
    configuration: Configuration,
) -> Result<Wanted, String> {
    let whole = grantable_bytes(gpu.memory_bytes);
    let consumed = result.consumed_capacity.as_ref();
    let memory = amount(consumed, MEMORY, whole, MEMORY_STEP_BYTES)?;
    let cores = amount(consumed, CORES, WHOLE_CORES, 1)?;
    let cores = u32::try_from(cores * PPM_PER_PERCENT).ok().and_then(Cores::from_ppm);
    let metadata = &claim.metadata;
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let uid = text(&metadata.uid);
    let labels = [
        (NAMESPACE, text(&metadata.namespace)),
        (CLAIM, text(&metadata.name)),
        (CLAIM_UID, uid.clone()),
        (REQUEST, result.request.clone()),
        (DEVICE, result.device.clone()),
        (SHARE_ID, text(&result.share_id)),
    ];
    let name = format!("{}{number}", share_prefix(&uid));
    Ok(Wanted {
        // Who gets all that can be granted gets the rest that is less than a step as well.
        memory_bytes: Some(if memory == whole { gpu.memory_bytes } else { memory }),
        cores: cores.filter(|cores| !cores.is_whole()),
        elastic: configuration.elastic.unwrap_or(false),
        weight: configuration.weight,
        priority: configuration.priority,
        idle_release: configuration.idle_release,
        labels: labels.map(|(name, value)| (name.to_owned(), value)).into(),
        // The scheduler adds up; that what it adds up is what is here is seen again before a share is made.
        physical_bytes: Some(gpu.memory_bytes),
        ..Wanted::new(name, gpu.uuid, MadeBy::Dra)
    })
}

/// What an allocation consumes of a capacity; all where nothing is said, as when clusters don't know such capacities and
/// give a GPU to one claim only.
fn amount(
    consumed: Option<&BTreeMap<String, Quantity>>,
    name: &str,
    whole: u64,
    step: u64,
) -> Result<u64, String> {
    let Some(consumed) = consumed.filter(|consumed| !consumed.is_empty()) else { return Ok(whole) };
    let text = &consumed.get(name).ok_or_else(|| format!("its consumedCapacity lacks {name}"))?.0;
    let (shown_step, shown_whole) = match name {
        MEMORY => (quantity::of_bytes(step), quantity::of_bytes(whole)),
        _ => (step.to_string(), whole.to_string()),
    };
    match quantity::parse(text) {
        Some(amount) if amount > 0 && amount <= whole && amount.is_multiple_of(step) => Ok(amount),
        _ => Err(format!(
            "was granted {text} of {name}, which is not a multiple of {shown_step} up to {shown_whole} as this node's \
             ResourceSlice offers; if the slice has changed since, delete the pod and its claim, so that the scheduler \
             grants anew"
        )),
    }
}

/// A container can be in one share of a GPU only, and has all that a request was given.
fn refuse_doubles(parts: &[Part]) -> Result<(), String> {
    for (at, part) in parts.iter().enumerate() {
        let is_same = |other: &&Part| {
            other.wanted.is_some() && (&other.request, &other.device) == (&part.request, &part.device)
        };
        if part.wanted.is_some() && parts[..at].iter().any(|other| is_same(&other)) {
            return Err(format!(
                "request {:?}: was given two shares of {}, and a container can use one of a GPU; ask for one larger \
                 share, or for different GPUs by a constraint with distinctAttribute: {DRIVER}/uuid",
                part.request, part.device
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
