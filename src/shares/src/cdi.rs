//! How a container runtime is told what a share is: a CDI file (Container Device Interface), one for each share.
//!
//! Of the lowest version that has what is needed, since a runtime refuses what it does not know: Podman 4.3 knows no newer
//! one than 0.5.0. All that a share brings is in its one device, so that runtimes drop what two shares have in common;
//! and nothing in it is a variable that two shares would set differently, as the last one would win.
//!
//! GPU devices and the driver's libraries are NVIDIA's own CDI device's business (`nvidia.com/gpu`).

use crate::places::{
    ARBITER_IN_CONTAINER, LIBRARY_IN_CONTAINER, PRELOAD_IN_CONTAINER, Places, control_in_container,
    limits_in_container,
};
use crate::share::Share;
use serde_json::{Value, json};
use std::path::Path;

/// Vendor and class of all shares.
pub const KIND: &str = "vcuda.dev/share";
/// The hidden command by which a container's own `/etc/ld.so.preload` is added to.
pub const MERGE_COMMAND: &str = "merge-preload";
const VERSION: &str = "0.5.0";

/// The CDI file of a share.
pub(crate) fn text(share: &Share, places: &Places) -> String {
    let mut mounts = vec![
        mount(&places.library, Path::new(LIBRARY_IN_CONTAINER), &["ro", "nosuid", "nodev", "bind"]),
        mount(
            &share.limits_file(),
            &limits_in_container(share.name()),
            &["ro", "nosuid", "nodev", "noexec", "bind"],
        ),
        mount(
            &share.control_file(),
            &control_in_container(share.name()),
            &["rw", "nosuid", "nodev", "noexec", "bind"],
        ),
        mount(
            &places.arbiter(),
            Path::new(ARBITER_IN_CONTAINER),
            &["rw", "nosuid", "nodev", "noexec", "bind"],
        ),
    ];
    // A runtime of NVIDIA's must not give the container GPUs a second time, and all of them.
    let mut edits = json!({ "env": ["NVIDIA_VISIBLE_DEVICES=void"] });
    match &share.wanted.merge_with {
        None => mounts.push(mount(
            &places.preload,
            Path::new(PRELOAD_IN_CONTAINER),
            &["ro", "nosuid", "nodev", "noexec", "bind"],
        )),
        Some(command) => {
            edits["hooks"] = json!([{
                "hookName": "createContainer",
                "path": command,
                "args": ["vcuda", MERGE_COMMAND, share.directory],
            }]);
        }
    }
    edits["mounts"] = Value::Array(mounts);
    let device = json!({ "name": share.name(), "containerEdits": edits });
    let file = json!({ "cdiVersion": VERSION, "kind": KIND, "devices": [device] });
    format!("{file:#}\n")
}

fn mount(on_host: &Path, in_container: &Path, options: &[&str]) -> Value {
    json!({ "hostPath": on_host, "containerPath": in_container, "options": options })
}
