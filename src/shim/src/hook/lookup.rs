//! `cuGetProcAddress` and `cuGetExportTable`: the other ways to the driver's functions.
//!
//! The driver is asked first, so version, stream mode and status are its own; then the pointer it gave is
//! exchanged for the hook of the same ABI symbol. Measured on driver 580.159: every pointer given out is
//! the address of an exported symbol, so the exchange can't pair a caller with another ABI.

use crate::edge::{In, Out};
use crate::export;
use crate::{log, slice};
use std::ffi::{CStr, c_char, c_void};
use std::sync::atomic::{AtomicBool, Ordering};
use vcuda_driver::cuda::resolve;
use vcuda_driver::cuda::types::{CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM, CUuuid};
use vcuda_driver::result::CUresult;
use vcuda_driver::table::Class;

/// `cuGetProcAddress` as CUDA 11.3 to 11.8 have it.
pub fn get_proc_address(
    driver: impl Fn() -> CUresult,
    symbol: In<c_char>,
    function: Out<*mut c_void>,
    version: i32,
    flags: u64,
) -> CUresult {
    driver()?;
    exchange(symbol.text(), function, version, flags);
    Ok(())
}

/// `cuGetProcAddress` from CUDA 12.0 on, with a status.
pub fn get_proc_address_v2(
    driver: impl Fn() -> CUresult,
    symbol: In<c_char>,
    function: Out<*mut c_void>,
    version: i32,
    flags: u64,
    _status: Out<u32>,
) -> CUresult {
    driver()?;
    exchange(symbol.text(), function, version, flags);
    Ok(())
}

fn exchange(symbol: Option<&CStr>, function: Out<*mut c_void>, version: i32, flags: u64) {
    let Some(given) = function.get().filter(|pointer| !pointer.is_null()) else { return };
    if slice::is_unlimited() {
        return;
    }
    if let Some(hook) = export::find_by_original(given as usize) {
        return function.set(hook.address as *mut c_void);
    }
    let Some(name) = symbol.and_then(|symbol| symbol.to_str().ok()) else { return };
    let per_thread = flags & u64::from(CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM) != 0;
    match resolve::resolve(name, version as u32, per_thread) {
        // A driver that keeps its exported symbols apart from what it hands out.
        Some(known) if known.class == Class::Hook => match export::find_by_name(known.name.as_bytes()) {
            Some(hook) => function.set(hook.address as *mut c_void),
            None => log::error!("{} should be limited and has no hook; please report it", known.name),
        },
        Some(known) => log::debug!("{} handed out, class {:?}", known.name, known.class),
        None if resolve::looks_like_work(name) => report_unknown(name),
        None => log::debug!("{name} handed out, unknown"),
    }
}

/// The driver's private tables: passed on, and noted. What they allocate is found by measuring.
pub fn get_export_table(
    driver: impl Fn() -> CUresult,
    _table: Out<*const c_void>,
    id: In<CUuuid>,
) -> CUresult {
    if let Some(id) = id.get()
        && log::enabled(log::LogLevel::Debug)
    {
        log::debug!("private table {:02x?} handed out", id.bytes);
    }
    driver()
}

/// Says once that the driver has functions this library doesn't limit; `vcuda doctor` lists them.
fn report_unknown(name: &str) {
    static SAID: AtomicBool = AtomicBool::new(false);
    if SAID.swap(true, Ordering::Relaxed) {
        log::debug!("{name} handed out, unknown and not limited");
    } else {
        log::warning!(
            "{name} is newer than this library: what it allocates or launches is not limited; update vcuda, \
             and see vcuda doctor for others"
        );
    }
}
