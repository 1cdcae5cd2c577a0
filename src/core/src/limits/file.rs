//! Limits from a JSON file:
//!
//! ```json
//! { "version": 1,
//!   "control_file": "/run/vcuda/job.vcuda",
//!   "default": { "memory": "4GiB", "cores": 30, "elastic": true, "weight": 60, "priority": "high" },
//!   "devices": { "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6": { "memory": "8GiB", "cores": "12.5%" } } }
//! ```
//!
//! Only `version` must be there. `"idle_release": "60s"` lets idle programs be put aside. Of the keys
//! of a GPU one is enough. `default` is for every GPU without a limit of its own, key by key; `devices` is keyed by GPU or
//! MIG UUID (its start will do), or by the GPU's number in `nvidia-smi`. A key that is not listed here is an error, and so
//! is one given twice.

use super::entry::{Quantity, add};
use super::environment::warn_of_small_amounts;
use super::error::quoted;
use super::json_keys::{JsonKeys, join, line_and_column};
use super::{Entry, Limits, LimitsError, Selector, Source, control_path, parse_span, shares};
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::fs::OpenOptions;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// A limits file may not be larger.
pub const MAX_FILE_BYTES: usize = 1 << 20;

/// Reads a limits file: `Ok(None)` if there is none. Reads at most one byte more than [`MAX_FILE_BYTES`],
/// and never waits for a pipe or a device. All of the text comes from one system call, since the file may be rewritten
/// between two.
pub fn read_file(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path);
    let file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut bytes = vec![0; 4096];
    loop {
        let length = match file.read_at(&mut bytes, 0) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            length => length?,
        };
        if length < bytes.len() || length > MAX_FILE_BYTES {
            bytes.truncate(length);
            return Ok(Some(bytes));
        }
        bytes.resize(bytes.len().saturating_mul(16).min(MAX_FILE_BYTES + 1), 0);
    }
}

/// Reads the text of the limits file at `path`.
pub fn parse(path: &Path, source: Source, text: &[u8]) -> Result<Limits, LimitsError> {
    let path = path.display().to_string();
    if text.len() > MAX_FILE_BYTES {
        return Err(LimitsError::new(
            &path,
            "is larger than 1 MiB",
            "a limits file has a few lines; is this the right file?",
        ));
    }
    let value: Value = serde_json::from_slice(text).map_err(|error| {
        let place = format!("{path}:{}:{}", error.line(), error.column());
        let problem = error.to_string();
        let problem = problem.split(" at line ").next().unwrap_or_default();
        LimitsError::new(&place, format!("not JSON: {problem}"), "mend it there")
    })?;
    let keys = JsonKeys::scan(text).map_err(|duplicate| {
        let (line, column) = line_and_column(text, duplicate.offset);
        let place = format!("{path}:{line}:{column}: {}", duplicate.path.escape_debug());
        LimitsError::new(&place, "the key is given twice", "keep one of the two")
    })?;
    let file = File { path: &path, text, keys };
    let mut limits = file.limits(source, &value)?;
    limits.digest = digest(text);
    Ok(limits)
}

/// Tells one text from another: FNV-1a, 64 bits, and never 0, which stands for no file.
pub fn digest(text: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    text.iter().fold(0xcbf2_9ce4_8422_2325, step).max(1)
}

/// A file's text, to say where in it something is.
struct File<'a> {
    path: &'a str,
    text: &'a [u8],
    keys: JsonKeys,
}

impl File<'_> {
    fn limits(&self, source: Source, value: &Value) -> Result<Limits, LimitsError> {
        let top = self.object(
            "",
            value,
            &["version", "control_file", "arbiter_file", "idle_release", "default", "devices"],
        )?;
        self.check_version(top.get("version"))?;
        let mut limits = Limits::none(source);
        if let Some(value) = top.get("control_file") {
            let text = self.string("control_file", value, "a path such as \"/run/vcuda/job.vcuda\"")?;
            limits.control_file = Some(control_path(&self.place("control_file"), text)?);
        }
        if let Some(value) = top.get("arbiter_file") {
            let text = self.string("arbiter_file", value, "a path such as \"/run/vcuda/arbiter\"")?;
            limits.arbiter_file = Some(control_path(&self.place("arbiter_file"), text)?);
        }
        if let Some(value) = top.get("idle_release") {
            let text = self.string("idle_release", value, "a time such as \"60s\"")?;
            limits.idle_release = Some(parse_span(&self.place("idle_release"), text)?);
        }
        if let Some(value) = top.get("default") {
            self.add_entries(&mut limits, "default", Selector::Every, value)?;
        }
        let devices = match top.get("devices") {
            Some(value) => self.any_object("devices", value)?,
            None => &Map::new(),
        };
        for (key, value) in devices {
            let path = join("devices", key);
            let selector = Selector::parse(&self.place(&path), key)?;
            self.add_entries(&mut limits, &path, selector, value)?;
        }
        if matches!(limits.source, Source::Share(_)) {
            let keys: Vec<&str> = devices.keys().map(String::as_str).collect();
            limits.share_of = Some(shares::gpu_of(self.path, &limits, &keys, top.contains_key("default"))?);
        }
        warn_of_small_amounts(&mut limits);
        Ok(limits)
    }

    fn check_version(&self, version: Option<&Value>) -> Result<(), LimitsError> {
        const REMEDY: &str = "this version of vcuda reads \"version\": 1";
        match version {
            None => Err(LimitsError::new(self.path, "has no \"version\"", REMEDY)),
            Some(value) if value.as_u64() == Some(1) => Ok(()),
            Some(value) => {
                let shown = quoted(&value.to_string());
                Err(LimitsError::new(&self.place("version"), format!("{shown} is not supported"), REMEDY))
            }
        }
    }

    /// Adds what the object at `path` says of the GPUs that `selector` names.
    fn add_entries(
        &self,
        limits: &mut Limits,
        path: &str,
        selector: Selector,
        value: &Value,
    ) -> Result<(), LimitsError> {
        let object = self.object(path, value, &["memory", "cores", "elastic", "weight", "priority"])?;
        if object.is_empty() {
            return Err(LimitsError::new(
                &self.place(path),
                "sets no limit",
                "it must have \"memory\": \"4GiB\", \"cores\": 30, or another limit",
            ));
        }
        let at = (path, object);
        self.add(&mut limits.memory, at, "memory", &selector)?;
        self.add(&mut limits.cores, at, "cores", &selector)?;
        self.add(&mut limits.elastic, at, "elastic", &selector)?;
        self.add(&mut limits.weights, at, "weight", &selector)?;
        self.add(&mut limits.priorities, at, "priority", &selector)
    }

    /// Adds what `key` says in the object at a path, if it is there.
    fn add<T: Quantity>(
        &self,
        entries: &mut Vec<Entry<T>>,
        at: (&str, &Map<String, Value>),
        key: &str,
        selector: &Selector,
    ) -> Result<(), LimitsError> {
        match self.text(at, key, T::is_expected, T::EXPECTED)? {
            Some((place, text)) => add(entries, selector, &place, &text),
            None => Ok(()),
        }
    }

    /// Where `key` is in the object at a path, and its value as it would be written in a variable. `None` if it is not there.
    #[inline(never)]
    fn text<'v>(
        &self,
        (path, object): (&str, &'v Map<String, Value>),
        key: &str,
        is_expected: fn(&Value) -> bool,
        expected: &str,
    ) -> Result<Option<(String, Cow<'v, str>)>, LimitsError> {
        let Some(value) = object.get(key) else { return Ok(None) };
        let path = join(path, key);
        let text = match value {
            value if !is_expected(value) => return Err(self.wrong_type(&path, value, expected)),
            Value::Number(number) => number.to_string().into(),
            Value::Bool(true) => "true".into(),
            Value::Bool(false) => "false".into(),
            other => other.as_str().unwrap_or_default().into(),
        };
        Ok(Some((self.place(&path), text)))
    }

    fn string<'v>(&self, path: &str, value: &'v Value, expected: &str) -> Result<&'v str, LimitsError> {
        value.as_str().ok_or_else(|| self.wrong_type(path, value, expected))
    }

    fn any_object<'v>(&self, path: &str, value: &'v Value) -> Result<&'v Map<String, Value>, LimitsError> {
        value.as_object().ok_or_else(|| self.wrong_type(path, value, "an object, in braces"))
    }

    /// An object without other keys than `known`.
    fn object<'v>(
        &self,
        path: &str,
        value: &'v Value,
        known: &[&str],
    ) -> Result<&'v Map<String, Value>, LimitsError> {
        let object = self.any_object(path, value)?;
        match object.keys().find(|key| !known.contains(&key.as_str())) {
            None => Ok(object),
            Some(key) => Err(LimitsError::new(
                &self.place(&join(path, key)),
                "is an unknown key",
                format!("the keys here are {}", known.join(", ")),
            )),
        }
    }

    fn wrong_type(&self, path: &str, value: &Value, expected: &str) -> LimitsError {
        let found = match value {
            Value::Null => "null",
            Value::Bool(_) => "true or false",
            Value::Number(_) => "a number",
            Value::String(_) => "a string",
            Value::Array(_) => "an array",
            Value::Object(_) => "an object",
        };
        LimitsError::new(&self.place(path), format!("is {found}"), format!("it must be {expected}"))
    }

    /// File, line and column, and key path: where to look.
    fn place(&self, path: &str) -> String {
        let shown = path.escape_debug();
        match self.keys.offset(path) {
            Some(offset) => {
                let (line, column) = line_and_column(self.text, offset);
                format!("{}:{line}:{column}: {shown}", self.path)
            }
            None if path.is_empty() => self.path.to_owned(),
            None => format!("{}: {shown}", self.path),
        }
    }
}
