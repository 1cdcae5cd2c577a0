//! Faults of GPUs: the driver's critical errors, which NVIDIA calls XIDs.
//!
//! [`watch`] hears of them, [`xid`] knows which are a program's own doing and what the others mean, and [`Ledger`] remembers
//! who has one in files, until a restart of the machine or of the driver has mended it or an admin says so. Decides nothing
//! about GPUs beyond that. Not for the preloaded library. Only [`watch`] contains unsafe code.
#![deny(unsafe_code)]

mod era;
mod fault;
mod ledger;
pub mod watch;
pub mod xid;

pub use era::Era;
pub use fault::{Fault, Faults};
pub use ledger::{Ledger, Mended};
