//! Copies, and frames handed to other APIs.

use super::{CUarray, CUarray_format, CUdeviceptr, CUdeviceptr_v1, CUmemorytype};
use crate::layout::c_structs;
use core::ffi::c_void;

c_structs! {
    /// A copy of a rectangle.
    #[derive(Eq)]
    struct CUDA_MEMCPY2D [128] {
        [0] srcXInBytes: usize,
        [8] srcY: usize,
        [16] srcMemoryType: CUmemorytype,
        [24] srcHost: *const c_void,
        [32] srcDevice: CUdeviceptr,
        [40] srcArray: CUarray,
        [48] srcPitch: usize,
        [56] dstXInBytes: usize,
        [64] dstY: usize,
        [72] dstMemoryType: CUmemorytype,
        [80] dstHost: *mut c_void,
        [88] dstDevice: CUdeviceptr,
        [96] dstArray: CUarray,
        [104] dstPitch: usize,
        [112] WidthInBytes: usize,
        [120] Height: usize,
    }

    /// A copy of a box.
    #[derive(Eq)]
    struct CUDA_MEMCPY3D [200] {
        [0] srcXInBytes: usize,
        [8] srcY: usize,
        [16] srcZ: usize,
        [24] srcLOD: usize,
        [32] srcMemoryType: CUmemorytype,
        [40] srcHost: *const c_void,
        [48] srcDevice: CUdeviceptr,
        [56] srcArray: CUarray,
        [64] reserved0: *mut c_void,
        [72] srcPitch: usize,
        [80] srcHeight: usize,
        [88] dstXInBytes: usize,
        [96] dstY: usize,
        [104] dstZ: usize,
        [112] dstLOD: usize,
        [120] dstMemoryType: CUmemorytype,
        [128] dstHost: *mut c_void,
        [136] dstDevice: CUdeviceptr,
        [144] dstArray: CUarray,
        [152] reserved1: *mut c_void,
        [160] dstPitch: usize,
        [168] dstHeight: usize,
        [176] WidthInBytes: usize,
        [184] Height: usize,
        [192] Depth: usize,
    }

    /// A copy of a rectangle, as before 64-bit sizes.
    #[derive(Eq)]
    struct CUDA_MEMCPY2D_v1 [96] {
        [0] srcXInBytes: u32,
        [4] srcY: u32,
        [8] srcMemoryType: CUmemorytype,
        [16] srcHost: *const c_void,
        [24] srcDevice: CUdeviceptr_v1,
        [32] srcArray: CUarray,
        [40] srcPitch: u32,
        [44] dstXInBytes: u32,
        [48] dstY: u32,
        [52] dstMemoryType: CUmemorytype,
        [56] dstHost: *mut c_void,
        [64] dstDevice: CUdeviceptr_v1,
        [72] dstArray: CUarray,
        [80] dstPitch: u32,
        [84] WidthInBytes: u32,
        [88] Height: u32,
    }

    /// A copy of a box, as before 64-bit sizes.
    #[derive(Eq)]
    struct CUDA_MEMCPY3D_v1 [144] {
        [0] srcXInBytes: u32,
        [4] srcY: u32,
        [8] srcZ: u32,
        [12] srcLOD: u32,
        [16] srcMemoryType: CUmemorytype,
        [24] srcHost: *const c_void,
        [32] srcDevice: CUdeviceptr_v1,
        [40] srcArray: CUarray,
        [48] reserved0: *mut c_void,
        [56] srcPitch: u32,
        [60] srcHeight: u32,
        [64] dstXInBytes: u32,
        [68] dstY: u32,
        [72] dstZ: u32,
        [76] dstLOD: u32,
        [80] dstMemoryType: CUmemorytype,
        [88] dstHost: *mut c_void,
        [96] dstDevice: CUdeviceptr_v1,
        [104] dstArray: CUarray,
        [112] reserved1: *mut c_void,
        [120] dstPitch: u32,
        [124] dstHeight: u32,
        [128] WidthInBytes: u32,
        [132] Height: u32,
        [136] Depth: u32,
    }

    /// One of several copies of boxes.
    #[derive(Eq)]
    struct CUDA_MEMCPY3D_BATCH_OP [112] {
        /// An address or an array, with where in it.
        [0] src: [u64; 5],
        [40] dst: [u64; 5],
        /// Width in bytes (between arrays in elements), height, depth.
        [80] extent: [usize; 3],
        [104] srcAccessOrder: u32,
        [108] flags: u32,
    }

    /// One of several copies over a fabric.
    #[derive(Eq)]
    struct CUDA_FABRIC_COPY_BATCH_OP [64] {
        /// An address or an endpoint, with where in it.
        [0] src: [u64; 3],
        [24] dst: [u64; 3],
        [48] size: usize,
        [56] flags: u32,
    }

    /// One of several pieces to decompress.
    #[derive(Eq)]
    struct CUmemDecompressParams [64] {
        [0] srcNumBytes: usize,
        [8] dstNumBytes: usize,
        [16] dstActBytes: *mut u32,
        [24] src: *const c_void,
        [32] dst: *mut c_void,
        [40] algo: u32,
        [44] padding: [u8; 20],
    }

    /// A frame of an EGL stream.
    #[derive(Eq)]
    struct CUeglFrame [64] {
        /// Arrays or addresses of the planes, as `frameType` says.
        [0] frame: [u64; 3],
        [24] width: u32,
        [28] height: u32,
        [32] depth: u32,
        [36] pitch: u32,
        [40] planeCount: u32,
        [44] numChannels: u32,
        [48] frameType: u32,
        [52] eglColorFormat: u32,
        [56] cuFormat: CUarray_format,
    }
}
