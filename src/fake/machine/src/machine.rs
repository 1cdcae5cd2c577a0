//! The machine as one process sees it: its GPUs, the memory it takes of them, the time it queues on them.

use crate::config::GpuSpec;
use crate::engine::{self, Span};
use crate::layout::{BUSY_SLOT_NS, Gpu, Holding, Layout};
use crate::process::{self, Claim};
use crate::region::{MachineError, Region};
use crate::{clock, lock};
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;

/// A simulated machine, open for looking.
pub struct Machine {
    region: Region,
}

/// This process as a user of a machine's GPUs. Not valid in a forked child.
pub struct Member {
    machine: Machine,
    claim: Claim,
}

/// The GPU has not that much memory left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfMemory;

/// Memory by who is said to have it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bytes {
    /// Taken from the GPU.
    pub device: u64,
    /// Of that, put down to the process in NVML's list.
    pub process: u64,
}

impl Bytes {
    /// The usual case: all of it is the process's.
    pub const fn of_process(bytes: u64) -> Bytes {
        Bytes { device: bytes, process: bytes }
    }
}

/// What NVML lists about a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessUse {
    pub pid: u32,
    pub contexts: i64,
    pub bytes: Bytes,
    pub busy_ns: u64,
}

impl Machine {
    /// Opens the machine that the environment describes, making it if there is none.
    pub fn from_environment() -> Result<Machine, MachineError> {
        Ok(Machine { region: Region::from_environment()? })
    }

    /// Opens the machine of a file, making one with `gpus` if there is none.
    pub fn open_or_create(path: &Path, gpus: &[GpuSpec]) -> Result<Machine, MachineError> {
        Ok(Machine { region: Region::open_or_create(path, gpus)? })
    }

    /// Where the machine's state is kept.
    pub fn path(&self) -> &Path {
        &self.region.path
    }

    /// Enters this process as a user of the GPUs.
    pub fn join(self) -> Result<Member, MachineError> {
        let claim = process::claim(&self.region)?;
        Ok(Member { machine: self, claim })
    }

    fn layout(&self) -> &Layout {
        self.region.layout()
    }

    /// All GPUs.
    pub fn gpus(&self) -> &[Gpu] {
        let layout = self.layout();
        &layout.gpus[..layout.header.gpu_count as usize]
    }

    /// Takes back what dead processes held; true if there was any.
    pub fn reap(&self) -> bool {
        process::reap(&self.region)
    }

    /// The live processes with anything on a GPU, contexts or memory.
    pub fn users(&self, gpu: usize) -> Vec<ProcessUse> {
        self.reap();
        let all = self.layout().processes.iter().map(|slot| {
            let holding = &slot.gpus[gpu];
            ProcessUse {
                pid: slot.pid.load(Relaxed),
                contexts: holding.contexts.load(Relaxed),
                bytes: Bytes {
                    device: holding.device_bytes.load(Relaxed),
                    process: holding.process_bytes.load(Relaxed),
                },
                busy_ns: holding.busy_ns.load(Relaxed),
            }
        });
        all.filter(|user| user.pid != 0 && (user.contexts > 0 || user.bytes.device > 0)).collect()
    }

    /// Forgets past peaks: they start over at what is in use now.
    pub fn reset_peaks(&self) {
        self.reap();
        let layout = self.layout();
        let (_guard, abandoned) = lock::acquire(&layout.header);
        process::repair_if(abandoned, layout);
        for gpu in &layout.gpus {
            gpu.peak_bytes.store(gpu.used_bytes.load(Relaxed), Relaxed);
        }
        for holding in layout.processes.iter().flat_map(|slot| &slot.gpus) {
            holding.peak_device_bytes.store(holding.device_bytes.load(Relaxed), Relaxed);
        }
    }
}

impl Member {
    /// The machine.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// All GPUs.
    pub fn gpus(&self) -> &[Gpu] {
        self.machine.gpus()
    }

    fn holding(&self, gpu: usize) -> &Holding {
        &self.machine.layout().processes[self.claim.index].gpus[gpu]
    }

    /// Takes memory of a GPU, first from dead processes if there is not enough left.
    pub fn take(&self, gpu: usize, bytes: Bytes) -> Result<(), OutOfMemory> {
        let counters = &self.machine.layout().gpus[gpu];
        // The dead hold nothing, but are noticed late: a peak that counted them would be none.
        if counters.used_bytes.load(Relaxed) + bytes.device > counters.peak_bytes.load(Relaxed) {
            self.machine.reap();
        }
        self.try_take(gpu, bytes).or_else(|OutOfMemory| {
            if self.machine.reap() { self.try_take(gpu, bytes) } else { Err(OutOfMemory) }
        })
    }

    fn try_take(&self, gpu: usize, bytes: Bytes) -> Result<(), OutOfMemory> {
        let layout = self.machine.layout();
        let holding = self.holding(gpu);
        let gpu = &layout.gpus[gpu];
        let (_guard, abandoned) = lock::acquire(&layout.header);
        process::repair_if(abandoned, layout);
        let used = gpu.used_bytes.load(Relaxed);
        if bytes.device > gpu.total_bytes.saturating_sub(used) {
            return Err(OutOfMemory);
        }
        let own = holding.device_bytes.fetch_add(bytes.device, Relaxed) + bytes.device;
        holding.process_bytes.fetch_add(bytes.process, Relaxed);
        holding.peak_device_bytes.fetch_max(own, Relaxed);
        gpu.used_bytes.store(used + bytes.device, Relaxed);
        gpu.peak_bytes.fetch_max(used + bytes.device, Relaxed);
        Ok(())
    }

    /// Gives memory back that was taken before.
    pub fn give(&self, gpu: usize, bytes: Bytes) {
        let layout = self.machine.layout();
        let holding = self.holding(gpu);
        let (_guard, abandoned) = lock::acquire(&layout.header);
        process::repair_if(abandoned, layout);
        holding.device_bytes.fetch_sub(bytes.device, Relaxed);
        holding.process_bytes.fetch_sub(bytes.process, Relaxed);
        layout.gpus[gpu].used_bytes.fetch_sub(bytes.device, Relaxed);
    }

    /// Memory that nobody uses.
    pub fn free_bytes(&self, gpu: usize) -> u64 {
        let gpu = &self.gpus()[gpu];
        gpu.total_bytes.saturating_sub(gpu.used_bytes.load(Relaxed))
    }

    /// Counts a context of this process on a GPU, or one fewer.
    pub fn count_contexts(&self, gpu: usize, change: i64) {
        self.holding(gpu).contexts.fetch_add(change, Relaxed);
    }

    /// Queues work on a GPU, behind everything that any process queued before.
    pub fn queue(&self, gpu: usize, earliest_ns: u64, duration_ns: u64) -> Span {
        engine::queue(&self.gpus()[gpu], self.holding(gpu), earliest_ns, duration_ns)
    }
}

impl Gpu {
    /// The name, without padding.
    pub fn name(&self) -> &str {
        let end = self.name.iter().position(|&byte| byte == 0).unwrap_or(self.name.len());
        std::str::from_utf8(&self.name[..end]).unwrap_or("Simulated GPU")
    }

    /// The UUID as NVIDIA's tools write it.
    pub fn uuid_text(&self) -> String {
        let hex: String = self.uuid.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("GPU-{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
    }

    /// Hundredths of the last second for which the GPU worked.
    pub fn utilisation_percent(&self) -> u32 {
        let slots = 1_000_000_000 / BUSY_SLOT_NS;
        let busy = engine::recent_busy_ns(self, clock::now_ns(), slots);
        (busy * 100 / (slots * BUSY_SLOT_NS)).min(100) as u32
    }
}
