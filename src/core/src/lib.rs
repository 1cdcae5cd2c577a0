//! What the preloaded library and the tools agree on: limits, the control file, quota words. Knows no CUDA.
//!
//! The floor of the house: it stands on libc, memmap2 and serde_json, and on nothing of the project's own. Only `region`,
//! `liveness` and `suspension` contain unsafe code.
#![deny(unsafe_code)]

#[cfg(not(loom))]
pub mod abi;
#[cfg(not(loom))]
pub mod account;
pub mod arbiter;
#[cfg(not(loom))]
pub mod aside;
mod atomic;
pub mod bucket;
#[cfg(not(loom))]
pub mod compute;
#[cfg(not(loom))]
pub mod control;
pub mod coverage;
#[cfg(not(loom))]
mod decimal;
#[cfg(not(loom))]
pub mod device;
#[cfg(not(loom))]
mod dying;
#[cfg(not(loom))]
pub mod error;
#[cfg(not(loom))]
mod header;
#[cfg(not(loom))]
pub mod identity;
#[cfg(not(loom))]
pub mod limits;
#[cfg(not(loom))]
pub mod liveness;
#[cfg(not(loom))]
pub mod location;
pub mod quota;
#[cfg(not(loom))]
mod region;
#[cfg(not(loom))]
pub mod share;
#[cfg(not(loom))]
pub mod sharing;
#[cfg(not(loom))]
pub mod slots;
#[cfg(not(loom))]
pub mod snapshot;
#[cfg(not(loom))]
pub mod suspension;
