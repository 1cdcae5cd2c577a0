//! Who uses a share: programs that count in it, and containers that were given it, whether anything of CUDA runs in them
//! or not.

use crate::places::control_in_container;
use crate::share::Share;
use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use vcuda_core::control::Control;

/// Who uses a share.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Users {
    /// Living programs that count in it: their names, and their ids where they run.
    pub programs: Vec<(String, u32)>,
    /// Containers that have its control file, as far as this process may look: each by a process in it, by its id here.
    pub containers: Vec<u32>,
}

impl Users {
    /// Whether there is nobody.
    pub fn is_empty(&self) -> bool {
        self.programs.is_empty() && self.containers.is_empty()
    }
}

impl Share {
    /// Who uses the share now.
    pub fn users(&self) -> Users {
        let snapshot =
            Control::open_existing(self.control_file()).ok().and_then(|control| control.snapshot().ok());
        let living = snapshot.iter().flat_map(|snapshot| &snapshot.processes);
        let living = living.filter(|process| process.alive != Some(false));
        Users {
            programs: living.map(|process| (process.identity.name.clone(), process.identity.pid)).collect(),
            containers: containers(&self.control_file(), &control_in_container(self.name())),
        }
    }
}

/// A process of each mount namespace but our own that has the file `on_host` at `in_container`.
fn containers(on_host: &Path, in_container: &Path) -> Vec<u32> {
    let Ok(wanted) = fs::metadata(on_host) else { return Vec::new() };
    let namespace = |process: &str| fs::read_link(format!("/proc/{process}/ns/mnt")).ok();
    let mut seen: HashSet<PathBuf> = namespace("self").into_iter().collect();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some((text, pid)) = name.to_str().and_then(|text| Some((text, text.parse().ok()?))) else {
            continue;
        };
        if !namespace(text).is_some_and(|namespace| seen.insert(namespace)) {
            continue;
        }
        let relative = in_container.strip_prefix("/").unwrap_or(in_container);
        let there = Path::new("/proc").join(text).join("root").join(relative);
        let is_it = fs::symlink_metadata(there)
            .is_ok_and(|there| (there.dev(), there.ino()) == (wanted.dev(), wanted.ino()));
        if is_it {
            found.push(pid);
        }
    }
    found
}
