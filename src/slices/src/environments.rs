//! Which control and limits files the processes of this machine were started with, so that their children would open
//! them.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use vcuda_core::limits::{CONTROL_FILE_VARIABLE, LIMITS_FILE_VARIABLE};

/// Inode of the first PID namespace, the same on every Linux.
const FIRST_PID_NAMESPACE: u64 = 0xEFFF_FFFC;

/// Whether this process sees all processes of the machine. In a container it sees only the container's.
pub fn are_all_visible() -> bool {
    fs::metadata("/proc/self/ns/pid").is_ok_and(|metadata| metadata.ino() == FIRST_PID_NAMESPACE)
}

/// The values of `VCUDA_CONTROL_FILE` and `VCUDA_LIMITS_FILE` in the environments of all other processes that let us look.
#[derive(Debug, Default)]
pub struct Environments {
    named: Vec<PathBuf>,
    /// Some process did not let us look.
    is_incomplete: bool,
}

impl Environments {
    /// Looks at all processes.
    pub fn read() -> Self {
        let mut found = Self::default();
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten().map(|entry| entry.path());
        for process in processes.filter(|path| is_other_process(path)) {
            match fs::read(process.join("environ")) {
                Ok(environment) => found.add(&environment),
                // Others have gone since they were listed.
                Err(error) => found.is_incomplete |= error.kind() == ErrorKind::PermissionDenied,
            }
        }
        found
    }

    fn add(&mut self, environment: &[u8]) {
        for variable in environment.split(|byte| *byte == 0) {
            for name in [CONTROL_FILE_VARIABLE, LIMITS_FILE_VARIABLE] {
                let value = variable.strip_prefix(name.as_bytes());
                if let Some(value) = value.and_then(|value| value.strip_prefix(b"=")) {
                    self.named.push(PathBuf::from(OsString::from(OsStr::from_bytes(value))));
                }
            }
        }
    }

    /// Whether some process may have been started with `path` as its control or limits file.
    ///
    /// Directory and name decide: a process in a container may have the same directory mounted elsewhere.
    pub fn may_name(&self, path: &Path) -> bool {
        self.named.iter().any(|named| ending(named) == ending(path))
    }

    /// Whether every process let us look.
    pub fn are_complete(&self) -> bool {
        !self.is_incomplete
    }
}

fn ending(path: &Path) -> (Option<&OsStr>, Option<&OsStr>) {
    (path.parent().and_then(Path::file_name), path.file_name())
}

fn is_other_process(path: &Path) -> bool {
    let pid = path.file_name().and_then(OsStr::to_str).and_then(|name| name.parse::<u32>().ok());
    pid.is_some_and(|pid| pid != std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_found_between_others() {
        let mut found = Environments::default();
        found.add(b"PATH=/bin\0VCUDA_CONTROL_FILE=/dev/shm/vcuda-0/run-7\0XVCUDA_CONTROL_FILE=/a/b\0");
        found.add(b"VCUDA_CONTROL_FILE_=/c/d\0\0");
        found.add(b"");
        found.add(b"VCUDA_LIMITS_FILE=/dev/shm/vcuda-0/run-7.limits.json\0");
        let named = ["/dev/shm/vcuda-0/run-7", "/dev/shm/vcuda-0/run-7.limits.json"];
        assert_eq!(found.named, named.map(Path::new));
        assert!(found.may_name(Path::new("/dev/shm/vcuda-0/run-7")));
        assert!(found.may_name(Path::new("/host/dev/shm/vcuda-0/run-7")));
        assert!(!found.may_name(Path::new("/dev/shm/vcuda-1/run-7")));
        assert!(!found.may_name(Path::new("/dev/shm/vcuda-0/run-8")));
    }

    #[test]
    fn this_process_has_no_say() {
        assert!(!is_other_process(Path::new(&format!("/proc/{}", std::process::id()))));
        assert!(is_other_process(Path::new("/proc/1")));
        assert!(!is_other_process(Path::new("/proc/self")));
    }
}
