//! Where limits come from, and which source outranks which.

use super::{
    ARBITER_FILE_VARIABLE, CONTROL_FILE_VARIABLE, Environment, LIMIT_VARIABLES, LIMITS_FILE_VARIABLE, Limits,
    LimitsError, ListDirectory, ReadFile, SHARES_DIRECTORY, SYSTEM_FILE, control_path, environment, file,
    shares,
};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

/// Where the limits of a process come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Nothing is configured.
    Nothing,
    /// The files in [`SHARES_DIRECTORY`].
    Shares,
    /// One of those.
    Share(PathBuf),
    /// [`SYSTEM_FILE`].
    SystemFile,
    /// The file that `VCUDA_LIMITS_FILE` names.
    File(PathBuf),
    /// Variables, or what a command line puts in their place.
    Environment,
}

/// Void beside files that need none of them to be found.
const FILE_VARIABLES: [&str; 2] = [LIMITS_FILE_VARIABLE, CONTROL_FILE_VARIABLE];

pub(super) fn load(
    environment: Environment,
    read: ReadFile,
    list: ListDirectory,
) -> Result<Limits, LimitsError> {
    if let Some(mut limits) = shares::load(read, list)? {
        warn_of(&mut limits, &LIMIT_VARIABLES, environment, SHARES_DIRECTORY);
        warn_of(&mut limits, &FILE_VARIABLES, environment, SHARES_DIRECTORY);
        return Ok(limits);
    }
    let system_file = Path::new(SYSTEM_FILE);
    if let Some(bytes) = read_or_explain(system_file, read)? {
        let mut limits = file::parse(system_file, Source::SystemFile, &bytes)?;
        warn_of(&mut limits, &LIMIT_VARIABLES, environment, SYSTEM_FILE);
        warn_of(&mut limits, &FILE_VARIABLES, environment, SYSTEM_FILE);
        return Ok(limits);
    }
    let Some(name) = environment(LIMITS_FILE_VARIABLE) else { return environment::load(environment) };
    let path = Path::new(&name);
    let bytes = read_or_explain(path, read)?.ok_or_else(|| {
        LimitsError::new(
            LIMITS_FILE_VARIABLE,
            format!("there is no file {}", super::error::quoted(&name)),
            "name an existing file, or unset the variable",
        )
    })?;
    let mut limits = file::parse(path, Source::File(path.to_path_buf()), &bytes)?;
    warn_of(&mut limits, &LIMIT_VARIABLES, environment, &name);
    if let (None, Some(path)) = (&limits.control_file, environment(CONTROL_FILE_VARIABLE)) {
        limits.control_file = Some(control_path(CONTROL_FILE_VARIABLE, &path)?);
    }
    if let (None, Some(path)) = (&limits.arbiter_file, environment(ARBITER_FILE_VARIABLE)) {
        limits.arbiter_file = Some(control_path(ARBITER_FILE_VARIABLE, &path)?);
    }
    Ok(limits)
}

#[inline(never)]
pub(super) fn read_or_explain(path: &Path, read: ReadFile) -> Result<Option<Vec<u8>>, LimitsError> {
    read(path).map_err(|error| unreadable(path, &error))
}

/// Why what is at `path` could not be read.
pub(super) fn unreadable(path: &Path, error: &io::Error) -> LimitsError {
    let remedy = match error.kind() {
        ErrorKind::PermissionDenied => "make it readable for the users who run GPU programs",
        _ => "limits are kept only as far as they can be read, so mend or remove the file",
    };
    LimitsError::new(&path.display().to_string(), format!("can't be read: {error}"), remedy)
}

/// Warns of the `names` that are set beside `file`.
#[inline(never)]
fn warn_of(limits: &mut Limits, names: &[&str], environment: Environment, file: &str) {
    for name in names {
        if environment(name).is_some() {
            limits.warnings.push(ignored(name, file));
        }
    }
}

/// Says that `what` is not what counts.
pub(super) fn ignored(what: &str, file: &str) -> String {
    format!("{what} is ignored: {file} sets the limits here")
}
