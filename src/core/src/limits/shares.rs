//! The shares of a container: a limits file for each, in one directory, each with a control file of its own.
//!
//! The directory comes with the first share and holds nothing else, so where it is, the container has what its shares say
//! and no more. One that is empty, half of what it should be, or about a GPU twice is a mistake, and never no limit.

use super::gpu::UUID_CHARACTERS;
use super::source::{explain, read_or_explain};
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
    match std::fs::read_dir(path) {
        Ok(entries) => entries.map(|entry| Ok(entry?.file_name())).collect::<io::Result<_>>().map(Some),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The limits of the container's shares together; `None` if it has no such directory.
pub(super) fn load(read: ReadFile, list: ListDirectory) -> Result<Option<Limits>, LimitsError> {
    let directory = Path::new(SHARES_DIRECTORY);
    let Some(mut names) = explain(directory, list(directory))? else { return Ok(None) };
    let is_share = |name: &OsString| {
        let name = name.as_encoded_bytes();
        name.ends_with(b".json") && !name.starts_with(b".")
    };
    names.retain(is_share);
    names.sort();
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
        limits.warnings.push(format!("{SYSTEM_FILE} is ignored: {SHARES_DIRECTORY} sets the limits here"));
    }
    Ok(Some(limits))
}

/// Adds what one share says.
fn add(limits: &mut Limits, mut share: Limits) -> Result<(), LimitsError> {
    for other in &limits.shares {
        let same = match (gpu(other) == gpu(&share), other.control_file == share.control_file) {
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
    limits.memory.extend_from_slice(&share.memory);
    limits.cores.extend_from_slice(&share.cores);
    limits.elastic.extend_from_slice(&share.elastic);
    limits.weights.extend_from_slice(&share.weights);
    limits.priorities.extend_from_slice(&share.priorities);
    // One for all containers of a machine.
    limits.arbiter_file = limits.arbiter_file.take().or_else(|| share.arbiter_file.clone());
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

/// The one GPU that a container's share is of, by its UUID without `GPU-` or `MIG-`; `None` for other limits.
pub(super) fn gpu(limits: &Limits) -> Option<&str> {
    if matches!(limits.source, Source::Share(_)) { one_gpu(limits) } else { None }
}

/// The one GPU that a share is of, as its machine sees the share's file: by where its control file is in a container.
pub(super) fn gpu_by_control_file(limits: &Limits) -> Option<Selector> {
    let is_share = limits.control_file.as_ref().is_some_and(|path| path.starts_with(SHARES_IN_CONTAINER));
    one_gpu(limits).filter(|_| is_share).map(|uuid| Selector::Uuid(uuid.to_owned()))
}

/// The GPU that all entries name by its whole UUID.
fn one_gpu(limits: &Limits) -> Option<&str> {
    let limited = selectors(&limits.memory).chain(selectors(&limits.cores));
    let shared =
        selectors(&limits.elastic).chain(selectors(&limits.weights)).chain(selectors(&limits.priorities));
    let mut named = limited.chain(shared);
    match named.next() {
        Some(Selector::Uuid(uuid)) if uuid.len() == UUID_CHARACTERS => {
            let is_same = |other: &Selector| *other == Selector::Uuid(uuid.clone());
            named.all(is_same).then_some(uuid)
        }
        _ => None,
    }
}

fn selectors<T>(entries: &[Entry<T>]) -> impl Iterator<Item = &Selector> {
    entries.iter().map(|entry| &entry.selector)
}

/// Refuses a share's limits file that is not of one GPU or names no control file.
pub(super) fn check(path: &str, limits: &Limits) -> Result<(), LimitsError> {
    if !matches!(limits.source, Source::Share(_)) {
        return Ok(());
    }
    let missing = match (gpu(limits), &limits.control_file) {
        (None, _) => "is not of one GPU",
        (_, None) => "names no control file",
        _ => return Ok(()),
    };
    Err(LimitsError::new(
        path,
        missing,
        "a share's file has \"control_file\": \"/run/vcuda/shares/half/control\" and one of \"devices\", by its whole UUID",
    ))
}
