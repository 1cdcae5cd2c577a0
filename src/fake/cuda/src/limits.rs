//! What contexts can be told: limits, flags, and hints that change nothing here.

use crate::context::Context;
use crate::edge::Out;
use std::sync::atomic::Ordering::Relaxed;
use vcuda_driver::cuda::types::*;
use vcuda_driver::result::{CUerror, CUresult};

pub fn get_flags(out: Out<u32>) -> CUresult {
    out.set(Context::current()?.flags.load(Relaxed));
    Ok(())
}

pub fn set_flags(flags: u32) -> CUresult {
    Context::current()?.flags.store(flags, Relaxed);
    Ok(())
}

pub fn get_limit(out: Out<usize>, limit: u32) -> CUresult {
    let context = Context::current()?;
    match limit {
        3 | 9 => Err(CUerror::UNSUPPORTED_LIMIT),
        0..=8 => {
            out.set(context.holdings.lock().limits[limit as usize] as usize);
            Ok(())
        }
        _ => Err(CUerror::INVALID_VALUE),
    }
}

pub fn set_limit(limit: u32, value: usize) -> CUresult {
    let context = Context::current()?;
    match limit {
        CU_LIMIT_STACK_SIZE => context.holdings.lock().set_stack(context.device(), value as u64),
        3 | 9 => Err(CUerror::UNSUPPORTED_LIMIT),
        1..=8 => {
            context.holdings.lock().limits[limit as usize] = value as u64;
            Ok(())
        }
        _ => Err(CUerror::INVALID_VALUE),
    }
}

pub fn get_cache_config(out: Out<u32>) -> CUresult {
    Context::current()?;
    out.set(0);
    Ok(())
}

/// Caches aren't simulated.
pub fn set_cache_config(_config: u32) -> CUresult {
    Context::current().map(|_| ())
}

/// Banks of shared memory aren't simulated; four bytes is what GPUs of today have.
pub fn get_shared_config(out: Out<u32>) -> CUresult {
    Context::current()?;
    out.set(1);
    Ok(())
}

pub fn reset_persisting_cache() -> CUresult {
    Context::current().map(|_| ())
}

pub fn stream_priority_range(least: Option<Out<i32>>, greatest: Option<Out<i32>>) -> CUresult {
    Context::current()?;
    if let Some(least) = least {
        least.set(0);
    }
    if let Some(greatest) = greatest {
        greatest.set(-5);
    }
    Ok(())
}

pub fn get_exec_affinity(out: Out<CUexecAffinityParam>, kind: u32) -> CUresult {
    let device = Context::current()?.device();
    if kind != 0 {
        return Err(CUerror::UNSUPPORTED_EXEC_AFFINITY);
    }
    out.set(CUexecAffinityParam { type_: kind, sm_count: device.facts().multiprocessors });
    Ok(())
}

/// All simulated GPUs reach each other's memory.
pub fn enable_peer_access(peer: &'static Context, flags: u32) -> CUresult {
    if flags != 0 {
        return Err(CUerror::INVALID_VALUE);
    }
    if std::ptr::eq(Context::current()?.device(), peer.device()) {
        return Err(CUerror::INVALID_DEVICE);
    }
    Ok(())
}

pub fn disable_peer_access(peer: &'static Context) -> CUresult {
    enable_peer_access(peer, 0)
}
