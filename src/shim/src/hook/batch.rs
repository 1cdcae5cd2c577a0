//! Several copies, prefetches or small writes in one call: charged as one piece of work of their size in all.
//!
//! Like [`copy`](crate::hook::copy), must never look at more than the call's own arguments.

use crate::compute::{self, DefaultStream};
use crate::edge::Out;
use crate::hook::copy::{
    BETWEEN, DECOMPRESSION, FIXED_BYTES, Factor, MIGRATION, Route, UNIFIED, VALUE, moved,
};
use std::ffi::c_void;
use vcuda_driver::cuda::types::*;
use vcuda_driver::result::CUresult;

/// An operation of a batch.
pub trait Operation: Copy {
    /// How much it moves.
    fn bytes(&self) -> u64;
}

impl Operation for usize {
    fn bytes(&self) -> u64 {
        self.factor()
    }
}

impl Operation for CUDA_MEMCPY3D_BATCH_OP {
    fn bytes(&self) -> u64 {
        let [width, height, depth] = self.extent.map(Factor::factor);
        width.saturating_mul(height).saturating_mul(depth)
    }
}

impl Operation for CUDA_FABRIC_COPY_BATCH_OP {
    fn bytes(&self) -> u64 {
        self.size.factor()
    }
}

impl Operation for CUmemDecompressParams {
    fn bytes(&self) -> u64 {
        self.dstNumBytes.max(self.srcNumBytes).factor()
    }
}

fn batched<D: DefaultStream>(
    stream: CUstream,
    route: Route,
    operations: Out<impl Operation>,
    count: usize,
    driver: &dyn Fn() -> CUresult,
) -> CUresult {
    let sizes = operations.iter(count).map(|operation| operation.bytes().saturating_add(FIXED_BYTES));
    moved::<D>(Some(stream), route, sizes.fold(0, u64::saturating_add), driver)
}

/// `cuMemcpyBatchAsync`.
#[allow(clippy::too_many_arguments)]
pub fn copies<D: DefaultStream>(
    driver: impl Fn() -> CUresult,
    _to: Out<CUdeviceptr>,
    _from: Out<CUdeviceptr>,
    sizes: Out<usize>,
    count: usize,
    _attributes: Out<c_void>,
    _attribute_of: Out<usize>,
    _attribute_count: usize,
    _failed: Out<usize>,
    stream: CUstream,
) -> CUresult {
    batched::<D>(stream, UNIFIED, sizes, count, &driver)
}

/// `cuMemcpyBatchAsync_v2`.
#[allow(clippy::too_many_arguments)]
pub fn copies_v2<D: DefaultStream>(
    driver: impl Fn() -> CUresult,
    _to: Out<CUdeviceptr>,
    _from: Out<CUdeviceptr>,
    sizes: Out<usize>,
    count: usize,
    _attributes: Out<c_void>,
    _attribute_of: Out<usize>,
    _attribute_count: usize,
    stream: CUstream,
) -> CUresult {
    batched::<D>(stream, UNIFIED, sizes, count, &driver)
}

/// `cuMemcpy3DBatchAsync`.
pub fn boxes<D: DefaultStream>(
    driver: impl Fn() -> CUresult,
    count: usize,
    operations: Out<CUDA_MEMCPY3D_BATCH_OP>,
    _failed: Out<usize>,
    _flags: u64,
    stream: CUstream,
) -> CUresult {
    batched::<D>(stream, UNIFIED, operations, count, &driver)
}

/// `cuMemcpy3DBatchAsync_v2`.
pub fn boxes_v2<D: DefaultStream>(
    driver: impl Fn() -> CUresult,
    count: usize,
    operations: Out<CUDA_MEMCPY3D_BATCH_OP>,
    _flags: u64,
    stream: CUstream,
) -> CUresult {
    batched::<D>(stream, UNIFIED, operations, count, &driver)
}

/// `cuMemcpy3DWithAttributesAsync`.
pub fn one_box<D: DefaultStream>(
    driver: impl Fn() -> CUresult,
    operation: Out<CUDA_MEMCPY3D_BATCH_OP>,
    _flags: u64,
    stream: CUstream,
) -> CUresult {
    batched::<D>(stream, UNIFIED, operation, 1, &driver)
}

/// `cuFabricCpyBatchAsync`.
pub fn over_fabric<D: DefaultStream>(
    driver: impl Fn() -> CUresult,
    count: usize,
    operations: Out<CUDA_FABRIC_COPY_BATCH_OP>,
    _flags: u64,
    stream: CUstream,
) -> CUresult {
    batched::<D>(stream, BETWEEN, operations, count, &driver)
}

/// `cuMemPrefetchBatchAsync`, `cuMemDiscardAndPrefetchBatchAsync`.
#[allow(clippy::too_many_arguments)]
pub fn prefetches<D: DefaultStream>(
    driver: impl Fn() -> CUresult,
    _from: Out<CUdeviceptr>,
    sizes: Out<usize>,
    count: usize,
    _to: Out<CUmemLocation>,
    _location_of: Out<usize>,
    _location_count: usize,
    _flags: u64,
    stream: CUstream,
) -> CUresult {
    batched::<D>(stream, MIGRATION, sizes, count, &driver)
}

/// `cuMemBatchDecompressAsync`.
pub fn decompress<D: DefaultStream>(
    driver: impl Fn() -> CUresult,
    operations: Out<CUmemDecompressParams>,
    count: usize,
    _flags: u32,
    _failed: Out<usize>,
    stream: CUstream,
) -> CUresult {
    batched::<D>(stream, DECOMPRESSION, operations, count, &driver)
}

/// `cuStreamWriteValue32` and `64`.
pub fn write_value<D: DefaultStream>(
    driver: impl Fn() -> CUresult,
    stream: CUstream,
    _address: CUdeviceptr,
    value: impl Sized,
    _flags: u32,
) -> CUresult {
    moved::<D>(Some(stream), VALUE, size_of_val(&value) as u64, &driver)
}

/// `cuStreamBatchMemOp`: with a wait among them, the stream may stand still; without one they are small writes.
pub fn values<D: DefaultStream>(
    driver: impl Fn() -> CUresult,
    stream: CUstream,
    count: u32,
    operations: Out<c_void>,
    _flags: u32,
) -> CUresult {
    const WAITS: [u64; 2] = [CU_STREAM_MEM_OP_WAIT_VALUE_32 as u64, CU_STREAM_MEM_OP_WAIT_VALUE_64 as u64];
    // The driver refuses more than 256.
    let mut operations = operations.seen_as::<[u64; 6]>().iter(count.min(256) as usize);
    let waits = operations.any(|[operation, ..]| WAITS.contains(&(operation & u64::from(u32::MAX))));
    if waits {
        return compute::interrupt(D::name(stream), driver);
    }
    moved::<D>(Some(stream), VALUE, u64::from(count) * 8, &driver)
}
