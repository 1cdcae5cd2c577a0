//! Faults in files, one for each device that has one, so that they outlive whoever found them.
//!
//! Owns the files and their form. A file is whole when it has its name, and who removes it declares the device well. What
//! can't be read counts as a fault. Writing needs no flush to the disk: what a machine loses when it goes down would be over
//! after its next start.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use vcuda_core::device::Uuid;

use crate::era::Era;
use crate::fault::{Fault, Faults, now_seconds};

const VERSION: u32 = 1;
/// More is none of ours.
const MOST_BYTES: u64 = 64 << 10;

/// The faults of this machine.
#[derive(Debug)]
pub struct Ledger {
    directory: PathBuf,
    era: fn() -> Era,
    /// What could not be written.
    unsaved: Faults,
}

/// A fault that is over by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mended {
    /// What it was.
    pub fault: Fault,
    /// What has mended it.
    pub why: &'static str,
}

/// A file.
#[derive(Serialize, Deserialize)]
struct Entry {
    version: u32,
    gpu: String,
    xids: Vec<u64>,
    since_seconds: u64,
    boot: Option<String>,
    driver: Option<u64>,
    /// For people.
    note: String,
}

impl Ledger {
    /// The faults in `directory`, which is made when there is the first one.
    pub fn open(directory: &Path) -> Self {
        Self { directory: directory.to_owned(), era: Era::now, unsaved: Faults::default() }
    }

    /// Where they are.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// All faults. Those that are over by themselves are forgotten, and told here once.
    ///
    /// # Errors
    /// The system's, if the directory can't be read. What was known before then still holds.
    pub fn read(&mut self) -> io::Result<(Faults, Vec<Mended>)> {
        let (mut faults, mut mended) = (self.unsaved.clone(), Vec::new());
        let now = (self.era)();
        for (path, fault) in self.files()? {
            match fault.era.ended_before(&now) {
                Some(why) => {
                    remove(&path)?;
                    mended.push(Mended { fault, why });
                }
                None => faults.insert(fault),
            }
        }
        Ok((faults, mended))
    }

    /// Remembers that the driver told of `xid` for `device`, which is `gpu` or a part of it. Whether that is new.
    ///
    /// # Errors
    /// The system's, if it can't be written; it is then remembered by this `Ledger` alone, which goes on trying.
    pub fn add(&mut self, device: Uuid, gpu: Uuid, xid: u64) -> io::Result<bool> {
        let path = self.path(device);
        let known = match read_file(&path, device) {
            Ok(fault) if fault.unreadable.is_none() => Some(fault),
            _ => self.unsaved.get(device).cloned(),
        };
        let mut fault = known.unwrap_or_else(|| Fault {
            device,
            gpu,
            xids: Vec::new(),
            since_seconds: now_seconds(),
            era: (self.era)(),
            unreadable: None,
        });
        if fault.xids.contains(&xid) || fault.xids.len() >= Fault::MOST_XIDS {
            return Ok(false);
        }
        fault.xids.push(xid);
        self.save(fault).map(|()| true)
    }

    /// What this `Ledger` alone remembers.
    pub fn unsaved(&self) -> &Faults {
        &self.unsaved
    }

    /// Tries once more to write what could not be written.
    pub fn save_the_unsaved(&mut self) {
        for fault in self.unsaved.clone().iter() {
            // It was told when it failed first.
            let _ = self.save(fault.clone());
        }
    }

    /// Declares a device well, with its parts, or all of them. What was forgotten.
    ///
    /// # Errors
    /// The system's.
    pub fn declare_well(&self, device: Option<Uuid>) -> io::Result<Vec<Fault>> {
        let is_meant =
            |fault: &Fault| device.is_none_or(|device| [fault.device, fault.gpu].contains(&device));
        let mut forgotten = Vec::new();
        for (path, fault) in self.files()?.into_iter().filter(|(_, fault)| is_meant(fault)) {
            remove(&path)?;
            forgotten.push(fault);
        }
        Ok(forgotten)
    }

    fn files(&self) -> io::Result<Vec<(PathBuf, Fault)>> {
        let entries = match fs::read_dir(&self.directory) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut found = Vec::new();
        for entry in entries {
            let path = entry?.path();
            // Others' files and unfinished ones have other names.
            let name = path.file_name().and_then(|name| name.to_str());
            let Some(device) = name.and_then(|name| name.parse::<Uuid>().ok()) else { continue };
            match read_file(&path, device) {
                Ok(fault) => found.push((path, fault)),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => found.push((path, unreadable(device, error.to_string()))),
            }
        }
        Ok(found)
    }

    fn path(&self, device: Uuid) -> PathBuf {
        self.directory.join(device.to_string())
    }

    fn save(&mut self, fault: Fault) -> io::Result<()> {
        let written = self.write(&fault);
        match written {
            Ok(()) => self.unsaved.remove(fault.device),
            Err(_) => self.unsaved.insert(fault),
        }
        written
    }

    fn write(&self, fault: &Fault) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o755).create(&self.directory)?;
        let entry = Entry {
            version: VERSION,
            gpu: fault.gpu.to_string(),
            xids: fault.xids.clone(),
            since_seconds: fault.since_seconds,
            boot: fault.era.boot.clone(),
            driver: fault.era.driver,
            note: fault.trouble(),
        };
        let text = serde_json::to_string_pretty(&entry)?;
        let new = self.directory.join(format!(".{}-{}", fault.device, std::process::id()));
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).open(&new)?;
        file.write_all(text.as_bytes())?;
        file.write_all(b"\n")?;
        fs::rename(&new, self.path(fault.device))
    }
}

/// One file; what is in it may be anything.
fn read_file(path: &Path, device: Uuid) -> io::Result<Fault> {
    // A named pipe must not hold anybody up.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let mut text = String::new();
    let read = file.take(MOST_BYTES).read_to_string(&mut text);
    let entry = read
        .map_err(|error| error.to_string())
        .and_then(|_| serde_json::from_str::<Entry>(&text).map_err(|error| error.to_string()));
    let entry = match entry {
        Ok(entry) if entry.version != VERSION => {
            Err(format!("it is of version {}, not {VERSION}", entry.version))
        }
        other => other,
    };
    Ok(match entry {
        Ok(entry) => Fault {
            device,
            gpu: entry.gpu.parse().unwrap_or(device),
            xids: entry.xids,
            since_seconds: entry.since_seconds,
            era: Era { boot: entry.boot, driver: entry.driver },
            unreadable: None,
        },
        Err(why) => unreadable(device, format!("{}: {why}", path.display())),
    })
}

fn unreadable(device: Uuid, why: String) -> Fault {
    let (xids, since_seconds, era) = (Vec::new(), 0, Era::default());
    Fault { device, gpu: device, xids, since_seconds, era, unreadable: Some(why) }
}

/// Somebody else may have been quicker.
fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

#[cfg(test)]
mod tests;
