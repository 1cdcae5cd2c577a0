//! Contexts and launches.

use super::{CUdevice, CUexecAffinityType, CUfunction, CUlaunchAttributeID, CUstream};
use crate::layout::c_structs;
use core::ffi::c_void;

c_structs! {
    /// A share of a device's processors that a context is to have.
    #[derive(Eq, Hash)]
    struct CUexecAffinityParam [8] {
        [0] type_ as type: CUexecAffinityType,
        /// Streaming multiprocessors.
        [4] sm_count as param: u32,
    }

    /// How a context shares the device with a graphics API.
    #[derive(Eq)]
    struct CUctxCigParam [16] {
        [0] sharedDataType: u32,
        [8] sharedData: *mut c_void,
    }

    /// What `cuCtxCreate_v4` is asked for.
    #[derive(Eq)]
    struct CUctxCreateParams [24] {
        [0] execAffinityParams: *mut CUexecAffinityParam,
        [8] numExecAffinityParams: i32,
        [16] cigParams: *mut CUctxCigParam,
    }

    /// An attribute of a launch. What `value` holds is for `id` to say.
    #[derive(Eq)]
    struct CUlaunchAttribute [72] {
        [0] id: CUlaunchAttributeID,
        [4] pad: [u8; 4],
        [8] value: [u64; 8],
    }

    /// Shape of a launch, for `cuLaunchKernelEx`.
    #[derive(Eq)]
    struct CUlaunchConfig [56] {
        [0] gridDimX: u32,
        [4] gridDimY: u32,
        [8] gridDimZ: u32,
        [12] blockDimX: u32,
        [16] blockDimY: u32,
        [20] blockDimZ: u32,
        [24] sharedMemBytes: u32,
        [32] hStream: CUstream,
        [40] attrs: *mut CUlaunchAttribute,
        [48] numAttrs: u32,
    }

    /// One device's part of a launch on several.
    #[derive(Eq)]
    struct CUDA_LAUNCH_PARAMS [56] {
        [0] function: CUfunction,
        [8] gridDimX: u32,
        [12] gridDimY: u32,
        [16] gridDimZ: u32,
        [20] blockDimX: u32,
        [24] blockDimY: u32,
        [28] blockDimZ: u32,
        [32] sharedMemBytes: u32,
        [40] hStream: CUstream,
        [48] kernelParams: *mut *mut c_void,
    }

    /// Properties of a device, as CUDA 2 asked for them.
    #[derive(Eq, Hash)]
    struct CUdevprop [56] {
        [0] maxThreadsPerBlock: i32,
        [4] maxThreadsDim: [i32; 3],
        [16] maxGridSize: [i32; 3],
        [28] sharedMemPerBlock: i32,
        [32] totalConstantMemory: i32,
        [36] SIMDWidth: i32,
        [40] memPitch: i32,
        [44] regsPerBlock: i32,
        [48] clockRate: i32,
        [52] textureAlign: i32,
    }
}

/// No device: the host itself.
pub const CU_DEVICE_CPU: CUdevice = -1;
/// No device at all.
pub const CU_DEVICE_INVALID: CUdevice = -2;
