//! The state file: made whole before it gets its name, mapped, and checked before it is believed.

use crate::config::{ConfigError, GpuSpec};
use crate::layout::{Header, Layout, MAGIC, MAX_GPUS, SharedLock, VERSION};
use crate::timeline::Slices;
use crate::times::Times;
use crate::{config, lock};
use memmap2::{MmapOptions, MmapRaw};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::mem::size_of;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Why there is no simulated machine.
#[derive(Debug, Error)]
pub enum MachineError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("{path}: {source}; set VCUDA_FAKE_STATE to a file that this user may write")]
    File { path: PathBuf, source: io::Error },
    #[error("{path}: not a machine of this version; remove it or set VCUDA_FAKE_STATE to another file")]
    Foreign { path: PathBuf },
    #[error("{path}: 256 processes use this machine already")]
    Full { path: PathBuf },
}

/// A mapped state file. The mapping lasts as long as the process.
pub(crate) struct Region {
    map: MmapRaw,
    pub(crate) path: PathBuf,
}

impl Region {
    /// Maps the file that the environment names, made first if there is none.
    pub(crate) fn from_environment() -> Result<Region, MachineError> {
        let wanted = std::env::var("VCUDA_FAKE_GPUS").unwrap_or_default();
        let gpus = config::parse(if wanted.is_empty() { config::DEFAULT_GPUS } else { &wanted })?;
        let path = match std::env::var_os("VCUDA_FAKE_STATE") {
            Some(path) if !path.is_empty() => PathBuf::from(path),
            _ => default_path(&wanted)?,
        };
        Region::open_or_create(&path, &gpus, Times::from_environment().slices)
    }

    pub(crate) fn open_or_create(
        path: &Path,
        gpus: &[GpuSpec],
        slices: Slices,
    ) -> Result<Region, MachineError> {
        loop {
            match Region::open(path) {
                Err(MachineError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                    create(path, gpus, slices)?;
                }
                result => return result,
            }
        }
    }

    fn open(path: &Path) -> Result<Region, MachineError> {
        let failed = |source| MachineError::File { path: path.to_owned(), source };
        let foreign = || MachineError::Foreign { path: path.to_owned() };
        let file = open_file(path).map_err(failed)?;
        let size = size_of::<Layout>() as u64;
        if file.metadata().map_err(failed)?.len() != size {
            return Err(foreign());
        }
        let region = Region { map: map(&file).map_err(failed)?, path: path.to_owned() };
        let header = &region.layout().header;
        let known = header.magic == MAGIC && header.version == VERSION && header.size_bytes == size;
        if known && header.gpu_count as usize <= MAX_GPUS { Ok(region) } else { Err(foreign()) }
    }

    pub(crate) fn layout(&self) -> &Layout {
        // SAFETY: the mapping is as long as a Layout (checked), page-aligned and never undone; every field
        // that changes after the file was made is atomic, the C library's own, or in a cell with a lock.
        unsafe { &*self.map.as_ptr().cast::<Layout>() }
    }
}

pub(crate) fn open_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOFOLLOW).open(path)
}

fn map(file: &File) -> io::Result<MmapRaw> {
    MmapOptions::new().len(size_of::<Layout>()).map_raw(file)
}

/// One file for every list of GPUs, so that asking for another list means another machine.
fn default_path(wanted: &str) -> Result<PathBuf, MachineError> {
    // SAFETY: geteuid can't fail and touches no memory.
    let directory = PathBuf::from(format!("/dev/shm/vcuda-fake-{}", unsafe { libc::geteuid() }));
    match DirBuilder::new().mode(0o700).create(&directory) {
        Err(source) if source.kind() != io::ErrorKind::AlreadyExists => {
            return Err(MachineError::File { path: directory, source });
        }
        _ => {}
    }
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    let suffix: String = wanted.chars().map(plain).take(100).collect();
    Ok(directory.join(if suffix.is_empty() { "machine".to_owned() } else { format!("machine-{suffix}") }))
}

/// Makes a whole machine under a name of its own and gives it the wanted one, unless another process was
/// quicker.
fn create(path: &Path, gpus: &[GpuSpec], slices: Slices) -> Result<(), MachineError> {
    let failed = |source| MachineError::File { path: path.to_owned(), source };
    let draft = draft_path(path);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(&draft)
        .map_err(failed)?;
    let result = fill(&file, gpus, slices).and_then(|()| match std::fs::hard_link(&draft, path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        result => result,
    });
    // A draft left behind harms nobody.
    let _ = std::fs::remove_file(&draft);
    result.map_err(failed)
}

fn draft_path(path: &Path) -> PathBuf {
    use std::sync::atomic::{AtomicU32, Ordering};
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let mut name = path.as_os_str().to_owned();
    // The address of a variable tells apart processes of two PID namespaces with the same id.
    name.push(format!(".{}-{:x}-{count}", std::process::id(), &raw const name as usize));
    PathBuf::from(name)
}

fn fill(file: &File, gpus: &[GpuSpec], slices: Slices) -> io::Result<()> {
    file.set_len(size_of::<Layout>() as u64)?;
    let map = map(file)?;
    // SAFETY: the file is as long as a Layout, page-aligned, all zero (which is a valid Layout), and nobody
    // else knows it yet.
    let layout = unsafe { &mut *map.as_mut_ptr().cast::<Layout>() };
    layout.header = Header {
        magic: MAGIC,
        version: VERSION,
        gpu_count: gpus.len() as u32,
        size_bytes: size_of::<Layout>() as u64,
        lock: SharedLock([0; 8].into()),
        time_lock: SharedLock([0; 8].into()),
    };
    lock::initialise(&layout.header.lock);
    lock::initialise(&layout.header.time_lock);
    layout.timeline.0.get_mut().initialise(slices);
    for (index, (gpu, spec)) in layout.gpus.iter_mut().zip(gpus).enumerate() {
        for (to, from) in gpu.name.iter_mut().zip(spec.name.bytes().take(95)) {
            *to = from;
        }
        gpu.uuid = *b"\x00\x0f\xac\xed\x00\x00\x40\x00\x80\x00vcuda\x00";
        // The beginning must be enough to tell GPUs apart.
        gpu.uuid[0] = 0x51 + index as u8;
        gpu.uuid[15] = index as u8;
        gpu.total_bytes = spec.total_bytes;
        // A seventh of a percent: an H200 keeps 615 of its 143771 MiB to itself.
        gpu.reserved_bytes = (spec.total_bytes / 233) >> 16 << 16;
        gpu.multiprocessors = spec.multiprocessors;
        (gpu.compute_major, gpu.compute_minor) = spec.compute;
        gpu.pci_bus = 0x10 + index as u32;
    }
    Ok(())
}
