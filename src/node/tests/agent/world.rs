//! A machine's directories, slices in them, and processes that hold something in a slice.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use clap::Parser;
use tokio::sync::watch::channel;
use vcuda_core::control::Control;
use vcuda_core::device::Uuid;
use vcuda_node::exposition::{Exposition, Format, Sources};
use vcuda_node::jobs::Health;
use vcuda_node::options::Options;
use vcuda_node::reading::Reading;
use vcuda_node::watch::Watcher;

use crate::text::Metrics;

pub const GPU: Uuid = Uuid::gpu(*b"0123456789abcdef");
pub const GPU_LABEL: &str = "device_uuid=\"GPU-30313233-3435-3637-3839-616263646566\"";
pub const MIB: u64 = 1 << 20;
pub const PAGES_PER_MIB: u64 = MIB / 4096;

/// Directories as a machine has them, removed in the end.
pub struct World {
    root: tempfile::TempDir,
}

impl World {
    /// A user's directory and one of shares.
    pub fn new() -> World {
        let world = World { root: tempfile::tempdir().unwrap() };
        fs::create_dir_all(world.user()).unwrap();
        fs::create_dir(world.path("shares")).unwrap();
        world
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    pub fn uid(&self) -> u32 {
        fs::metadata(self.root.path()).unwrap().uid()
    }

    /// This user's own directory.
    pub fn user(&self) -> PathBuf {
        self.path("shm").join(format!("vcuda-{}", self.uid()))
    }

    /// The arguments that lead the agent here, and nowhere else.
    pub fn arguments(&self) -> Vec<String> {
        let text = |path: PathBuf| path.to_str().unwrap().to_owned();
        [
            "--users-under".to_owned(),
            text(self.path("shm")),
            "--directory".to_owned(),
            text(self.path("shares")),
        ]
        .into()
    }

    pub fn watcher(&self, more: &[&str]) -> Watcher {
        let own = self.arguments();
        let all =
            ["vcuda-node"].into_iter().chain(own.iter().map(String::as_str)).chain(more.iter().copied());
        Watcher::new(&Options::parse_from(all))
    }

    /// Makes a control file in which something was refused and some time was used.
    pub fn slice(&self, path: &Path) -> Arc<Control> {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let control = Control::open_or_create(path).unwrap();
        let gpu = control.device(GPU).unwrap();
        control.set_limit_bytes(gpu, Some(1024 * MIB)).unwrap();
        control
    }
}

/// What the agent would tell after `reading`.
#[track_caller]
pub fn metrics_of(reading: Reading) -> Metrics {
    let (_readings, readings) = channel(Arc::new(reading));
    let (_devices, devices) = channel(Arc::default());
    let (_faults, faults) = channel(Arc::default());
    let exposition = Exposition::new(Sources {
        readings,
        devices,
        faults,
        idle_release: None,
        health: Arc::new(Health::default()),
    });
    Metrics::parse(&exposition.text(Format::Classic))
}

const HOLDER: &str = "world::holds_memory_until_killed";
const HOLDER_FILE: &str = "VCUDA_TEST_HOLDER_FILE";

/// A process that holds 300 MiB in the slice at a path, and is killed in the end.
pub struct Holder(Child);

impl Holder {
    pub fn start(path: &Path) -> Holder {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "--nocapture", HOLDER])
            .env(HOLDER_FILE, path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = std::io::BufReader::new(child.stdout.take().unwrap());
        let is_ready = std::io::BufRead::lines(output).any(|line| line.unwrap().ends_with("holding"));
        assert!(is_ready);
        Holder(child)
    }

    pub fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
#[ignore = "run by other tests in a process of its own"]
fn holds_memory_until_killed() {
    let control = Control::open_existing(std::env::var_os(HOLDER_FILE).unwrap()).unwrap();
    let gpu = control.device(GPU).unwrap();
    let slot = control.claim("holder").unwrap();
    let mut account = slot.account(gpu).unwrap().unwrap();
    account.reserve(300 * PAGES_PER_MIB, 1024 * PAGES_PER_MIB).unwrap();
    println!("holding");
    loop {
        std::thread::park();
    }
}
