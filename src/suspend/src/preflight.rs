//! What can't be suspended, and why: found out before anything is touched, because the driver finds some of it out only
//! half-way, and may leave the process broken.

use crate::error::Problem;
use crate::memory::DeviceMemory;
use crate::target::Target;
use std::path::PathBuf;
use vcuda_core::device::UuidKind;
use vcuda_core::suspension::Phase;

/// The first release whose checkpoints exist.
const FIRST_RELEASE: u32 = 570;
/// The first release that brings memory back that processes share.
const RELEASE_WITH_SHARING: u32 = 610;

/// What is known of this machine beside its GPUs.
#[derive(Clone, Copy, Debug)]
pub struct Host {
    /// Memory that can be had in bytes; `None` if that can't be told.
    pub available_bytes: Option<u64>,
    /// Whether programs share GPUs through MPS.
    pub has_mps: bool,
}

impl Host {
    /// This machine.
    pub fn here() -> Host {
        Host { available_bytes: available_bytes(), has_mps: is_mps_running() }
    }
}

/// Whether programs started here share a GPU through MPS.
pub fn is_mps_running() -> bool {
    let named = std::env::var_os("CUDA_MPS_PIPE_DIRECTORY");
    named.map_or(PathBuf::from("/tmp/nvidia-mps"), PathBuf::from).join("control").exists()
}

fn available_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.split_ascii_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

/// What no process of this machine can be spared, as `vcuda doctor` tells it.
pub fn of_machine(release: Option<u32>, host: Host) -> Option<String> {
    match release {
        Some(release) if release < FIRST_RELEASE => {
            return Some(format!("driver {release} has no checkpoints; they came with {FIRST_RELEASE}"));
        }
        _ => {}
    }
    host.has_mps.then(|| "MPS is running, whose clients the driver can't checkpoint; stop MPS".to_owned())
}

/// Everything that stands in the way of suspending `targets`, with what each takes of its GPUs.
pub(crate) fn examine(
    targets: &[(Target, Vec<(vcuda_core::device::Uuid, u64)>)],
    memory: &dyn DeviceMemory,
    host: Host,
) -> Vec<Problem> {
    let release = memory.release();
    let mut problems = Vec::new();
    for (target, gpus) in targets {
        let mut add = |reason: String| problems.push(target.problem(reason));
        if let Some(reason) = of_machine(release, host) {
            add(reason);
        }
        if target.suspension.has_managed() {
            add("has managed memory (cuMemAllocManaged), which checkpoints don't cover; it can't be suspended".into());
        }
        if target.suspension.has_several() {
            add("has shares of several GPUs, and would leave all of them; it can't be suspended".to_owned());
        }
        if target.suspension.has_shared() && release.is_none_or(|release| release < RELEASE_WITH_SHARING) {
            add(format!(
                "shares GPU memory with another process (CUDA IPC), which checkpoints cover from driver \
                 {RELEASE_WITH_SHARING} on"
            ));
        }
        if gpus.iter().any(|(gpu, _)| gpu.kind() == UuidKind::Mig || memory.is_split(*gpu)) {
            add("uses a MIG instance, which checkpoints don't cover".to_owned());
        }
    }
    // What an agent that was killed had moved is in the host's memory already.
    let running = targets.iter().filter(|(target, _)| target.suspension.phase() == Phase::Running);
    let all_bytes: u64 = running.flat_map(|(_, gpus)| gpus).map(|(_, bytes)| *bytes).sum();
    if let (Some(available), Some((target, _))) = (host.available_bytes, targets.first())
        && available < all_bytes
    {
        problems.push(target.problem(format!(
            "the host has {} MiB left, and what is on the GPUs takes {} MiB of it",
            available >> 20,
            all_bytes >> 20
        )));
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_can_be_asked() {
        let host = Host::here();
        assert!(host.available_bytes.is_some_and(|bytes| bytes > 1 << 20));
    }

    #[test]
    fn what_a_machine_lacks_is_told() {
        let host = Host { available_bytes: None, has_mps: false };
        assert_eq!(of_machine(Some(580), host), None);
        assert_eq!(of_machine(None, host), None, "the driver itself answers then");
        assert!(of_machine(Some(550), host).unwrap().contains("570"));
        assert!(of_machine(Some(580), Host { has_mps: true, ..host }).unwrap().contains("MPS"));
    }
}
