//! The driver API's C types, as far as this project reads or writes them.
//!
//! Names are NVIDIA's, so that a signature can be read beside its manual. Where several ABI versions of a
//! struct exist, the name without version is what current headers mean by it.
#![allow(non_camel_case_types, non_snake_case, non_upper_case_globals)]

mod array;
mod checkpoint;
mod constants;
mod graph;
mod handle;
mod launch;
mod memory;
mod transfer;

pub use array::*;
pub use checkpoint::*;
pub use constants::*;
pub use graph::*;
pub use handle::*;
pub use launch::*;
pub use memory::*;
pub use transfer::*;

/// A device by its place in the program's own order, from 0.
pub type CUdevice = i32;

#[cfg(test)]
pub(crate) use constants::CONSTANTS;

/// Layouts of every type declared here, by module.
#[cfg(test)]
pub(crate) const LAYOUTS: &[&[crate::layout::Layout]] = &[
    array::STRUCTS,
    checkpoint::STRUCTS,
    graph::STRUCTS,
    handle::HANDLES,
    handle::STRUCTS,
    launch::STRUCTS,
    memory::STRUCTS,
    transfer::STRUCTS,
];
