//! A share as it is on the machine.

use crate::error::ShareError;
use crate::places::{ARBITER_IN_CONTAINER, Places, control_in_container};
use crate::record::{self, Record};
use crate::wanted::Wanted;
use crate::{KIND, files};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use vcuda_core::control::Control;
use vcuda_core::limits::{Limits, LimitsError, Overrides, Source, parse_file, patiently, read_file};
use vcuda_core::location::SHARE_CONTROL_FILE;
use vcuda_core::share::Share as Cores;

/// Name of a share's limits file, in its directory.
const LIMITS_FILE: &str = "limits.json";

/// A share that is whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// What it was asked to be. Its limits may have been changed since, see [`Share::limits`].
    pub wanted: Wanted,
    /// Its directory.
    pub directory: PathBuf,
    /// Where its CDI file is.
    pub cdi: PathBuf,
}

impl Share {
    /// The share in `directory`; `None` if there is none, or half of one.
    ///
    /// # Errors
    /// The system's.
    pub fn read(directory: &Path) -> Result<Option<Share>, ShareError> {
        let name = directory.file_name().unwrap_or_default();
        let path = directory.join(record::FILE);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            Err(error) => return Err(ShareError::io("read", &path, error)),
        };
        let found = Record::parse(&text).and_then(|record| Some((record.wanted()?, record.cdi)));
        let is_whole = |wanted: &Wanted| {
            wanted.name.as_bytes() == name.as_encoded_bytes() && directory.join(LIMITS_FILE).is_file()
        };
        Ok(found.filter(|(wanted, _)| is_whole(wanted)).map(|(wanted, cdi)| Share {
            wanted,
            directory: directory.to_owned(),
            cdi,
        }))
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.wanted.name
    }

    /// How a container runtime is asked for it: `vcuda.dev/share=NAME`.
    pub fn cdi_id(&self) -> String {
        format!("{KIND}={}", self.wanted.name)
    }

    /// Its CDI file.
    pub fn cdi_file(&self) -> PathBuf {
        cdi_file(&self.cdi, &self.wanted.name)
    }

    /// Its limits file on the machine, by which its limits are changed.
    pub fn limits_file(&self) -> PathBuf {
        self.directory.join(LIMITS_FILE)
    }

    /// Its control file on the machine.
    pub fn control_file(&self) -> PathBuf {
        let path = self.directory.join(SHARE_CONTROL_FILE);
        fs::read_link(&path).unwrap_or(path)
    }

    /// Makes its control file if that is not there, as after the start of the machine. True if it was not.
    pub(crate) fn restore_control(&self) -> Result<bool, ShareError> {
        let path = self.control_file();
        if path.is_file() {
            return Ok(false);
        }
        make_control(&path)?;
        Ok(true)
    }

    /// Its limits as they are now.
    ///
    /// # Errors
    /// What is wrong with the limits file.
    pub fn limits(&self) -> Result<Limits, ShareError> {
        let path = self.limits_file();
        patiently(|| {
            let text = read_file(&path).map_err(|error| ShareError::io("read", &path, error))?;
            Ok(parse_file(&path, Source::File(path.clone()), &text.unwrap_or_default())?)
        })
    }

    /// Its memory limit and its part of the GPU's time as they are now; `None` each for no limit.
    ///
    /// # Errors
    /// As [`Share::limits`].
    pub fn granted(&self) -> Result<(Option<u64>, Option<Cores>), ShareError> {
        let limits = self.limits()?;
        // The file is of one GPU. Of its memory a percentage is never written here.
        let memory = limits.memory().first().map(|entry| entry.value.of(u64::MAX));
        let cores = limits.cores().first().map(|entry| entry.value).filter(|cores| !cores.is_whole());
        Ok((memory, cores))
    }
}

/// The CDI file of the share `name` in `directory`.
pub(crate) fn cdi_file(directory: &Path, name: &str) -> PathBuf {
    directory.join(format!("{CDI_PREFIX}{name}{CDI_SUFFIX}"))
}

const CDI_PREFIX: &str = "vcuda-";
const CDI_SUFFIX: &str = ".json";

/// The share that a CDI file of this name is of.
pub(crate) fn share_of_cdi_file(file_name: &str) -> Option<&str> {
    file_name.strip_prefix(CDI_PREFIX)?.strip_suffix(CDI_SUFFIX).filter(|name| crate::is_usable(name))
}

/// Makes a control file, with the directories that it is in, if it is not there.
pub(crate) fn make_control(path: &Path) -> Result<(), ShareError> {
    if let Some(directory) = path.parent() {
        files::make_open(directory)?;
    }
    // Of a file that was not there, a container runtime may have made a directory.
    if path.is_dir() {
        files::remove_directory(path)?;
    }
    Control::open_or_create(path)?;
    Ok(())
}

/// Writes a whole share into `directory`, which must be empty: it is one once the directory has the share's name.
pub(crate) fn write(wanted: &Wanted, places: &Places, directory: &Path) -> Result<(), ShareError> {
    let lasts = wanted.made_by == crate::MadeBy::Cli;
    let text = limits_text(wanted)?;
    files::write(&directory.join(LIMITS_FILE), text.as_bytes(), lasts)?;
    let control = directory.join(SHARE_CONTROL_FILE);
    if places.has_control_elsewhere() {
        let elsewhere = places.control.join(&wanted.name).join(SHARE_CONTROL_FILE);
        make_control(&elsewhere)?;
        files::link(&elsewhere, &control)?;
    } else {
        make_control(&control)?;
    }
    describe(wanted, &places.cdi, directory)
}

/// Writes what a share was asked to be, and for whom, in the place of what was written before.
pub(crate) fn describe(wanted: &Wanted, cdi: &Path, directory: &Path) -> Result<(), ShareError> {
    let lasts = wanted.made_by == crate::MadeBy::Cli;
    files::write(&directory.join(record::FILE), Record::of(wanted, cdi).to_text().as_bytes(), lasts)
}

/// What the limits file says.
fn limits_text(wanted: &Wanted) -> Result<String, LimitsError> {
    let gpu = wanted.gpu_uuid.to_string();
    // Of a MIG instance, limits know the digits only.
    let memory = wanted.memory_bytes.map(|bytes| format!("{gpu}={bytes}B"));
    let cores = match (wanted.cores, &memory) {
        (Some(cores), _) => Some(format!("{gpu}={cores}")),
        // A share without limits names its GPU all the same.
        (None, None) => Some(format!("{gpu}=100")),
        (None, Some(_)) => None,
    };
    let elastic = wanted.elastic.then(|| format!("{gpu}=true"));
    let weight = wanted.weight.map(|weight| format!("{gpu}={weight}"));
    let priority = wanted.priority.map(|priority| format!("{gpu}={priority}"));
    let overrides = Overrides {
        memory: memory.as_deref().map(|text| ("memory", text)),
        cores: cores.as_deref().map(|text| ("cores", text)),
        elastic: elastic.as_deref().map(|text| ("elastic", text)),
        weight: weight.as_deref().map(|text| ("weight", text)),
        priority: priority.as_deref().map(|text| ("priority", text)),
    };
    let mut limits = Limits::from_overrides(&overrides, &|_| None)?;
    limits.idle_release = wanted.idle_release;
    limits.arbiter_file = Some(ARBITER_IN_CONTAINER.into());
    limits.set_control_file(control_in_container(&wanted.name));
    Ok(limits.to_text())
}
