//! Where control files are when nobody says.

use crate::limits_file::is_limits_file;
use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use vcuda_core::limits::Limits;
use vcuda_core::location::{SHARE_CONTROL_FILE, SHARES_IN_CONTAINER, SHARES_ON_HOST};

/// Where [`default_path`](vcuda_core::location::default_path) may put a user's directory.
pub const USER_DIRECTORY_PARENTS: [&str; 2] = ["/dev/shm", "/tmp"];
const DIRECTORY_PREFIX: &str = "vcuda-";
/// Names another directory of this machine's shares than the usual one.
pub const SHARES_VARIABLE: &str = "VCUDA_SHARES";

/// Where this machine's shares are, if it has any.
pub fn shares_directory() -> PathBuf {
    std::env::var_os(SHARES_VARIABLE).map_or_else(|| SHARES_ON_HOST.into(), PathBuf::from)
}

/// The share whose control file is here, on the machine or in a container.
pub fn share_of(control_file: &Path) -> Option<&str> {
    let directory = control_file.parent()?;
    let parent = directory.parent()?;
    let name = directory.file_name()?.to_str().filter(|name| !name.starts_with('.'))?;
    let is_share = control_file.file_name() == Some(OsStr::new(SHARE_CONTROL_FILE))
        && (parent == Path::new(SHARES_IN_CONTAINER) || parent == shares_directory());
    is_share.then_some(name)
}

/// The control file of the share in a directory: there, or where a link there leads to.
fn control_file_in(share: &Path) -> PathBuf {
    let path = share.join(SHARE_CONTROL_FILE);
    fs::read_link(&path).unwrap_or(path)
}

/// The user whose control files a directory of this name holds: 1000 of `vcuda-1000`.
pub fn owner_of(directory_name: &OsStr) -> Option<u32> {
    let digits = directory_name.to_str()?.strip_prefix(DIRECTORY_PREFIX)?;
    let user = digits.parse().ok()?;
    // "+5" and "05" are numbers too, but nobody's directory.
    (format!("{user}") == digits).then_some(user)
}

/// The control files to show: `named` (which must exist), those configured here, this machine's shares', and those in the
/// default directories of all users who let us look.
pub fn find(named: &[PathBuf]) -> Vec<PathBuf> {
    let mut found = named.to_vec();
    let configured = Limits::of_this_process();
    let parts = configured.iter().flat_map(Limits::parts);
    found.extend(parts.filter_map(|limits| limits.control_file.clone()).filter(|path| path.exists()));
    let mut shares: Vec<PathBuf> = children(&shares_directory())
        .map(|share| control_file_in(&share))
        .filter(|path| share_of(path).is_some() && path.exists())
        .collect();
    shares.sort();
    found.append(&mut shares);
    let is_control_file = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default();
        let is_hidden = name.as_encoded_bytes().starts_with(b".");
        !is_hidden
            && !is_limits_file(name)
            && path.symlink_metadata().is_ok_and(|metadata| metadata.is_file())
    };
    found.extend(user_files().into_iter().filter(is_control_file));
    let mut seen = HashSet::new();
    found.retain(|path| seen.insert(path.clone()));
    found
}

/// All that is in the default directories of the users who let us look, in order.
fn user_files() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for parent in USER_DIRECTORY_PARENTS {
        let directories = children(Path::new(parent))
            .filter(|path| owner_of(path.file_name().unwrap_or_default()).is_some());
        let mut below: Vec<PathBuf> =
            directories.flat_map(|directory| children(&directory).collect::<Vec<_>>()).collect();
        below.sort();
        found.extend(below);
    }
    found
}

/// All that is in the default directories of one user, in order and within reason.
pub(crate) fn files_of_user(user: u32) -> Vec<PathBuf> {
    const MOST: usize = 4096;
    let directories =
        USER_DIRECTORY_PARENTS.map(|parent| Path::new(parent).join(format!("{DIRECTORY_PREFIX}{user}")));
    let mut found: Vec<PathBuf> =
        directories.iter().flat_map(|directory| children(directory).take(MOST)).collect();
    found.sort();
    found
}

fn children(directory: &Path) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(directory).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_known_by_their_users() {
        for (name, user) in [
            ("vcuda-0", Some(0)),
            ("vcuda-4294967295", Some(u32::MAX)),
            ("vcuda-4294967296", None),
            ("vcuda-+5", None),
            ("vcuda-05", None),
            ("vcuda-", None),
            ("vcuda-fake-0", None),
            ("0", None),
        ] {
            assert_eq!(owner_of(OsStr::new(name)), user, "{name}");
        }
    }
}
