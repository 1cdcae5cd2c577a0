//! Suspending and resuming one process, this one, against a driver and GPUs of the test's own: what goes wrong on the
//! way, and who waits for what. Several processes on a simulated driver are in `tests/integration/suspend.rs`.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::{Duration, Instant};

use vcuda_core::account::Account;
use vcuda_core::compute::monotonic_ns;
use vcuda_core::control::Control;
use vcuda_core::device::{DeviceIndex, Uuid};
use vcuda_core::slots::Slot;
use vcuda_core::suspension::{MANAGED, Phase, SEVERAL, SHARED, Suspension};
use vcuda_driver::result::{CUerror, CUresult};
use vcuda_suspend::driver::{Checkpoint, ProcessState};
use vcuda_suspend::lease::{Terms, Waiting};
use vcuda_suspend::memory::{DeviceMemory, GpuMemory};
use vcuda_suspend::preflight::Host;
use vcuda_suspend::record::{Record, path_of};
use vcuda_suspend::resume::{Resumed, needs_recovery, recover, resume};
use vcuda_suspend::suspend::{Idle, Request, Suspended, suspend};
use vcuda_suspend::{Error, Slice};

const GIB: u64 = 1 << 30;
const MIB: u64 = 1 << 20;
const LIMIT_BYTES: u64 = 10 * GIB;

/// A driver with one process, and a GPU with others on it.
struct World {
    _directory: tempfile::TempDir,
    control: Arc<Control>,
    device: DeviceIndex,
    gpu: Uuid,
    slot: Slot,
    account: RefCell<Account>,
    state: Cell<ProcessState>,
    /// The function that fails, and how.
    fault: Cell<Option<(&'static str, CUerror)>>,
    total_bytes: u64,
    others_bytes: Cell<u64>,
    release: u32,
    is_split: bool,
    /// What the driver was asked to do.
    calls: RefCell<Vec<&'static str>>,
}

impl World {
    /// A process that holds 4 of its 10 GiB, on a GPU of 20.
    fn new(number: u8) -> World {
        let directory = tempfile::tempdir().unwrap();
        let control = Control::open_or_create(directory.path().join("control")).unwrap();
        // Leases of tests that run at the same time are on different GPUs.
        let mut uuid = [number; 16];
        uuid[..4].copy_from_slice(&std::process::id().to_le_bytes());
        let gpu = Uuid::gpu(uuid);
        let device = control.device(gpu).unwrap();
        control.set_limit_bytes(device, Some(LIMIT_BYTES)).unwrap();
        control.set_physical_bytes(device, 20 * GIB).unwrap();
        let slot = control.claim("python3").unwrap();
        let mut account = slot.account(device).unwrap().unwrap();
        account.reserve(4 * GIB / 4096, LIMIT_BYTES / 4096).unwrap();
        World {
            _directory: directory,
            control,
            device,
            gpu,
            slot,
            account: RefCell::new(account),
            state: Cell::new(ProcessState::Running),
            fault: Cell::new(None),
            total_bytes: 20 * GIB,
            others_bytes: Cell::new(0),
            release: 580,
            is_split: false,
            calls: RefCell::default(),
        }
    }

    fn slice(&self) -> Slice {
        Slice::open(self.control.path()).unwrap()
    }

    fn suspend(&self) -> Result<Suspended, Error> {
        self.suspend_with(None)
    }

    fn suspend_with(&self, idle: Option<Idle>) -> Result<Suspended, Error> {
        let host = Host { available_bytes: Some(64 * GIB), has_mps: false };
        let request = Request { driver: self, host, lock_timeout: Duration::from_secs(1), idle };
        suspend(&self.slice(), &request, &mut self.terms(&[], Some(Duration::ZERO), &mut |_| {}))
    }

    fn terms<'a>(
        &'a self,
        slices: &'a [Arc<Control>],
        timeout: Option<Duration>,
        tell: &'a mut dyn FnMut(&Waiting),
    ) -> Terms<'a> {
        Terms { slices, memory: self, overcommit: false, timeout, tell }
    }

    fn resume(&self, timeout: Option<Duration>, tell: &mut dyn FnMut(&Waiting)) -> Result<Resumed, Error> {
        let slices = [Arc::clone(&self.control)];
        resume(&self.slice(), self, None, &mut self.terms(&slices, timeout, tell))
    }

    fn word(&self) -> Suspension {
        self.control.suspension_words(self.slot.index()).unwrap().load()
    }

    fn used_bytes(&self) -> u64 {
        self.control.used_pages(self.device).unwrap() * 4096
    }

    #[track_caller]
    fn assert_runs(&self) {
        assert_eq!(self.state.get(), ProcessState::Running);
        assert_eq!(self.word().phase(), Phase::Running);
        assert_eq!(self.used_bytes(), 4 * GIB);
        assert!(!path_of(self.control.path()).exists());
        assert_eq!(self.control.held_until_ns(self.device), Ok(0));
    }

    fn step(&self, name: &'static str, from: ProcessState, to: ProcessState) -> CUresult {
        self.calls.borrow_mut().push(name);
        if let Some((faulty, error)) = self.fault.get()
            && faulty == name
        {
            return Err(error);
        }
        if self.state.get() != from {
            return Err(CUerror::ILLEGAL_STATE);
        }
        self.state.set(to);
        Ok(())
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // The lock of a GPU that no machine has.
        let _ = std::fs::remove_file(format!("/dev/shm/.vcuda-lease-{}", self.gpu));
    }
}

impl Checkpoint for World {
    fn state(&self, _pid: u32) -> Result<ProcessState, CUerror> {
        Ok(self.state.get())
    }
    fn lock(&self, _pid: u32, _timeout: Duration) -> CUresult {
        self.step("lock", ProcessState::Running, ProcessState::Locked)
    }
    fn checkpoint(&self, _pid: u32) -> CUresult {
        self.step("checkpoint", ProcessState::Locked, ProcessState::Checkpointed)
    }
    fn restore(&self, _pid: u32) -> CUresult {
        assert!(self.memory(self.gpu).unwrap().free_bytes >= 5 * GIB, "restored without room");
        let until_ns = self.control.held_until_ns(self.device).unwrap();
        assert!(until_ns > monotonic_ns(), "others are held back meanwhile");
        self.step("restore", ProcessState::Checkpointed, ProcessState::Locked)
    }
    fn unlock(&self, _pid: u32) -> CUresult {
        self.step("unlock", ProcessState::Locked, ProcessState::Running)
    }
}

impl DeviceMemory for World {
    fn memory(&self, gpu: Uuid) -> Option<GpuMemory> {
        assert_eq!(gpu, self.gpu);
        let own = if self.state.get() == ProcessState::Checkpointed { 0 } else { 5 * GIB };
        let free_bytes = self.total_bytes.saturating_sub(own + self.others_bytes.get());
        Some(GpuMemory { total_bytes: self.total_bytes, free_bytes })
    }
    fn process_bytes(&self, _gpu: Uuid, pid: u32) -> Option<u64> {
        assert_eq!(pid, std::process::id());
        Some(if self.state.get() == ProcessState::Checkpointed { 0 } else { 5 * GIB })
    }
    fn is_split(&self, _gpu: Uuid) -> bool {
        self.is_split
    }
    fn release(&self) -> Option<u32> {
        Some(self.release)
    }
}

#[test]
fn out_and_back() {
    let world = World::new(1);
    let done = world.suspend().unwrap();
    assert_eq!(done, Suspended { processes: 1, bytes: 5 * GIB, ..Suspended::default() });
    assert_eq!((world.state.get(), world.word().phase()), (ProcessState::Checkpointed, Phase::Suspended));
    assert_eq!(world.used_bytes(), 0);
    assert_eq!(Record::load(world.control.path()).entries[0].gpus, [(world.gpu, 5 * GIB)]);

    let again = world.suspend().unwrap();
    assert_eq!(again, Suspended { already: 1, ..Suspended::default() });
    let done = world.resume(None, &mut |waiting| panic!("{waiting}")).unwrap();
    assert_eq!(done, Resumed { processes: 1, ..Resumed::default() });
    world.assert_runs();
    let again = world.resume(None, &mut |_| {}).unwrap();
    assert_eq!(again, Resumed { running: 1, ..Resumed::default() });
    assert_eq!(*world.calls.borrow(), ["lock", "checkpoint", "restore", "unlock"]);
}

#[test]
fn what_cant_be_suspended_is_refused_untouched() {
    let told = |world: &World| {
        let Err(Error::Refused(problems)) = world.suspend() else { panic!("not refused") };
        world.assert_runs();
        assert!(world.calls.borrow().is_empty());
        problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    };
    let mut world = World::new(2);
    let words = world.control.suspension_words(world.slot.index()).unwrap();
    words.set_obstacle(MANAGED, true);
    assert!(told(&world).contains("managed memory"));
    words.set_obstacle(MANAGED, false);
    words.set_obstacle(SEVERAL, true);
    assert!(told(&world).contains("shares of several GPUs"));
    words.set_obstacle(SEVERAL, false);
    words.set_obstacle(SHARED, true);
    assert!(told(&world).contains("CUDA IPC"));
    world.release = 610;
    world.suspend().unwrap();
    world.resume(None, &mut |_| {}).unwrap();

    let mut world = World::new(3);
    world.is_split = true;
    assert!(told(&world).contains("MIG"));
    world.is_split = false;
    world.release = 560;
    assert!(told(&world).contains("570"));
}

#[test]
fn a_failure_on_the_way_leaves_everything_running() {
    for (fault, error) in [
        ("lock", CUerror::NOT_READY),
        ("checkpoint", CUerror::NOT_SUPPORTED),
        ("checkpoint", CUerror::OUT_OF_MEMORY),
    ] {
        let world = World::new(4);
        world.fault.set(Some((fault, error)));
        let failure = world.suspend().unwrap_err();
        let Error::RolledBack(problem) = failure else { panic!("{failure}") };
        assert!(problem.reason.contains(error.name().unwrap()), "{problem}");
        world.assert_runs();
        world.fault.set(None);
        world.suspend().unwrap();
        world.resume(None, &mut |_| {}).unwrap();
        world.assert_runs();
    }
}

#[test]
fn a_process_that_is_active_again_is_left_alone() {
    let world = World::new(5);
    let words = world.control.suspension_words(world.slot.index()).unwrap();
    let idle = Idle { slot: world.slot.index(), activity: words.activity() };
    words.enter();
    words.leave();
    assert!(world.suspend_with(Some(idle)).unwrap().is_active);
    world.assert_runs();
    assert!(world.calls.borrow().is_empty());
    let idle = Idle { activity: words.activity(), ..idle };
    assert_eq!(world.suspend_with(Some(idle)).unwrap().processes, 1);
    assert!(world.word().is_idle());
    world.suspend().unwrap();
    assert!(!world.word().is_idle(), "suspended by hand from now on");
}

#[test]
fn resuming_waits_for_room() {
    let world = World::new(6);
    world.suspend().unwrap();
    world.others_bytes.set(17 * GIB);
    let begin = Instant::now();
    let failure = world.resume(Some(Duration::from_millis(300)), &mut |_| {}).unwrap_err();
    assert!(begin.elapsed() >= Duration::from_millis(300));
    assert!(
        matches!(failure, Error::TimedOut(_)) && failure.to_string().contains("3072 MiB free"),
        "{failure}"
    );
    assert_eq!((world.state.get(), world.word().phase()), (ProcessState::Checkpointed, Phase::Suspended));
    assert_eq!(world.used_bytes(), 0);

    let mut told = Vec::new();
    let done = world.resume(None, &mut |waiting| {
        told.push(waiting.clone());
        world.others_bytes.set(world.others_bytes.get() - GIB);
    });
    assert_eq!(done.unwrap().processes, 1);
    world.assert_runs();
    assert!(told.len() >= 2, "a margin beside the 5 GiB: {told:?}");
    assert!(told.iter().all(|waiting| matches!(waiting, Waiting::Room { .. })));
}

#[test]
fn resuming_waits_for_what_others_were_promised() {
    let world = World::new(7);
    world.suspend().unwrap();
    let other = Control::open_or_create(world._directory.path().join("other")).unwrap();
    let device = other.device(world.gpu).unwrap();
    other.set_limit_bytes(device, Some(16 * GIB)).unwrap();
    other.set_physical_bytes(device, 20 * GIB).unwrap();
    let neighbour = other.claim("neighbour").unwrap();
    let mut account = neighbour.account(device).unwrap().unwrap();
    account.reserve(GIB / 4096, 16 * GIB / 4096).unwrap();
    world.others_bytes.set(GIB);
    let slices = [Arc::clone(&world.control), Arc::clone(&other)];
    let brief = Some(Duration::from_millis(50));
    let failure = resume(&world.slice(), &world, None, &mut world.terms(&slices, brief, &mut |_| {}));
    let failure = failure.unwrap_err().to_string();
    assert!(
        failure.contains("16384 MiB are promised to other slices") && failure.contains("--overcommit"),
        "{failure}"
    );
    assert_eq!(other.held_until_ns(device), Ok(0));
    let mut none = |_: &Waiting| {};
    let mut terms = Terms { overcommit: true, ..world.terms(&slices, brief, &mut none) };
    assert_eq!(resume(&world.slice(), &world, None, &mut terms).unwrap().processes, 1);
    world.assert_runs();
    assert_eq!(other.held_until_ns(device), Ok(0));
}

#[test]
fn resuming_waits_for_the_slices_own_quota() {
    let world = World::new(8);
    world.suspend().unwrap();
    let second = world.control.claim("second").unwrap();
    let mut account = second.account(world.device).unwrap().unwrap();
    account.reserve(8 * GIB / 4096, LIMIT_BYTES / 4096).unwrap();
    let failure = world.resume(Some(Duration::from_millis(50)), &mut |_| {}).unwrap_err();
    assert!(failure.to_string().contains("others of the slice use 8192 MiB of its 10240 MiB"), "{failure}");
    assert_eq!(world.used_bytes(), 8 * GIB);
    let mut told = 0;
    let slices = [Arc::clone(&world.control)];
    let mut tell = |waiting: &Waiting| {
        assert!(matches!(waiting, Waiting::Quota { .. }));
        told += 1;
        account.release(4 * GIB / 4096).unwrap();
    };
    // The second one, which is this very process too, runs all the time.
    let only = Some(world.slot.index());
    resume(&world.slice(), &world, only, &mut world.terms(&slices, None, &mut tell)).unwrap();
    assert_eq!(told, 1);
    assert_eq!((world.state.get(), world.used_bytes()), (ProcessState::Running, 8 * GIB));
}

#[test]
fn a_restore_that_fails_is_told_and_tried_no_more() {
    let world = World::new(9);
    world.suspend().unwrap();
    world.fault.set(Some(("restore", CUerror::OUT_OF_MEMORY)));
    let failure = world.resume(None, &mut |_| {}).unwrap_err();
    assert!(matches!(&failure, Error::ProcessesLost(lost) if lost.len() == 1), "{failure}");
    assert_eq!(world.word().phase(), Phase::Lost);
    assert_eq!(world.used_bytes(), 0, "it holds nothing");
    let calls = world.calls.borrow().len();
    let failure = world.resume(None, &mut |_| {}).unwrap_err();
    assert!(failure.to_string().contains("end it: kill -9"), "{failure}");
    assert_eq!(world.calls.borrow().len(), calls);
    assert_eq!(world.suspend().unwrap().already, 1);
}

/// What an agent that was killed leaves, at every step of the way out.
#[test]
fn the_next_agent_finishes_or_undoes() {
    use ProcessState::{Checkpointed, Locked, Running};
    for state in [Running, Locked, Checkpointed] {
        for phase in [Phase::Suspending, Phase::Resuming] {
            for is_aside in [false, true] {
                if is_aside && state != Checkpointed {
                    continue;
                }
                let left_half_way = || {
                    let world = World::new(10);
                    world.suspend().unwrap();
                    if !is_aside {
                        world
                            .slice()
                            .control()
                            .claim("agent")
                            .unwrap()
                            .take_back(world.slot.index())
                            .unwrap();
                    }
                    world.state.set(state);
                    world.control.suspension_words(world.slot.index()).unwrap().set_phase(phase, false);
                    assert!(needs_recovery(&world.slice()).unwrap());
                    world
                };
                let world = left_half_way();
                world.resume(None, &mut |_| {}).unwrap();
                world.assert_runs();

                let world = left_half_way();
                assert_eq!(world.suspend().unwrap().processes, 1);
                assert_eq!((world.state.get(), world.word().phase()), (Checkpointed, Phase::Suspended));
                assert_eq!(world.used_bytes(), 0);
                assert_eq!(Record::load(world.control.path()).entries[0].gpus, [(world.gpu, 5 * GIB)]);

                let world = left_half_way();
                let slices = [Arc::clone(&world.control)];
                let mut quiet = |_: &Waiting| {};
                recover(&world.slice(), &world, &mut world.terms(&slices, None, &mut quiet)).unwrap();
                world.assert_runs();
            }
        }
    }
}

#[test]
fn recovery_leaves_alone_what_is_suspended() {
    let world = World::new(11);
    world.suspend().unwrap();
    assert!(!needs_recovery(&world.slice()).unwrap());
    let mut quiet = |_: &Waiting| {};
    recover(&world.slice(), &world, &mut world.terms(&[], None, &mut quiet)).unwrap();
    assert_eq!(world.word().phase(), Phase::Suspended);
}

#[test]
fn one_agent_at_a_time() {
    let world = World::new(12);
    let operation = world.control.begin_operation().unwrap().unwrap();
    assert!(matches!(world.suspend().unwrap_err(), Error::Busy));
    drop(operation);
    world.suspend().unwrap();
}

#[test]
fn a_slice_without_processes_has_nothing_to_suspend() {
    let directory = tempfile::tempdir().unwrap();
    let world = World::new(13);
    let empty = Control::open_or_create(directory.path().join("control")).unwrap();
    let host = Host { available_bytes: None, has_mps: false };
    let request = Request { driver: &world, host, lock_timeout: Duration::from_secs(1), idle: None };
    let mut quiet = |_: &Waiting| {};
    let outcome = suspend(&Slice::of(empty), &request, &mut world.terms(&[], None, &mut quiet));
    assert!(matches!(outcome, Err(Error::NoProcesses)));
}

#[test]
fn what_does_not_fit_into_the_host_is_refused() {
    let world = World::new(14);
    let host = Host { available_bytes: Some(5 * GIB - MIB), has_mps: false };
    let request = Request { driver: &world, host, lock_timeout: Duration::from_secs(1), idle: None };
    let mut quiet = |_: &Waiting| {};
    let outcome = suspend(&world.slice(), &request, &mut world.terms(&[], None, &mut quiet));
    assert!(outcome.unwrap_err().to_string().contains("the host has 5119 MiB left"));
    world.assert_runs();
    world.account.borrow_mut().release(1).unwrap();
}
