//! The driver API (`libcuda.so.1`).

pub mod resolve;
mod signatures;
pub mod symbols;
pub mod types;
