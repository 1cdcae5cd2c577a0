//! The GPUs of this machine, as the driver's management library tells of them.
//!
//! Owns what is asked of the driver for metrics. The library may be absent, and may take long to answer when a GPU is in
//! trouble; it is asked on a thread of its own.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nvml_wrapper::Nvml;
use nvml_wrapper::error::NvmlError;
use tokio::sync::watch::Sender;
use tracing::{info, warn};

use crate::jobs::Pulse;
use vcuda_slices::neighbours::Lookout;

/// How often the driver is asked.
const INTERVAL: Duration = Duration::from_secs(5);
/// How often it is looked for where there is none.
const RETRY: Duration = Duration::from_secs(60);
/// How long it may take to answer: a machine with many GPUs and without a persistent driver takes seconds.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// What is known of all GPUs, by UUID.
pub type Devices = BTreeMap<String, Device>;

/// What is known of one GPU.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Device {
    /// Its memory.
    pub total_bytes: Option<u64>,
    /// Memory in use by anybody.
    pub used_bytes: Option<u64>,
    /// In how much of the last sampling period anything ran on it, 0 to 1.
    pub utilization_ratio: Option<f64>,
    /// Processes without the library that it works for; `None` where not all can be looked at and none is seen.
    pub foreign_processes: Option<u64>,
    /// Whether it answers; faults that it has told of are not among this.
    pub answers: bool,
}

/// The job: asks and publishes the answers.
pub async fn run(devices: Sender<Arc<Devices>>, pulse: Pulse) -> anyhow::Result<()> {
    let library = Arc::new(Mutex::new(Library::default()));
    loop {
        let asked = Arc::clone(&library);
        let ask =
            tokio::task::spawn_blocking(move || asked.lock().unwrap_or_else(PoisonError::into_inner).ask());
        let Some(found) = pulse.unless_shut_down(ask).await else { break };
        let found = found?;
        let pause = if found.is_some() { INTERVAL } else { RETRY };
        // Nobody may be listening at the moment.
        let _ = devices.send_replace(Arc::new(found.unwrap_or_default()));
        pulse.beat();
        if pulse.unless_shut_down(tokio::time::sleep(pause)).await.is_none() {
            break;
        }
    }
    Ok(())
}

/// The management library while it is open.
#[derive(Default)]
struct Library {
    open: Option<Nvml>,
    /// The GPUs by index, as they were named when they last answered.
    names: BTreeMap<u32, String>,
    lookout: Lookout,
    told: Option<String>,
}

impl Library {
    /// What the library says; `None` if there is none.
    fn ask(&mut self) -> Option<Devices> {
        if self.open.is_none() {
            match Nvml::init() {
                Ok(library) => {
                    info!("the NVIDIA driver's management library answers");
                    self.open = Some(library);
                }
                Err(error) => {
                    let what = format!(
                        "no metrics of whole GPUs, as the NVIDIA driver's management library can't be used: {error}"
                    );
                    self.tell(Some(what));
                    return None;
                }
            }
        }
        let library = self.open.as_ref()?;
        let count = match library.device_count() {
            Ok(count) => count,
            Err(error) => {
                // A driver that was replaced or unloaded wants to be opened anew.
                self.open = None;
                self.tell(Some(format!("the NVIDIA driver's management library fails: {error}")));
                return None;
            }
        };
        let mut found = Devices::new();
        let mut troubles = Vec::new();
        let indices = count.max(self.names.keys().next_back().map_or(0, |last| last + 1));
        for index in 0..indices {
            match ask_one(library, index, &mut self.lookout) {
                Ok((uuid, device)) => {
                    self.names.insert(index, uuid.clone());
                    found.insert(uuid, device);
                }
                Err(error) => {
                    troubles.push(format!("GPU {index} does not answer: {error}"));
                    if let Some(uuid) = self.names.get(&index) {
                        found.entry(uuid.clone()).or_default();
                    }
                }
            }
        }
        self.tell((!troubles.is_empty()).then(|| troubles.join("; ")));
        Some(found)
    }

    /// Logs what is wrong when it begins.
    fn tell(&mut self, what: Option<String>) {
        if let Some(what) = &what
            && self.told.as_ref() != Some(what)
        {
            warn!("{what}");
        }
        self.told = what;
    }
}

fn ask_one(library: &Nvml, index: u32, lookout: &mut Lookout) -> Result<(String, Device), NvmlError> {
    let device = library.device_by_index(index)?;
    let uuid = device.uuid()?;
    let memory = unless_lost(device.memory_info())?;
    let utilization = unless_lost(device.utilization_rates())?;
    let processes = unless_lost(device.running_compute_processes())?;
    let neighbours = processes.map(|listed| lookout.look(listed.iter().map(|process| process.pid)));
    let foreign = neighbours.filter(|found| !found.has_unknown || !found.foreign.is_empty());
    let device = Device {
        total_bytes: memory.as_ref().map(|memory| memory.total),
        used_bytes: memory.as_ref().map(|memory| memory.used),
        utilization_ratio: utilization.map(|rates| f64::from(rates.gpu) / 100.0),
        foreign_processes: foreign.map(|found| found.foreign.len() as u64),
        answers: true,
    };
    Ok((uuid, device))
}

/// Not all GPUs tell all of it. What means that a GPU is lost is no such answer.
fn unless_lost<T>(answer: Result<T, NvmlError>) -> Result<Option<T>, NvmlError> {
    match answer {
        Err(error @ (NvmlError::GpuLost | NvmlError::Unknown)) => Err(error),
        answer => Ok(answer.ok()),
    }
}
