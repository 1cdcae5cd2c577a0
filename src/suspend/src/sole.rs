//! One agent at a time for the slices of a user, as two would undo each other's work: what one put aside, the other would
//! bring back. Root's agent sees to everybody's slices, and all others stand back for it.
//!
//! Owns the lock files `.vcuda-agent-UID` beside those of the leases. Nothing depends on them for being safe: every
//! operation on a slice has a lock of its own.
#![allow(unsafe_code)]

use crate::lease::lock_directory;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::PathBuf;
use std::thread::sleep;
use std::time::Duration;

/// The right to be the agent; ends when dropped, and with the process in any way.
pub struct Sole {
    user: u32,
    _file: Option<File>,
}

/// Somebody else has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Other {
    /// Its process id, if it said so.
    pub pid: Option<u32>,
}

impl std::fmt::Display for Other {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let named =
            self.pid.and_then(|pid| Some((pid, fs::read_to_string(format!("/proc/{pid}/comm")).ok()?)));
        match (named, self.pid) {
            (Some((pid, name)), _) => write!(f, "{} (process {pid})", name.trim_end().escape_default()),
            (None, Some(pid)) => write!(f, "process {pid} of another container"),
            (None, None) => f.write_str("another agent"),
        }
    }
}

impl Sole {
    /// Becomes the agent of this process's user, whose name is in its lock file from then on. Where there can be no such
    /// file, there is no other agent to be told from either.
    ///
    /// # Errors
    /// Who is it already.
    pub fn claim() -> Result<Sole, Other> {
        // SAFETY: takes nothing and can't fail.
        let user = unsafe { libc::geteuid() };
        if let Some(other) = agent_of_root(user) {
            return Err(other);
        }
        let Ok(mut file) = open_own(user) else { return Ok(Sole { user, _file: None }) };
        // Who only looks whether there is an agent has it for an instant.
        let mut tries = 0..5;
        while !lock(&file, libc::LOCK_EX) {
            if tries.next().is_none() {
                return Err(holder(&mut file));
            }
            sleep(Duration::from_millis(10));
        }
        // Only for people to read.
        let _ = file.set_len(0).and_then(|()| file.write_all(std::process::id().to_string().as_bytes()));
        Ok(Sole { user, _file: Some(file) })
    }

    /// Who has come to see to everybody's slices, this user's among them.
    pub fn superseded(&self) -> Option<Other> {
        agent_of_root(self.user)
    }
}

/// Root's agent, for a `user` who isn't root.
fn agent_of_root(user: u32) -> Option<Other> {
    if user == 0 {
        return None;
    }
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let mut file = OpenOptions::new().read(true).custom_flags(flags).open(path(0)).ok()?;
    let is_roots = file.metadata().is_ok_and(|metadata| metadata.uid() == 0);
    (is_roots && !lock(&file, libc::LOCK_SH)).then(|| holder(&mut file))
}

fn open_own(user: u32) -> io::Result<File> {
    let path = path(user);
    let open = |create: bool| {
        OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(create)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(&path)
    };
    // Somebody else's file of this name would let its owner say who is the agent.
    if fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.uid() != user) {
        fs::remove_file(&path)?;
    }
    let file = match open(false) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => open(true)?,
        opened => opened?,
    };
    // Whatever the umask.
    file.set_permissions(Permissions::from_mode(0o644))?;
    Ok(file)
}

/// Whether the lock is had. It goes with the open file.
fn lock(file: &File, kind: i32) -> bool {
    // SAFETY: an open descriptor.
    unsafe { libc::flock(file.as_raw_fd(), kind | libc::LOCK_NB) == 0 }
}

fn holder(file: &mut File) -> Other {
    let mut text = String::new();
    // Whoever has only just got the lock has not written yet.
    let _ = file.take(16).read_to_string(&mut text);
    Other { pid: text.parse().ok() }
}

fn path(user: u32) -> PathBuf {
    lock_directory().join(format!(".vcuda-agent-{user}"))
}
