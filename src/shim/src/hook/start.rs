//! `cuInit`: the moment limits are put into force.

use crate::slice;
use vcuda_driver::result::CUresult;

/// Initialises the driver, then the limits. Bad configuration fails before the driver is touched.
pub fn init(driver: impl Fn() -> CUresult, _flags: u32) -> CUresult {
    if slice::configured().is_err() {
        return slice::start();
    }
    driver()?;
    slice::start()
}
