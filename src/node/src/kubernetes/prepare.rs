//! The shares behind claims, on this node: made before containers start, removed after they ended.
//!
//! All that is remembered is on the disk, in the store of shares; each call begins with what is there, and may be ended at
//! any instruction. Must never remove a share of another claim, nor make a second one for what a claim was given once.

use std::collections::BTreeMap;
use std::path::PathBuf;

use tracing::{info, warn};
use vcuda_shares::{MadeBy, Share, ShareError, Store};

use super::allocation::{CLAIM_UID, DEVICE, Part, SHARE_ID, share_prefix};
use super::messages::dra::Device;

/// Makes and removes shares.
#[derive(Clone, Debug)]
pub struct Preparer {
    store: Store,
    /// The kind of NVIDIA's own CDI devices, which bring a GPU's files and the driver's libraries; empty for none.
    gpu_cdi_kind: String,
    /// What images with a preload file of their own need, see [`vcuda_shares::Wanted::merge_with`].
    merge_with: Option<PathBuf>,
}

/// Why a claim can't be prepared or unprepared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What is wrong and what to do about it.
    pub what: String,
    /// Whether it is because the GPU is promised to other shares, of which some may not be needed any more.
    pub is_lack_of_room: bool,
}

impl From<ShareError> for Refusal {
    fn from(error: ShareError) -> Self {
        Self { what: error.to_string(), is_lack_of_room: matches!(error, ShareError::OverPromised { .. }) }
    }
}

impl From<String> for Refusal {
    fn from(what: String) -> Self {
        Self { what, is_lack_of_room: false }
    }
}

/// Labels of a request's share that are known only to the pod.
pub type Labels = BTreeMap<String, String>;

impl Preparer {
    /// Shares in `store`, given with the GPU's device of `gpu_cdi_kind`.
    pub fn new(store: Store, gpu_cdi_kind: String, merge_with: Option<PathBuf>) -> Self {
        Self { store, gpu_cdi_kind, merge_with }
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Whether all shares of these parts are there, so that no labels are needed to prepare them.
    pub fn is_prepared(&self, parts: &[Part]) -> bool {
        parts.iter().filter_map(|part| part.wanted.as_ref()).all(|wanted| {
            self.store.find(&wanted.name).ok().flatten().is_some_and(|share| is_same(&share, &wanted.labels))
        })
    }

    /// Makes what is lacking of the shares of a claim's `parts`, which are all that it has here; the devices of all.
    ///
    /// # Errors
    /// Why one could not be made. Those made by this call are removed again.
    pub fn prepare(
        &self,
        claim_uid: &str,
        parts: &[Part],
        labels: impl Fn(&Part) -> Labels,
    ) -> Result<Vec<Device>, Refusal> {
        self.remove_others(claim_uid, parts)?;
        let mut made = Vec::new();
        let prepared = self.make(parts, labels, &mut made);
        if prepared.is_err() {
            for name in made {
                if let Err(error) = self.store.delete(&name) {
                    warn!("share {name} is left for the next sweep: {error}");
                }
            }
        }
        prepared
    }

    /// Removes the shares of a claim, if there are any.
    ///
    /// # Errors
    /// Why one could not be removed.
    pub fn unprepare(&self, claim_uid: &str) -> Result<(), Refusal> {
        self.remove_others(claim_uid, &[])
    }

    fn make(
        &self,
        parts: &[Part],
        labels: impl Fn(&Part) -> Labels,
        made: &mut Vec<String>,
    ) -> Result<Vec<Device>, Refusal> {
        let mut devices = Vec::new();
        for part in parts {
            let mut ids = Vec::new();
            if !self.gpu_cdi_kind.is_empty() {
                ids.push(format!("{}={}", self.gpu_cdi_kind, part.gpu_uuid));
            }
            if let Some(wanted) = &part.wanted {
                let mut wanted = wanted.clone();
                match self.store.find(&wanted.name)? {
                    // As it was made, whatever else is known by now: only what it lacks is put back.
                    Some(share) => wanted = share.wanted,
                    None => {
                        if let Some(trouble) = &part.trouble {
                            let (request, device) = (&part.request, &part.device);
                            return Err(
                                format!("request {request:?}: {device} does not work: {trouble}").into()
                            );
                        }
                        wanted.labels.extend(labels(part));
                        wanted.merge_with.clone_from(&self.merge_with);
                        made.push(wanted.name.clone());
                    }
                }
                let share = self.store.create(&wanted)?;
                ids.push(share.cdi_id());
            }
            devices.push(Device {
                request_names: vec![part.request.clone()],
                pool_name: part.pool.clone(),
                device_name: part.device.clone(),
                cdi_device_ids: ids,
                share_id: part.share_id.clone(),
            });
        }
        Ok(devices)
    }

    /// Removes the claim's shares but those of `parts`: what it was given before it was given this.
    fn remove_others(&self, claim_uid: &str, parts: &[Part]) -> Result<(), Refusal> {
        for name in self.names_of(claim_uid)? {
            let wanted =
                parts.iter().filter_map(|part| part.wanted.as_ref()).find(|wanted| wanted.name == name);
            let found = self.store.find(&name)?;
            if let (Some(wanted), Some(share)) = (wanted, &found)
                && is_same(share, &wanted.labels)
            {
                continue;
            }
            if found.is_some_and(|share| share.wanted.made_by != MadeBy::Dra) {
                return Err(format!(
                    "there is a share {name} that is not a claim's; remove it with vcuda share delete {name}"
                )
                .into());
            }
            if self.store.delete(&name)? {
                info!("removed share {name}");
            }
        }
        Ok(())
    }

    /// The names of the claim's shares, whole or not.
    fn names_of(&self, claim_uid: &str) -> Result<Vec<String>, Refusal> {
        let prefix = share_prefix(claim_uid);
        let directory = &self.store.places().shares;
        let entries = match std::fs::read_dir(directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(format!("can't list {}: {error}", directory.display()).into()),
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|error| format!("can't list {}: {error}", directory.display()))?;
            let name = entry.file_name();
            let is_number =
                |number: &str| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
            names.extend(
                name.to_str()
                    .filter(|name| name.strip_prefix(&prefix).is_some_and(is_number))
                    .map(str::to_owned),
            );
        }
        names.sort();
        Ok(names)
    }
}

/// Whether `share` is what was asked for under `labels`: the same allocation of the same device to the same claim.
fn is_same(share: &Share, labels: &Labels) -> bool {
    share.wanted.made_by == MadeBy::Dra
        && [CLAIM_UID, DEVICE, SHARE_ID]
            .iter()
            .all(|label| share.wanted.labels.get(*label) == labels.get(*label))
}
