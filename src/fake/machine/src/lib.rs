//! The simulated machine that the simulated `libcuda.so.1` and `libnvidia-ml.so.1` run on: GPUs with
//! physical memory and a time line, shared by all processes that use them through one mapped state file.
//!
//! This crate knows neither CUDA nor NVML. It counts memory and time, and nothing of it survives the file.

mod clock;
mod config;
mod engine;
mod layout;
mod lock;
mod machine;
mod process;
mod region;

pub use clock::{now_ns, sleep_until};
pub use config::{ConfigError, GpuSpec, parse as parse_gpus};
pub use engine::Span;
pub use layout::Gpu;
pub use machine::{Bytes, Machine, Member, OutOfMemory, ProcessUse};
pub use region::MachineError;
