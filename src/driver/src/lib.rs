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
//! does with each symbol is decided by hand in `classify.toml`. Macros hand the same rows to code:
//! [`cuda_symbols!`] and [`nvml_symbols!`] all names, [`cuda_functions!`] and [`nvml_functions!`] the names
//! that have a signature, [`cuda_signature!`] and [`nvml_signature!`] the arguments and result of one.
//!
//! ```
//! use vcuda_driver::{cuda_signature, result::CUresult};
//!
//! macro_rules! define {
//!     ({ $answer:expr } fn $name:ident($($argument:ident: $type:ty),*) -> $result:ty) => {
//!         #[allow(non_snake_case, unused_variables)]
//!         extern "C" fn $name($($argument: $type),*) -> $result {
//!             $answer
//!         }
//!     };
//! }
//! cuda_signature! { cuInit, define, { Ok(()) } }
//!
//! let function: extern "C" fn(u32) -> CUresult = cuInit;
//! assert_eq!(function(0), Ok(()));
//! ```
#![cfg_attr(not(test), no_std)]
#![deny(missing_docs)]

pub mod cuda;
#[cfg(test)]
mod headers;
mod layout;
pub mod nvml;
pub mod result;
pub mod table;
