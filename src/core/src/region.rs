//! The mapping of a control file: made, checked, opened and mapped here, and here only.
//!
//! Owns the unsafe step from a file to `&ControlFile`, and the question whether that step still is good. It must never
//! follow a symbolic link, keep a file descriptor, change the umask, or touch the mapping without having asked
//! [`Region::check`] first.
//!
//! # Truncation
//!
//! Reading a page beyond the end of a truncated file raises SIGBUS, which would kill a program that did nothing wrong.
//! A signal handler is not ours to install, and a lock would not bind whoever truncates. So before each use the
//! kernel is asked to read the last word of the file for us: a system call that copies from a bad address answers
//! EFAULT and raises nothing. What remains is a truncation that falls between this question and the accesses that
//! follow it, typically well under a microsecond later, or longer if the thread is descheduled just there. Only
//! somebody who may write to the file can do that, and only by truncating it in place: removing or replacing it is
//! harmless at any time, because the mapping keeps the old file alive.
#![allow(unsafe_code)]
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::ffi::{CString, OsString};
use std::fs::{self, File, OpenOptions, Permissions};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use core::mem::{offset_of, size_of};
use memmap2::{MmapOptions, MmapRaw};

use crate::abi::{self, ControlFile, FILE_BYTES};
use crate::atomic::Ordering;
use crate::error::{ControlError, ControlErrorKind as Kind, Lost};
use crate::header;

/// A mapped control file.
pub(crate) struct Region {
    map: MmapRaw,
    identity: FileIdentity,
    generation: u64,
    writable: bool,
}

/// What tells one file from another for as long as either is open or mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileIdentity {
    device: u64,
    inode: u64,
}

impl FileIdentity {
    fn named(metadata: &fs::Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino() }
    }

    pub(crate) fn of(file: &File) -> io::Result<Self> {
        Ok(Self::named(&file.metadata()?))
    }
}

/// How a file is to be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    ReadWrite,
    ReadOnly,
}

impl Region {
    /// Opens the file at `path`, making it first if there is none.
    pub(crate) fn open_or_create(path: &Path) -> Result<Self, ControlError> {
        // A file found or made may be removed before the next step; three rounds are for that, not for errors.
        for _ in 0..3 {
            match open(path, Access::ReadWrite) {
                Ok(file) => return Self::map(path, file, Access::ReadWrite),
                Err(error) if matches!(error.kind(), Kind::Missing) => create(path)?,
                Err(error) => return Err(error),
            }
        }
        Err(ControlError::new(path, Kind::Missing))
    }

    /// Opens the file at `path`, for reading only if writing is not permitted.
    pub(crate) fn open_existing(path: &Path) -> Result<Self, ControlError> {
        match open(path, Access::ReadWrite) {
            Err(error) if denies_writing(&error) => {
                Self::map(path, open(path, Access::ReadOnly)?, Access::ReadOnly)
            }
            opened => Self::map(path, opened?, Access::ReadWrite),
        }
    }

    fn map(path: &Path, file: File, access: Access) -> Result<Self, ControlError> {
        header::validate(path, &file)?;
        let identity = FileIdentity::of(&file).map_err(|e| ControlError::io(path, "examine it", e))?;
        let mut options = MmapOptions::new();
        options.len(FILE_BYTES);
        let map = match access {
            Access::ReadWrite => options.map_raw(&file),
            Access::ReadOnly => options.map_raw_read_only(&file),
        }
        .map_err(|e| ControlError::io(path, "map it", e))?;
        let mut region = Self { map, identity, generation: 0, writable: access == Access::ReadWrite };
        let lost = |lost| ControlError::new(path, Kind::Lost(lost));
        region.probe().map_err(lost)?;
        region.generation = region.file().header.generation.load(Ordering::Relaxed);
        region.check().map_err(lost)?;
        Ok(region)
    }

    /// The file, if it still is whole and the one that was opened. To be called before each use.
    pub(crate) fn check(&self) -> Result<&ControlFile, Lost> {
        self.probe()?;
        let file = self.file();
        let header = &file.header;
        let same = header.magic.load(Ordering::Relaxed) == abi::MAGIC
            && header.ready.load(Ordering::Relaxed) == abi::READY
            && header.generation.load(Ordering::Relaxed) == self.generation
            && file.tail.sentinel.load(Ordering::Relaxed) == abi::SENTINEL;
        if same { Ok(file) } else { Err(Lost::Overwritten) }
    }

    /// As [`check`](Self::check), for a use that writes.
    pub(crate) fn check_writable(&self) -> Result<&ControlFile, Lost> {
        if !self.writable {
            return Err(Lost::ReadOnly);
        }
        self.check()
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    pub(crate) fn is_writable(&self) -> bool {
        self.writable
    }

    /// Opens the file at `path` once more and makes sure that it is the one mapped.
    pub(crate) fn reopen(&self, path: &Path, access: Access) -> Result<File, ControlError> {
        let file = match open(path, access) {
            Err(error) if matches!(error.kind(), Kind::Missing | Kind::Symlink | Kind::NotRegular) => {
                return Err(ControlError::new(path, Kind::Replaced));
            }
            opened => opened?,
        };
        match FileIdentity::of(&file) {
            Ok(identity) if identity == self.identity => Ok(file),
            Ok(_) => Err(ControlError::new(path, Kind::Replaced)),
            Err(error) => Err(ControlError::io(path, "examine it", error)),
        }
    }

    /// Whether the file at `path` is the one mapped. Opens nothing: one system call.
    pub(crate) fn is_at(&self, path: &Path) -> Result<bool, ControlError> {
        match fs::symlink_metadata(path) {
            Ok(metadata) => Ok(FileIdentity::named(&metadata) == self.identity),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(ControlError::io(path, "examine it", error)),
        }
    }

    fn file(&self) -> &ControlFile {
        // SAFETY: the mapping is FILE_BYTES long, page-aligned, and lives as long as `self`. `ControlFile` is made of
        // atomics only, for which every bit pattern is valid and concurrent change by other processes is allowed. A
        // read-only mapping is only loaded from: stores are behind `check_writable`. Nothing is read here; callers
        // have probed the mapping.
        unsafe { &*self.map.as_ptr().cast::<ControlFile>() }
    }

    /// Asks the kernel to read the file's last word.
    fn probe(&self) -> Result<(), Lost> {
        /// Not a way to change a signal mask; the kernel says so only after it has read the new mask.
        const NO_SUCH_HOW: libc::c_int = -1;
        /// Bytes in the kernel's signal set.
        const SIGNAL_SET_BYTES: usize = 8;

        let last_word = self.map.as_ptr().wrapping_add(FILE_BYTES - SIGNAL_SET_BYTES);
        let nowhere = core::ptr::null_mut::<libc::c_void>();
        // SAFETY: returns the calling thread's errno, which always exists.
        let errno = unsafe { libc::__errno_location() };
        // SAFETY: reads the location just obtained.
        let before = unsafe { *errno };
        // SAFETY: the kernel reads 8 bytes at an address of our mapping, answers EFAULT if there is no memory behind it,
        // and changes nothing, as the operation asked for does not exist.
        let answer = unsafe {
            libc::syscall(libc::SYS_rt_sigprocmask, NO_SUCH_HOW, last_word, nowhere, SIGNAL_SET_BYTES)
        };
        // SAFETY: as above.
        let reason = unsafe { core::mem::replace(&mut *errno, before) };
        if answer == -1 && reason == libc::EINVAL { Ok(()) } else { Err(Lost::Truncated) }
    }
}

/// The user whose rights this process has.
pub(crate) fn effective_user() -> u32 {
    // SAFETY: takes nothing and cannot fail.
    unsafe { libc::geteuid() }
}

/// Whether this process may make files in `directory`.
pub(crate) fn directory_is_writable(directory: &Path) -> bool {
    let Ok(name) = CString::new(directory.as_os_str().as_bytes()) else { return false };
    // SAFETY: a terminated string that outlives the call.
    let answer =
        unsafe { libc::faccessat(libc::AT_FDCWD, name.as_ptr(), libc::W_OK | libc::X_OK, libc::AT_EACCESS) };
    answer == 0 && directory.is_dir()
}

fn denies_writing(error: &ControlError) -> bool {
    match error.kind() {
        Kind::Io { source, .. } => {
            matches!(source.raw_os_error(), Some(libc::EACCES | libc::EPERM | libc::EROFS))
        }
        _ => false,
    }
}

/// Opens a regular file by its own name, not by a link's. Never waits for a FIFO's other end.
fn open(path: &Path, access: Access) -> Result<File, ControlError> {
    let opened = OpenOptions::new()
        .read(true)
        .write(access == Access::ReadWrite)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path);
    let file = opened.map_err(|error| match error.raw_os_error() {
        Some(libc::ENOENT) => ControlError::new(path, Kind::Missing),
        Some(libc::ELOOP) => ControlError::new(path, Kind::Symlink),
        Some(libc::EISDIR | libc::ENXIO | libc::ENODEV) => ControlError::new(path, Kind::NotRegular),
        _ => ControlError::io(path, "open it", error),
    })?;
    let metadata = file.metadata().map_err(|e| ControlError::io(path, "examine it", e))?;
    if metadata.is_file() { Ok(file) } else { Err(ControlError::new(path, Kind::NotRegular)) }
}

/// Makes the file under a name of its own and gives it its final name when it is complete. If another process was
/// first, its file stays.
fn create(path: &Path) -> Result<(), ControlError> {
    let (temporary, generation) = temporary_name(path)?;
    let made = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)
        .map_err(|error| match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR) => ControlError::new(path, Kind::NoDirectory),
            _ => ControlError::io(path, "create it", error),
        })
        .and_then(|file| {
            write_new(&file, generation).map_err(|error| ControlError::io(path, "write it", error))?;
            match fs::hard_link(&temporary, path) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    Err(ControlError::io(path, "give it its name (link)", error))
                }
                _ => Ok(()),
            }
        });
    // Failure here leaves a stray file that nothing reads; the outcome above is what matters.
    let _ = fs::remove_file(&temporary);
    made
}

/// A name beside `path` that nobody else uses, and the random number that makes it so.
fn temporary_name(path: &Path) -> Result<(PathBuf, u64), ControlError> {
    let name = path.file_name().ok_or_else(|| ControlError::new(path, Kind::NotRegular))?;
    let generation = random_number().max(1);
    let mut hidden = OsString::from(".");
    hidden.push(name);
    hidden.push(format!(".{generation:016x}"));
    Ok((path.with_file_name(hidden), generation))
}

/// Reserves every page, so that a full disk shows now and not as a SIGBUS later, and writes what is not zero.
fn write_new(file: &File, generation: u64) -> io::Result<()> {
    if file_size_limit() < FILE_BYTES as u64 {
        return Err(io::Error::from_raw_os_error(libc::EFBIG));
    }
    // SAFETY: a call on an open descriptor; it reports failure by its value.
    let failure = unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, FILE_BYTES as libc::off_t) };
    if failure != 0 {
        return Err(io::Error::from_raw_os_error(failure));
    }
    for device in 0..abi::DEVICE_CAPACITY {
        let entry = offset_of!(ControlFile, devices) + device * size_of::<abi::Device>();
        let limit = entry + offset_of!(abi::Device, limit_bytes);
        file.write_all_at(&abi::UNLIMITED.to_le_bytes(), limit as u64)?;
    }
    file.write_all_at(&abi::SENTINEL.to_le_bytes(), (FILE_BYTES - size_of::<u64>()) as u64)?;
    file.write_all_at(&header::of_new_file(generation), 0)?;
    file.set_permissions(Permissions::from_mode(0o666))
}

/// The largest file this process may write (`ulimit -f`): writing a larger one would kill it by SIGXFSZ.
fn file_size_limit() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: the pointer is to a local of the right type; on failure it keeps its value.
    unsafe { libc::getrlimit(libc::RLIMIT_FSIZE, &raw mut limit) };
    limit.rlim_cur
}

/// Nanoseconds since 1970 by the system's clock.
pub(crate) fn unix_time_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64
}

/// Nanoseconds since boot, suspension included: every PID and mount namespace has the same.
pub(crate) fn boot_time_ns() -> u64 {
    clock_ns(libc::CLOCK_BOOTTIME)
}

/// Nanoseconds on the clock of all deadlines, which does not count suspension.
pub(crate) fn monotonic_ns() -> u64 {
    clock_ns(libc::CLOCK_MONOTONIC)
}

fn clock_ns(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a local of the right type.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(time.tv_nsec).unwrap_or(0))
}

/// Random enough for names that must differ between processes and moments; not a secret. Forked children inherit the
/// seed, hence the process and the time.
fn random_number() -> u64 {
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_u32(std::process::id());
    hasher.write_u64(unix_time_ns());
    hasher.finish()
}
