//! What a container gets for its slices: what kubelet hands to the container runtime.
//!
//! Said twice. CDI devices bring GPUs and shares where kubelet (1.28) and the runtime know them; elsewhere the same mounts,
//! read from the shares' CDI files, and a variable for NVIDIA's runtime do. Where both are understood, a CDI device's own
//! mounts and variables win.

use std::fs;

use serde_json::Value;
use vcuda_shares::Share;

use super::super::messages::device_plugin::{CdiDevice, ContainerAllocateResponse, Mount};

/// Which GPUs NVIDIA's runtime brings into a container.
const VISIBLE_VARIABLE: &str = "NVIDIA_VISIBLE_DEVICES";

/// The answer for a container with these shares. `cdi` is the kind of the GPUs' own CDI devices, which are named by UUID, or
/// empty where there are none; without it, nothing of CDI is answered.
///
/// # Errors
/// If what a share brings can't be read.
pub fn answer(shares: &[Share], cdi: Option<&str>) -> Result<ContainerAllocateResponse, String> {
    let mut mounts: Vec<Mount> = Vec::new();
    let mut cdi_devices = Vec::new();
    for share in shares {
        for mount in mounts_of(share)? {
            // The library is the same for all.
            if !mounts.contains(&mount) {
                mounts.push(mount);
            }
        }
        if let Some(gpu_kind) = cdi {
            if !gpu_kind.is_empty() {
                cdi_devices.push(CdiDevice { name: format!("{gpu_kind}={}", share.wanted.gpu_uuid) });
            }
            cdi_devices.push(CdiDevice { name: share.cdi_id() });
        }
    }
    let gpus: Vec<String> = shares.iter().map(|share| share.wanted.gpu_uuid.to_string()).collect();
    Ok(ContainerAllocateResponse {
        envs: [(VISIBLE_VARIABLE.to_owned(), gpus.join(","))].into(),
        mounts,
        cdi_devices,
        ..Default::default()
    })
}

/// The mounts in a share's CDI file.
fn mounts_of(share: &Share) -> Result<Vec<Mount>, String> {
    let path = share.cdi_file();
    let text = fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let file: Value = serde_json::from_slice(&text).unwrap_or_default();
    let edits = &file["devices"][0]["containerEdits"];
    let mounts =
        edits["mounts"].as_array().map(|mounts| mounts.iter().map(mount).collect::<Option<Vec<_>>>());
    // A hook can't be answered: a container would come up without the library.
    match mounts.flatten().filter(|_| edits.get("hooks").is_none()) {
        Some(mounts) => Ok(mounts),
        None => Err(format!("{} is not as this agent writes it", path.display())),
    }
}

fn mount(mount: &Value) -> Option<Mount> {
    let path = |name: &str| mount[name].as_str().map(str::to_owned);
    Some(Mount {
        host_path: path("hostPath")?,
        container_path: path("containerPath")?,
        read_only: mount["options"].as_array()?.iter().any(|option| option == "ro"),
    })
}
