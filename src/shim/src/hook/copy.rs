//! Copies, fills, and whatever else moves bytes: work that is charged to the compute share, like launches.
//!
//! Must never look at what is copied, nor ask the driver about it: all that is known of a call is what its own
//! arguments say. Without a compute share every call here is passed on with a jump.

use crate::compute::{self, DefaultStream};
use crate::edge::In;
use std::ffi::c_void;
use vcuda_driver::cuda::types::*;
use vcuda_driver::result::CUresult;
use vcuda_limiter::cost::Unit;

/// Size of the part that every piece of work has, in bytes that take as long.
pub const FIXED_BYTES: u64 = 64 << 10;
/// What the fixed part is taken to cost before any such work was measured.
const FIXED_NS: u64 = 1_500;

/// A way that bytes go; the cost model learns one price for each.
#[derive(Clone, Copy)]
pub struct Route {
    family: u64,
    /// The guess before any was measured.
    bytes_per_ns: u64,
    /// A call without a stream returns when the work is done.
    has_host: bool,
}

const fn route(number: u64, bytes_per_ns: u64, has_host: bool) -> Route {
    // Mixed well, and never 0.
    Route { family: number.wrapping_mul(0x9e37_79b9_7f4a_7c15), bytes_per_ns, has_host }
}

const FROM_HOST: Route = route(1, 50, true);
const TO_HOST: Route = route(2, 50, true);
/// Within a device, arrays included.
const WITHIN: Route = route(3, 1_500, false);
/// Between devices.
pub const BETWEEN: Route = route(4, 300, false);
const FILL: Route = route(5, 1_500, false);
/// The call does not say which way: from the host or to it is what costs most.
pub const UNIFIED: Route = route(6, 50, true);
/// Managed memory brought where it is needed.
pub const MIGRATION: Route = route(7, 50, true);
/// By the processors or by an engine for it.
pub const DECOMPRESSION: Route = route(8, 100, false);
/// A few bytes, written by the front end.
pub const VALUE: Route = route(9, 50, false);

/// Charges the work and has the driver do it. `stream` is what the call says, if it says any.
pub fn moved<D: DefaultStream>(
    stream: Option<CUstream>,
    route: Route,
    bytes: u64,
    driver: &dyn Fn() -> CUresult,
) -> CUresult {
    if bytes == 0 {
        return driver();
    }
    let unit = Unit {
        kind: 0,
        family: route.family,
        size: bytes.saturating_add(FIXED_BYTES),
        guess_ns: FIXED_NS + bytes / route.bytes_per_ns,
        waits: stream.is_none() && route.has_host,
    };
    compute::work(D::name(stream.unwrap_or(CUstream::NULL)), unit, driver)
}

/// A number that the size of a copy is a multiple of.
pub trait Factor {
    /// That number.
    fn factor(self) -> u64;
}

impl Factor for u32 {
    fn factor(self) -> u64 {
        u64::from(self)
    }
}

impl Factor for usize {
    fn factor(self) -> u64 {
        self as u64
    }
}

fn product<const N: usize>(factors: [u64; N]) -> u64 {
    factors.into_iter().fold(1, u64::saturating_mul)
}

/// One body for each order of arguments: those that do not matter here; the value that is filled in, if there is one;
/// factors of the size; after a slash others that do not matter; the stream, if the call names one.
macro_rules! moves {
    (@given) => { None };
    (@given $stream:ident) => { Some($stream) };
    ($($(#[$doc:meta])* $name:ident: $route:ident($($other:ident)* $([$value:ident])?; $($factor:ident)+ $(/ $($after:ident)+)? $(; $stream:ident)?);)*) => { $(
        $(#[$doc])*
        pub fn $name<D: DefaultStream>(
            driver: impl Fn() -> CUresult,
            $($other: impl Sized,)*
            $($value: impl Sized,)?
            $($factor: impl Factor,)+
            $($($after: impl Sized,)+)?
            $($stream: CUstream,)?
        ) -> CUresult {
            let bytes = product([$(size_of_val(&$value) as u64,)? $($factor.factor()),+]);
            moved::<D>(moves!(@given $($stream)?), $route, bytes, &driver)
        }
    )* };
}

moves! {
    /// `cuMemcpyHtoD`.
    from_host: FROM_HOST(_to _from; bytes);
    /// `cuMemcpyHtoDAsync`.
    from_host_on: FROM_HOST(_to _from; bytes; stream);
    /// `cuMemcpyHtoA`.
    host_to_array: FROM_HOST(_to _offset _from; bytes);
    /// `cuMemcpyHtoAAsync`.
    host_to_array_on: FROM_HOST(_to _offset _from; bytes; stream);
    /// `cuMemcpyDtoH`.
    to_host: TO_HOST(_to _from; bytes);
    /// `cuMemcpyDtoHAsync`.
    to_host_on: TO_HOST(_to _from; bytes; stream);
    /// `cuMemcpyAtoH`.
    array_to_host: TO_HOST(_to _from _offset; bytes);
    /// `cuMemcpyAtoHAsync`.
    array_to_host_on: TO_HOST(_to _from _offset; bytes; stream);
    /// `cuMemcpyDtoD`.
    within: WITHIN(_to _from; bytes);
    /// `cuMemcpyDtoDAsync`.
    within_on: WITHIN(_to _from; bytes; stream);
    /// `cuMemcpyDtoA` and `cuMemcpyAtoD`.
    with_array: WITHIN(_to _from _offset; bytes);
    /// `cuMemcpyAtoA`.
    between_arrays: WITHIN(_to _to_offset _from _from_offset; bytes);
    /// `cuMemcpyPeer`.
    between: BETWEEN(_to _to_context _from _from_context; bytes);
    /// `cuMemcpyPeerAsync`.
    between_on: BETWEEN(_to _to_context _from _from_context; bytes; stream);
    /// `cuMemcpy`.
    unified: UNIFIED(_to _from; bytes);
    /// `cuMemcpyAsync`.
    unified_on: UNIFIED(_to _from; bytes; stream);
    /// `cuMemcpyWithAttributesAsync`.
    unified_with_attributes: UNIFIED(_to _from; bytes / _attributes; stream);
    /// `cuMemPrefetchAsync`.
    prefetch: MIGRATION(_from; bytes / _to; stream);
    /// `cuMemPrefetchAsync_v2`.
    prefetch_to: MIGRATION(_from; bytes / _to _flags; stream);
    /// `cuMemsetD8`, `D16` and `D32`.
    fill: FILL(_to [value]; count);
    /// `cuMemsetD8Async`, `D16` and `D32`.
    fill_on: FILL(_to [value]; count; stream);
    /// `cuMemsetD2D8`, `D16` and `D32`.
    fill_rectangle: FILL(_to _pitch [value]; width height);
    /// `cuMemsetD2D8Async`, `D16` and `D32`.
    fill_rectangle_on: FILL(_to _pitch [value]; width height; stream);
}

/// A copy's own description.
pub trait Description: Copy {
    /// Kinds of memory: the source's, the destination's.
    fn kinds(&self) -> [CUmemorytype; 2];
    /// How much is copied.
    fn bytes(&self) -> u64;
}

macro_rules! descriptions {
    ($($type:ident($($factor:ident)+);)*) => { $(
        impl Description for $type {
            fn kinds(&self) -> [CUmemorytype; 2] {
                [self.srcMemoryType, self.dstMemoryType]
            }
            fn bytes(&self) -> u64 {
                product([$(self.$factor.factor()),+])
            }
        }
    )* };
}

descriptions! {
    CUDA_MEMCPY2D(WidthInBytes Height);
    CUDA_MEMCPY2D_v1(WidthInBytes Height);
    CUDA_MEMCPY3D(WidthInBytes Height Depth);
    CUDA_MEMCPY3D_v1(WidthInBytes Height Depth);
}

fn described<D: DefaultStream>(
    stream: Option<CUstream>,
    copy: Option<impl Description>,
    driver: &dyn Fn() -> CUresult,
) -> CUresult {
    // Without a description the driver refuses.
    let Some(copy) = copy else { return driver() };
    let on_device = |kind| kind == CU_MEMORYTYPE_DEVICE || kind == CU_MEMORYTYPE_ARRAY;
    let route = match copy.kinds() {
        [CU_MEMORYTYPE_HOST, to] if on_device(to) => FROM_HOST,
        [from, CU_MEMORYTYPE_HOST] if on_device(from) => TO_HOST,
        [from, to] if on_device(from) && on_device(to) => WITHIN,
        _ => UNIFIED,
    };
    moved::<D>(stream, route, copy.bytes(), driver)
}

/// `cuMemcpy2D`, `cuMemcpy2DUnaligned`, `cuMemcpy3D`.
pub fn part<D: DefaultStream>(driver: impl Fn() -> CUresult, copy: In<impl Description>) -> CUresult {
    described::<D>(None, copy.get(), &driver)
}

/// `cuMemcpy2DAsync`, `cuMemcpy3DAsync`.
pub fn part_on<D: DefaultStream>(
    driver: impl Fn() -> CUresult,
    copy: In<impl Description>,
    stream: CUstream,
) -> CUresult {
    described::<D>(Some(stream), copy.get(), &driver)
}

/// `cuMemcpy3DPeer`, whose description differs from that of `cuMemcpy3D` only in naming contexts.
pub fn part_between<D: DefaultStream>(driver: impl Fn() -> CUresult, copy: In<c_void>) -> CUresult {
    described::<D>(None, copy.seen_as::<CUDA_MEMCPY3D>().get(), &driver)
}

/// `cuMemcpy3DPeerAsync`.
pub fn part_between_on<D: DefaultStream>(
    driver: impl Fn() -> CUresult,
    copy: In<c_void>,
    stream: CUstream,
) -> CUresult {
    described::<D>(Some(stream), copy.seen_as::<CUDA_MEMCPY3D>().get(), &driver)
}
