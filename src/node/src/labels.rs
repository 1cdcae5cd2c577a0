//! Which container a slice is, in the words of whoever granted it: the file `share.json` beside the control file.
//!
//! ```json
//! { "share": "9c1f…", "namespace": "team-a", "pod": "train-0", "container": "main" }
//! ```
//!
//! Owns reading and judging that file. It must never believe one that the tenant could have written.

use serde_json::Value;
use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use vcuda_slices::directory::Directory;

/// Name of the file.
pub const FILE: &str = "share.json";
/// Names are short; who writes more has something else in mind.
const MOST_BYTES: u64 = 16 << 10;

/// The labels of a slice. Empty where it is no container's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Labels {
    /// Kubernetes namespace.
    pub namespace: String,
    /// Pod.
    pub pod: String,
    /// Container.
    pub container: String,
    /// Share, different for each slice.
    pub share: String,
}

impl Labels {
    /// The labels of a slice of which only the name is known.
    pub fn of(share: impl Into<String>) -> Self {
        Self { share: share.into(), ..Self::default() }
    }

    /// What `share.json` in `directory` says; `share` is the name where it says none. Without the file, only that.
    ///
    /// # Errors
    /// A sentence about the file, if there is one that can't be believed.
    pub fn read(directory: &Directory, share: &str) -> Result<Self, String> {
        let shown = directory.path().join(FILE);
        let fail = |what: &str| Err(format!("{}: {what}; its labels are left out", shown.display()));
        let opened = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(directory.through(OsStr::new(FILE)));
        let file = match opened {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Self::of(share)),
            Err(error) => return fail(&error.to_string()),
        };
        let Ok(metadata) = file.metadata() else { return fail("can't be examined") };
        let own_user = std::fs::metadata("/proc/self").map_or(0, |own| own.uid());
        let is_trusted = [0, own_user].contains(&metadata.uid()) && metadata.mode() & 0o022 == 0;
        if !metadata.is_file() || !is_trusted {
            return fail("must be a file of root or of this agent's user that nobody else may write to");
        }
        let mut text = String::new();
        match file.take(MOST_BYTES + 1).read_to_string(&mut text) {
            Ok(length) if length as u64 <= MOST_BYTES => {}
            Ok(_) => return fail("is longer than 16 KiB"),
            Err(error) => return fail(&error.to_string()),
        }
        Self::parse(&text, share).or_else(|what| fail(&what))
    }

    fn parse(text: &str, share: &str) -> Result<Self, String> {
        let value: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let Value::Object(fields) = value else { return Err("must be an object: {\"pod\": …}".to_owned()) };
        let field = |name: &str| match fields.get(name) {
            None => Ok(String::new()),
            Some(Value::String(text)) => Ok(text.clone()),
            Some(_) => Err(format!("{name}: must be a text")),
        };
        let given = field("share")?;
        Ok(Self {
            namespace: field("namespace")?,
            pod: field("pod")?,
            container: field("container")?,
            share: if given.is_empty() { share.to_owned() } else { given },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn read(directory: &tempfile::TempDir) -> Result<Labels, String> {
        Labels::read(&Directory::open(directory.path()).unwrap(), "name")
    }

    #[test]
    fn what_it_says_is_told() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(read(&directory), Ok(Labels::of("name")), "no file");
        let file = directory.path().join(FILE);
        let text = r#"{"share": "s", "namespace": "n", "pod": "p", "container": "c", "uid": 7}"#;
        fs::write(&file, text).unwrap();
        let [namespace, pod, container, share] = ["n", "p", "c", "s"].map(str::to_owned);
        assert_eq!(read(&directory), Ok(Labels { namespace, pod, container, share }));
        fs::write(&file, r#"{"pod": "p"}"#).unwrap();
        assert_eq!(read(&directory), Ok(Labels { pod: "p".to_owned(), ..Labels::of("name") }));
    }

    #[test]
    fn what_a_tenant_could_have_written_is_not_believed() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join(FILE);
        let refused = |expected: &str| {
            let error = read(&directory).expect_err("believed");
            assert!(error.starts_with(file.to_str().unwrap()) && error.contains(expected), "{error}");
        };
        fs::write(&file, "{}").unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o666)).unwrap();
        refused("nobody else may write");
        fs::remove_file(&file).unwrap();
        symlink("/etc/hostname", &file).unwrap();
        refused("levels of symbolic links");
        fs::remove_file(&file).unwrap();
        for (text, expected) in [
            ("", "EOF"),
            ("[]", "must be an object"),
            (r#"{"pod": 7}"#, "pod: must be a text"),
            (&" ".repeat(17 << 10), "longer than 16 KiB"),
        ] {
            fs::write(&file, text).unwrap();
            refused(expected);
        }
        fs::write(&file, [0xff]).unwrap();
        refused("UTF-8");
        fs::remove_file(&file).unwrap();
        fs::create_dir(&file).unwrap();
        refused("must be a file");
    }
}
