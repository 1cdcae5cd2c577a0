//! The built libraries' functions, called as a C program calls them: by name, with the table's signatures.

use std::ffi::c_void;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Builds and stages the libraries; the directory that holds them.
pub fn directory() -> &'static Path {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    DIRECTORY.get_or_init(|| {
        // Children of a test get it from their parent.
        if let Some(directory) = std::env::var_os(DIRECTORY_VARIABLE) {
            return directory.into();
        }
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../scripts/fake-driver");
        let output = Command::new(script).output().expect("scripts/fake-driver runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("a path").trim().into()
    })
}

/// Names the directory to children.
pub const DIRECTORY_VARIABLE: &str = "VCUDA_FAKE_TEST_DIRECTORY";

/// The address of a symbol of one of the libraries.
pub fn address(library: &str, name: &str) -> *mut c_void {
    static CUDA: OnceLock<libloading::Library> = OnceLock::new();
    static NVML: OnceLock<libloading::Library> = OnceLock::new();
    let place = if library == "libcuda.so.1" { &CUDA } else { &NVML };
    // SAFETY: the libraries do nothing when loaded.
    let library =
        place.get_or_init(|| unsafe { libloading::Library::new(directory().join(library)) }.unwrap());
    // SAFETY: only the address is taken.
    let symbol = unsafe { library.get::<*mut c_void>(name) };
    *symbol.unwrap_or_else(|error| panic!("{name}: {error}"))
}

macro_rules! import {
    ({ $library:literal } fn $name:ident($($argument:ident: $type:ty),* $(,)?) -> $result:ty) => {
        #[allow(non_snake_case, clippy::too_many_arguments)]
        pub fn $name($($argument: $type),*) -> $result {
            static ADDRESS: OnceLock<usize> = OnceLock::new();
            let address = *ADDRESS.get_or_init(|| address($library, stringify!($name)) as usize);
            // SAFETY: the table says that the symbol is a function of this type; tests call it as the manual
            // asks.
            unsafe { std::mem::transmute::<usize, extern "C" fn($($type),*) -> $result>(address)($($argument),*) }
        }
    };
}

macro_rules! cuda {
    ($($name:ident)*) => { $( vcuda_driver::cuda_signature! { $name, import, { "libcuda.so.1" } } )* };
}

macro_rules! nvml {
    ($($name:ident)*) => { $( vcuda_driver::nvml_signature! { $name, import, { "libnvidia-ml.so.1" } } )* };
}

cuda! {
    cuInit cuDeviceGetCount cuDeviceGetUuid_v2 cuDeviceTotalMem_v2 cuDriverGetVersion
    cuDevicePrimaryCtxRetain cuDevicePrimaryCtxRelease_v2 cuDevicePrimaryCtxReset_v2
    cuCtxCreate_v4 cuCtxDestroy_v2 cuCtxSetCurrent cuCtxSynchronize cuCtxSetLimit
    cuMemAlloc_v2 cuMemFree_v2 cuMemGetInfo_v2 cuMemAllocManaged cuMemAllocPitch_v2 cuMemHostAlloc cuMemFreeHost
    cuMemHostRegister_v2 cuMemHostUnregister
    cuMemcpyHtoD_v2 cuMemcpyDtoH_v2 cuMemsetD8_v2 cuMemsetD32_v2 cuMemcpy2D_v2
    cuMemcpyAtoH_v2 cuMemcpyHtoA_v2
    cuMemAllocAsync cuMemFreeAsync cuDeviceGetDefaultMemPool cuMemPoolGetAttribute cuMemPoolSetAttribute
    cuMemPoolTrimTo cuMemPoolCreate cuMemPoolDestroy cuMemAllocFromPoolAsync
    cuMemCreate cuMemRelease cuMemAddressReserve cuMemAddressFree cuMemMap cuMemUnmap cuMemSetAccess
    cuMemExportToShareableHandle cuMemImportFromShareableHandle
    cuIpcGetMemHandle cuIpcOpenMemHandle_v2 cuIpcCloseMemHandle
    cuArray3DCreate_v2 cuArrayCreate_v2 cuArrayDestroy
    cuStreamCreate cuStreamDestroy_v2 cuStreamSynchronize cuStreamQuery cuStreamWaitEvent
    cuStreamSynchronize_ptsz cuStreamGetId cuStreamGetId_ptsz cuStreamWriteValue32_v2 cuLaunchHostFunc
    cuStreamBeginCapture_v2 cuStreamEndCapture cuStreamIsCapturing cuThreadExchangeStreamCaptureMode
    cuStreamWaitValue32_v2 cuStreamWaitValue64_v2 cuStreamWriteValue64_v2 cuStreamBatchMemOp_v2
    cuGraphAddBatchMemOpNode cuGraphAddMemcpyNode cuMemcpyDtoDAsync_v2 cuMemcpyHtoDAsync_v2 cuMemcpyDtoHAsync_v2
    cuMemsetD8Async cuCtxRecordEvent cuCtxWaitEvent
    cuLaunchKernelEx cuLaunchCooperativeKernel cuLaunchCooperativeKernelMultiDevice
    cuFuncSetBlockShape cuParamSetSize cuParamSetv cuLaunch cuLaunchGrid cuLaunchGridAsync
    cuEventCreate cuEventRecord cuEventQuery cuEventSynchronize cuEventElapsedTime
    cuModuleLoadData cuModuleGetFunction cuModuleUnload cuModuleGetGlobal_v2 cuLaunchKernel
    cuLibraryLoadData cuLibraryGetKernel cuKernelGetFunction
    cuGraphCreate cuGraphAddMemAllocNode cuGraphAddMemFreeNode cuGraphAddKernelNode_v2 cuGraphAddMemsetNode
    cuGraphInstantiateWithFlags cuGraphLaunch cuGraphExecDestroy cuGraphDestroy cuGraphGetNodes
    cuGraphNodeGetType cuGraphKernelNodeGetParams_v2 cuGraphExecKernelNodeSetParams_v2 cuGraphExecUpdate_v2
    cuDeviceGetGraphMemAttribute cuDeviceGraphMemTrim
    cuGetProcAddress_v2 cuGetProcAddress cuGetErrorName cuTexObjectCreate
    cuCheckpointProcessGetState cuCheckpointProcessGetRestoreThreadId cuCheckpointProcessLock
    cuCheckpointProcessCheckpoint cuCheckpointProcessRestore cuCheckpointProcessUnlock
}

nvml! {
    nvmlInit_v2 nvmlShutdown nvmlDeviceGetCount_v2 nvmlDeviceGetHandleByIndex_v2 nvmlDeviceGetMemoryInfo
    nvmlDeviceGetMemoryInfo_v2 nvmlDeviceGetComputeRunningProcesses_v3 nvmlDeviceGetUtilizationRates
    nvmlDeviceGetUUID nvmlDeviceGetTemperature nvmlDeviceGetVbiosVersion nvmlErrorString
    nvmlDeviceGetFanSpeed nvmlDeviceGetSamples
}
