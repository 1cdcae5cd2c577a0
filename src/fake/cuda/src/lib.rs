//! The simulated `libcuda.so.1`: NVIDIA's driver API on the GPUs of a simulated machine, for programs that
//! are written against the real one and for everything that stands between them and it.
//!
//! `export` has the symbols and says which body serves which. Bodies are safe Rust; pointers are touched
//! in `edge` (arguments), `slab` (handles), `raw` (device memory), `backing` (mappings) and `callback`.

mod array;
mod attributes;
mod backing;
mod callback;
mod capture;
mod checkpoint;
mod chunk;
mod context;
mod cost;
mod device;
mod driver;
mod edge;
mod errors;
mod event;
mod exec;
mod export;
mod fault;
mod fill;
mod format;
mod function;
mod gate;
mod graph;
mod graph_memory;
mod green;
mod holdings;
mod image;
mod ipc;
mod kernel;
mod launch;
mod library;
mod limits;
mod lines;
mod link;
mod memory;
mod module;
mod node;
mod pointer;
mod pool;
mod pool_memory;
mod primary;
mod proc_address;
mod profiler;
mod raw;
mod settings;
mod slab;
mod space;
mod stream;
mod transfer;
mod values;
mod vmm;
mod work;
