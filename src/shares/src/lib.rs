//! Shares of a machine's GPUs, for containers: making, listing and removing them.
//!
//! A share is a directory `/var/lib/vcuda/shares/NAME` with a limits file, a description and a link to its control file in
//! `/run/vcuda/shares/NAME`, which is memory and made anew after the machine's start, and a CDI file by which a container
//! runtime mounts limits and control file, with the library, into each container that names the share. Every
//! container that does so is in the same share, and spends from the same quota.
//!
//! For tools: they may be killed at any instruction, and the next one finds either a whole share or none. Must never let a
//! container come up with a share's device and without its limits.
#![forbid(unsafe_code)]

mod cdi;
mod error;
mod files;
mod merge;
mod name;
mod places;
mod promises;
mod record;
mod share;
#[cfg(feature = "steps")]
pub mod step;
#[cfg(not(feature = "steps"))]
mod step;
mod store;
#[cfg(test)]
mod tests;
mod users;
mod wanted;

pub use cdi::{KIND, MERGE_COMMAND};
pub use error::ShareError;
pub use merge::{MergeError, merge_preload};
pub use name::{MOST_CHARACTERS, USABLE, is_usable};
pub use places::{CDI_OF_COMMANDS, CDI_OF_DAEMONS, CONTROL_ON_HOST, LIBRARY_IN_CONTAINER, Places};
pub use share::Share;
pub use store::{Store, Swept};
pub use users::Users;
pub use vcuda_core::sharing::Priority;
pub use wanted::{MadeBy, Wanted};
