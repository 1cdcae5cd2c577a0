//! The simulated `libnvidia-ml.so.1`: NVIDIA's management library on the GPUs of a simulated machine.
//!
//! `export` has the symbols and says which body serves which.

mod device;
mod edge;
mod event;
mod export;
mod library;
mod process;
mod samples;
