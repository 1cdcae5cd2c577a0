//! Memory shared by handle between processes: the maker's descriptor of its window and where in it the
//! memory is. The maker pays for it, and must live as long as it is used.

use crate::backing::{self, window};
use crate::context::Context;
use crate::driver::driver;
use crate::edge::Out;
use crate::raw;
use crate::space::{self, Allocation, Kind};
use std::fs::OpenOptions;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::Ordering::Relaxed;
use vcuda_driver::cuda::types::{CUdeviceptr, CUipcMemHandle};
use vcuda_driver::result::{CUerror, CUresult};
use vcuda_fake_machine::OBSTACLE_SHARED;

/// Pages of the host.
const PAGE_BYTES: u64 = 4096;
const MAGIC: u64 = u64::from_le_bytes(*b"fake ipc");

/// What a handle's bytes hold.
#[repr(C)]
#[derive(Clone, Copy)]
struct Handle {
    magic: u64,
    pid: u32,
    descriptor: i32,
    /// Of the allocation's first page, in the descriptor's file.
    offset: u64,
    /// Whole pages.
    bytes: u64,
    /// Where the allocation begins in them, and its size.
    inset: u64,
    asked_bytes: u64,
    unused: [u64; 2],
}

const _: () = assert!(size_of::<Handle>() == size_of::<CUipcMemHandle>());

pub fn get(out: Out<CUipcMemHandle>, address: CUdeviceptr) -> CUresult {
    driver().member.set_obstacle(OBSTACLE_SHARED, true);
    Context::current()?;
    let found = space::find(address.0).ok_or(CUerror::INVALID_VALUE)?;
    let window = window().filter(|window| window.contains(found.address));
    let Some(window) = window.filter(|_| matches!(found.kind, Kind::Small | Kind::Large)) else {
        return Err(CUerror::INVALID_VALUE);
    };
    let start = found.address / PAGE_BYTES * PAGE_BYTES;
    let inset = found.address - start;
    out.cast::<Handle>().set(Handle {
        magic: MAGIC,
        pid: std::process::id(),
        descriptor: window.file().as_raw_fd(),
        offset: window.offset(start),
        bytes: (inset + found.bytes).next_multiple_of(PAGE_BYTES),
        inset,
        asked_bytes: found.bytes,
        unused: [0; 2],
    });
    Ok(())
}

pub fn open(out: Out<CUdeviceptr>, handle: CUipcMemHandle, flags: u32) -> CUresult {
    let context = Context::current()?;
    if flags > 1 {
        return Err(CUerror::INVALID_VALUE);
    }
    let handle: Handle = raw::read(&raw const handle as u64);
    if handle.magic != MAGIC {
        return Err(CUerror::INVALID_VALUE);
    }
    if handle.pid == std::process::id() {
        return Err(CUerror::INVALID_CONTEXT);
    }
    let path = format!("/proc/{}/fd/{}", handle.pid, handle.descriptor);
    let file = OpenOptions::new().read(true).write(true).open(path).map_err(|_| CUerror::INVALID_VALUE)?;
    let file = OwnedFd::from(file);
    let place = backing::map(0, handle.bytes as usize, &file, handle.offset, 0);
    let place = place.map_err(|_| CUerror::MAP_FAILED)? as u64;
    space::insert(Allocation {
        address: place + handle.inset,
        bytes: handle.asked_bytes,
        ordinal: context.device().ordinal,
        context_id: context.id.load(Relaxed),
        kind: Kind::Imported,
        flags: 0,
        id: space::next_id(),
    });
    driver().member.set_obstacle(OBSTACLE_SHARED, true);
    out.set(CUdeviceptr(place + handle.inset));
    Ok(())
}

pub fn close(address: CUdeviceptr) -> CUresult {
    let context = Context::current()?;
    context.wait();
    let removed = space::remove_if(address.0, |found| found.kind == Kind::Imported);
    unmap(&removed.ok_or(CUerror::INVALID_VALUE)?);
    Ok(())
}

/// Ends the mapping of imported memory: the pages that the allocation lies in, which are all that can be
/// told from it.
pub fn unmap(imported: &Allocation) {
    let start = imported.address / PAGE_BYTES * PAGE_BYTES;
    let end = (imported.address + imported.bytes).next_multiple_of(PAGE_BYTES);
    backing::unmap(start, end - start);
}
