//! The GPUs that this node has to give: what they are, and whether they work.
//!
//! Owns what is asked of the driver's management library for that. A GPU that was there and does not answer any more stays
//! in the inventory, as one that must not be given away; so do all of them where the library itself fails, and one with a
//! fault that [`crate::faults`] knows of, as soon as it is known.

use std::collections::BTreeMap;
use std::fs;
use std::future::pending;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nvml_wrapper::enums::device::DeviceArchitecture;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};
use tokio::sync::watch::{Receiver, Sender};
use tokio::task::{JoinError, JoinHandle};
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};
use vcuda_core::device::{Uuid, UuidKind};
use vcuda_faults::Faults;

use crate::faults::Known;
use crate::jobs::Pulse;

/// How often the library is asked.
const INTERVAL: Duration = Duration::from_secs(5);
/// An answer that takes longer is taken for trouble until it is there, as a broken GPU may hold it up for ever.
const SLOW: Duration = Duration::from_secs(45);
/// Longer than anybody waits.
const FOREVER: Duration = Duration::from_secs(365 * 24 * 3600);
/// How long it may take to answer: a machine with many GPUs and without a persistent driver takes seconds.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// Where the kernel tells of devices on the PCI bus.
const PCI_DEVICES: &str = "/sys/bus/pci/devices";

/// What there is on this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inventory {
    /// GPUs, and MIG instances in place of a GPU that is divided into such, in the library's order.
    pub gpus: Vec<Gpu>,
    /// The driver's version, such as `580.159.04`.
    pub driver_version: Option<String>,
    /// The newest CUDA version that the driver knows.
    pub cuda_version: Option<(u32, u32)>,
    /// Why nothing can be said about GPUs, if so.
    pub trouble: Option<String>,
}

/// A GPU or MIG instance that slices are made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpu {
    /// Its UUID.
    pub uuid: Uuid,
    /// The GPU's number in the library's order; it may be another one's after a restart of the machine.
    pub index: u32,
    /// Such as `NVIDIA H100 80GB HBM3`.
    pub product: String,
    /// Such as `Hopper`.
    pub architecture: Option<&'static str>,
    /// Such as (9, 0).
    pub compute_capability: Option<(u32, u32)>,
    /// Memory that programs can use.
    pub memory_bytes: u64,
    /// Such as `0000:3b:00.0`.
    pub pci_bus_id: Option<String>,
    /// The root of its part of the PCI bus, such as `pci0000:3a`.
    pub pcie_root: Option<String>,
    /// The memory node of the machine that is nearest to it.
    pub numa_node: Option<i64>,
    /// Of a MIG instance: the GPU that it is a part of.
    pub mig_parent: Option<Uuid>,
    /// Why it must not be given to anybody, if so.
    pub trouble: Option<String>,
    /// The driver's error (XID) that is the trouble, if one is.
    pub xid: Option<u64>,
}

impl Gpu {
    /// Its name in Kubernetes, which is no other GPU's at any time: `gpu-UUID` or `mig-UUID`.
    pub fn device_name(&self) -> String {
        self.uuid.to_string().to_lowercase()
    }

    /// Whether it is a part of a GPU.
    pub fn is_mig(&self) -> bool {
        self.uuid.kind() == UuidKind::Mig
    }
}

impl Inventory {
    /// The GPU of this name in Kubernetes.
    pub fn find(&self, device_name: &str) -> Option<&Gpu> {
        self.gpus.iter().find(|gpu| gpu.device_name() == device_name)
    }

    /// The same GPUs, none of which may be given to anybody because of `trouble`.
    fn in_trouble(mut self, trouble: &str) -> Self {
        self.gpus.iter_mut().for_each(|gpu| gpu.trouble = Some(trouble.to_owned()));
        self.trouble = Some(trouble.to_owned());
        self
    }

    /// The same GPUs, of which those with a fault may not be given to anybody either.
    fn with(mut self, faults: &Faults) -> Self {
        for gpu in &mut self.gpus {
            let Some(fault) = faults.of(gpu.uuid, gpu.mig_parent) else { continue };
            gpu.xid = fault.xid();
            let answer = gpu.trouble.take().map_or_else(String::new, |trouble| format!(". Now {trouble}"));
            gpu.trouble = Some(format!("{}{answer}", fault.trouble()));
        }
        self
    }
}

/// The job: asks and publishes what changed, and faults at once. Nothing is published before the library has answered, or
/// has not for long.
pub async fn run(
    inventory: Sender<Option<Arc<Inventory>>>,
    mut faults: Receiver<Arc<Known>>,
    pulse: Pulse,
) -> anyhow::Result<()> {
    let library = Arc::new(Mutex::new(Library::default()));
    // What the library said last.
    let mut answer: Option<Inventory> = None;
    let mut ask = ask_on_a_thread(&library);
    // The moment at which the next question is due, or an answer is late.
    let mut due = Instant::now() + SLOW;
    let mut is_asked = true;
    loop {
        let known = async {
            if faults.changed().await.is_err() {
                pending::<()>().await
            }
        };
        let step = async {
            tokio::select! {
                found = &mut ask, if is_asked => Step::Answer(found),
                () = sleep_until(due) => Step::Due,
                () = known => Step::Faults,
            }
        };
        match pulse.unless_shut_down(step).await {
            None => return Ok(()),
            Some(Step::Answer(found)) => {
                answer = Some(found?);
                (is_asked, due) = (false, Instant::now() + INTERVAL);
                pulse.beat();
            }
            Some(Step::Due) if is_asked => {
                let slow = format!("the NVIDIA driver has not answered for {} s", SLOW.as_secs());
                answer = Some(answer.unwrap_or_default().in_trouble(&slow));
                due = Instant::now() + FOREVER;
            }
            Some(Step::Due) => {
                ask = ask_on_a_thread(&library);
                (is_asked, due) = (true, Instant::now() + SLOW);
            }
            Some(Step::Faults) => {}
        }
        let faults = Arc::clone(&faults.borrow_and_update());
        if let Some(found) = answer.clone().map(|found| found.with(&faults.faults)) {
            publish(&inventory, found);
        }
    }
}

/// What happened next.
enum Step {
    Answer(Result<Inventory, JoinError>),
    Due,
    Faults,
}

/// A broken GPU may hold up whoever asks.
fn ask_on_a_thread(library: &Arc<Mutex<Library>>) -> JoinHandle<Inventory> {
    let library = Arc::clone(library);
    tokio::task::spawn_blocking(move || library.lock().unwrap_or_else(PoisonError::into_inner).ask())
}

fn publish(inventory: &Sender<Option<Arc<Inventory>>>, found: Inventory) {
    inventory.send_if_modified(|known| {
        let is_new = known.as_deref() != Some(&found);
        if is_new {
            tell(known.as_deref(), &found);
            *known = Some(Arc::new(found));
        }
        is_new
    });
}

/// Logs what is new.
fn tell(known: Option<&Inventory>, found: &Inventory) {
    if let Some(trouble) = &found.trouble {
        warn!("no GPU of this node can be given to pods: {trouble}");
        return;
    }
    for gpu in &found.gpus {
        let before = known.and_then(|known| known.gpus.iter().find(|before| before.uuid == gpu.uuid));
        match (&gpu.trouble, before.map(|before| before.trouble.is_some())) {
            (Some(trouble), Some(false) | None) => warn!("{} is not given to pods: {trouble}", gpu.uuid),
            (None, Some(true)) => info!("{} is well again", gpu.uuid),
            (None, None) => info!("{} ({}) can be given to pods", gpu.uuid, gpu.product),
            _ => {}
        }
    }
}

/// The management library while it is open.
#[derive(Default)]
struct Library {
    open: Option<Nvml>,
    /// What was found when it last answered, by number of the GPU.
    known: BTreeMap<u32, Vec<Gpu>>,
    versions: (Option<String>, Option<(u32, u32)>),
    /// What was logged of GPUs that never answered.
    told: BTreeMap<u32, String>,
}

impl Library {
    fn ask(&mut self) -> Inventory {
        let answer = self.ask_all();
        let (driver_version, cuda_version) = self.versions.clone();
        let gpus = self.known.values().flatten().cloned().collect();
        let found = Inventory { gpus, driver_version, cuda_version, trouble: None };
        match answer {
            Ok(()) => found,
            Err(trouble) => {
                // A driver that was replaced or unloaded wants to be opened anew.
                self.open = None;
                found.in_trouble(&trouble)
            }
        }
    }

    fn ask_all(&mut self) -> Result<(), String> {
        let says = |error: NvmlError| format!("the NVIDIA driver's management library fails: {error}");
        if self.open.is_none() {
            self.open = Some(Nvml::init().map_err(|error| {
                format!(
                    "the NVIDIA driver's management library, libnvidia-ml.so.1, can't be used: {error}. Is the driver \
                     installed on this node, and visible to this process?"
                )
            })?);
        }
        let Some(library) = &self.open else { return Ok(()) };
        let count = library.device_count().map_err(says)?;
        self.versions = (
            library.sys_driver_version().ok(),
            library.sys_cuda_driver_version().ok().map(|version| {
                let (major, minor) = (version / 1000, version % 1000 / 10);
                (major.unsigned_abs(), minor.unsigned_abs())
            }),
        );
        let indices = count.max(self.known.keys().next_back().map_or(0, |last| last + 1));
        let mut found = BTreeMap::new();
        for index in 0..indices {
            match ask_one(library, index) {
                Ok(gpus) => {
                    found.insert(index, gpus);
                }
                Err(error) => {
                    let mut lost = self.known.remove(&index).unwrap_or_default();
                    let trouble = format!("the driver says of GPU {index}: {error}");
                    // Of one that never answered nothing is known that could be told otherwise.
                    if lost.is_empty() && self.told.insert(index, trouble.clone()).as_ref() != Some(&trouble)
                    {
                        warn!("a GPU is not given to pods: {trouble}");
                    }
                    lost.iter_mut().for_each(|gpu| gpu.trouble = Some(trouble.clone()));
                    found.insert(index, lost);
                }
            }
        }
        self.known = found;
        self.drop_doubles();
        Ok(())
    }

    /// Where GPUs have changed places, one that is known by its old place as well is named once: where it answers.
    fn drop_doubles(&mut self) {
        let well: Vec<Uuid> =
            self.known.values().flatten().filter(|gpu| gpu.trouble.is_none()).map(|gpu| gpu.uuid).collect();
        for gpus in self.known.values_mut() {
            gpus.retain(|gpu| gpu.trouble.is_none() || !well.contains(&gpu.uuid));
        }
    }
}

fn ask_one(library: &Nvml, index: u32) -> Result<Vec<Gpu>, NvmlError> {
    let device = library.device_by_index(index)?;
    let whole = describe(&device, index, None)?;
    if !device.mig_mode().is_ok_and(|mode| mode.current == 1) {
        return Ok(vec![whole]);
    }
    let places = device.mig_device_count()?;
    let instances = (0..places).filter_map(|place| device.mig_device_by_index(place).ok());
    instances.map(|instance| describe(&instance, index, Some(&whole))).collect()
}

/// What a device says of itself; a MIG instance leaves some of it to its GPU.
fn describe(device: &Device, index: u32, parent: Option<&Gpu>) -> Result<Gpu, NvmlError> {
    let uuid: Uuid = device.uuid()?.parse().map_err(|_| NvmlError::Unknown)?;
    let memory = device.memory_info()?;
    let pci_bus_id = match parent {
        Some(parent) => parent.pci_bus_id.clone(),
        None => device.pci_info().ok().map(|pci| bus_id(&pci.bus_id)),
    };
    let place = pci_bus_id.as_ref().map(|id| Path::new(PCI_DEVICES).join(id));
    Ok(Gpu {
        uuid,
        index,
        product: device.name()?,
        architecture: match parent {
            Some(parent) => parent.architecture,
            None => device.architecture().ok().as_ref().and_then(architecture_name),
        },
        compute_capability: match parent {
            Some(parent) => parent.compute_capability,
            None => device
                .cuda_compute_capability()
                .ok()
                .map(|version| (version.major.unsigned_abs(), version.minor.unsigned_abs())),
        },
        memory_bytes: memory.total.saturating_sub(memory.reserved),
        pcie_root: place.as_deref().and_then(pcie_root),
        numa_node: place.as_deref().and_then(numa_node),
        pci_bus_id,
        mig_parent: parent.map(|parent| parent.uuid),
        trouble: None,
        xid: None,
    })
}

fn architecture_name(architecture: &DeviceArchitecture) -> Option<&'static str> {
    Some(match architecture {
        DeviceArchitecture::Kepler => "Kepler",
        DeviceArchitecture::Maxwell => "Maxwell",
        DeviceArchitecture::Pascal => "Pascal",
        DeviceArchitecture::Volta => "Volta",
        DeviceArchitecture::Turing => "Turing",
        DeviceArchitecture::Ampere => "Ampere",
        DeviceArchitecture::Ada => "Ada",
        DeviceArchitecture::Hopper => "Hopper",
        DeviceArchitecture::Blackwell => "Blackwell",
        DeviceArchitecture::Unknown => return None,
    })
}

/// The kernel's way to write the library's `00000000:3B:00.0`.
fn bus_id(text: &str) -> String {
    let text = text.to_lowercase();
    match text.split_once(':') {
        Some((domain, rest)) if domain.len() == 8 && domain.starts_with("0000") => {
            format!("{}:{rest}", &domain[4..])
        }
        _ => text,
    }
}

/// The first part of where the kernel has the device: `/sys/devices/pci0000:3a/0000:3a:00.0/…`.
fn pcie_root(device: &Path) -> Option<String> {
    let real = fs::canonicalize(device).ok()?;
    let root = real
        .components()
        .filter_map(|part| part.as_os_str().to_str())
        .find(|part| part.starts_with("pci"))?;
    Some(root.to_owned())
}

fn numa_node(device: &Path) -> Option<i64> {
    let text = fs::read_to_string(device.join("numa_node")).ok()?;
    text.trim().parse().ok().filter(|node| *node >= 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn places_on_the_bus_are_written_as_the_kernel_does() {
        assert_eq!(bus_id("00000000:3B:00.0"), "0000:3b:00.0");
        assert_eq!(bus_id("00010000:3B:00.0"), "00010000:3b:00.0");
        assert_eq!(bus_id("0000:3B:00.0"), "0000:3b:00.0");
        let bus = tempfile::tempdir().unwrap();
        let real = bus.path().join("devices/pci0000:3a/0000:3a:00.0/0000:3b:00.0");
        fs::create_dir_all(&real).unwrap();
        let link = bus.path().join("0000:3b:00.0");
        symlink(&real, &link).unwrap();
        assert_eq!(pcie_root(&link).as_deref(), Some("pci0000:3a"));
        assert_eq!(numa_node(&link), None);
        for (text, expected) in [("1\n", Some(1)), ("-1\n", None)] {
            fs::write(real.join("numa_node"), text).unwrap();
            assert_eq!(numa_node(&link), expected);
        }
        assert_eq!(pcie_root(&bus.path().join("missing")), None);
    }

    #[test]
    fn trouble_of_the_library_is_all_gpus_trouble() {
        let inventory = crate::kubernetes::example::inventory().in_trouble("it is gone");
        assert!(inventory.gpus.iter().all(|gpu| gpu.trouble.as_deref() == Some("it is gone")));
        assert_eq!(inventory.trouble.as_deref(), Some("it is gone"));
    }

    #[test]
    fn a_gpu_that_changed_its_place_is_named_once() {
        let gpu = |number: u8, index, trouble: Option<&str>| Gpu {
            uuid: Uuid::gpu([number; 16]),
            index,
            product: "Test".to_owned(),
            architecture: None,
            compute_capability: None,
            memory_bytes: 1 << 30,
            pci_bus_id: None,
            pcie_root: None,
            numa_node: None,
            mig_parent: None,
            trouble: trouble.map(str::to_owned),
            xid: None,
        };
        let known = [(0, vec![gpu(2, 0, None)]), (1, vec![gpu(2, 1, Some("lost")), gpu(3, 1, Some("lost"))])];
        let mut library = Library { known: known.into(), ..Library::default() };
        library.drop_doubles();
        let left: Vec<(Uuid, bool)> =
            library.known.values().flatten().map(|gpu| (gpu.uuid, gpu.trouble.is_some())).collect();
        assert_eq!(left, [(Uuid::gpu([2; 16]), false), (Uuid::gpu([3; 16]), true)]);
        assert_eq!(gpu(2, 0, None).device_name(), "gpu-02020202-0202-0202-0202-020202020202");
    }
}
