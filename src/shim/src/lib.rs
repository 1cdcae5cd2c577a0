//! The preloaded library: holds an unchanged CUDA program to a slice of a GPU.
//!
//! From the program down: [`dlsym`] and [`export`] catch the calls, [`edge`] makes them safe, [`hook`] decides,
//! [`mod@slice`] and [`quota`] account, [`driver`] and [`library`] reach the real driver. There is no constructor:
//! in a process that never touches CUDA, nothing of this runs but a look at the first letters of the names
//! it passes to `dlsym`.
#![deny(unsafe_code)]
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![deny(clippy::print_stdout, clippy::print_stderr, clippy::exit, unused_crate_dependencies)]

mod capture;
mod chunk;
mod clock;
mod compute;
mod container;
mod dlsym;
mod driver;
mod edge;
mod elf;
mod export;
mod fork;
mod graph_memory;
mod hash;
mod hook;
mod idle;
mod leaked;
mod ledger;
mod library;
mod live;
mod log;
mod mode;
mod part;
mod physical_memory;
mod pool;
mod quota;
mod relief;
mod slice;
mod small_array;
mod suspension;
mod truth;
