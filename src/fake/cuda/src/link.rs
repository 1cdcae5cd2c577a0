//! Links: nothing is linked, the first image that is added is the result.

use crate::context::Context;
use crate::edge::{FromC, Out};
use crate::raw;
use crate::slab::{Slab, handle_of};
use parking_lot::Mutex;
use std::ffi::{c_char, c_void};
use vcuda_driver::cuda::types::*;
use vcuda_driver::result::{CUerror, CUresult};

/// A link in progress: the image.
#[derive(Default)]
pub struct Link(Mutex<Vec<u8>>);

static LINKS: Slab<Link> = Slab::new();

impl FromC<CUlinkState> for &'static Link {
    unsafe fn from_c(value: CUlinkState) -> Result<&'static Link, CUerror> {
        LINKS.get(value.0).ok_or(CUerror::INVALID_HANDLE)
    }
}

pub fn create(_count: u32, _options: *mut u32, _values: *mut *mut c_void, out: Out<CUlinkState>) -> CUresult {
    Context::current()?;
    let link = LINKS.add().ok_or(CUerror::OUT_OF_MEMORY)?;
    link.0.lock().clear();
    out.set(CUlinkState(handle_of(link)));
    Ok(())
}

#[expect(clippy::too_many_arguments, reason = "the driver's own signature")]
pub fn add_data(
    link: &'static Link,
    _kind: u32,
    data: *mut c_void,
    bytes: usize,
    _name: *const c_char,
    _count: u32,
    _options: *mut u32,
    _values: *mut *mut c_void,
) -> CUresult {
    let mut linked = link.0.lock();
    if linked.is_empty() && !data.is_null() {
        *linked = vec![0; bytes + 1];
        raw::copy(linked.as_mut_ptr() as u64, data as u64, bytes);
    }
    Ok(())
}

pub fn complete(link: &'static Link, out: Out<*mut c_void>, bytes: Option<Out<usize>>) -> CUresult {
    let linked = link.0.lock();
    if linked.is_empty() {
        return Err(CUerror::INVALID_IMAGE);
    }
    out.set(linked.as_ptr().cast_mut().cast());
    if let Some(bytes) = bytes {
        bytes.set(linked.len());
    }
    Ok(())
}

pub fn destroy(link: &'static Link) -> CUresult {
    if LINKS.remove(link) { Ok(()) } else { Err(CUerror::INVALID_HANDLE) }
}
