//! Limits as a person writes them, of memory and of GPU time: in environment variables or in a JSON file.
//!
//! Owns the names of the variables, the grammar and the precedence; knows nothing of CUDA. Parsing is pure:
//! the environment and the files come in as closures. Must never panic, whatever the text, because it runs
//! inside other people's programs, and must never read a mistake as "no limit": every mistake is an error
//! that names its place and what would be right.
//!
//! Precedence, highest first:
//! 1. the files in [`SHARES_DIRECTORY`], one for each share that a container was given; where there is that directory,
//!    all else is void;
//! 2. [`SYSTEM_FILE`], which needs no variable to be found and makes all limit variables void;
//! 3. the file that `VCUDA_LIMITS_FILE` names, which makes all but `VCUDA_CONTROL_FILE` and `VCUDA_ARBITER_FILE` void;
//! 4. `VCUDA_MEMORY_LIMIT`, `VCUDA_CORE_LIMIT`, `VCUDA_ELASTIC`, `VCUDA_WEIGHT` and `VCUDA_PRIORITY`, each by itself;
//! 5. where one of those is absent, what HAMi writes in its place: `CUDA_DEVICE_MEMORY_LIMIT` and
//!    `CUDA_DEVICE_SM_LIMIT`, alone and with `_<index>`, and `CUDA_TASK_PRIORITY`.

mod amount;
mod entry;
mod environment;
mod error;
mod file;
mod gpu;
mod json_keys;
mod log_level;
mod rewrite;
mod shares;
mod source;
mod span;
#[cfg(test)]
mod tests;
mod watch;

pub use amount::Amount;
pub use entry::Entry;
pub use error::LimitsError;
pub use file::{MAX_FILE_BYTES, digest, parse as parse_file, read_file};
pub use gpu::{Gpu, Selector};
pub use log_level::LogLevel;
pub use rewrite::rewrite;
pub use shares::list_directory;
pub use source::Source;
pub use span::parse_span;
pub use watch::Watch;

use crate::device::Uuid;
use crate::share::Share;
use crate::sharing::{Priority, Sharing, Weight};
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The limits file that is found without any variable and outranks them all.
pub const SYSTEM_FILE: &str = "/etc/vcuda/limits.json";
/// Where a container finds the limits files of its shares, `NAME.json` each.
pub const SHARES_DIRECTORY: &str = "/etc/vcuda/shares.d";
/// Names a limits file elsewhere.
pub const LIMITS_FILE_VARIABLE: &str = "VCUDA_LIMITS_FILE";
/// The memory limit: one amount for every GPU, or `index=amount` and `GPU-uuid=amount`, comma-separated.
pub const MEMORY_LIMIT_VARIABLE: &str = "VCUDA_MEMORY_LIMIT";
/// Names the control file, where the default place will not do. An absolute path.
pub const CONTROL_FILE_VARIABLE: &str = "VCUDA_CONTROL_FILE";
/// Names the file in which containers take turns on a device they share, where the default place will not do. An absolute
/// path.
pub const ARBITER_FILE_VARIABLE: &str = "VCUDA_ARBITER_FILE";
/// The compute limit: one percentage of the GPU's time for every GPU, or as in `VCUDA_MEMORY_LIMIT` for each.
pub const CORE_LIMIT_VARIABLE: &str = "VCUDA_CORE_LIMIT";
/// Whether the share is the least that the slice gets and not also the most: `true` or `false`, or as in
/// `VCUDA_MEMORY_LIMIT` for each GPU.
pub const ELASTIC_VARIABLE: &str = "VCUDA_ELASTIC";
/// The slice's weight against others: 1 to 10000 for every GPU, or as in `VCUDA_MEMORY_LIMIT` for each.
pub const WEIGHT_VARIABLE: &str = "VCUDA_WEIGHT";
/// Who goes first: `normal` or `high` on every GPU, or as in `VCUDA_MEMORY_LIMIT` for each.
pub const PRIORITY_VARIABLE: &str = "VCUDA_PRIORITY";
/// How long a program must be idle before it may be put aside for others: `60s`. Absent: it never may.
pub const IDLE_RELEASE_VARIABLE: &str = "VCUDA_IDLE_RELEASE";
/// How much is written to standard error: `off`, `error`, `warn` (the default), `info` or `debug`.
pub const LOG_VARIABLE: &str = "VCUDA_LOG";

/// All variables that a limits file makes void.
pub const LIMIT_VARIABLES: [&str; 6] = [
    MEMORY_LIMIT_VARIABLE,
    CORE_LIMIT_VARIABLE,
    ELASTIC_VARIABLE,
    WEIGHT_VARIABLE,
    PRIORITY_VARIABLE,
    IDLE_RELEASE_VARIABLE,
];

/// Looks up a variable; values that are not UTF-8 must come lossily converted, never as absent.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;
/// Reads a whole file: `Ok(None)` if there is none. [`read_file`] is the real one.
pub type ReadFile<'a> = &'a dyn Fn(&Path) -> io::Result<Option<Vec<u8>>>;
/// The names of what is in a directory: `Ok(None)` if there is none. [`list_directory`] is the real one.
pub type ListDirectory<'a> = &'a dyn Fn(&Path) -> io::Result<Option<Vec<OsString>>>;

/// Everything that was configured, checked for form; [`Limits::resolve`] checks it against the GPUs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// The control file that was asked for, an absolute path; `None` for the default place.
    pub control_file: Option<PathBuf>,
    /// The file in which containers take turns that was asked for, an absolute path; `None` for the default place.
    pub arbiter_file: Option<PathBuf>,
    /// How much to write to standard error.
    pub log_level: LogLevel,
    /// How long a program must be idle before it may be put aside for others; `None` if it never may.
    pub idle_release: Option<Duration>,
    /// One line each on what was understood but is not as its author may think; for the warning log.
    pub warnings: Vec<String>,
    /// One line each on what was understood and is worth knowing only when one looks.
    pub notes: Vec<String>,
    source: Source,
    digest: u64,
    memory: Vec<Entry<Amount>>,
    cores: Vec<Entry<Share>>,
    elastic: Vec<Entry<bool>>,
    weights: Vec<Entry<Weight>>,
    priorities: Vec<Entry<Priority>>,
    /// What each of a container's shares says; beside them there are no limits.
    shares: Vec<Limits>,
    /// The GPU that a container's share is of, by its UUID without `GPU-` or `MIG-`.
    share_of: Option<String>,
}

/// What is said elsewhere than in variables, such as on a command line, and outranks them. Each is a name for
/// errors, such as `--memory`, and a text in the grammar of the variable.
#[derive(Debug, Clone, Copy, Default)]
pub struct Overrides<'a> {
    /// In place of `VCUDA_MEMORY_LIMIT` and HAMi's variables for memory.
    pub memory: Option<(&'a str, &'a str)>,
    /// In place of `VCUDA_CORE_LIMIT` and HAMi's variables for compute.
    pub cores: Option<(&'a str, &'a str)>,
    /// In place of `VCUDA_ELASTIC`.
    pub elastic: Option<(&'a str, &'a str)>,
    /// In place of `VCUDA_WEIGHT`.
    pub weight: Option<(&'a str, &'a str)>,
    /// In place of `VCUDA_PRIORITY` and HAMi's variable for it.
    pub priority: Option<(&'a str, &'a str)>,
}

/// The limits of one GPU.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DeviceLimits {
    /// Memory in bytes: at least 1, never above the GPU's physical memory; `None` without a limit.
    pub memory_bytes: Option<u64>,
    /// Share of its time, never all of it; `None` without a limit.
    pub share: Option<Share>,
    /// How it is shared with others; `None` where nothing is said of its time.
    pub sharing: Option<Sharing>,
}

/// What was written for one GPU.
#[derive(Debug, Clone, Copy, Default)]
pub struct DeviceEntries<'a> {
    /// Its memory limit.
    pub memory: Option<&'a Entry<Amount>>,
    /// Its share, which may be all.
    pub cores: Option<&'a Entry<Share>>,
    /// Whether the share is the least that the slice gets and not also the most.
    pub elastic: Option<&'a Entry<bool>>,
    /// The slice's weight against others.
    pub weight: Option<&'a Entry<Weight>>,
    /// Who goes first.
    pub priority: Option<&'a Entry<Priority>>,
}

impl DeviceEntries<'_> {
    /// The share; `None` if it is all of the GPU's time, which is no limit.
    pub fn share(&self) -> Option<Share> {
        self.cores.map(|entry| entry.value).filter(|share| !share.is_whole())
    }

    /// How the GPU is shared; `None` where nothing is said of its time, or nothing but that all of it may be used.
    pub fn sharing(&self) -> Option<Sharing> {
        let share = self.share();
        let [elastic, weight, priority] =
            [self.elastic.is_some(), self.weight.is_some(), self.priority.is_some()];
        (share.is_some() || elastic || weight || priority).then(|| Sharing {
            elastic: self.elastic.is_some_and(|entry| entry.value),
            weight: self.weight.map_or_else(|| Weight::of_share(share), |entry| entry.value),
            priority: self.priority.map_or_else(Priority::default, |entry| entry.value),
        })
    }
}

impl Limits {
    /// Reads the configuration of a process. Fails on anything malformed and on files that can't be read;
    /// an absent configuration is not an error, see [`Limits::is_unlimited`].
    pub fn load(
        environment: Environment,
        read: ReadFile,
        list: ListDirectory,
    ) -> Result<Limits, LimitsError> {
        let mut limits = source::load(environment, read, list)?;
        let (log_level, warning) = LogLevel::from_environment(environment);
        limits.log_level = log_level;
        limits.warnings.extend(warning);
        Ok(limits)
    }

    /// [`Limits::load`] for the calling process, with its own environment and files.
    pub fn of_this_process() -> Result<Limits, LimitsError> {
        let variable = |name: &str| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned());
        patiently(|| Limits::load(&variable, &read_file, &list_directory))
    }

    /// The limits of `overrides`, and of the variables for what those leave open. Reads no file, and leaves
    /// open which control file to use.
    pub fn from_overrides(overrides: &Overrides, environment: Environment) -> Result<Limits, LimitsError> {
        environment::load_over(overrides, environment)
    }

    /// Whether no limit was configured at all, or none but 100 % of the time, so that programs run as if this
    /// project were absent. Never in a container with shares, which has nothing else.
    pub fn is_unlimited(&self) -> bool {
        self.shares.is_empty() && self.memory.is_empty() && !self.has_compute()
    }

    /// Whether the time of any GPU is limited, or anything is said of how it is shared.
    pub fn has_compute(&self) -> bool {
        self.cores.iter().any(|entry| !entry.value.is_whole()) || self.has_sharing()
    }

    /// Whether nothing is said of any GPU, not even that it has no limit.
    pub fn is_empty(&self) -> bool {
        self.shares.is_empty() && self.memory.is_empty() && self.cores.is_empty() && !self.has_sharing()
    }

    fn has_sharing(&self) -> bool {
        !(self.elastic.is_empty() && self.weights.is_empty() && self.priorities.is_empty())
    }

    /// The limits by control file: those of each share of a container, which has nothing else, or these as they are.
    pub fn parts(&self) -> &[Limits] {
        if self.shares.is_empty() { std::slice::from_ref(self) } else { &self.shares }
    }

    /// Whether this [part](Limits::parts) is of the GPU `uuid`. A share is of one GPU; else there is one part for all.
    pub fn is_of(&self, uuid: Uuid) -> bool {
        match &self.share_of {
            Some(digits) => uuid.to_string().get(gpu::KIND_CHARACTERS..) == Some(digits),
            None => true,
        }
    }

    /// Where the limits come from.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// Tells the file's text from others, see [`digest`]; 0 if the limits come from no file.
    pub fn digest(&self) -> u64 {
        self.digest
    }

    /// The memory limits as written, in order.
    pub fn memory(&self) -> &[Entry<Amount>] {
        &self.memory
    }

    /// The shares of GPU time as written, in order.
    pub fn cores(&self) -> &[Entry<Share>] {
        &self.cores
    }

    /// Whether the share is the least and not also the most, as written, in order.
    pub fn elastic(&self) -> &[Entry<bool>] {
        &self.elastic
    }

    /// The weights as written, in order.
    pub fn weights(&self) -> &[Entry<Weight>] {
        &self.weights
    }

    /// The priorities as written, in order.
    pub fn priorities(&self) -> &[Entry<Priority>] {
        &self.priorities
    }

    /// The limits of each of `gpus`, in their order.
    ///
    /// `gpus` must be all GPUs of the machine or container, visible to CUDA or not, or a limit for a hidden
    /// one would be taken for a mistake. Fails if an entry names a GPU that is not there, or two of a kind
    /// name one.
    pub fn resolve(&self, gpus: &[Gpu]) -> Result<Vec<DeviceLimits>, LimitsError> {
        let limits = |(gpu, entries): (&Gpu, DeviceEntries)| DeviceLimits {
            memory_bytes: entries.memory.map(|entry| entry.value.of(gpu.physical_bytes)),
            share: entries.share(),
            sharing: entries.sharing(),
        };
        Ok(gpus.iter().zip(self.entries_of(gpus)?).map(limits).collect())
    }

    /// What [`Limits::resolve`] goes by: the entries that hold for each of `gpus`, in their order.
    pub fn entries_of(&self, gpus: &[Gpu]) -> Result<Vec<DeviceEntries<'_>>, LimitsError> {
        let mut all = vec![DeviceEntries::default(); gpus.len()];
        for part in self.parts() {
            entry::choose(&part.memory, gpus, &mut all, |all| &mut all.memory)?;
            entry::choose(&part.cores, gpus, &mut all, |all| &mut all.cores)?;
            entry::choose(&part.elastic, gpus, &mut all, |all| &mut all.elastic)?;
            entry::choose(&part.weights, gpus, &mut all, |all| &mut all.weight)?;
            entry::choose(&part.priorities, gpus, &mut all, |all| &mut all.priority)?;
        }
        Ok(all)
    }

    fn none(source: Source) -> Limits {
        Limits {
            control_file: None,
            arbiter_file: None,
            log_level: LogLevel::default(),
            idle_release: None,
            warnings: Vec::new(),
            notes: Vec::new(),
            source,
            digest: 0,
            memory: Vec::new(),
            cores: Vec::new(),
            elastic: Vec::new(),
            weights: Vec::new(),
            priorities: Vec::new(),
            shares: Vec::new(),
            share_of: None,
        }
    }
}

/// Reads limits, and reads them again for a while if they are wrong: a file that is just being [rewritten](fn@rewrite) is no
/// limits file for some microseconds, or for as long as a busy machine leaves its writer waiting for a processor.
pub fn patiently<E>(read: impl Fn() -> Result<Limits, E>) -> Result<Limits, E> {
    const READINGS: u32 = 32;
    const PAUSE: Duration = Duration::from_millis(4);
    let mut found = read();
    for _ in 1..READINGS {
        if found.is_ok() {
            break;
        }
        std::thread::sleep(PAUSE);
        found = read();
    }
    found
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
