//! The simulated machine that the simulated `libcuda.so.1` and `libnvidia-ml.so.1` run on: GPUs with
//! physical memory and a time line, shared by all processes that use them through one mapped state file.
//!
//! This crate knows neither CUDA nor NVML. It counts memory and time, and nothing of it survives the file.
//!
//! # The simulated driver
//!
//! `LD_LIBRARY_PATH=$(scripts/fake-driver) ./program` runs a program written against the driver API or NVML
//! without a GPU: C, C++, Python, anything that loads the two libraries. What it takes of memory, how calls
//! answer and what captures forbid is what an H200 with driver 580.159 was measured to do.
//!
//! | variable | meaning | unset |
//! |---|---|---|
//! | `VCUDA_FAKE_GPUS` | the GPUs: `2`, `24GiB`, `2x24GiB`, `H200:141GiB,T4`; models H200, H100, A100, L4, A10, T4 | 2 of 24 GiB, 132 multiprocessors |
//! | `VCUDA_FAKE_STATE` | the state file; processes with the same one share GPUs, and the first decides which | `/dev/shm/vcuda-fake-UID/machine…`, one per list of GPUs |
//! | `VCUDA_FAKE_CONTEXT_MIB` | memory that a context puts on its process | 518 MiB for 132 multiprocessors |
//! | `VCUDA_FAKE_FAULTS` | failing and slow calls: `cuMemAlloc_v2:3=2;cuMemCreate:*=999;cuLaunchKernel:100+=719;cuCtxCreate_v4:1=sleep:200ms` | none |
//! | `VCUDA_FAKE_DRIVER_VERSION` | the driver's CUDA version, as `12020`; `cuGetProcAddress` doesn't find what is newer | `13000` |
//! | `VCUDA_FAKE_DRIVER_RELEASE` | the release that NVML tells | `580.159.04` |
//! | `VCUDA_FAKE_NVML` | `absent`: can't be initialised; `no-process-memory`: lists processes without it; `host-pids`: lists them by another id | as usual |
//! | `VCUDA_FAKE_CONTENTS` | `0`: copies, fills and kernels take their time but touch no memory | they do what they say |
//! | `VCUDA_FAKE_NULL` | `1`: work takes no time and launches return at once, for measuring what stands in between | time passes |
//! | `CUDA_VISIBLE_DEVICES` | as with the real driver | all GPUs |
//!
//! `vcuda-fake-state`, beside the libraries, prints what GPUs and processes hold as JSON, with the most that
//! was ever in use; `--reset` starts that over.
//!
//! **Time.** The kernels of a GPU run one after the other, whichever stream or process they come from; copies
//! take 1 us and 25 bytes a nanosecond to and from the host. Work is queued at once and waiting for it takes
//! as long as it would. Its effect on memory happens when it is queued, host functions when it gets there. What
//! a killed process had queued still takes its time.
//!
//! **Kernels.** Any PTX or binary is taken; entry functions do nothing for 10 us, unless they are
//! `fill_u32(address, value, count)` or `saxpy_f32(count, factor, x, y)`, which do what they say, or a
//! comment in the PTX says how long they last, which a real driver doesn't read:
//!
//! ```text
//! // simulated: spin duration_ns=param0       as long as the first parameter says
//! // simulated: step duration_ns=200000       200 us
//! // simulated: image_bytes=209715200         the code takes 200 MiB of the device
//! ```
//!
//! A parameter whose name ends in `duration_ns` says so by itself.
//!
//! **Not there.** Functions that aren't implemented are exported and return `CUDA_ERROR_NOT_SUPPORTED` or
//! `NVML_ERROR_NOT_SUPPORTED`: textures and surfaces, graphics and external memory, multicast, sharing of
//! pools and events between processes, mapping of sparse arrays, conditional graph nodes, checkpoints, and
//! the functions of before CUDA 3.2 that take 32-bit addresses. The private tables that NVIDIA's runtime library
//! asks for aren't there either: programs must use the driver API. A stream can wait for a value only if earlier
//! work writes it. Memory that another process imported goes back when its maker lets go of it.

mod clock;
mod config;
mod layout;
mod lock;
mod machine;
mod process;
mod region;
mod timeline;
mod times;

pub use clock::{doze_until, now_ns, sleep_until};
pub use config::{ConfigError, GpuSpec, parse as parse_gpus};
pub use layout::Gpu;
pub use machine::{Bytes, Machine, Member, OutOfMemory, ProcessUse};
pub use region::MachineError;
pub use timeline::{
    Busy, DEPTH, Dropped, Engine, Length, LineId, Mark, Progress, Slices, Timeline, Unit, Utilisation,
};
pub use times::Times;
