//! One process stops another, puts its memory aside and brings it back.

use crate::api::*;
use crate::driver_test;
use crate::program::*;
use crate::world::{self, Running, World, hold};
use std::ffi::c_void;
use std::io::Write;
use std::ptr::null_mut;
use std::time::{Duration, Instant};
use vcuda_driver::cuda::types::*;
use vcuda_driver::result::{CUerror, CUresult};

const RUNNING: u32 = 0;
const LOCKED: u32 = 1;
const CHECKPOINTED: u32 = 2;

fn state(pid: i32) -> Result<u32, CUerror> {
    let mut state = 99;
    cuCheckpointProcessGetState(pid, &mut state).map(|()| state)
}

fn lock(pid: i32, timeout_ms: u32) -> CUresult {
    let mut args = CUcheckpointLockArgs { timeoutMs: timeout_ms, ..CUcheckpointLockArgs::default() };
    cuCheckpointProcessLock(pid, &raw mut args)
}

fn checkpoint(pid: i32) -> CUresult {
    cuCheckpointProcessCheckpoint(pid, null_mut())
}

fn restore(pid: i32) -> CUresult {
    cuCheckpointProcessRestore(pid, null_mut())
}

fn unlock(pid: i32) -> CUresult {
    cuCheckpointProcessUnlock(pid, null_mut())
}

fn lock_and_checkpoint(pid: i32) {
    lock(pid, 5000).unwrap();
    checkpoint(pid).unwrap();
}

/// The target's process id, which a body of a test is given as its name.
fn target(body: &str) -> (&str, i32) {
    let (name, pid) = body.split_once(' ').unwrap();
    (name, pid.parse().unwrap())
}

fn run_on(world: &World, name: &str, running: &Running) -> String {
    world.run(&format!("{name} {}", running.child.id()))
}

/// Says that it is ready, and goes on when told to.
fn pause() {
    println!("ready");
    std::io::stdin().read_line(&mut String::new()).unwrap();
}

fn go_on(running: &mut Running) {
    running.child.stdin.as_mut().unwrap().write_all(b"go on\n").unwrap();
}

fn used(world: &World) -> u64 {
    world.state()["gpus"][0]["used"].as_u64().unwrap()
}

#[test]
fn a_process_is_put_aside_and_comes_back_with_its_contents() {
    match world::body().as_deref() {
        Some("target") => {
            begin();
            let memory = alloc(1 << 30);
            write(memory, &[7_u32, 8, 9]);
            pause();
            println!("calling");
            let waited = timed(|| assert_eq!(read::<u32>(memory, 3), [7, 8, 9]));
            println!("waited {}", waited.as_millis());
            hold();
        }
        Some(body) => {
            let (name, pid) = target(body);
            cuInit(0).unwrap();
            match name {
                "aside" => {
                    assert_eq!(state(pid), Ok(RUNNING));
                    assert_eq!(checkpoint(pid), Err(CUerror::ILLEGAL_STATE));
                    assert_eq!(unlock(pid), Err(CUerror::ILLEGAL_STATE));
                    lock(pid, 0).unwrap();
                    assert_eq!(state(pid), Ok(LOCKED));
                    assert_eq!(lock(pid, 0), Err(CUerror::ILLEGAL_STATE));
                    assert_eq!(restore(pid), Err(CUerror::ILLEGAL_STATE));
                    checkpoint(pid).unwrap();
                    assert_eq!(state(pid), Ok(CHECKPOINTED));
                    assert_eq!(unlock(pid), Err(CUerror::ILLEGAL_STATE));
                }
                _ => {
                    let mut thread = 0;
                    cuCheckpointProcessGetRestoreThreadId(pid, &mut thread).unwrap();
                    assert_eq!(thread, pid);
                    restore(pid).unwrap();
                    assert_eq!(state(pid), Ok(LOCKED));
                    unlock(pid).unwrap();
                    assert_eq!(state(pid), Ok(RUNNING));
                }
            }
        }
        None => {
            let world = crate::world!(a_process_is_put_aside_and_comes_back_with_its_contents);
            let mut running = world.start("target");
            let before = used(&world);
            assert!(before > 3 << 29);
            run_on(&world, "aside", &running);
            assert_eq!(used(&world), 0);
            assert_eq!(world.state()["gpus"][0]["processes"].as_array().unwrap().len(), 0);
            go_on(&mut running);
            running.wait_for("calling");
            std::thread::sleep(Duration::from_millis(300));
            run_on(&world, "back", &running);
            assert!(running.wait_for("waited").parse::<u64>().unwrap() >= 250);
            assert_eq!(used(&world), before);
            run_on(&world, "aside", &running);
            drop(running);
            assert_eq!(used(&world), 0, "one that dies leaves nothing behind");
        }
    }
}

#[test]
fn a_lock_waits_for_work_or_gives_up() {
    match world::body().as_deref() {
        Some("target") => {
            begin();
            let (kernel, stream) = (function("spin"), stream());
            spin(kernel, stream, Duration::from_secs(3));
            println!("ready");
            cuStreamSynchronize(stream).unwrap();
            hold();
        }
        Some(body) => {
            let (_, pid) = target(body);
            cuInit(0).unwrap();
            let begin = Instant::now();
            assert_eq!(lock(pid, 100), Err(CUerror::NOT_READY));
            assert!(begin.elapsed() >= Duration::from_millis(100));
            assert_eq!(state(pid), Ok(RUNNING));
            lock(pid, 20_000).unwrap();
            assert!(begin.elapsed() >= Duration::from_millis(500), "the kernel was waited for");
            unlock(pid).unwrap();
        }
        None => {
            let world = crate::world!(a_lock_waits_for_work_or_gives_up);
            let running = world.start("target");
            run_on(&world, "stopper", &running);
        }
    }
}

#[test]
fn a_restore_without_room_loses_the_process() {
    match world::body().as_deref() {
        Some("target") => {
            begin();
            alloc(2 << 30);
            hold();
        }
        Some("neighbour") => {
            begin();
            alloc(2 << 30);
            hold();
        }
        Some(body) => {
            let (name, pid) = target(body);
            cuInit(0).unwrap();
            if name == "aside" {
                return lock_and_checkpoint(pid);
            }
            if name == "short" {
                assert_eq!(restore(pid), Err(CUerror::OUT_OF_MEMORY));
            }
            assert_eq!(restore(pid), Err(CUerror::OPERATING_SYSTEM));
            assert_eq!(state(pid), Ok(CHECKPOINTED));
            assert_eq!(unlock(pid), Err(CUerror::ILLEGAL_STATE));
        }
        None => {
            let world = crate::world!(a_restore_without_room_loses_the_process);
            let running = world.start("target");
            run_on(&world, "aside", &running);
            let neighbour = world.start("neighbour");
            run_on(&world, "short", &running);
            drop(neighbour);
            run_on(&world, "later", &running);
        }
    }
}

#[test]
fn managed_and_shared_memory_are_refused() {
    match world::body().as_deref() {
        Some("managed") => {
            begin();
            let mut memory = CUdeviceptr::NULL;
            cuMemAllocManaged(&mut memory, MIB, 1).unwrap();
            pause();
            cuMemFree_v2(memory).unwrap();
            println!("freed");
            hold();
        }
        Some("shared") => {
            begin();
            cuIpcGetMemHandle(&mut CUipcMemHandle { reserved: [0; 64] }, alloc(4096)).unwrap();
            hold();
        }
        Some(body) => {
            let (name, pid) = target(body);
            cuInit(0).unwrap();
            lock(pid, 5000).unwrap();
            match name {
                "refused" => {
                    assert_eq!(checkpoint(pid), Err(CUerror::NOT_SUPPORTED));
                    assert_eq!(state(pid), Ok(LOCKED));
                    unlock(pid).unwrap();
                }
                _ => checkpoint(pid).unwrap(),
            }
        }
        None => {
            let world = crate::world!(managed_and_shared_memory_are_refused);
            let mut managed = world.start("managed");
            run_on(&world, "refused", &managed);
            go_on(&mut managed);
            managed.wait_for("freed");
            run_on(&world, "accepted", &managed);
            let shared = world.start("shared");
            run_on(&world, "refused", &shared);
            let newer = world.with("VCUDA_FAKE_DRIVER_RELEASE", "610.43.02");
            run_on(&newer, "accepted", &shared);
        }
    }
}

#[test]
fn a_stopper_that_dies_leaves_a_stopped_process() {
    match world::body().as_deref() {
        Some("target") => {
            begin();
            let (kernel, stream) = (function("spin"), stream());
            spin(kernel, stream, Duration::from_millis(600));
            pause();
            println!("calling");
            cuStreamSynchronize(stream).unwrap();
            println!("called");
            hold();
        }
        Some(body) => {
            let (name, pid) = target(body);
            cuInit(0).unwrap();
            if name == "stopper" {
                std::thread::spawn(move || lock(pid, 0));
                std::thread::sleep(Duration::from_millis(50));
                hold();
            }
            assert_eq!(state(pid), Ok(LOCKED));
            unlock(pid).unwrap();
        }
        None => {
            let world = crate::world!(a_stopper_that_dies_leaves_a_stopped_process);
            let mut running = world.start("target");
            drop(world.start(&format!("stopper {}", running.child.id())));
            go_on(&mut running);
            running.wait_for("calling");
            run_on(&world, "successor", &running);
            running.wait_for("called");
        }
    }
}

driver_test! {
    fn a_process_puts_itself_aside() {
        begin();
        let memory = alloc(MIB);
        write(memory, &[1_u8, 2]);
        let pid = std::process::id() as i32;
        lock_and_checkpoint(pid);
        assert_eq!(state(pid), Ok(CHECKPOINTED));
        restore(pid).unwrap();
        unlock(pid).unwrap();
        assert_eq!(read::<u8>(memory, 2), [1, 2]);
    }
}

driver_test! {
    fn gpus_are_named_as_they_are_or_not_at_all() {
        begin();
        let pid = std::process::id() as i32;
        lock_and_checkpoint(pid);
        let mut uuids = [CUuuid::default(); 2];
        cuInit(0).unwrap();
        for (uuid, gpu) in uuids.iter_mut().zip(vcuda_fake_machine::Machine::from_environment().unwrap().gpus()) {
            uuid.bytes = gpu.uuid;
        }
        let restore_with = |pairs: &[(usize, usize)]| {
            let pairs: Vec<_> =
                pairs.iter().map(|&(old, new)| CUcheckpointGpuPair { oldUuid: uuids[old], newUuid: uuids[new] }).collect();
            let mut args = [pairs.as_ptr() as u64, pairs.len() as u64, 0, 0, 0, 0, 0, 0];
            cuCheckpointProcessRestore(pid, args.as_mut_ptr().cast::<c_void>())
        };
        assert_eq!(restore_with(&[(0, 0)]), Err(CUerror::INVALID_VALUE));
        assert_eq!(restore_with(&[(0, 1), (1, 0)]), Err(CUerror::NOT_SUPPORTED));
        restore_with(&[(0, 0), (1, 1)]).unwrap();
        unlock(pid).unwrap();
    }
}

driver_test! {
    fn who_is_not_there_can_t_be_put_aside() {
        assert_eq!(state(1), Err(CUerror::NOT_INITIALIZED));
        cuInit(0).unwrap();
        assert_eq!(state(1), Err(CUerror::OPERATING_SYSTEM), "it uses no GPU");
        assert_eq!(lock(1, 10), Err(CUerror::OPERATING_SYSTEM));
        assert_eq!(state(0), Err(CUerror::INVALID_VALUE));
        assert_eq!(lock(-1, 10), Err(CUerror::INVALID_VALUE));
    }
}

driver_test! {
    fn an_old_driver_knows_no_checkpoints() with ("VCUDA_FAKE_DRIVER_VERSION", "12040") {
        begin();
        assert_eq!(state(std::process::id() as i32), Err(CUerror::NOT_SUPPORTED));
    }
}

driver_test! {
    fn checkpoints_fail_on_demand() with ("VCUDA_FAKE_FAULTS", "cuCheckpointProcessCheckpoint:1=2") {
        begin();
        let pid = std::process::id() as i32;
        lock(pid, 5000).unwrap();
        assert_eq!(checkpoint(pid), Err(CUerror::OUT_OF_MEMORY));
        checkpoint(pid).unwrap();
        restore(pid).unwrap();
        unlock(pid).unwrap();
        alloc(MIB);
    }
}

driver_test! {
    fn a_driver_without_time_can_t_be_stopped() with ("VCUDA_FAKE_NULL", "1") {
        begin();
        assert_eq!(lock(std::process::id() as i32, 10), Err(CUerror::NOT_SUPPORTED));
    }
}
