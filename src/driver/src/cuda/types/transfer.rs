//! Copies, and frames handed to other APIs.

use super::{CUarray, CUarray_format, CUdeviceptr, CUmemorytype};
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
