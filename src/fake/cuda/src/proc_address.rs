//! `cuGetProcAddress`: from names to the addresses that this library exports.

use crate::edge::{Out, Text};
use crate::export;
use crate::settings::settings;
use std::ffi::c_void;
use vcuda_driver::cuda::resolve;
use vcuda_driver::cuda::types::*;
use vcuda_driver::result::{CUerror, CUresult};

/// What was found, or why not.
enum Answer {
    Found(*mut c_void),
    Unknown,
    /// The name is known, but no version of it is that old.
    TooOld,
}

fn look_up(name: &str, version: i32, flags: u64) -> Result<Answer, CUerror> {
    let driver_version = settings().driver_version;
    let known_flags =
        u64::from(CU_GET_PROC_ADDRESS_LEGACY_STREAM | CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM);
    // A driver doesn't answer for versions that it can't know.
    if flags & !known_flags != 0 || version > driver_version as i32 {
        return Err(CUerror::INVALID_VALUE);
    }
    let per_thread = flags & u64::from(CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM) != 0;
    // A negative number is taken for a large one.
    let version = u32::try_from(version).unwrap_or(u32::MAX).min(driver_version);
    if let Some(symbol) = resolve::resolve(name, version, per_thread) {
        return Ok(export::address_of(symbol.name).map_or(Answer::Unknown, Answer::Found));
    }
    let exists = resolve::resolve(name, driver_version, per_thread).is_some();
    Ok(if exists { Answer::TooOld } else { Answer::Unknown })
}

pub fn get(name: Text, out: Out<*mut c_void>, version: i32, flags: u64) -> CUresult {
    match look_up(&name.0, version, flags)? {
        Answer::Found(address) => {
            out.set(address);
            Ok(())
        }
        Answer::Unknown | Answer::TooOld => {
            out.set(std::ptr::null_mut());
            Err(CUerror::NOT_FOUND)
        }
    }
}

/// With a place for the status, not finding anything is no error.
pub fn get_v2(
    name: Text,
    out: Out<*mut c_void>,
    version: i32,
    flags: u64,
    status: Option<Out<CUdriverProcAddressQueryResult>>,
) -> CUresult {
    let Some(status) = status else { return get(name, out, version, flags) };
    let (address, code) = match look_up(&name.0, version, flags)? {
        Answer::Found(address) => (address, CU_GET_PROC_ADDRESS_SUCCESS),
        Answer::Unknown => (std::ptr::null_mut(), CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND),
        Answer::TooOld => (std::ptr::null_mut(), CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT),
    };
    out.set(address);
    status.set(code);
    Ok(())
}

/// There are no private tables here; the driver says so of any it doesn't know.
pub fn export_table(_out: Out<*const c_void>, _id: *const CUuuid) -> CUresult {
    Err(CUerror::INVALID_VALUE)
}
