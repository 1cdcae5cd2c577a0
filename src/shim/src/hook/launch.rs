//! Kernel launches. With a memory quota alone a launch is passed on with a jump, unless something waits to
//! be measured that a launch may have caused: code loaded lazily, a stack grown for a kernel's needs.

use crate::slice;
use vcuda_driver::result::CUresult;

/// Every kind of kernel launch.
pub fn kernel(driver: impl Fn() -> CUresult) -> CUresult {
    let Some(slice) = slice::current()? else { return driver() };
    driver()?;
    slice.measure_stale();
    Ok(())
}
