//! What suspended processes took of each GPU, kept beside the control file for whoever resumes them.
//!
//! Owns the file `.NAME.suspended` in the control file's directory: JSON, written anew as a whole and renamed into place.
//! It is written before a process is touched, and forgotten with the processes. Without it (somebody removed it)
//! resuming goes by the slice's own books.
//!
//! The directory may belong to somebody who wishes a privileged agent ill: nothing is written through a link, and nothing
//! is read that isn't a file of a moderate size.

use serde_json::{Value, json};
use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use vcuda_core::device::Uuid;
pub use vcuda_core::location::suspension_record as path_of;

/// More than every slot's entry with every GPU takes.
const MOST_BYTES: u64 = 16 << 20;

/// What one process took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its slot in the control file.
    pub slot: u16,
    /// When the process began, as its slot says; tells it from a later owner of the slot.
    pub start_time_ticks: u64,
    /// When it was suspended, in nanoseconds since 1970.
    pub since_unix_ns: u64,
    /// Bytes by GPU.
    pub gpus: Vec<(Uuid, u64)>,
}

/// What all suspended processes of a slice took.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// In no order.
    pub entries: Vec<Entry>,
}

impl Record {
    /// Reads the record of a slice; an empty one where there is none, or none that can be read.
    pub fn load(control_file: &Path) -> Record {
        let text = read_file(&path_of(control_file)).unwrap_or_default();
        let value: Value = serde_json::from_slice(&text).unwrap_or(Value::Null);
        let entries = value["processes"].as_array().into_iter().flatten().filter_map(read);
        Record { entries: entries.collect() }
    }

    /// Writes the record, or removes the file if nothing is in it.
    ///
    /// # Errors
    /// The system's; the former record is still there then.
    pub fn save(&self, control_file: &Path) -> io::Result<()> {
        let path = path_of(control_file);
        if self.entries.is_empty() {
            return match fs::remove_file(&path) {
                Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            };
        }
        let processes: Vec<Value> = self.entries.iter().map(write).collect();
        let draft = path.with_extension(format!("draft-{}", std::process::id()));
        let text = format!("{:#}\n", json!({ "version": 1, "processes": processes }));
        let written = write_file(&draft, &text).and_then(|()| fs::rename(&draft, &path));
        if written.is_err() {
            // A draft left behind harms nobody.
            let _ = fs::remove_file(&draft);
        }
        written
    }

    /// What a process took.
    pub fn find(&self, slot: u16, start_time_ticks: u64) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.slot == slot && entry.start_time_ticks == start_time_ticks)
    }

    /// Enters what a process took, in place of what its slot had before.
    pub fn enter(&mut self, entry: Entry) {
        self.forget(entry.slot);
        self.entries.push(entry);
    }

    /// Forgets a slot.
    pub fn forget(&mut self, slot: u16) {
        self.entries.retain(|entry| entry.slot != slot);
    }
}

/// Makes a file that anybody may read who gets into its directory: its slice's user resumes what root has suspended.
fn write_file(path: &Path, text: &str) -> io::Result<()> {
    // Of one who had this id and was killed.
    let _ = fs::remove_file(path);
    let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
    file.set_permissions(Permissions::from_mode(0o644))?;
    file.write_all(text.as_bytes())
}

fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let mut text = Vec::new();
    if file.metadata()?.is_file() {
        file.take(MOST_BYTES).read_to_end(&mut text)?;
    }
    Ok(text)
}

fn write(entry: &Entry) -> Value {
    let gpus: Vec<Value> =
        entry.gpus.iter().map(|(gpu, bytes)| json!({ "uuid": gpu.to_string(), "bytes": bytes })).collect();
    json!({
        "slot": entry.slot,
        "start_time_ticks": entry.start_time_ticks,
        "since_unix_ns": entry.since_unix_ns,
        "gpus": gpus,
    })
}

fn read(value: &Value) -> Option<Entry> {
    let gpu = |gpu: &Value| Some((gpu["uuid"].as_str()?.parse().ok()?, gpu["bytes"].as_u64()?));
    Some(Entry {
        slot: value["slot"].as_u64()?.try_into().ok()?,
        start_time_ticks: value["start_time_ticks"].as_u64()?,
        since_unix_ns: value["since_unix_ns"].as_u64()?,
        gpus: value["gpus"].as_array()?.iter().map(gpu).collect::<Option<_>>()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(slot: u16, bytes: u64) -> Entry {
        Entry {
            slot,
            start_time_ticks: 7,
            since_unix_ns: 1 << 60,
            gpus: vec![(Uuid::gpu([slot as u8 + 1; 16]), bytes), (Uuid::mig([9; 16]), 1)],
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let control = directory.path().join("run-1");
        let mut record = Record::load(&control);
        assert_eq!(record, Record::default());
        record.enter(entry(1, 1 << 40));
        record.enter(entry(2, 5));
        record.enter(entry(1, 6));
        record.save(&control).unwrap();
        assert_eq!(Record::load(&control), record);
        assert_eq!(record.find(1, 7).map(|entry| entry.gpus[0].1), Some(6));
        assert_eq!(record.find(1, 8), None);
        record.forget(1);
        record.forget(2);
        record.save(&control).unwrap();
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
        record.save(&control).unwrap();
    }

    #[test]
    fn a_spoiled_record_is_an_empty_one() {
        let directory = tempfile::tempdir().unwrap();
        let control = directory.path().join("control");
        for text in ["", "{", "[]", r#"{"processes":[{"slot":70000}]}"#, r#"{"processes":3}"#] {
            fs::write(path_of(&control), text).unwrap();
            assert_eq!(Record::load(&control), Record::default(), "{text}");
        }
    }

    #[test]
    fn a_link_leads_nowhere() {
        let directory = tempfile::tempdir().unwrap();
        let (control, victim) = (directory.path().join("control"), directory.path().join("victim"));
        let path = path_of(&control);
        fs::write(&victim, r#"{"processes":[]}"#).unwrap();
        let mut record = Record::default();
        record.enter(entry(1, 5));
        for link in [path.clone(), path.with_extension(format!("draft-{}", std::process::id()))] {
            std::os::unix::fs::symlink(&victim, &link).unwrap();
            record.save(&control).unwrap();
            assert_eq!(Record::load(&control), record);
            assert_eq!(fs::read_to_string(&victim).unwrap(), r#"{"processes":[]}"#);
        }
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
        assert_eq!(Record::load(&control), Record::default());
    }
}
