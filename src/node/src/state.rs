//! What the counters remember, in a file, so that an agent that is started anew goes on where the last one ended.
//!
//! Owns that file and its form. Without it nothing is lost but what control files that are gone by now had counted.

use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::counters::{Saved, Totals};
use crate::labels::Labels;

const VERSION: u64 = 1;
/// Thousands of slices need less.
const MOST_BYTES: u64 = 64 << 20;

/// Puts `counters` in the place of what `path` holds, at once or not at all.
///
/// # Errors
/// The system's.
pub fn write(path: &Path, counters: &[Saved]) -> io::Result<()> {
    let slices: Vec<Value> = counters.iter().map(to_json).collect();
    let text = json!({ "version": VERSION, "slices": slices }).to_string();
    let new = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(text.as_bytes())?;
    fs::rename(&new, path)
}

/// What `path` holds; nothing where there is no such file.
///
/// # Errors
/// A sentence about the file.
pub fn read(path: &Path) -> Result<Vec<Saved>, String> {
    let fail = |what: String| format!("{}: {what}; counting begins anew", path.display());
    let file = match OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(fail(error.to_string())),
    };
    let mut text = String::new();
    file.take(MOST_BYTES).read_to_string(&mut text).map_err(|error| fail(error.to_string()))?;
    let value: Value = serde_json::from_str(&text).map_err(|error| fail(error.to_string()))?;
    if value["version"] != VERSION {
        return Err(fail(format!("is of version {}, not {VERSION}", value["version"])));
    }
    let slices = value["slices"].as_array().map(Vec::as_slice).unwrap_or_default();
    slices
        .iter()
        .map(|slice| from_json(slice).ok_or_else(|| fail(format!("has an entry that is none: {slice}"))))
        .collect()
}

fn to_json(saved: &Saved) -> Value {
    let Labels { namespace, pod, container, share } = &saved.labels;
    json!({
        "namespace": namespace, "pod": pod, "container": container, "share": share,
        "device": saved.device,
        "file": saved.file,
        "raw": totals_to_json(saved.raw),
        "totals": totals_to_json(saved.totals),
    })
}

fn from_json(value: &Value) -> Option<Saved> {
    let text = |name: &str| Some(value[name].as_str()?.to_owned());
    Some(Saved {
        labels: Labels {
            namespace: text("namespace")?,
            pod: text("pod")?,
            container: text("container")?,
            share: text("share")?,
        },
        device: text("device")?,
        file: value["file"].as_u64()?,
        raw: totals_from_json(value["raw"].as_object()?)?,
        totals: totals_from_json(value["totals"].as_object()?)?,
    })
}

fn totals_to_json(totals: Totals) -> Value {
    let Totals { denied, work, busy_ns, throttled_ns } = totals;
    json!({ "denied": denied, "work": work, "busy_ns": busy_ns, "throttled_ns": throttled_ns })
}

fn totals_from_json(fields: &Map<String, Value>) -> Option<Totals> {
    let number = |name: &str| fields.get(name)?.as_u64();
    Some(Totals {
        denied: number("denied")?,
        work: number("work")?,
        busy_ns: number("busy_ns")?,
        throttled_ns: number("throttled_ns")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("counters.json");
        assert_eq!(read(&path), Ok(Vec::new()), "no file");
        let raw = Totals { denied: 1, work: 2, busy_ns: u64::MAX, throttled_ns: 0 };
        let labels = Labels { pod: "a\"\n".to_owned(), ..Labels::of("share") };
        let saved = Saved { labels, device: "GPU-1".to_owned(), file: 7, raw, totals: raw };
        for counters in [vec![saved.clone(), saved.clone()], vec![saved], Vec::new()] {
            write(&path, &counters).unwrap();
            assert_eq!(read(&path), Ok(counters));
        }
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn what_is_something_else_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("counters.json");
        for (text, expected) in [
            ("", "EOF"),
            ("{}", "version null"),
            (r#"{"version": 2}"#, "version 2, not 1"),
            (r#"{"version": 1, "slices": [{"pod": 1}]}"#, "an entry that is none"),
        ] {
            fs::write(&path, text).unwrap();
            let error = read(&path).expect_err(text);
            assert!(error.contains(expected) && error.ends_with("counting begins anew"), "{error}");
        }
    }
}
