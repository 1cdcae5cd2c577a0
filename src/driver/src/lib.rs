//! NVIDIA's names and shapes: what `libcuda.so.1` and `libnvidia-ml.so.1` export, with which signature,
//! and the types and result codes that go with it.
//!
//! This crate is the lowest floor. It imports nothing, keeps no state, opens no library and calls no driver
//! function; it only says what things are called and how they are laid out. The preloaded library, the
//! simulated driver, the tools and the tests all read the same rows, so a symbol is declared in one place.
//!
//! Everything is keyed by **ABI symbol** (`cuMemAlloc_v2`), never by base name (`cuMemAlloc`): one base
//! name can stand for functions with different arguments, and calling one as the other corrupts the
//! caller's stack.
//!
//! The tables are generated from NVIDIA's headers by `scripts/gen-driver-table`; what the preloaded library
//! does with each symbol is decided by hand in `classify.toml`. Three macros per library reach them:
//! [`cuda_symbols!`] and [`nvml_symbols!`] give all names, [`cuda_signature!`] and [`nvml_signature!`] one
//! symbol's arguments and result.
#![cfg_attr(not(test), no_std)]
#![deny(missing_docs)]

pub mod cuda;
mod layout;
pub mod nvml;
pub mod result;
pub mod table;
