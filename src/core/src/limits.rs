//! Memory limits as a person writes them: in environment variables or in a JSON file.
//!
//! Owns the names of the variables, the grammar and the precedence; knows nothing of CUDA. Parsing is pure:
//! the environment and the files come in as closures. Must never panic, whatever the text, because it runs
//! inside other people's programs, and must never read a mistake as "no limit": every mistake is an error
//! that names its place and what would be right.
//!
//! Precedence, highest first:
//! 1. [`SYSTEM_FILE`], which needs no variable to be found and makes all limit variables void;
//! 2. the file that `VCUDA_LIMITS_FILE` names, which makes `VCUDA_MEMORY_LIMIT` void;
//! 3. `VCUDA_MEMORY_LIMIT`;
//! 4. `CUDA_DEVICE_MEMORY_LIMIT` and `CUDA_DEVICE_MEMORY_LIMIT_<index>`, as HAMi writes them.

mod amount;
mod environment;
mod error;
mod file;
mod gpu;
mod json_keys;
mod log_level;
mod source;
#[cfg(test)]
mod tests;

pub use amount::Amount;
pub use error::LimitsError;
pub use file::{MAX_FILE_BYTES, read_file};
pub use gpu::{Gpu, Selector};
pub use log_level::LogLevel;
pub use source::Source;

use std::io;
use std::path::{Path, PathBuf};

/// The limits file that is found without any variable and outranks them all.
pub const SYSTEM_FILE: &str = "/etc/vcuda/limits.json";
/// Names a limits file elsewhere.
pub const LIMITS_FILE_VARIABLE: &str = "VCUDA_LIMITS_FILE";
/// The limit itself: one amount for every GPU, or `index=amount` and `GPU-uuid=amount`, comma-separated.
pub const MEMORY_LIMIT_VARIABLE: &str = "VCUDA_MEMORY_LIMIT";
/// Names the control file, where the default place will not do. An absolute path.
pub const CONTROL_FILE_VARIABLE: &str = "VCUDA_CONTROL_FILE";
/// Reserved: asking for a compute limit is an error as long as none would be kept.
pub const CORE_LIMIT_VARIABLE: &str = "VCUDA_CORE_LIMIT";
/// How much is written to standard error: `off`, `error`, `warn` (the default), `info` or `debug`.
pub const LOG_VARIABLE: &str = "VCUDA_LOG";

/// Looks up a variable; values that are not UTF-8 must come lossily converted, never as absent.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;
/// Reads a whole file: `Ok(None)` if there is none. [`read_file`] is the real one.
pub type ReadFile<'a> = &'a dyn Fn(&Path) -> io::Result<Option<Vec<u8>>>;

/// Everything that was configured, checked for form; [`Limits::resolve`] checks it against the GPUs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// The control file that was asked for, an absolute path; `None` for the default place.
    pub control_file: Option<PathBuf>,
    /// How much to write to standard error.
    pub log_level: LogLevel,
    /// One line each on what was understood but is not as its author may think; for the warning log.
    pub warnings: Vec<String>,
    source: Source,
    entries: Vec<Entry>,
}

/// One limit, and where it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The GPU or GPUs it holds for.
    pub selector: Selector,
    /// How much memory.
    pub amount: Amount,
    /// Variable, or file with line, column and key: where to look for it.
    pub place: String,
}

impl Limits {
    /// Reads the configuration of a process. Fails on anything malformed and on files that can't be read;
    /// an absent configuration is not an error, see [`Limits::is_unlimited`].
    pub fn load(environment: Environment, read: ReadFile) -> Result<Limits, LimitsError> {
        let mut limits = source::load(environment, read)?;
        let (log_level, warning) = LogLevel::from_environment(environment);
        limits.log_level = log_level;
        limits.warnings.extend(warning);
        Ok(limits)
    }

    /// [`Limits::load`] for the calling process, with its own environment and files.
    pub fn of_this_process() -> Result<Limits, LimitsError> {
        let variable = |name: &str| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned());
        Limits::load(&variable, &read_file)
    }

    /// The limits that `text` stands for, in the grammar of `VCUDA_MEMORY_LIMIT`. `place` names the text in
    /// errors, such as `--memory`.
    pub fn from_text(place: &str, text: &str) -> Result<Limits, LimitsError> {
        let entries = environment::parse_list(place, text)?;
        let mut limits = Limits::none(Source::Environment);
        limits.warnings.extend(entries.iter().filter_map(environment::small_amount_warning));
        limits.entries = entries;
        Ok(limits)
    }

    /// Whether no limit was configured at all, so that programs run as if this project were absent.
    pub fn is_unlimited(&self) -> bool {
        self.entries.is_empty()
    }

    /// Where the limits come from.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// The limits as written, in order.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The limit in bytes of each of `gpus`, in their order; `None` where there is none. Never above the
    /// GPU's physical memory, and at least 1.
    ///
    /// `gpus` must be all GPUs of the machine or container, visible to CUDA or not, or a limit for a hidden
    /// one would be taken for a mistake. Fails if an entry names a GPU that is not there, or two name one.
    pub fn resolve(&self, gpus: &[Gpu]) -> Result<Vec<Option<u64>>, LimitsError> {
        let every = self.entries.iter().find(|entry| entry.selector == Selector::Every);
        let mut chosen: Vec<Option<&Entry>> = vec![None; gpus.len()];
        for entry in self.entries.iter().filter(|entry| entry.selector != Selector::Every) {
            let position = entry.selector.find(gpus).map_err(|error| error.at(&entry.place))?;
            let Some(slot) = chosen.get_mut(position) else { continue };
            if let Some(other) = slot {
                return Err(LimitsError::new(
                    &entry.place,
                    format!("{} and {} are the same GPU", other.selector, entry.selector),
                    "give each GPU one limit",
                ));
            }
            *slot = Some(entry);
        }
        let limit_bytes = |(gpu, entry): (&Gpu, Option<&Entry>)| {
            entry.or(every).map(|entry| entry.amount.of(gpu.physical_bytes))
        };
        Ok(gpus.iter().zip(chosen).map(limit_bytes).collect())
    }

    fn none(source: Source) -> Limits {
        Limits {
            control_file: None,
            log_level: LogLevel::default(),
            warnings: Vec::new(),
            source,
            entries: Vec::new(),
        }
    }
}

/// Adds `entry` unless its GPU already has one.
fn push_entry(entries: &mut Vec<Entry>, entry: Entry) -> Result<(), LimitsError> {
    if entries.iter().any(|other| other.selector == entry.selector) {
        return Err(LimitsError::new(
            &entry.place,
            format!("{} is given twice", entry.selector),
            "give each GPU one limit",
        ));
    }
    entries.push(entry);
    Ok(())
}

/// Accepts a control file path, which must mean the same file in every process whatever its directory.
fn control_path(place: &str, text: &str) -> Result<PathBuf, LimitsError> {
    let path = Path::new(text);
    if path.is_absolute() && !text.contains('\0') && !text.ends_with('/') {
        return Ok(path.to_path_buf());
    }
    Err(LimitsError::new(
        place,
        format!("{} is not an absolute path of a file", error::quoted(text)),
        "write it from the root, such as /tmp/vcuda/job.vcuda",
    ))
}
