//! Streams: creating many takes device memory (measured: 64 take 34 MiB, 128 take 70), a 2 MiB chunk now and
//! then.

use crate::hook::linear::limited_here;
use crate::quota::MAPPING_PAGES;
use vcuda_driver::result::CUresult;

/// Every way to create a stream: a chunk is set aside, and what was really taken is measured.
pub fn create(driver: impl Fn() -> CUresult) -> CUresult {
    let Some((_, quota)) = limited_here()? else { return driver() };
    let reservation = quota.reserve(MAPPING_PAGES)?;
    driver()?;
    if quota.truth.is_proven() {
        reservation.keep_as_overhead();
        quota.measure();
    }
    Ok(())
}
