//! Copies: of linear memory, rectangles and boxes, between host, device and arrays.

use crate::array;
use crate::context::Context;
use crate::edge::{Items, Out, Plain, Value};
use crate::settings::settings;
use crate::space;
use crate::stream::{self, Stream};
use crate::work::Work;
use crate::{memory, raw};
use std::ffi::c_void;
use vcuda_driver::cuda::types::*;
use vcuda_driver::result::{CUerror, CUresult};
use vcuda_fake_machine::Engine;

/// Bytes per nanosecond between host and device, and within a device.
const HOST_LINK: u64 = 25;
pub const DEVICE_LINK: u64 = 2000;
/// All processors.
pub const WHOLE_GPU: Engine = Engine::Processors { percent: 100 };
/// What every copy or fill takes at least.
pub const OVERHEAD_NS: u64 = 1000;

/// One side of a copy.
#[derive(Clone, Copy)]
pub struct Side {
    address: u64,
    pitch: u64,
    slice: u64,
    is_host: bool,
}

/// A copy of a box of bytes.
#[derive(Clone, Copy)]
pub struct Transfer {
    to: Side,
    from: Side,
    width: u64,
    height: u64,
    depth: u64,
    /// As the program gave it, where a graph may be asked for it.
    pub description: Plain<CUDA_MEMCPY3D>,
}

/// Memory as one line of bytes. An address that the simulated GPU doesn't know is the host's.
pub fn linear(address: u64, bytes: u64, is_device: bool) -> Result<Side, CUerror> {
    let known = space::find(address);
    let is_host = match known {
        Some(found) => found.kind.is_host(),
        None if is_device => return Err(CUerror::INVALID_VALUE),
        None => true,
    };
    if known.is_some() {
        space::check(address, bytes)?;
    }
    if address == 0 {
        return Err(CUerror::INVALID_VALUE);
    }
    Ok(Side { address, pitch: bytes, slice: bytes, is_host })
}

fn line(to: Side, from: Side, bytes: u64) -> Transfer {
    let description = CUDA_MEMCPY3D {
        srcMemoryType: CU_MEMORYTYPE_UNIFIED,
        srcDevice: CUdeviceptr(from.address),
        srcPitch: bytes as usize,
        dstMemoryType: CU_MEMORYTYPE_UNIFIED,
        dstDevice: CUdeviceptr(to.address),
        dstPitch: bytes as usize,
        WidthInBytes: bytes as usize,
        Height: 1,
        Depth: 1,
        ..CUDA_MEMCPY3D::default()
    };
    Transfer { to, from, width: bytes, height: 1, depth: 1, description: Plain(description) }
}

impl Transfer {
    /// The copy of a box.
    pub fn of_box(copy: &CUDA_MEMCPY3D) -> Result<Transfer, CUerror> {
        let (width, height, depth) =
            (copy.WidthInBytes as u64, copy.Height.max(1) as u64, copy.Depth.max(1) as u64);
        let from = side(
            &Place {
                kind: copy.srcMemoryType,
                host: copy.srcHost as u64,
                device: copy.srcDevice.0,
                array: copy.srcArray,
                pitch: copy.srcPitch as u64,
                height: copy.srcHeight as u64,
                at: [copy.srcXInBytes as u64, copy.srcY as u64, copy.srcZ as u64],
            },
            [width, height, depth],
        )?;
        let to = side(
            &Place {
                kind: copy.dstMemoryType,
                host: copy.dstHost as u64,
                device: copy.dstDevice.0,
                array: copy.dstArray,
                pitch: copy.dstPitch as u64,
                height: copy.dstHeight as u64,
                at: [copy.dstXInBytes as u64, copy.dstY as u64, copy.dstZ as u64],
            },
            [width, height, depth],
        )?;
        Ok(Transfer { to, from, width, height, depth, description: Plain(*copy) })
    }

    fn bytes(&self) -> u64 {
        self.width * self.height * self.depth
    }

    fn involves_host(&self) -> bool {
        self.to.is_host || self.from.is_host
    }

    /// What does the copy: within a device, the processors.
    fn engine(&self) -> Engine {
        match (self.from.is_host, self.to.is_host) {
            (true, true) => Engine::None,
            (true, false) => Engine::FromHost,
            (false, true) => Engine::ToHost,
            (false, false) => WHOLE_GPU,
        }
    }

    /// Queues the copy.
    pub fn run(&self, stream: &'static Stream) -> CUresult {
        if settings().has_contents {
            self.move_bytes();
        }
        for side in [self.to, self.from] {
            if !side.is_host {
                memory::touch(side.address);
            }
        }
        let link = if self.involves_host() { HOST_LINK } else { DEVICE_LINK };
        stream.queue_work(self.engine(), OVERHEAD_NS + self.bytes() / link)
    }

    fn move_bytes(&self) {
        for z in 0..self.depth {
            for y in 0..self.height {
                let to = self.to.address + z * self.to.slice + y * self.to.pitch;
                let from = self.from.address + z * self.from.slice + y * self.from.pitch;
                raw::copy(to, from, self.width as usize);
            }
        }
    }

    /// Queues the copy and, where the host is part of it, waits for it.
    fn run_now(self) -> CUresult {
        let stream = stream::find(CUstream::NULL)?;
        let waits = self.involves_host();
        Work::Transfer(Box::new(self)).submit(stream)?;
        if waits { stream.wait() } else { Ok(()) }
    }
}

/// One side of a copy as the program describes it.
struct Place {
    kind: CUmemorytype,
    host: u64,
    device: u64,
    array: CUarray,
    pitch: u64,
    height: u64,
    at: [u64; 3],
}

fn side(place: &Place, [width, height, depth]: [u64; 3]) -> Result<Side, CUerror> {
    let [x, y, z] = place.at;
    if place.kind == CU_MEMORYTYPE_ARRAY {
        let shape = array::find(place.array)?.shape();
        if x + width > shape.pitch || y + height > shape.height || z + depth > shape.depth {
            return Err(CUerror::INVALID_VALUE);
        }
        let slice = shape.pitch * shape.height;
        let address = shape.address + z * slice + y * shape.pitch + x;
        return Ok(Side { address, pitch: shape.pitch, slice, is_host: false });
    }
    let pitch = if place.pitch == 0 { width } else { place.pitch };
    let slice = pitch * if place.height == 0 { height } else { place.height };
    if pitch < width {
        return Err(CUerror::INVALID_VALUE);
    }
    let (base, is_device) = match place.kind {
        CU_MEMORYTYPE_HOST => (place.host, false),
        CU_MEMORYTYPE_DEVICE => (place.device, true),
        CU_MEMORYTYPE_UNIFIED => (place.device, false),
        _ => return Err(CUerror::INVALID_VALUE),
    };
    let address = base + z * slice + y * pitch + x;
    let bytes = (depth - 1) * slice + (height - 1) * pitch + width;
    Ok(Side { pitch, slice, ..linear(address, bytes, is_device)? })
}

/// From a rectangle's description to a box's.
fn as_box(copy: &CUDA_MEMCPY2D) -> CUDA_MEMCPY3D {
    CUDA_MEMCPY3D {
        srcXInBytes: copy.srcXInBytes,
        srcY: copy.srcY,
        srcMemoryType: copy.srcMemoryType,
        srcHost: copy.srcHost,
        srcDevice: copy.srcDevice,
        srcArray: copy.srcArray,
        srcPitch: copy.srcPitch,
        dstXInBytes: copy.dstXInBytes,
        dstY: copy.dstY,
        dstMemoryType: copy.dstMemoryType,
        dstHost: copy.dstHost,
        dstDevice: copy.dstDevice,
        dstArray: copy.dstArray,
        dstPitch: copy.dstPitch,
        WidthInBytes: copy.WidthInBytes,
        Height: copy.Height,
        Depth: 1,
        ..CUDA_MEMCPY3D::default()
    }
}

/// Checks for a context first: without one, no address means anything.
fn checked(to: (u64, bool), from: (u64, bool), bytes: usize) -> Result<Option<Transfer>, CUerror> {
    Context::current()?.check()?;
    if bytes == 0 {
        return Ok(None);
    }
    let bytes = bytes as u64;
    let (to, from) = (linear(to.0, bytes, to.1)?, linear(from.0, bytes, from.1)?);
    Ok(Some(line(to, from, bytes)))
}

fn now(to: (u64, bool), from: (u64, bool), bytes: usize) -> CUresult {
    checked(to, from, bytes)?.map_or(Ok(()), Transfer::run_now)
}

fn later(to: (u64, bool), from: (u64, bool), bytes: usize, stream: &'static Stream) -> CUresult {
    checked(to, from, bytes)?.map_or(Ok(()), |transfer| Work::Transfer(Box::new(transfer)).submit(stream))
}

pub fn unified(to: CUdeviceptr, from: CUdeviceptr, bytes: usize) -> CUresult {
    now((to.0, false), (from.0, false), bytes)
}

pub fn unified_async(to: CUdeviceptr, from: CUdeviceptr, bytes: usize, stream: &'static Stream) -> CUresult {
    later((to.0, false), (from.0, false), bytes, stream)
}

pub fn host_to_device(to: CUdeviceptr, from: *const c_void, bytes: usize) -> CUresult {
    now((to.0, true), (from as u64, false), bytes)
}

pub fn host_to_device_async(
    to: CUdeviceptr,
    from: *const c_void,
    bytes: usize,
    stream: &'static Stream,
) -> CUresult {
    later((to.0, true), (from as u64, false), bytes, stream)
}

pub fn device_to_host(to: *mut c_void, from: CUdeviceptr, bytes: usize) -> CUresult {
    now((to as u64, false), (from.0, true), bytes)
}

pub fn device_to_host_async(
    to: *mut c_void,
    from: CUdeviceptr,
    bytes: usize,
    stream: &'static Stream,
) -> CUresult {
    later((to as u64, false), (from.0, true), bytes, stream)
}

pub fn device_to_device(to: CUdeviceptr, from: CUdeviceptr, bytes: usize) -> CUresult {
    now((to.0, true), (from.0, true), bytes)
}

pub fn device_to_device_async(
    to: CUdeviceptr,
    from: CUdeviceptr,
    bytes: usize,
    stream: &'static Stream,
) -> CUresult {
    later((to.0, true), (from.0, true), bytes, stream)
}

/// Addresses are unique across simulated GPUs, so the contexts say nothing more.
pub fn peer(
    to: CUdeviceptr,
    _to_context: &'static Context,
    from: CUdeviceptr,
    _from_context: &'static Context,
    bytes: usize,
) -> CUresult {
    now((to.0, true), (from.0, true), bytes)
}

/// As `peer`.
pub fn peer_async(
    to: CUdeviceptr,
    _to_context: &'static Context,
    from: CUdeviceptr,
    _from_context: &'static Context,
    bytes: usize,
    stream: &'static Stream,
) -> CUresult {
    later((to.0, true), (from.0, true), bytes, stream)
}

pub fn rectangle(copy: Value<CUDA_MEMCPY2D>) -> CUresult {
    boxed(Value(as_box(&copy.0)))
}

pub fn rectangle_async(copy: Value<CUDA_MEMCPY2D>, stream: &'static Stream) -> CUresult {
    boxed_async(Value(as_box(&copy.0)), stream)
}

pub fn boxed(copy: Value<CUDA_MEMCPY3D>) -> CUresult {
    Context::current()?.check()?;
    if copy.0.WidthInBytes == 0 {
        return Ok(());
    }
    Transfer::of_box(&copy.0)?.run_now()
}

pub fn boxed_async(copy: Value<CUDA_MEMCPY3D>, stream: &'static Stream) -> CUresult {
    if copy.0.WidthInBytes == 0 {
        return Ok(());
    }
    Work::Transfer(Box::new(Transfer::of_box(&copy.0)?)).submit(stream)
}

/// Descriptions of copies between contexts are those of boxes with the contexts where others have nothing.
fn peer_box(copy: *const c_void) -> Result<Value<CUDA_MEMCPY3D>, CUerror> {
    if copy.is_null() { Err(CUerror::INVALID_VALUE) } else { Ok(Value(raw::read(copy as u64))) }
}

pub fn boxed_peer(copy: *const c_void) -> CUresult {
    boxed(peer_box(copy)?)
}

pub fn boxed_peer_async(copy: *const c_void, stream: &'static Stream) -> CUresult {
    boxed_async(peer_box(copy)?, stream)
}

/// A place in an array as part of a box's description.
fn in_array(array: CUarray, offset: usize, bytes: usize) -> Result<(u64, u64), CUerror> {
    let shape = array::find(array)?.shape();
    if (offset + bytes) as u64 > shape.pitch * shape.height * shape.depth {
        return Err(CUerror::INVALID_VALUE);
    }
    Ok((shape.address + offset as u64, bytes as u64))
}

fn array_side(array: CUarray, offset: usize, bytes: usize) -> Result<Side, CUerror> {
    let (address, bytes) = in_array(array, offset, bytes)?;
    Ok(Side { address, pitch: bytes, slice: bytes, is_host: false })
}

pub fn array_to_array(
    to: CUarray,
    to_offset: usize,
    from: CUarray,
    from_offset: usize,
    bytes: usize,
) -> CUresult {
    Context::current()?.check()?;
    line(array_side(to, to_offset, bytes)?, array_side(from, from_offset, bytes)?, bytes as u64).run_now()
}

pub fn array_to_device(to: CUdeviceptr, from: CUarray, offset: usize, bytes: usize) -> CUresult {
    Context::current()?.check()?;
    line(linear(to.0, bytes as u64, true)?, array_side(from, offset, bytes)?, bytes as u64).run_now()
}

pub fn device_to_array(to: CUarray, offset: usize, from: CUdeviceptr, bytes: usize) -> CUresult {
    Context::current()?.check()?;
    line(array_side(to, offset, bytes)?, linear(from.0, bytes as u64, true)?, bytes as u64).run_now()
}

pub fn array_to_host(to: *mut c_void, from: CUarray, offset: usize, bytes: usize) -> CUresult {
    Context::current()?.check()?;
    line(linear(to as u64, bytes as u64, false)?, array_side(from, offset, bytes)?, bytes as u64).run_now()
}

pub fn host_to_array(to: CUarray, offset: usize, from: *const c_void, bytes: usize) -> CUresult {
    Context::current()?.check()?;
    line(array_side(to, offset, bytes)?, linear(from as u64, bytes as u64, false)?, bytes as u64).run_now()
}

pub fn array_to_host_async(
    to: *mut c_void,
    from: CUarray,
    offset: usize,
    bytes: usize,
    stream: &'static Stream,
) -> CUresult {
    let (to, from) = (linear(to as u64, bytes as u64, false)?, array_side(from, offset, bytes)?);
    Work::Transfer(Box::new(line(to, from, bytes as u64))).submit(stream)
}

pub fn host_to_array_async(
    to: CUarray,
    offset: usize,
    from: *const c_void,
    bytes: usize,
    stream: &'static Stream,
) -> CUresult {
    let (to, from) = (array_side(to, offset, bytes)?, linear(from as u64, bytes as u64, false)?);
    Work::Transfer(Box::new(line(to, from, bytes as u64))).submit(stream)
}

#[expect(clippy::too_many_arguments, reason = "the driver's own signature")]
pub fn batch_v2(
    to: Items<CUdeviceptr>,
    from: Items<CUdeviceptr>,
    bytes: Items<usize>,
    count: usize,
    _attributes: *mut c_void,
    _indices: Items<usize>,
    _attribute_count: usize,
    stream: &'static Stream,
) -> CUresult {
    for ((to, from), bytes) in to.first(count).into_iter().zip(from.first(count)).zip(bytes.first(count)) {
        unified_async(to, from, bytes, stream)?;
    }
    Ok(())
}

#[expect(clippy::too_many_arguments, reason = "the driver's own signature")]
pub fn batch(
    to: Items<CUdeviceptr>,
    from: Items<CUdeviceptr>,
    bytes: Items<usize>,
    count: usize,
    attributes: *mut c_void,
    indices: Items<usize>,
    attribute_count: usize,
    failed: Option<Out<usize>>,
    stream: &'static Stream,
) -> CUresult {
    batch_v2(to, from, bytes, count, attributes, indices, attribute_count, stream).inspect_err(|_| {
        if let Some(failed) = failed {
            failed.set(usize::MAX);
        }
    })
}
