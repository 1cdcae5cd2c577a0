//! The profiler's switches, which switch nothing.

use vcuda_driver::result::CUresult;

pub fn start() -> CUresult {
    Ok(())
}

pub fn stop() -> CUresult {
    Ok(())
}
