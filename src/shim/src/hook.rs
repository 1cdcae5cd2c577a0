//! What hooks do, one module per family of calls. Bodies are safe code: `driver()` makes the program's own
//! call, arguments come as values or as [`crate::edge::Out`] and [`crate::edge::In`].

pub mod array;
pub mod batch;
pub mod context;
pub mod copy;
pub mod graph;
pub mod information;
pub mod launch;
pub mod linear;
pub mod lookup;
pub mod module;
pub mod nvml;
pub mod nvml_utilization;
pub mod physical;
pub mod pool;
pub mod start;
pub mod stream;
