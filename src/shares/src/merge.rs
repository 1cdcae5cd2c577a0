//! For images with an `/etc/ld.so.preload` of their own: a file that has our library and theirs, mounted over it.
//!
//! Runs as a `createContainer` hook of the container's runtime: in the container's mount namespace, before its root is
//! entered, so that all paths are the machine's still. Must follow no link of the image's, which would lead to a file of the
//! machine; and must leave a file that the container's root can neither write nor take away.

use crate::error::ShareError;
use crate::files;
use crate::places::LIBRARY_IN_CONTAINER;
use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount_bind, mount_remount};
use serde_json::Value;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use vcuda_core::limits::digest;

/// More than any image's list of libraries has.
const MOST_BYTES: u64 = 64 << 10;
const ETC: &str = "etc";
const FILE: &str = "ld.so.preload";

/// Why the library could not be added; the container must not start, then.
#[derive(Debug, thiserror::Error)]
pub enum MergeError {
    /// What the runtime says on standard input, or in its bundle, is not what the OCI runtime specification says.
    #[error("{0}: is this the createContainer hook of a container runtime?")]
    Bundle(String),
    /// The image's file can't be used.
    #[error("can't {action} the image's /etc/ld.so.preload: {source}")]
    Image {
        /// What was being done.
        action: &'static str,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The merged file can't be written.
    #[error(transparent)]
    Share(#[from] ShareError),
}

/// Adds the library to what the image of a container loads into each program. `state` is the container's, as its runtime
/// tells it to hooks, and `share` the share's directory, where the merged file is kept as long as the share.
///
/// # Errors
/// [`MergeError`].
pub fn merge_preload(state: &[u8], share: &Path) -> Result<(), MergeError> {
    let root = root_of(state)?;
    let image = |action| move |error: Errno| MergeError::Image { action, source: error.into() };
    let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root = openat(CWD, &root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| MergeError::Bundle(format!("{}: {error}", root.display())))?;
    match mkdirat(&root, ETC, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(image("make the directory of")(error)),
    }
    let etc = openat(&root, ETC, directory, Mode::empty()).map_err(image("open the directory of"))?;
    let theirs = read_or_make(&etc).map_err(|source| MergeError::Image { action: "read", source })?;
    let merged = share.join(format!("preload-{:016x}", digest(&theirs)));
    let text = merged_text(&theirs);
    if std::fs::read(&merged).ok().as_deref() != Some(&text) {
        files::write(&merged, &text, false)?;
    }
    let mount = || {
        let file = || openat(&etc, FILE, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty());
        mount_bind(&merged, path_of(&file()?))?;
        // By its own name again: the mount is what is there now.
        let flags = MountFlags::BIND
            | MountFlags::RDONLY
            | MountFlags::NOSUID
            | MountFlags::NODEV
            | MountFlags::NOEXEC;
        mount_remount(path_of(&file()?), flags, c"")
    };
    mount().map_err(image("mount over"))
}

fn path_of(file: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// Where the container's root is, before it is entered.
fn root_of(state: &[u8]) -> Result<PathBuf, MergeError> {
    let wrong = |what: &dyn std::fmt::Display| MergeError::Bundle(what.to_string());
    let state: Value = serde_json::from_slice(state).map_err(|error| wrong(&error))?;
    let bundle = state.get("bundle").and_then(Value::as_str).ok_or_else(|| wrong(&"no bundle is named"))?;
    let config = Path::new(bundle).join("config.json");
    let text = std::fs::read(&config).map_err(|error| wrong(&format!("{}: {error}", config.display())))?;
    let config: Value = serde_json::from_slice(&text).map_err(|error| wrong(&error))?;
    let root = config.pointer("/root/path").and_then(Value::as_str);
    let root = root.ok_or_else(|| wrong(&"the bundle names no root"))?;
    // An absolute path stays as it is.
    Ok(Path::new(bundle).join(root))
}

/// The image's file; an empty one to mount over, if it has none.
fn read_or_make(etc: &OwnedFd) -> std::io::Result<Vec<u8>> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = match openat(etc, FILE, flags | OFlags::RDONLY, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT) => {
            let made = flags | OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
            openat(etc, FILE, made, Mode::from_raw_mode(0o644))?;
            return Ok(Vec::new());
        }
        Err(error) => return Err(error.into()),
    };
    if !file.metadata()?.is_file() {
        return Err(std::io::Error::other("it is no regular file"));
    }
    let mut text = Vec::new();
    if file.take(MOST_BYTES + 1).read_to_end(&mut text)? as u64 > MOST_BYTES {
        return Err(std::io::Error::other("it is longer than 64 KiB"));
    }
    Ok(text)
}

/// `theirs` with our library before all others, so that it sees a program's calls first; once.
fn merged_text(theirs: &[u8]) -> Vec<u8> {
    let is_separator = |byte: &u8| byte.is_ascii_whitespace() || *byte == b':';
    let listed = theirs.split(|byte| *byte == b'\n').map(|line| line.split(|byte| *byte == b'#').next());
    let mut words = listed.flatten().flat_map(|line| line.split(is_separator));
    if words.any(|word| word == LIBRARY_IN_CONTAINER.as_bytes()) {
        return theirs.to_vec();
    }
    [LIBRARY_IN_CONTAINER.as_bytes(), b"\n", theirs].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn our_library_comes_first_and_once() {
        let merged = |theirs: &str| String::from_utf8(merged_text(theirs.as_bytes())).unwrap();
        assert_eq!(merged(""), "/usr/local/vcuda/libvcuda.so\n");
        assert_eq!(
            merged("/lib/a.so:/lib/b.so"),
            "/usr/local/vcuda/libvcuda.so\n/lib/a.so:/lib/b.so",
            "theirs as it was"
        );
        for listed in ["/usr/local/vcuda/libvcuda.so", "/lib/a.so /usr/local/vcuda/libvcuda.so # ours"] {
            assert_eq!(merged(listed), listed);
        }
        let remark = "# /usr/local/vcuda/libvcuda.so";
        assert_ne!(merged(remark), remark, "a remark loads nothing");
    }

    /// A bundle with a root, and the state that names it.
    fn bundle() -> (tempfile::TempDir, Vec<u8>) {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir_all(directory.path().join("rootfs/etc")).unwrap();
        fs::write(directory.path().join("config.json"), r#"{"root":{"path":"rootfs"}}"#).unwrap();
        let state = serde_json::json!({ "bundle": directory.path() }).to_string().into_bytes();
        (directory, state)
    }

    #[test]
    fn the_root_is_where_the_bundle_says() {
        let (directory, state) = bundle();
        assert_eq!(root_of(&state).unwrap(), directory.path().join("rootfs"));
        fs::write(directory.path().join("config.json"), r#"{"root":{"path":"/srv/root"}}"#).unwrap();
        assert_eq!(root_of(&state).unwrap(), Path::new("/srv/root"));
        for wrong in ["", "{}", r#"{"bundle":"/nonexistent"}"#] {
            let error = root_of(wrong.as_bytes()).unwrap_err().to_string();
            assert!(error.contains("createContainer hook"), "{error}");
        }
    }

    #[test]
    fn no_link_of_the_image_is_followed() {
        let (directory, state) = bundle();
        let etc = directory.path().join("rootfs/etc");
        let outside = directory.path().join("outside");
        fs::write(&outside, "").unwrap();
        symlink(&outside, etc.join(FILE)).unwrap();
        let error = merge_preload(&state, directory.path()).unwrap_err().to_string();
        assert!(error.starts_with("can't read the image's /etc/ld.so.preload: "), "{error}");
        fs::remove_file(etc.join(FILE)).unwrap();
        fs::remove_dir(&etc).unwrap();
        symlink(directory.path(), &etc).unwrap();
        let error = merge_preload(&state, directory.path()).unwrap_err().to_string();
        assert!(error.contains("open the directory of"), "{error}");
        assert_eq!(fs::read(&outside).unwrap(), b"");
    }
}
