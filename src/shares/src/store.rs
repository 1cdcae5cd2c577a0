//! All shares of a machine.
//!
//! Owns the order in which files come and go. A share is made under a hidden name, then given its own, and only then shown to
//! container runtimes; it is taken from those first, then loses its name, and then its files. So whoever is killed in
//! between leaves a share that is whole, or hidden remains that count for nothing and that the next change of the same
//! share, or a sweep, removes.
//!
//! Control files are in memory where the machine has its usual places, and a share without one, as after the machine's start,
//! is whole: it is made anew before runtimes start, by `vcuda share restore`, or by whoever makes or sweeps shares.

use crate::error::ShareError;
use crate::places::{LIBRARY_IN_CONTAINER, Places};
use crate::promises;
use crate::record::Record;
use crate::share::{Share, cdi_file, describe, make_control, share_of_cdi_file, write};
use crate::wanted::{MadeBy, Wanted};
use crate::{cdi, files, is_usable};
use files::Lock;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use vcuda_core::control::Control;

/// Others may go through a share's directory to what it holds, as a runtime without root's rights must, and neither list
/// it nor add to it.
const SHARE_MODE: u32 = 0o711;
/// What the name of a share that is being removed ends with, until it is gone.
const GONE_SUFFIX: &str = ".gone";

/// The shares of a machine.
#[derive(Clone, Debug)]
pub struct Store {
    places: Places,
}

/// What a sweep did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Shares that were removed.
    pub removed: Vec<String>,
    /// Shares whose CDI file was missing or another, and was written.
    pub restored: Vec<String>,
    /// Files and directories of operations that did not come to their end.
    pub remains: Vec<PathBuf>,
}

impl Store {
    /// The shares in `places`. Looks at nothing yet.
    pub fn open(places: Places) -> Store {
        Store { places }
    }

    /// Where it keeps things.
    pub fn places(&self) -> &Places {
        &self.places
    }

    /// Makes the share `wanted`. If there is the very same one, made by the same request, it is left as it is, with
    /// whatever limits it has been given since, and only what it lacks is put back.
    ///
    /// # Errors
    /// [`ShareError`].
    pub fn create(&self, wanted: &Wanted) -> Result<Share, ShareError> {
        if !is_usable(&wanted.name) {
            return Err(ShareError::Unusable(wanted.name.clone()));
        }
        if !self.places.library.is_file() {
            return Err(ShareError::NoLibrary(self.places.library.clone()));
        }
        files::make_open(&self.places.shares)?;
        files::make_open(&self.places.cdi)?;
        let _lock = Lock::take(&self.places.shares)?;
        let directory = self.directory(&wanted.name);
        if let Some(share) = Share::read(&directory)? {
            if Record::of(&share.wanted, &share.cdi) != Record::of(wanted, &self.places.cdi) {
                return Err(taken(&share));
            }
            share.restore_control()?;
            Control::open_existing(share.control_file())?;
            self.show(&share)?;
            return Ok(share);
        }
        if let Some(physical_bytes) = wanted.physical_bytes {
            promises::check(wanted, physical_bytes, &self.list()?)?;
        }
        // What is left of one that was not made or removed to the end.
        self.take_away(&wanted.name)?;
        let is_share = |path: &PathBuf| name_of(path).is_some_and(is_usable);
        if self.places.has_control_elsewhere() && !files::children(&self.places.shares)?.iter().any(is_share)
        {
            files::remove(&self.places.arbiter_before())?;
        }
        let unfinished = files::temporary_of(&directory);
        files::make(&unfinished, SHARE_MODE)?;
        write(wanted, &self.places, &unfinished)?;
        files::rename(&unfinished, &directory)?;
        if wanted.made_by == MadeBy::Cli {
            files::sync_parent(&directory)?;
        }
        let share = Share { wanted: wanted.clone(), directory, cdi: self.places.cdi.clone() };
        self.show(&share)?;
        Ok(share)
    }

    /// All shares that are whole, whoever made them, by name.
    ///
    /// # Errors
    /// [`ShareError`]; none if there is no such place.
    pub fn list(&self) -> Result<Vec<Share>, ShareError> {
        let mut shares = Vec::new();
        for directory in files::children(&self.places.shares)? {
            if name_of(&directory).is_some_and(is_usable) {
                shares.extend(Share::read(&directory)?);
            }
        }
        Ok(shares)
    }

    /// The share `name`.
    ///
    /// # Errors
    /// [`ShareError`].
    pub fn find(&self, name: &str) -> Result<Option<Share>, ShareError> {
        if is_usable(name) { Share::read(&self.directory(name)) } else { Ok(None) }
    }

    /// Gives the share `name` other labels: whose it is may become known only after it was made. False if there is no such
    /// share, or it has them already.
    ///
    /// # Errors
    /// [`ShareError`].
    pub fn relabel(&self, name: &str, labels: &BTreeMap<String, String>) -> Result<bool, ShareError> {
        if !self.places.shares.is_dir() {
            return Ok(false);
        }
        let _lock = Lock::take(&self.places.shares)?;
        let Some(mut share) = self.find(name)?.filter(|share| share.wanted.labels != *labels) else {
            return Ok(false);
        };
        share.wanted.labels.clone_from(labels);
        describe(&share.wanted, &share.cdi, &share.directory)?;
        Ok(true)
    }

    /// Removes the share `name`, whoever uses it: what runs in it goes on under its limits, but they can't be changed any
    /// more. False if there was none.
    ///
    /// # Errors
    /// [`ShareError`].
    pub fn delete(&self, name: &str) -> Result<bool, ShareError> {
        if !is_usable(name) {
            return Err(ShareError::Unusable(name.to_owned()));
        }
        if !self.places.shares.is_dir() {
            return Ok(false);
        }
        let _lock = Lock::take(&self.places.shares)?;
        self.take_away(name)
    }

    /// Removes what operations that were ended half-way have left, and the shares that `keep` says no to, whoever made
    /// them; and writes the CDI files of those kept that this store shows, if they are missing, as after the start of the
    /// machine.
    ///
    /// # Errors
    /// [`ShareError`], after as much as could be done.
    pub fn sweep(&self, keep: impl Fn(&Share) -> bool) -> Result<Swept, ShareError> {
        let mut swept = Swept::default();
        if !self.places.shares.is_dir() {
            return Ok(swept);
        }
        let _lock = Lock::take(&self.places.shares)?;
        let mut failed = None;
        let mut note = |result: Result<(), ShareError>| {
            if let Err(error) = result {
                failed.get_or_insert(error);
            }
        };
        for path in files::children(&self.places.shares)? {
            let Some(name) = name_of(&path) else { continue };
            note(self.sweep_directory(&path, name, &keep, &mut swept));
        }
        let unfinished = files::temporary_of(&self.places.preload);
        if files::remove(&unfinished)? {
            swept.remains.push(unfinished);
        }
        for path in files::children(&self.places.cdi)? {
            let Some(name) = name_of(&path) else { continue };
            note(self.sweep_cdi(&path, name, &mut swept));
        }
        for path in self.directories_of_control()? {
            let Some(name) = name_of(&path) else { continue };
            note(self.sweep_control(&path, name, &mut swept));
        }
        failed.map_or(Ok(swept), Err)
    }

    /// Makes what of the shares was in memory before the machine was started anew, as containers need it to start; the
    /// names of those that lacked it.
    ///
    /// # Errors
    /// [`ShareError`], after as much as could be done.
    pub fn restore(&self) -> Result<Vec<String>, ShareError> {
        if !self.places.shares.is_dir() {
            return Ok(Vec::new());
        }
        let _lock = Lock::take(&self.places.shares)?;
        let (mut restored, mut failed) = (Vec::new(), None);
        let mut note = |result: Result<bool, ShareError>| {
            result.unwrap_or_else(|error| {
                failed.get_or_insert(error);
                false
            })
        };
        let shares = self.list()?;
        if !shares.is_empty() {
            note(self.make_arbiter().map(|()| false));
        }
        for share in shares {
            if note(share.restore_control()) {
                restored.push(share.name().to_owned());
            }
        }
        failed.map_or(Ok(restored), Err)
    }

    fn make_arbiter(&self) -> Result<(), ShareError> {
        make_control(&self.places.arbiter())
    }

    fn sweep_directory(
        &self,
        path: &Path,
        name: &str,
        keep: impl Fn(&Share) -> bool,
        swept: &mut Swept,
    ) -> Result<(), ShareError> {
        if !is_usable(name) {
            if is_remains(name) {
                files::remove_directory(path)?;
                swept.remains.push(path.to_owned());
            }
            return Ok(());
        }
        match Share::read(path)? {
            Some(share) if !keep(&share) => {
                self.take_away(name)?;
                swept.removed.push(name.to_owned());
            }
            Some(share) => {
                let is_restored = share.restore_control()?;
                if (self.is_shown_here(&share) && self.show(&share)?) || is_restored {
                    swept.restored.push(name.to_owned());
                }
            }
            None if path.is_dir() => {
                self.take_away(name)?;
                swept.remains.push(path.to_owned());
            }
            None => {}
        }
        Ok(())
    }

    fn sweep_cdi(&self, path: &Path, name: &str, swept: &mut Swept) -> Result<(), ShareError> {
        let unfinished = name.strip_prefix('.').and_then(|name| name.strip_suffix(files::TEMPORARY_SUFFIX));
        let is_stale = match (unfinished.and_then(share_of_cdi_file), share_of_cdi_file(name)) {
            (Some(_), _) => true,
            (None, Some(share)) => {
                let shown = Share::read(&self.directory(share))?;
                !shown.is_some_and(|share| self.is_shown_here(&share)) && is_ours(path)
            }
            (None, None) => false,
        };
        if is_stale && files::remove(path)? {
            swept.remains.push(path.to_owned());
        }
        Ok(())
    }

    /// Removes the control file of a share that was not made, or not removed, to the end.
    fn sweep_control(&self, path: &Path, name: &str, swept: &mut Swept) -> Result<(), ShareError> {
        if is_usable(name) && Share::read(&self.directory(name))?.is_none() {
            files::remove_directory(path)?;
            swept.remains.push(path.to_owned());
        }
        Ok(())
    }

    /// The directories of control files, where these are in a place of their own.
    fn directories_of_control(&self) -> Result<Vec<PathBuf>, ShareError> {
        if self.places.has_control_elsewhere() {
            files::children(&self.places.control)
        } else {
            Ok(Vec::new())
        }
    }

    fn directory(&self, name: &str) -> PathBuf {
        self.places.shares.join(name)
    }

    fn is_shown_here(&self, share: &Share) -> bool {
        share.cdi == self.places.cdi
    }

    /// Lets container runtimes see the share. True if they could not, or saw another.
    fn show(&self, share: &Share) -> Result<bool, ShareError> {
        let lasts = share.wanted.made_by == MadeBy::Cli;
        let preload = format!("{LIBRARY_IN_CONTAINER}\n");
        if let Some(parent) = self.places.preload.parent() {
            files::make_open(parent)?;
        }
        write_if_other(&self.places.preload, &preload, lasts)?;
        self.make_arbiter()?;
        files::make_open(&self.places.cdi)?;
        write_if_other(&share.cdi_file(), &cdi::text(share, &self.places), lasts)
    }

    /// Removes all that there is of the share `name`, whole or not. The caller holds the lock.
    fn take_away(&self, name: &str) -> Result<bool, ShareError> {
        let directory = self.directory(name);
        let shown_in = Share::read(&directory)?.map_or_else(|| self.places.cdi.clone(), |share| share.cdi);
        let cdi_file = cdi_file(&shown_in, name);
        for shown in [&cdi_file, &files::temporary_of(&cdi_file)] {
            files::remove(shown)?;
        }
        let (unfinished, gone) = (files::temporary_of(&directory), gone_of(&directory));
        for remains in [&unfinished, &gone] {
            files::remove_directory(remains)?;
        }
        let is_there = directory.is_dir();
        if is_there {
            files::rename(&directory, &gone)?;
        }
        if self.places.has_control_elsewhere() {
            files::remove_directory(&self.places.control.join(name))?;
        }
        files::remove_directory(&gone)?;
        Ok(is_there)
    }
}

fn gone_of(directory: &Path) -> PathBuf {
    directory.with_file_name(format!(".{}{GONE_SUFFIX}", name_of(directory).unwrap_or_default()))
}

fn name_of(path: &Path) -> Option<&str> {
    path.file_name()?.to_str()
}

/// Whether a directory of this name is a share that was not made, or not removed, to the end.
fn is_remains(name: &str) -> bool {
    let hidden = name.strip_prefix('.');
    let share =
        hidden.and_then(|name| name.strip_suffix(files::TEMPORARY_SUFFIX).or(name.strip_suffix(GONE_SUFFIX)));
    share.is_some_and(is_usable)
}

/// Whether a CDI file is one of shares, and not somebody else's of a similar name.
fn is_ours(path: &Path) -> bool {
    let text = fs::read(path).unwrap_or_default();
    let file: Option<serde_json::Value> = serde_json::from_slice(&text).ok();
    file.is_some_and(|file| file.get("kind").and_then(|kind| kind.as_str()) == Some(cdi::KIND))
}

/// Writes a file unless it says the same already. True if it was written.
fn write_if_other(path: &Path, text: &str, lasts: bool) -> Result<bool, ShareError> {
    if fs::read(path).is_ok_and(|found| found == text.as_bytes()) {
        return Ok(false);
    }
    files::write(path, text.as_bytes(), lasts)?;
    Ok(true)
}

fn taken(share: &Share) -> ShareError {
    let granted = match share.limits() {
        Ok(limits) => {
            let kinds = [
                limits.memory().first().map(|entry| entry.value.to_string()),
                limits.cores().first().map(|entry| format!("{} of its time", entry.value)),
            ];
            kinds.into_iter().flatten().collect::<Vec<_>>().join(" and ")
        }
        Err(_) => "limits that can't be read".to_owned(),
    };
    ShareError::Taken {
        name: share.name().to_owned(),
        gpu: share.wanted.gpu_uuid,
        granted,
        made_by: share.wanted.made_by,
    }
}
