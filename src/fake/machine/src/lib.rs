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
//! | `VCUDA_FAKE_LOST` | a file; GPUs whose numbers are lines of it are lost to NVML, until they are not | none |
//! | `VCUDA_FAKE_CONTENTS` | `0`: copies, fills and kernels take their time but touch no memory | they do what they say |
//! | `VCUDA_FAKE_NULL` | `1`: work takes no time and launches return at once, for measuring what stands in between | time passes |
//! | `VCUDA_FAKE_TIMES` | what calls and the front end take, in nanoseconds: `launch=3300,record=800` and others, below | calls take what they take |
//! | `CUDA_VISIBLE_DEVICES` | as with the real driver | all GPUs |
//!
//! # Time
//!
//! Nothing happens by itself. Whoever queues, waits or looks has the machine worked out up to now, for all
//! processes at once, so what ran when is exact to the nanosecond however late it is asked for.
//!
//! * **Processors.** Kernels, fills and copies within a device run on the processors, which belong to one process
//!   at a time. Processes that want them take turns in slices of 2 ms: a backlog delays another process by a
//!   slice, not by the backlog. Kernels of different streams of one process run beside each other as far as their
//!   widths fit, in the order in which they were queued.
//! * **Copies** take 1 us and 25 bytes a nanosecond to and from the host. Each way has one engine, which all
//!   processes share.
//! * **Streams.** Work follows work without a gap. Up to 1024 units may be pending on a stream; who queues more is
//!   blocked. Kernels that follow each other in a graph are one unit, and its nodes run one after the other. Host
//!   functions, values that a stream waits for (`cuStreamWaitValue32`) and kernels that last until something is
//!   written hold their stream up, and nothing else.
//! * **Events** on an idle stream tell when the GPU heard of them, half a microsecond after the call; a kernel
//!   on an idle stream begins 1.2 us after its call. So between the two lies what the program did. Behind other
//!   work, an event tells when that ended. Differences are floats of milliseconds, of times in steps of 500 ns.
//! * **Death.** What a killed process had queued is gone as soon as anybody notices, who waits or looks; until then
//!   it counts as run.
//! * **Memory.** What work does to memory it does when it is queued; host functions and values that streams write
//!   happen in their time.
//!
//! `VCUDA_FAKE_TIMES` is a list of `NAME=NANOSECONDS`:
//!
//! | name | time | unset |
//! |---|---|---|
//! | `launch` | of the caller: a launch, a copy, a fill | what it takes |
//! | `record` | of the caller: recording an event that tells the time | what it takes |
//! | `launch_delay` | from the return of a launch to the start on an idle stream | 1200 |
//! | `record_delay` | from the return of a record to the event on an idle stream | 500 |
//! | `mark` | of the stream: passing an event that tells the time | 0 |
//! | `timer` | step of the timer that events are read from | 500 |
//! | `slice` | turn of a process on the processors, at least 10000; the first process of a machine decides | 2000000 |
//! | `switch` | lost when the processors go from one process to another; the first process decides | 0 |
//!
//! `launch=3300,record=780,mark=700` is about what an H200 was measured to take. `VCUDA_FAKE_NULL` is free of all
//! this.
//!
//! # What was used
//!
//! `vcuda-fake-state`, beside the libraries, prints what GPUs and processes hold as JSON, with the most that was
//! ever in use (`--reset` starts that over), and for how long each GPU worked up to `at_ns`: the time in which
//! anything ran on it, kernels or copies, counted once however much ran beside each other, and only once it has
//! passed. Per GPU: `busy_ns` for all, `processes[].busy_ns` for each that lives, `ended[].busy_ns` for the last
//! 256 that ended, `ended_busy_ns` for all that ever did. Times of two processes may overlap by copies. The
//! same from a test, here what a container used of a second:
//!
//! ```no_run
//! # fn main() -> Result<(), vcuda_fake_machine::MachineError> {
//! let machine = vcuda_fake_machine::Machine::from_environment()?;
//! let before = machine.busy(0);
//! std::thread::sleep(std::time::Duration::from_secs(1));
//! let after = machine.busy(0);
//! let share = (after.busy_ns - before.busy_ns) as f64 / (after.at_ns - before.at_ns) as f64;
//! # let _ = share;
//! # Ok(())
//! # }
//! ```
//!
//! NVML's utilisation, of the GPU, of processes and in samples, is read from the same books, in tenths of a second.
//!
//! # Faults
//!
//! `vcuda-fake-state --xid 1=79` lets a critical error of that number (XID) befall GPU 1, and `--double-bit 1` an error in
//! its memory that can't be corrected, while programs run. Whoever waits for such events through NVML is told of those after
//! it has registered; nothing else follows, the GPU works as before. `--xid 1/3/0=94` is told as of compute instance 0 of
//! GPU instance 3. See `VCUDA_FAKE_LOST` for GPUs that don't answer any more.
//!
//! # Kernels
//!
//! Any PTX or binary is taken; entry functions do nothing for 10 us on all processors, unless they are
//! `fill_u32(address, value, count)` or `saxpy_f32(count, factor, x, y)`, which do what they say, or a
//! comment in the PTX says how long they last, which a real driver doesn't read:
//!
//! ```text
//! // simulated: spin duration_ns=param0       as long as the first parameter says
//! // simulated: step duration_ns=200000       200 us
//! // simulated: part duration_ns=param0 width=25%
//! //                                          beside others of its process, on a quarter of the processors
//! // simulated: wait until=param0 width=10%   until the 32-bit word that the first parameter points to isn't
//! //                                          0 any more, in pinned or device memory, at most 10 s
//! // simulated: image_bytes=209715200         the code takes 200 MiB of the device
//! ```
//!
//! A parameter whose name ends in `duration_ns` says so by itself. A kernel that only waiting ones leave too little
//! room runs in what is left. In a green context, a kernel takes no more than the context's processors, and as
//! much longer.
//!
//! # Checkpoints
//!
//! One process can stop another (`cuCheckpointProcessLock`), put its device memory aside and bring it back, as
//! driver 580 does: a lock waits for the calls under way and all submitted work, or gives up after its timeout;
//! calls of a stopped process wait, and NVML lists nothing of one that is put aside. Managed memory, and memory
//! shared with another process before driver 610, are refused with `CUDA_ERROR_NOT_SUPPORTED`. A restore for which
//! memory is short fails with `CUDA_ERROR_OUT_OF_MEMORY` and loses the process: it stays checkpointed, and every
//! later restore answers `CUDA_ERROR_OPERATING_SYSTEM`. Who may not trace a process may not do any of it. Faults
//! are planned in the environment of whoever calls. A process with `VCUDA_FAKE_NULL` can't be stopped, nor can a
//! process be restored to another GPU.
//!
//! # Not there
//!
//! Functions that aren't implemented are exported and return `CUDA_ERROR_NOT_SUPPORTED` or
//! `NVML_ERROR_NOT_SUPPORTED`: textures and surfaces, graphics and external memory, multicast, sharing of
//! pools and events between processes, mapping of sparse arrays, conditional graph nodes, and
//! the functions of before CUDA 3.2 that take 32-bit addresses. The private tables that NVIDIA's runtime library
//! asks for aren't there either: programs must use the driver API. Priorities of streams change
//! nothing. Memory that another process imported goes back when its maker lets go of it.

mod checkpoint;
mod clock;
mod config;
mod incident;
mod layout;
mod lock;
mod machine;
mod naming;
mod process;
mod region;
mod timeline;
mod times;

pub use checkpoint::{Refusal, Standing};
pub use clock::{doze_until, now_ns, sleep_until};
pub use config::{ConfigError, GpuSpec, parse as parse_gpus};
pub use incident::{Incident, Scene};
pub use layout::{Gpu, OBSTACLE_MANAGED, OBSTACLE_SHARED, OBSTACLE_UNCOUNTED};
pub use machine::{Bytes, Machine, Member, OutOfMemory, ProcessUse};
pub use region::MachineError;
pub use timeline::{
    Busy, DEPTH, Dropped, Engine, Length, LineId, Mark, Progress, Slices, Timeline, Unit, Utilisation,
};
pub use times::Times;
