//! The shares of a container: a limits file for each, in one directory, each with a control file of its own.
//!
//! The directory comes with the first share and holds nothing else, so where it is, the container has what its shares say
//! and no more. One that is empty, half of what it should be, or about a GPU twice is a mistake, and never no limit.

use super::gpu::UUID_CHARACTERS;
use super::source::{ignored, read_or_explain, unreadable};
use super::{
    Entry, Limits, LimitsError, ListDirectory, ReadFile, SHARES_DIRECTORY, SYSTEM_FILE, Selector, Source,
    file,
};
use crate::location::SHARES_IN_CONTAINER;
use std::ffi::OsString;
use std::io::{self, ErrorKind};
use std::path::Path;

/// The names of what is in a directory: `Ok(None)` if there is none.
pub fn list_directory(path: &Path) -> io::Result<Option<Vec<OsString>>> {
    let entries = match std::fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry?.file_name());
    }
    Ok(Some(names))
}

/// The limits of the container's shares together; `None` if it has no such directory.
pub(super) fn load(read: ReadFile, list: ListDirectory) -> Result<Option<Limits>, LimitsError> {
    let directory = Path::new(SHARES_DIRECTORY);
    let listed = list(directory).map_err(|error| unreadable(directory, &error))?;
    let Some(listed) = listed else { return Ok(None) };
    // In order, for people; a sort of the standard library's would be the largest part of this.
    let mut names: Vec<OsString> = Vec::new();
    for name in listed {
        let bytes = name.as_encoded_bytes();
        if bytes.ends_with(b".json") && !bytes.starts_with(b".") {
            names.insert(names.partition_point(|other| *other < name), name);
        }
    }
    let mut limits = Limits::none(Source::Shares);
    for name in names {
        let path = directory.join(name);
        let text = read_or_explain(&path, read)?.unwrap_or_default();
        add(&mut limits, file::parse(&path, Source::Share(path.clone()), &text)?)?;
    }
    if limits.shares.is_empty() {
        return Err(LimitsError::new(
            SHARES_DIRECTORY,
            "has no share in it",
            "start the container with a share, such as --device vcuda.dev/share=half, or without the directory",
        ));
    }
    if read_or_explain(Path::new(SYSTEM_FILE), read)?.is_some() {
        limits.warnings.push(ignored(SYSTEM_FILE, SHARES_DIRECTORY));
    }
    Ok(Some(limits))
}

/// Adds what one share says.
fn add(limits: &mut Limits, mut share: Limits) -> Result<(), LimitsError> {
    for other in &limits.shares {
        let same = match (other.share_of == share.share_of, other.control_file == share.control_file) {
            (true, _) => "are of the same GPU",
            (_, true) => "have the same control file",
            _ => continue,
        };
        return Err(LimitsError::new(
            &place(&share),
            format!("this share and {} {same}", place(other)),
            "give the container one share of each GPU: a larger one",
        ));
    }
    // One for all containers of a machine.
    if limits.arbiter_file.is_none() {
        limits.arbiter_file = share.arbiter_file.clone();
    }
    limits.warnings.append(&mut share.warnings);
    limits.shares.push(share);
    Ok(())
}

fn place(share: &Limits) -> String {
    match &share.source {
        Source::Share(path) => path.display().to_string(),
        _ => String::new(),
    }
}

/// The one GPU that a share's file at `path` is of, by its UUID without `GPU-` or `MIG-`. `keys` are those of its `devices`.
///
/// # Errors
/// If it is of none, or of others as well, or names no control file.
pub(super) fn gpu_of(
    path: &str,
    limits: &Limits,
    keys: &[&str],
    has_default: bool,
) -> Result<String, LimitsError> {
    let only = match keys {
        [only] if !has_default => Selector::parse_uuid(only),
        _ => None,
    };
    let missing = match only {
        Some(Selector::Uuid(uuid)) if uuid.len() == UUID_CHARACTERS => {
            if limits.control_file.is_some() {
                return Ok(uuid);
            }
            "names no control file"
        }
        _ => "is not of one GPU",
    };
    Err(LimitsError::new(
        path,
        missing,
        "a share's file has \"control_file\": \"/run/vcuda/shares/half/control\" and one of \"devices\", by its whole UUID",
    ))
}

/// The one GPU that a share is of, as its machine sees the share's file: by where its control file is in a container.
pub(super) fn gpu_by_control_file(limits: &Limits) -> Option<Selector> {
    let is_share = limits.control_file.as_ref().is_some_and(|path| path.starts_with(SHARES_IN_CONTAINER));
    let limited = selectors(&limits.memory).chain(selectors(&limits.cores));
    let shared =
        selectors(&limits.elastic).chain(selectors(&limits.weights)).chain(selectors(&limits.priorities));
    let mut named = limited.chain(shared);
    let first = named.next()?;
    let is_whole = matches!(first, Selector::Uuid(uuid) if uuid.len() == UUID_CHARACTERS);
    (is_share && is_whole && named.all(|other| other == first)).then(|| first.clone())
}

fn selectors<T>(entries: &[Entry<T>]) -> impl Iterator<Item = &Selector> {
    entries.iter().map(|entry| &entry.selector)
}
