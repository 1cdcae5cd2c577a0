//! Why limits can't be put into force, in words that say what to do about it.

use std::path::Path;
use vcuda_core::device::Uuid;
use vcuda_core::error::{ControlError, Lost};
use vcuda_core::limits::{LimitsError, SHARES_DIRECTORY};
use vcuda_driver::result::CUerror;

/// Why limits couldn't be put into force.
pub enum StartError {
    /// What is configured is wrong.
    Configuration(&'static LimitsError),
    /// It does not go with the GPUs here.
    Limits(LimitsError),
    /// A control file can't be used.
    Control(ControlError),
    /// A control file can't be used any more.
    Lost(Lost),
    /// The driver fails.
    Driver(CUerror),
    /// A share comes without its control file.
    NotMounted(&'static Path),
    /// The container has shares, and none of this GPU.
    NotShared(Uuid),
}

impl std::fmt::Display for StartError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            StartError::Configuration(error) => write!(formatter, "{error}"),
            StartError::Limits(error) => write!(formatter, "{error}"),
            StartError::Control(error) => write!(formatter, "{error}"),
            StartError::Lost(error) => write!(formatter, "control file {error}"),
            StartError::Driver(CUerror::NOT_FOUND) => formatter.write_str(
                "the driver is too old: it lacks calls that limits stand on; use one for CUDA 11.4 or newer (470)",
            ),
            StartError::NotMounted(path) => write!(
                formatter,
                "{}: is not mounted, as the share's limits are; start the container with --device vcuda.dev/share=NAME",
                path.display()
            ),
            StartError::NotShared(uuid) => write!(
                formatter,
                "{SHARES_DIRECTORY}: has no share of {uuid}, which is not this container's, then; start it with a share of \
                 each GPU that it sees"
            ),
            StartError::Driver(error) => {
                write!(formatter, "the driver does not describe its devices (CUDA error {})", error.code())
            }
        }
    }
}
