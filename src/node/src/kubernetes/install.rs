//! Brings the library from where the agent has it, such as its image, to where the node keeps it for containers.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::Context;
use tracing::info;

/// Copies the file `from` to `to` unless that says the same. Whoever has the older one mounted keeps it: a file is replaced,
/// never written to.
///
/// # Errors
/// What can't be read or written.
pub fn install(from: &Path, to: &Path) -> anyhow::Result<()> {
    let library = fs::read(from).with_context(|| format!("can't read the library {}", from.display()))?;
    if fs::read(to).is_ok_and(|there| there == library) {
        return Ok(());
    }
    let shown = to.display();
    let mut name = to.file_name().with_context(|| format!("{shown} is no file's name"))?.to_owned();
    name.push(".new");
    let unfinished = to.with_file_name(name);
    let write = || -> std::io::Result<()> {
        if let Some(directory) = to.parent() {
            fs::create_dir_all(directory)?;
        }
        fs::write(&unfinished, &library)?;
        fs::set_permissions(&unfinished, Permissions::from_mode(0o755))?;
        // On the disk before it has the name: half a library would stop every program of a container.
        fs::File::open(&unfinished)?.sync_all()?;
        fs::rename(&unfinished, to)
    };
    write().with_context(|| format!("can't install the library as {shown}"))?;
    info!("installed the library as {shown}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn the_library_is_replaced_and_what_is_in_use_stays() {
        let directory = tempfile::tempdir().unwrap();
        let (from, to) = (directory.path().join("image.so"), directory.path().join("node/libvcuda.so"));
        let number = || fs::metadata(&to).unwrap().ino();
        fs::write(&from, "one").unwrap();
        install(&from, &to).unwrap();
        assert_eq!(fs::metadata(&to).unwrap().mode() & 0o777, 0o755);
        let first = number();
        // What an earlier try left is no hindrance.
        fs::write(directory.path().join("node/libvcuda.so.new"), "half").unwrap();
        install(&from, &to).unwrap();
        assert_eq!(number(), first, "the same is left as it is");
        let mounted = fs::File::open(&to).unwrap();
        fs::write(&from, "two").unwrap();
        install(&from, &to).unwrap();
        assert_eq!(fs::read_to_string(&to).unwrap(), "two");
        assert_eq!(std::io::read_to_string(mounted).unwrap(), "one");
        let error = install(&directory.path().join("missing"), &to).expect_err("installed").to_string();
        assert!(error.starts_with("can't read the library"), "{error}");
        assert_eq!(fs::read_to_string(&to).unwrap(), "two");
    }
}
