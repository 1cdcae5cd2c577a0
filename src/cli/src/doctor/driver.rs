//! The driver and the GPUs that a program started here would find.

use super::finding::Finding;
use crate::size;
use libloading::Library;
use std::path::PathBuf;
use vcuda_core::limits::Gpu;
use vcuda_driver::result::CUresult;
use vcuda_suspend::nvml::Nvml;

/// Findings about the driver, and the GPUs as limits see them. None of those from inside a slice, where the
/// driver's answers are the slice's.
pub fn examine() -> (Vec<Finding>, Vec<Gpu>) {
    let is_in_slice = is_mapped("/libvcuda.so");
    let mut findings = vec![cuda()];
    let mut gpus = Vec::new();
    match Nvml::open() {
        Err(reason) => findings.push(Finding::warning(
            format!("libnvidia-ml.so.1 can't be used: {reason}"),
            "nvidia-smi needs it, and so do limits by GPU number; in a container, add the driver capability \"utility\"",
        )),
        Ok(nvml) => match examine_gpus(&nvml, is_in_slice, &mut findings) {
            Ok(_) if is_in_slice => {}
            Ok(found) => gpus = found,
            Err(error) => findings.push(Finding::warning(
                format!("the GPUs can't be listed: {error}"),
                "see whether nvidia-smi -L works here",
            )),
        },
    }
    (findings, gpus)
}

/// The file that `library` (a name such as `libcuda.so.1`) was loaded from; loads it if need be.
#[allow(unsafe_code)]
pub fn loaded_file(library: &str) -> Option<PathBuf> {
    // SAFETY: the driver's initialisers are those every program runs that opens it. It stays loaded, so that
    // the list of mappings still names it.
    std::mem::forget(unsafe { Library::new(library) }.ok()?);
    let stem = library.strip_suffix(".1").unwrap_or(library);
    let mappings = std::fs::read_to_string("/proc/self/maps").ok()?;
    let paths = mappings.lines().filter_map(|line| line.find('/').and_then(|start| line.get(start..)));
    let mut paths = paths.map(PathBuf::from);
    paths.find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(stem)))
}

/// Whether programs started here share a GPU through MPS.
pub fn is_mps_running() -> bool {
    let named = std::env::var_os("CUDA_MPS_PIPE_DIRECTORY");
    let directory = named.map_or(PathBuf::from("/tmp/nvidia-mps"), PathBuf::from);
    directory.join("control").exists()
}

/// Whether this process has a file mapped whose path ends so.
pub fn is_mapped(end: &str) -> bool {
    std::fs::read_to_string("/proc/self/maps").is_ok_and(|maps| maps.lines().any(|line| line.ends_with(end)))
}

#[allow(unsafe_code)]
fn cuda() -> Finding {
    const REMEDY: &str = "install NVIDIA's driver; in a container, add the GPUs (docker run --gpus all) with capability \"compute\"";
    // SAFETY: as in `loaded_file`.
    let library = match unsafe { Library::new("libcuda.so.1") } {
        Ok(library) => library,
        Err(error) => {
            return Finding::problem(format!("no CUDA driver: {:#}", anyhow::Error::from(error)), REMEDY);
        }
    };
    let mut version = 0i32;
    // SAFETY: the type is that of the header; the pointer is to a local.
    let answer = unsafe {
        match library.get::<unsafe extern "C" fn(*mut i32) -> CUresult>("cuDriverGetVersion\0") {
            Ok(function) => function(&raw mut version),
            Err(error) => {
                return Finding::problem(format!("libcuda.so.1 is no CUDA driver: {error}"), REMEDY);
            }
        }
    };
    let path = loaded_file("libcuda.so.1").unwrap_or_default();
    match answer {
        Ok(()) => Finding::good(format!(
            "libcuda.so.1 for CUDA {}.{} ({})",
            version / 1000,
            version % 1000 / 10,
            path.display()
        )),
        Err(error) => {
            Finding::problem(format!("{} answers {error} when asked its version", path.display()), REMEDY)
        }
    }
}

fn examine_gpus(
    nvml: &Nvml,
    is_in_slice: bool,
    findings: &mut Vec<Finding>,
) -> Result<Vec<Gpu>, vcuda_driver::result::NvmlError> {
    findings.push(Finding::good(format!("libnvidia-ml.so.1 of driver {}", nvml.driver_version()?)));
    let mut gpus = Vec::new();
    for (index, device) in (0u32..).zip(nvml.devices()?) {
        let uuid = nvml.uuid(device)?;
        let memory = nvml.memory(device)?;
        let view = if is_in_slice { ", which is its slice" } else { "" };
        findings.push(Finding::good(format!(
            "GPU {index}  {}  {}{view}  {uuid}",
            nvml.name(device)?,
            size::text(memory.total)
        )));
        if !nvml.tells_process_memory(device).unwrap_or(false) {
            findings.push(Finding::warning(
                format!("GPU {index}: the driver doesn't tell what each process holds"),
                "contexts and modules are then counted as estimated rather than as measured",
            ));
        }
        if nvml.is_mig_enabled(device) {
            findings.push(Finding::note(format!(
                "GPU {index} is split by MIG: limits are for its instances, by their MIG- UUIDs, and a compute \
                 share is of the instance's own time"
            )));
        }
        match uuid.parse() {
            Ok(uuid) => gpus.push(Gpu { index, uuid, physical_bytes: memory.total }),
            Err(error) => findings.push(Finding::warning(
                format!("GPU {index}: {error}"),
                "limits for this GPU must be given for every GPU at once",
            )),
        }
    }
    if gpus.is_empty() {
        findings.push(Finding::problem("the driver lists no GPU", "in a container, add GPUs to it"));
    }
    if is_mps_running() {
        findings.push(Finding::note(
            "MPS is running: allocations are counted as ever, but its server holds the contexts, so what a \
             context takes is not known by process",
        ));
    }
    Ok(gpus)
}
