//! Slices as shares: what a container was given becomes a share of each GPU that it has slices of, and what nobody has any
//! more is removed.
//!
//! Allocate does not say which container it is for, and is asked once for a container's whole life, so a share is named by
//! its slices: kubelet gives a slice to one container at a time, but for an init container, whose slices a later container
//! of its pod may have as well. Must never remove a share whose container kubelet may yet start.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use vcuda_core::device::Uuid;
use vcuda_core::limits::Amount;
use vcuda_shares::{MadeBy, Share, ShareError, Store, Swept, Wanted};

use super::super::inventory::{Gpu, Inventory};
use super::checkpoint::Held;
use super::cut::{Cut, Cutting, Slices, parse_device_id, share_name, slices_of_share};
use super::owners::Owners;

/// Makes shares of slices, and removes them.
#[derive(Debug)]
pub struct Grants {
    store: Store,
    cut: Cut,
    /// How long a share is kept that kubelet does not know: it writes down what it was answered a moment later.
    kept: Duration,
    given: Mutex<Given>,
}

/// What is remembered of what was given. Held while shares are made, changed and removed.
#[derive(Debug, Default)]
struct Given {
    /// Since when kubelet has not known each of these shares.
    unknown_since: HashMap<String, Instant>,
    /// When a container was given slices last.
    last: Option<Instant>,
}

impl Grants {
    /// Shares in `store`.
    pub fn new(store: Store, cut: Cut, kept: Duration) -> Grants {
        Grants { store, cut, kept, given: Mutex::default() }
    }

    /// How often they should be looked through.
    pub fn reclaim_every(&self) -> Duration {
        (self.kept / 4).clamp(Duration::from_secs(1), Duration::from_secs(15))
    }

    /// When a container was given slices last.
    pub fn last_given(&self) -> Option<Instant> {
        self.given().last
    }

    fn given(&self) -> MutexGuard<'_, Given> {
        self.given.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How GPUs are cut.
    pub fn cut(&self) -> Cut {
        self.cut
    }

    /// The shares of one container that was given the slices `ids`, made if they are not there; one for each GPU.
    ///
    /// # Errors
    /// A sentence for who looks at the pod.
    pub fn allocate(&self, inventory: &Inventory, ids: &[String]) -> Result<Vec<Share>, String> {
        let wanted = self.by_gpu(inventory, ids)?;
        // Held throughout, so that nothing is removed meanwhile.
        let mut given = self.given();
        given.last = Some(Instant::now());
        let all = self.store.list().map_err(|error| error.to_string())?;
        let mut shares = Vec::new();
        for (gpu, cutting, slices) in wanted {
            fits_beside(gpu, cutting, slices, &all)?;
            given.unknown_since.remove(&share_name(gpu.uuid, slices));
            shares.push(self.share(gpu.uuid, cutting, slices).map_err(|error| error.to_string())?);
        }
        Ok(shares)
    }

    /// What `ids` are, in an order of their own: by GPU.
    fn by_gpu<'i>(
        &self,
        inventory: &'i Inventory,
        ids: &[String],
    ) -> Result<Vec<(&'i Gpu, Cutting, Slices)>, String> {
        let mut sets: BTreeMap<Uuid, Slices> = BTreeMap::new();
        for id in ids {
            let (gpu, number) = parse_device_id(id).ok_or(format!("{id:?} is no slice of this node's"))?;
            if !sets.entry(gpu).or_default().add(number) {
                return Err(format!("the slice {id} is asked for twice"));
            }
        }
        let mut found = Vec::new();
        for (uuid, slices) in sets {
            let gpu = inventory.gpus.iter().find(|gpu| gpu.uuid == uuid);
            let gpu = gpu.ok_or(format!("this node has no {uuid} (any more)"))?;
            if let Some(trouble) = &gpu.trouble {
                return Err(format!("{uuid} is not given to anybody: {trouble}"));
            }
            let cutting = self.cut.of(gpu).ok_or(format!("{uuid} is too small for a slice"))?;
            if !cutting.all().collect::<Slices>().contains(slices) {
                return Err(format!("{uuid} has {} slices only; kubelet knows an older cut", cutting.count));
            }
            found.push((gpu, cutting, slices));
        }
        let largest =
            inventory.gpus.iter().filter_map(|gpu| self.cut.of(gpu)).map(|cutting| cutting.count).max();
        let fewest = ids.len().div_ceil(usize::try_from(largest.unwrap_or(1)).unwrap_or(1).max(1));
        match found.len() {
            0 => Err("no slice was asked for".to_owned()),
            count if count > fewest => Err(format!(
                "the {} slices that are free are on {count} GPUs, and one container's must be on {fewest}: each of those \
                 GPUs has too few free ones. Ask for fewer, or wait for others to end",
                ids.len()
            )),
            _ => Ok(found),
        }
    }

    fn share(&self, gpu: Uuid, cutting: Cutting, slices: Slices) -> Result<Share, ShareError> {
        let mut wanted = Wanted::new(share_name(gpu, slices), gpu, MadeBy::Plugin);
        wanted.memory_bytes = Some(cutting.memory_bytes(slices));
        wanted.cores = cutting.cores(slices);
        match self.store.find(&wanted.name)? {
            // Of an earlier container: its limits may have been changed, and its counters are another's.
            Some(older) if older.users().is_empty() => {
                self.store.delete(&wanted.name)?;
            }
            // One that is just ending has the same slices until it is gone.
            Some(older) => wanted.labels = older.wanted.labels,
            None => {}
        }
        self.store.create(&wanted)
    }

    /// Writes down whose the shares of slices are, as kubelet said when it was asked at `asked`; the names of those that
    /// were written. What it knew before slices were given again says nothing.
    ///
    /// # Errors
    /// [`ShareError`].
    pub fn label(&self, owners: &Owners, asked: Instant) -> Result<Vec<String>, ShareError> {
        let given = self.given();
        let mut written = Vec::new();
        if given.last.is_some_and(|last| last >= asked) {
            return Ok(written);
        }
        for share in self.store.list()?.iter().filter(|share| share.wanted.made_by == MadeBy::Plugin) {
            let slices = slices_of_share(share.name());
            // Kubelet forgets a pod before its programs have ended; they stay that pod's.
            let labels = slices.and_then(|slices| owners.labels(share.wanted.gpu_uuid, slices));
            if let Some(labels) = labels
                && self.store.relabel(share.name(), labels)?
            {
                written.push(share.name().to_owned());
            }
        }
        Ok(written)
    }

    /// Removes the shares of slices that kubelet has not known for some time and nobody uses, and what was left half-made;
    /// restores what containers need to start. Without `held` no share is removed.
    ///
    /// # Errors
    /// [`ShareError`].
    pub fn reclaim(&self, held: Option<&Held>) -> Result<Swept, ShareError> {
        let mut given = self.given();
        let now = Instant::now();
        let mut removable = HashSet::new();
        let mut unknown = HashMap::new();
        for share in self.store.list()? {
            let (Some(slices), Some(held)) = (slices_of_share(share.name()), held) else { continue };
            if share.wanted.made_by != MadeBy::Plugin || held.has(share.wanted.gpu_uuid, slices) {
                continue;
            }
            let since = given.unknown_since.get(share.name()).copied().unwrap_or(now);
            unknown.insert(share.name().to_owned(), since);
            if now.duration_since(since) >= self.kept && share.users().is_empty() {
                removable.insert(share.name().to_owned());
            }
        }
        given.unknown_since = unknown;
        self.store.sweep(|share| !removable.contains(share.name()))
    }
}

/// Fails if what is promised of a GPU beside its slices leaves no room: to others, who know nothing of slices, and to pods of
/// a time when it was cut otherwise.
fn fits_beside(gpu: &Gpu, cutting: Cutting, slices: Slices, all: &[Share]) -> Result<(), String> {
    let of_this_cut = |share: &Share| {
        let slices = slices_of_share(share.name()).filter(|_| share.wanted.made_by == MadeBy::Plugin);
        slices.filter(|slices| share.wanted.memory_bytes == Some(cutting.memory_bytes(*slices)))
    };
    let on_it = || all.iter().filter(|share| share.wanted.gpu_uuid == gpu.uuid);
    let others = || on_it().filter(|share| of_this_cut(share).is_none());
    let given = on_it().filter_map(of_this_cut).fold(slices, Slices::union);
    // What a limits file that is just wrong would say is what it was made with.
    let granted = |share: &Share| share.granted().unwrap_or((share.wanted.memory_bytes, share.wanted.cores));
    let bytes: u64 = others().map(|share| granted(share).0.unwrap_or(0)).sum();
    let ppm: u64 = others().map(|share| granted(share).1.map_or(0, |cores| u64::from(cores.ppm()))).sum();
    let our_ppm = cutting.cores(given).map_or(1_000_000, |cores| u64::from(cores.ppm()));
    if bytes + cutting.memory_bytes(given) <= gpu.memory_bytes && (ppm == 0 || ppm + our_ppm <= 1_000_000) {
        return Ok(());
    }
    let names: Vec<&str> = others().map(Share::name).collect();
    let amount = Amount::Bytes(bytes);
    Err(format!(
        "{} has {amount} promised to shares that are no slices of this cut ({}), which leaves too little; delete those, or \
         wait for their pods to end",
        gpu.uuid,
        names.join(", ")
    ))
}
