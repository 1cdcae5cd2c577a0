//! Modules and libraries: code and static data take device memory when they are loaded, at once or at the
//! first use of a function, in amounts that only measuring can tell.

use crate::quota::Quota;
use crate::slice;
use vcuda_driver::result::CUresult;

/// Calls that load or unload code: measured right after.
pub fn loading(driver: impl Fn() -> CUresult) -> CUresult {
    driver()?;
    if let Some(slice) = slice::current()? {
        slice.quotas().for_each(Quota::mark_stale);
        slice.measure_stale();
    }
    Ok(())
}

/// Calls that look up a function or variable, which may load it lazily now or at its first launch: the next
/// launch measures.
pub fn lookup(driver: impl Fn() -> CUresult) -> CUresult {
    driver()?;
    if let Some(slice) = slice::current()? {
        slice.quotas().for_each(Quota::mark_stale);
    }
    Ok(())
}
