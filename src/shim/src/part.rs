//! This process's part of one control file: a slot in it, and the file that says what its limits are.
//!
//! Most processes have one part, for all GPUs. In a container with several shares there is one for each, of one GPU.

use crate::live::Lookout;
use crate::slice::StartError;
use std::path::PathBuf;
use std::sync::Arc;
use vcuda_core::control::Control;
use vcuda_core::device::Uuid;
use vcuda_core::error::ControlErrorKind::Missing;
use vcuda_core::limits::{Limits, Source};
use vcuda_core::location::{default_path, default_path_to_read};
use vcuda_core::slots::Slot;

/// Of one control file.
pub struct Part {
    /// The control file.
    pub control: Arc<Control>,
    /// Held so that other processes see this one alive.
    pub slot: Slot,
    /// Where the limits come from.
    pub lookout: Lookout,
    limits: &'static Limits,
}

impl Part {
    /// Takes a place in the control file of `limits`, a part of what is configured.
    pub fn take(limits: &'static Limits) -> Result<Part, StartError> {
        // Before anything else, so that no change of the file goes unseen.
        let lookout = Lookout::new(limits);
        let control = open(limits)?;
        let slot = control.claim(&program_name()).map_err(StartError::Control)?;
        slot.note_limits(limits.digest()).map_err(StartError::Lost)?;
        Ok(Part { control, slot, lookout, limits })
    }

    /// Whether the limits of the GPU `uuid` count here.
    pub fn is_of(&self, uuid: Uuid) -> bool {
        self.limits.is_of(uuid)
    }
}

/// A share's control file comes with the share: one made here would be a quota of this container alone.
fn open(limits: &'static Limits) -> Result<Arc<Control>, StartError> {
    let opened = match (limits.source(), &limits.control_file) {
        (Source::Share(_), Some(path)) => match Control::open_existing(path) {
            Err(error) if matches!(error.kind(), Missing) => return Err(StartError::NotMounted(path)),
            opened => opened,
        },
        (_, Some(path)) => Control::open_or_create(path),
        (_, None) => default_path().and_then(Control::open_or_create),
    };
    opened.map_err(StartError::Control)
}

/// Where the container's control file would be, for looking at only: makes no directory.
pub fn control_path_to_read(limits: &Limits) -> PathBuf {
    limits.control_file.clone().unwrap_or_else(default_path_to_read)
}

/// The program's name, for the tools.
fn program_name() -> String {
    let name = std::fs::read_to_string("/proc/self/comm").unwrap_or_default();
    name.trim_end().to_owned()
}
