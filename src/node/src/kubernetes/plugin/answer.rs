//! What a container gets for its slices: what kubelet hands to the container runtime.
//!
//! Said twice. CDI devices bring GPUs and shares where kubelet (1.28) and the runtime know them; elsewhere the same mounts,
//! and a variable for NVIDIA's runtime, do. Where both are understood, a CDI device's own mounts and variables win.

use std::path::Path;

use vcuda_core::limits::SHARES_DIRECTORY;
use vcuda_core::location::{SHARE_CONTROL_FILE, SHARES_IN_CONTAINER};
use vcuda_shares::{LIBRARY_IN_CONTAINER, Places, Share};

use super::super::messages::device_plugin::{CdiDevice, ContainerAllocateResponse, Mount};

const PRELOAD_IN_CONTAINER: &str = "/etc/ld.so.preload";
/// Which GPUs NVIDIA's runtime brings into a container.
const VISIBLE_VARIABLE: &str = "NVIDIA_VISIBLE_DEVICES";

/// The answer for a container with these shares. `cdi` is the kind of the GPUs' own CDI devices, which are named by UUID, or
/// empty where there are none; without it, nothing of CDI is answered.
pub fn answer(shares: &[Share], places: &Places, cdi: Option<&str>) -> ContainerAllocateResponse {
    let mut mounts = vec![
        mount(&places.library, LIBRARY_IN_CONTAINER, true),
        mount(&places.preload, PRELOAD_IN_CONTAINER, true),
    ];
    let mut cdi_devices = Vec::new();
    for share in shares {
        let name = share.name();
        mounts.push(mount(&share.limits_file(), &format!("{SHARES_DIRECTORY}/{name}.json"), true));
        let control = format!("{SHARES_IN_CONTAINER}/{name}/{SHARE_CONTROL_FILE}");
        mounts.push(mount(&share.control_file(), &control, false));
        if let Some(gpu_kind) = cdi {
            if !gpu_kind.is_empty() {
                cdi_devices.push(CdiDevice { name: format!("{gpu_kind}={}", share.wanted.gpu_uuid) });
            }
            cdi_devices.push(CdiDevice { name: share.cdi_id() });
        }
    }
    let gpus: Vec<String> = shares.iter().map(|share| share.wanted.gpu_uuid.to_string()).collect();
    ContainerAllocateResponse {
        envs: [(VISIBLE_VARIABLE.to_owned(), gpus.join(","))].into(),
        mounts,
        cdi_devices,
        ..Default::default()
    }
}

fn mount(on_host: &Path, in_container: &str, read_only: bool) -> Mount {
    Mount { host_path: on_host.display().to_string(), container_path: in_container.to_owned(), read_only }
}
