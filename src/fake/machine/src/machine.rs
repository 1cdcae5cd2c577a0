//! The machine as one process sees it: its GPUs, the memory it takes of them, the time it queues on them.

use crate::config::GpuSpec;
use crate::layout::{Gpu, Holding, Layout, MAX_PROCESSES};
use crate::naming::pid_here;
use crate::process::{self, Claim};
use crate::region::{MachineError, Region};
use crate::timeline::{Busy, LineId, Mark, Slices, Timeline};
use crate::{clock, lock};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A simulated machine, open for looking.
pub struct Machine {
    region: Region,
}

/// This process as a user of a machine's GPUs. Not valid in a forked child.
pub struct Member {
    machine: Machine,
    claim: Claim,
    /// When this process last looked for dead ones.
    looked_ns: AtomicU64,
}

/// How long a dead process's work may go on before one that waits notices.
const LOOK_NS: u64 = 1_000_000;

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
    /// Time in which anything of it ran on the GPU.
    pub busy_ns: u64,
}

impl Machine {
    /// Opens the machine that the environment describes, making it if there is none.
    pub fn from_environment() -> Result<Machine, MachineError> {
        Ok(Machine { region: Region::from_environment()? })
    }

    /// Opens the machine of a file, making one with `gpus` if there is none.
    pub fn open_or_create(path: &Path, gpus: &[GpuSpec]) -> Result<Machine, MachineError> {
        Machine::open_or_create_with(path, gpus, Slices::default())
    }

    /// As `open_or_create`, with other turns for processes on a machine that is made.
    pub fn open_or_create_with(
        path: &Path,
        gpus: &[GpuSpec],
        slices: Slices,
    ) -> Result<Machine, MachineError> {
        Ok(Machine { region: Region::open_or_create(path, gpus, slices)? })
    }

    /// Where the machine's state is kept.
    pub fn path(&self) -> &Path {
        &self.region.path
    }

    /// Enters this process as a user of the GPUs.
    pub fn join(self) -> Result<Member, MachineError> {
        let claim = process::claim(&self.region)?;
        Ok(Member { machine: self, claim, looked_ns: AtomicU64::new(0) })
    }

    pub(crate) fn layout(&self) -> &Layout {
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

    /// The live processes that this one sees with anything on a GPU, contexts or memory.
    pub fn users(&self, gpu: usize) -> Vec<ProcessUse> {
        self.reap();
        let busy: [u64; MAX_PROCESSES] =
            self.timeline(|timeline| std::array::from_fn(|process| timeline.busy_ns_of(process, gpu)));
        let using = self.layout().processes.iter().zip(busy).filter_map(|(slot, busy_ns)| {
            let holding = &slot.gpus[gpu];
            let contexts = holding.contexts.load(Relaxed);
            if contexts <= 0 && holding.device_bytes.load(Relaxed) == 0 {
                return None;
            }
            Some(ProcessUse {
                pid: pid_here(slot)?,
                contexts,
                bytes: Bytes {
                    device: holding.device_bytes.load(Relaxed),
                    process: holding.process_bytes.load(Relaxed),
                },
                busy_ns,
            })
        });
        using.collect()
    }

    /// What a GPU did up to now, for all processes and for each. Asking notices processes that died; what they
    /// had queued counts as run until they are noticed.
    pub fn busy(&self, gpu: usize) -> Busy {
        self.reap();
        let pids = std::array::from_fn(|index| self.layout().processes[index].pid.load(Relaxed));
        self.timeline(|timeline| timeline.busy(gpu, &pids))
    }

    /// Hundredths of the last second for which a GPU worked.
    pub fn utilisation_percent(&self, gpu: usize) -> u32 {
        let slots = self.timeline(|timeline| timeline.utilisation(gpu, 10));
        slots.iter().map(|slot| slot.percent).sum::<u32>() / 10
    }

    /// Looks at the time line or changes it, worked out up to now. Keep it short: all processes wait.
    #[inline]
    pub fn timeline<R>(&self, body: impl FnOnce(&mut Timeline) -> R) -> R {
        with_timeline(self.layout(), body)
    }

    /// As `timeline`, at a moment that needn't be now, for machines whose time nobody else tells.
    pub fn timeline_at<R>(&self, now_ns: u64, body: impl FnOnce(&mut Timeline) -> R) -> R {
        with_timeline_at(self.layout(), || now_ns, body)
    }

    /// Forgets past peaks: they start over at what is in use now.
    pub fn reset_peaks(&self) {
        self.reap();
        let layout = self.layout();
        let (_guard, abandoned) = lock::acquire(&layout.header.lock);
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
        let (_guard, abandoned) = lock::acquire(&layout.header.lock);
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
        let (_guard, abandoned) = lock::acquire(&layout.header.lock);
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

    /// The slot of this process, by which the time line knows it.
    pub fn slot(&self) -> usize {
        self.claim.index
    }

    /// Opens a line of work on a GPU for this process; `None` when the machine has no more.
    pub fn open_line(&self, timeline: &mut Timeline, gpu: usize) -> Option<LineId> {
        timeline.open_line(self.slot(), gpu)
    }

    /// Looks at the time line or changes it, worked out up to now.
    #[inline]
    pub fn timeline<R>(&self, body: impl FnOnce(&mut Timeline) -> R) -> R {
        self.machine.timeline(body)
    }

    /// Returns once a place on a line was passed.
    pub fn wait_for(&self, mark: Mark) {
        let estimate =
            || self.timeline(|timeline| (!timeline.is_over(mark)).then(|| timeline.earliest_end_ns(mark)));
        while let Some(estimate_ns) = estimate() {
            self.doze_until(estimate_ns);
        }
    }

    /// Sleeps for a while on the way to `deadline_ns`, which may turn out to be later, and looks now and then
    /// whether those whose work is in the way still live.
    pub fn doze_until(&self, deadline_ns: u64) {
        clock::doze_until(deadline_ns);
        let now_ns = clock::now_ns();
        if now_ns.saturating_sub(self.looked_ns.load(Relaxed)) < LOOK_NS {
            return;
        }
        self.looked_ns.store(now_ns, Relaxed);
        let processes = &self.machine.layout().processes;
        let others = processes.iter().enumerate().filter(|&(index, _)| index != self.slot());
        if others.into_iter().any(|(_, slot)| slot.pid.load(Relaxed) != 0) {
            self.machine.reap();
        }
    }
}

/// Looks at the time line or changes it, worked out up to now.
pub(crate) fn with_timeline<R>(layout: &Layout, body: impl FnOnce(&mut Timeline) -> R) -> R {
    with_timeline_at(layout, clock::now_ns, body)
}

fn with_timeline_at<R>(
    layout: &Layout,
    now_ns: impl FnOnce() -> u64,
    body: impl FnOnce(&mut Timeline) -> R,
) -> R {
    let (_guard, abandoned) = lock::acquire(&layout.header.time_lock);
    // SAFETY: the lock is held, and nobody reaches the time line without it.
    let timeline = unsafe { &mut *layout.timeline.0.get() };
    if abandoned {
        timeline.repair();
    }
    timeline.advance(now_ns());
    body(timeline)
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
}
