//! A simulated machine and a container on it, for one test alone.

use crate::artefacts::artefacts;
use crate::run::Run;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use vcuda_core::control::Control;
use vcuda_core::snapshot::Snapshot;
use vcuda_fake_machine::{Machine, parse_gpus};

/// Bytes in a MiB.
pub const MIB: u64 = 1 << 20;
/// Bytes in a GiB.
pub const GIB: u64 = 1 << 30;

/// The GPUs of a container, unless a test asks for others.
const GPUS: &str = "2x16GiB";
/// Its memory limit, unless a test sets another.
const LIMIT: &str = "2GiB";
/// Variables that would change what is tested.
const FOREIGN_PREFIXES: [&str; 5] = ["VCUDA_", "CUDA_", "NVIDIA_", "LD_", "HAMI_"];

/// Whether a program runs by itself or under the preloaded library.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum World {
    Bare,
    Limited,
}

impl World {
    /// Both.
    pub const BOTH: [World; 2] = [World::Bare, World::Limited];
}

/// What a GPU of the simulated machine has in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GpuUse {
    /// By all processes.
    pub used_bytes: u64,
    /// The most ever.
    pub peak_bytes: u64,
    /// What is put down to processes, of `used_bytes`.
    pub process_bytes: u64,
    /// Processes that use the GPU.
    pub process_count: usize,
}

/// A machine and a container.
pub struct Container {
    directory: TempDir,
    gpus: String,
    limit: Option<String>,
}

impl Default for Container {
    fn default() -> Container {
        Container::new()
    }
}

impl Container {
    /// Two GPUs of 16 GiB, and 2 GiB of each for the container.
    pub fn new() -> Container {
        let directory = tempfile::Builder::new().prefix("vcuda-test-").tempdir().expect("a directory");
        Container { directory, gpus: GPUS.to_owned(), limit: Some(LIMIT.to_owned()) }
    }

    /// With another limit, in the words of `VCUDA_MEMORY_LIMIT`.
    pub fn limit(mut self, limit: &str) -> Container {
        self.limit = Some(limit.to_owned());
        self
    }

    /// With no limit variable at all.
    pub fn no_limit(mut self) -> Container {
        self.limit = None;
        self
    }

    /// With other GPUs, in the words of `VCUDA_FAKE_GPUS`.
    pub fn gpus(mut self, gpus: &str) -> Container {
        self.gpus = gpus.to_owned();
        self
    }

    /// A directory of the test's own.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Where the control file is.
    pub fn control_path(&self) -> PathBuf {
        self.directory().join("control")
    }

    /// A program in this container. It sees the simulated driver, and none of the caller's settings.
    pub fn run(&self, world: World, program: impl AsRef<OsStr>) -> Run {
        let mut command = Command::new(program);
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy();
            if FOREIGN_PREFIXES.iter().any(|prefix| name.starts_with(prefix)) {
                command.env_remove(&*name);
            }
        }
        command.env("LD_LIBRARY_PATH", &artefacts().driver);
        command.env("VCUDA_FAKE_STATE", self.directory().join("machine"));
        command.env("VCUDA_FAKE_GPUS", &self.gpus);
        // Simulated GPUs of different machines are called the same, and don't take turns with each other.
        command.env("VCUDA_ARBITER_FILE", self.directory().join(".arbiter"));
        if world == World::Limited {
            command.env("LD_PRELOAD", &artefacts().library);
            command.env("VCUDA_CONTROL_FILE", self.control_path());
            if let Some(limit) = &self.limit {
                command.env("VCUDA_MEMORY_LIMIT", limit);
            }
        }
        Run::new(command)
    }

    /// The machine, for looking at; made if no program has made it yet.
    pub fn machine(&self) -> Machine {
        let gpus = parse_gpus(&self.gpus).expect("a list of GPUs");
        Machine::open_or_create(&self.directory().join("machine"), &gpus).expect("the simulated machine")
    }

    /// What a GPU has in use. Asking takes back what dead processes had.
    pub fn gpu(&self, index: usize) -> GpuUse {
        let machine = self.machine();
        let users = machine.users(index);
        let gpu = &machine.gpus()[index];
        GpuUse {
            used_bytes: gpu.used_bytes.load(Relaxed),
            peak_bytes: gpu.peak_bytes.load(Relaxed),
            process_bytes: users.iter().map(|user| user.bytes.process).sum(),
            process_count: users.len(),
        }
    }

    /// The UUID of a GPU, as limits name it.
    pub fn uuid(&self, index: usize) -> String {
        self.machine().gpus()[index].uuid_text()
    }

    /// The control file as the preloaded library opens it.
    pub fn control(&self) -> Arc<Control> {
        Control::open_existing(self.control_path()).expect("a control file")
    }

    /// What the control file says.
    pub fn snapshot(&self) -> Snapshot {
        self.control().snapshot().expect("a whole control file")
    }

    /// Bytes that the control file says are in use of a GPU; 0 if it doesn't know the GPU. Asking takes back what
    /// dead processes had, as a process that needs it does.
    pub fn charged_bytes(&self, gpu: usize) -> u64 {
        let uuid = self.uuid(gpu);
        self.control().reap().expect("a whole control file");
        let snapshot = self.snapshot();
        let device = snapshot.devices.iter().find(|device| device.uuid.to_string() == uuid);
        device.map_or(0, |device| device.used_bytes)
    }

    /// Whether `condition` comes true within ten seconds.
    pub fn eventually(condition: impl Fn() -> bool) -> bool {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !condition() {
            if Instant::now() > deadline {
                return false;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        true
    }
}
