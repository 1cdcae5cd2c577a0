//! Which GPUs have a fault: heard of from the driver, remembered in files, and over when it is mended.
//!
//! Owns the watch and what of it is logged. What follows from a fault is others': metrics say it, and in a Kubernetes node
//! nobody is given that GPU. The library may hold up whoever asks it; it is listened to on a thread of its own.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nvml_wrapper::Nvml;
use tokio::sync::watch::Sender;
use tracing::{debug, info, warn};
use vcuda_core::device::Uuid;
use vcuda_faults::watch::{Event, Told, watch};
use vcuda_faults::xid::{Ignored, meaning};
use vcuda_faults::{Faults, Ledger};

use crate::jobs::Pulse;

/// How often the library is looked for where there is none, or where it failed.
const RETRY: Duration = Duration::from_secs(5);
/// How often the files are looked at meanwhile.
const LOOK: Duration = Duration::from_millis(500);
/// How long the library may be silent: it answers twice a second, unless a broken GPU holds it up.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// Different XIDs that are counted by GPU.
const MOST_COUNTED: usize = 64;

/// What is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// Who has a fault.
    pub faults: Faults,
    /// How often the driver told of which XID of which GPU since this agent began, also of those that are no faults.
    pub counts: BTreeMap<Uuid, BTreeMap<u64, u64>>,
    /// How many GPUs the driver tells of; `None` where there is no driver.
    pub watched: Option<u64>,
}

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Where faults are remembered.
    pub directory: PathBuf,
    /// What is no fault.
    pub ignored: Ignored,
}

impl Setup {
    /// What was remembered before this agent, so that a GPU with a fault is never taken for well while it begins.
    pub fn remembered(&self) -> Known {
        let mut listener = Listener::new(self.clone());
        listener.look();
        listener.known
    }

    /// Declares well the device of this UUID, or `all`; a sentence about each.
    ///
    /// # Errors
    /// Why nothing was declared.
    pub fn declare_well(&self, device: &str) -> anyhow::Result<Vec<String>> {
        let uuid = match device {
            "all" => None,
            uuid => Some(
                uuid.parse::<Uuid>().with_context(|| format!("{uuid:?} is neither a UUID nor \"all\""))?,
            ),
        };
        let mut ledger = Ledger::open(&self.directory);
        let shown = self.directory.display();
        let forgotten = ledger.declare_well(uuid).with_context(|| format!("can't change {shown}"))?;
        if forgotten.is_empty() && uuid.is_some() {
            let (left, _) = ledger.read().with_context(|| format!("can't look into {shown}"))?;
            let left: Vec<String> = left.iter().map(|fault| fault.device.to_string()).collect();
            let others = if left.is_empty() { "no device".to_owned() } else { left.join(", ") };
            bail!("no fault of {device} is remembered in {shown}, but of {others}");
        }
        let sentence = |fault: &vcuda_faults::Fault| match fault.xid() {
            Some(xid) => format!("{} is well: it had XID {xid}, {}", fault.device, meaning(xid).0),
            None => format!("{} is well", fault.device),
        };
        Ok(forgotten.iter().map(sentence).collect())
    }
}

/// The job: listens, and publishes what there is to know at once.
pub async fn run(known: Sender<Arc<Known>>, setup: Setup, pulse: Pulse) -> anyhow::Result<()> {
    let own = pulse.clone();
    let listen = tokio::task::spawn_blocking(move || {
        let mut listener = Listener::new(setup);
        // Counters go on where the job had to begin anew.
        listener.known = Known { watched: None, ..Known::clone(&known.borrow()) };
        listener.listen(&known, &own);
    });
    // A thread that hangs in the library is not waited for.
    pulse.unless_shut_down(listen).await.unwrap_or(Ok(()))?;
    Ok(())
}

/// Who listens.
struct Listener {
    ledger: Ledger,
    ignored: Ignored,
    known: Known,
    /// Why faults can't be heard of, as far as it was told.
    told: Option<String>,
    /// Why the files can't be used, as far as it was told.
    told_of_files: Option<String>,
}

impl Listener {
    fn new(setup: Setup) -> Self {
        Self {
            ledger: Ledger::open(&setup.directory),
            ignored: setup.ignored,
            known: Known::default(),
            told: None,
            told_of_files: None,
        }
    }

    fn listen(&mut self, publish: &Sender<Arc<Known>>, pulse: &Pulse) {
        while !pulse.is_shut_down() {
            let listened = Nvml::init().and_then(|library| {
                watch(&library, |told| {
                    self.hear(told);
                    self.look();
                    self.publish(publish);
                    pulse.beat();
                    if pulse.is_shut_down() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
                })
            });
            // Where GPUs came or went, the library is simply opened anew.
            let Err(error) = listened else { continue };
            self.known.watched = None;
            self.tell(format!(
                "faults of GPUs are not heard of, as the NVIDIA driver's management library says: {error}"
            ));
            let begin = Instant::now();
            while begin.elapsed() < RETRY && !pulse.is_shut_down() {
                self.look();
                self.publish(publish);
                pulse.beat();
                std::thread::sleep(LOOK);
            }
        }
    }

    fn publish(&self, publish: &Sender<Arc<Known>>) {
        publish.send_if_modified(|published| {
            let is_new = **published != self.known;
            if is_new {
                *published = Arc::new(self.known.clone());
            }
            is_new
        });
    }

    fn hear(&mut self, told: Told) {
        match told {
            Told::Nothing => {}
            Told::Begun { gpus, others } => {
                self.known.watched = Some(gpus.len() as u64);
                info!("faults of {} GPUs are heard of", gpus.len());
                if others.is_empty() {
                    self.told = None;
                } else {
                    self.tell(format!("faults of some GPUs are not heard of: {}", others.join("; ")));
                }
            }
            Told::Event(event) => self.judge(&event),
        }
    }

    fn judge(&mut self, event: &Event) {
        let Event { gpu, devices, xid, is_xid } = event;
        if *is_xid {
            let counts = self.known.counts.entry(*gpu).or_default();
            if counts.contains_key(xid) || counts.len() < MOST_COUNTED {
                *counts.entry(*xid).or_default() += 1;
            }
        }
        let what = meaning(*xid).0;
        if self.ignored.contains(*xid) {
            debug!("{gpu}: XID {xid}, {what}; that is no fault of the GPU");
            return;
        }
        for device in devices {
            match self.ledger.add(*device, *gpu, *xid) {
                Ok(true) => warn!("{device}: XID {xid}, {what}"),
                // A storm of them says no more than one.
                Ok(false) => debug!("{device}: XID {xid} again"),
                Err(error) => warn!(
                    "{device}: XID {xid}, {what}, which can't be remembered in {}: {error}. The next agent will not know of \
                     it, unless this one can write there first; choose with --faults",
                    self.ledger.directory().display()
                ),
            }
        }
    }

    /// Looks what is remembered.
    fn look(&mut self) {
        self.ledger.save_the_unsaved();
        let (faults, mended) = match self.ledger.read() {
            Ok(read) => read,
            Err(error) => {
                let what = error.to_string();
                if self.told_of_files.as_ref() != Some(&what) {
                    warn!("can't look for faults in {}: {what}", self.ledger.directory().display());
                    self.told_of_files = Some(what);
                }
                // Known ones are faults until the opposite is known.
                self.known.faults.extend(self.ledger.unsaved());
                return;
            }
        };
        self.told_of_files = None;
        let known = std::mem::replace(&mut self.known.faults, faults);
        for mended in &mended {
            info!("the fault of {} is over, as {}", mended.fault.device, mended.why);
        }
        for fault in self.known.faults.iter().filter(|fault| known.of(fault.device, None).is_none()) {
            warn!("{} has a fault: {}", fault.device, fault.trouble());
        }
        for fault in known.iter() {
            let is_mended = mended.iter().any(|mended| mended.fault.device == fault.device);
            if self.known.faults.of(fault.device, None).is_none() && !is_mended {
                info!("{} was declared well", fault.device);
            }
        }
    }

    /// Logs what is wrong with the library when it begins.
    fn tell(&mut self, what: String) {
        if self.told.as_ref() != Some(&what) {
            warn!("{what}");
            self.told = Some(what);
        }
    }
}
