//! Checkpoints: what a program does to another one, or to itself, by process id. What happens to the process is the
//! machine's business; this says it in the driver's codes.

use crate::driver::driver;
use crate::edge::{Items, Out};
use crate::settings::settings;
use std::ffi::c_void;
use std::time::Duration;
use vcuda_driver::cuda::types::{CUcheckpointGpuPair, CUcheckpointLockArgs};
use vcuda_driver::result::{CUerror, CUresult};
use vcuda_fake_machine::{Machine, OBSTACLE_MANAGED, OBSTACLE_SHARED, OBSTACLE_UNCOUNTED, Refusal};

/// The first release that brings shared memory back.
const RELEASE_WITH_SHARING: u32 = 610;
/// The CUDA version that the functions came with.
const VERSION_WITH_CHECKPOINTS: u32 = 12_080;

/// What `cuCheckpointProcessRestore` is told.
#[repr(C)]
#[derive(Clone, Copy)]
struct RestoreArgs {
    pairs: *const CUcheckpointGpuPair,
    pair_count: u32,
    reserved: [u32; 13],
}

fn code(refusal: Refusal) -> CUerror {
    match refusal {
        // As for a process without CUDA, and for one that a failed restore has lost.
        Refusal::NoProcess | Refusal::Lost => CUerror::OPERATING_SYSTEM,
        Refusal::NotPermitted => CUerror::NOT_PERMITTED,
        Refusal::WrongStanding => CUerror::ILLEGAL_STATE,
        Refusal::TimedOut => CUerror::NOT_READY,
        Refusal::OutOfMemory => CUerror::OUT_OF_MEMORY,
    }
}

fn machine() -> Result<&'static Machine, CUerror> {
    let is_known = settings().driver_version >= VERSION_WITH_CHECKPOINTS;
    is_known.then(|| driver().member.machine()).ok_or(CUerror::NOT_SUPPORTED)
}

fn id(pid: i32) -> Result<u32, CUerror> {
    u32::try_from(pid).ok().filter(|&pid| pid != 0).ok_or(CUerror::INVALID_VALUE)
}

pub fn get_state(pid: i32, state: Out<u32>) -> CUresult {
    state.set(machine()?.standing(id(pid)?).map_err(code)? as u32);
    Ok(())
}

/// Every thread of a simulated process can restore it; its first one is told.
pub fn get_restore_thread(pid: i32, thread: Out<i32>) -> CUresult {
    machine()?.standing(id(pid)?).map_err(code)?;
    thread.set(pid);
    Ok(())
}

pub fn lock(pid: i32, args: Option<Out<CUcheckpointLockArgs>>) -> CUresult {
    let args = args.map_or(CUcheckpointLockArgs::default(), |args| args.get());
    if args.reserved0 != 0 || args.reserved1 != [0; 7] {
        return Err(CUerror::INVALID_VALUE);
    }
    let timeout = (args.timeoutMs != 0).then(|| Duration::from_millis(args.timeoutMs.into()));
    let (machine, pid) = (machine()?, id(pid)?);
    if machine.obstacles(pid).map_err(code)? & OBSTACLE_UNCOUNTED != 0 {
        return Err(CUerror::NOT_SUPPORTED);
    }
    machine.stop(pid, timeout).map_err(code)
}

pub fn checkpoint(pid: i32, args: Option<Out<c_void>>) -> CUresult {
    check_reserved(args)?;
    let (machine, pid) = (machine()?, id(pid)?);
    let kept = if settings().release < RELEASE_WITH_SHARING { OBSTACLE_SHARED } else { 0 };
    if machine.obstacles(pid).map_err(code)? & (OBSTACLE_MANAGED | kept) != 0 {
        return Err(CUerror::NOT_SUPPORTED);
    }
    machine.put_aside(pid).map_err(code)
}

/// Pairs of GPUs must name all GPUs, and each GPU as its own successor.
pub fn restore(pid: i32, args: Option<Out<c_void>>) -> CUresult {
    let machine = machine()?;
    if let Some(args) = args {
        let args = args.cast::<RestoreArgs>().get();
        let pairs = Items::at(args.pairs).first(args.pair_count as usize);
        let is_named = |uuid: &[u8; 16]| pairs.iter().any(|pair| pair.oldUuid.bytes == *uuid);
        if !pairs.is_empty() && !machine.gpus().iter().all(|gpu| is_named(&gpu.uuid)) {
            return Err(CUerror::INVALID_VALUE);
        }
        if pairs.iter().any(|pair| pair.oldUuid != pair.newUuid) {
            return Err(CUerror::NOT_SUPPORTED);
        }
    }
    machine.bring_back(id(pid)?).map_err(code)
}

pub fn unlock(pid: i32, args: Option<Out<c_void>>) -> CUresult {
    check_reserved(args)?;
    machine()?.let_go(id(pid)?).map_err(code)
}

/// What is reserved must be zero.
fn check_reserved(args: Option<Out<c_void>>) -> CUresult {
    let is_clear = args.is_none_or(|args| args.cast::<[u64; 8]>().get() == [0; 8]);
    if is_clear { Ok(()) } else { Err(CUerror::INVALID_VALUE) }
}
