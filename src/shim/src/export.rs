//! Every C symbol this library defines in the driver's name, once: which hook body serves which ABI
//! symbols. The signatures come from the generated driver table; nothing is declared here.
//!
//! An exported function either passes the call to the original as it came, with a jump (no limit set, or
//! nothing to do), or runs its body behind the panic guard. `_ptsz` and other variants share a body and
//! keep their own original.
#![allow(unsafe_code, non_upper_case_globals, non_snake_case, clippy::missing_safety_doc)]

use crate::compute::{Legacy, PerThread};
use crate::edge::{Call, IntoSafe, guard};
use crate::hook;
use crate::leaked::Leaked;
use crate::library::{Original, original};
use crate::mode;
use std::arch::naked_asm;
use std::ffi::CStr;
use vcuda_driver::result::{CUerror, NvmlError};
use vcuda_driver::{cuda_signature, nvml_signature};

/// One hooked symbol.
pub struct Hook {
    /// The function this library exports.
    pub address: *const (),
    /// The driver's own, of the same name.
    pub original: &'static Original,
}

// SAFETY: the address is that of a function.
unsafe impl Sync for Hook {}

/// Defines one exported function. The group says when its body runs and what it is given:
///
/// | group | runs | given |
/// |---|---|---|
/// | `always` | always | the call and its arguments |
/// | `limited` | unless the process has no limits | the call and its arguments |
/// | `plain` | unless the process has no limits | the call |
/// | `launch` | when a device has a compute share, or something waits for the next launch | the call and its arguments |
/// | `paced` | when a device has a compute share | the call and its arguments |
/// | `subject` | unless the process has no limits | the call and its first argument |
/// | `paced_plain` | when a device has a compute share | the call |
/// | `paced_subject` | when a device has a compute share | the call and its first argument |
macro_rules! define {
    (@body always $body:path, $driver:ident, $($argument:ident)*) => {
        // SAFETY: these are the running call's own arguments.
        unsafe { $body($driver, $($argument.into_safe()),*) }
    };
    (@body limited $body:path, $driver:ident, $($argument:ident)*) => {
        // SAFETY: as above.
        unsafe { $body($driver, $($argument.into_safe()),*) }
    };
    (@body launch $body:path, $driver:ident, $($argument:ident)*) => {
        // SAFETY: as above.
        unsafe { $body($driver, $($argument.into_safe()),*) }
    };
    (@body paced $body:path, $driver:ident, $($argument:ident)*) => {
        // SAFETY: as above.
        unsafe { $body($driver, $($argument.into_safe()),*) }
    };
    (@body subject $body:path, $driver:ident, $first:ident $($argument:ident)*) => {
        // SAFETY: as above.
        unsafe { $body($driver, $first.into_safe()) }
    };
    (@body paced_subject $body:path, $driver:ident, $first:ident $($argument:ident)*) => {
        // SAFETY: as above.
        unsafe { $body($driver, $first.into_safe()) }
    };
    (@body $group:ident $body:path, $driver:ident, $($argument:ident)*) => {
        $body($driver)
    };
    (@governed $group:ident $errors:ident $body:path, $name:ident($($argument:ident: $type:ty),*) -> $result:ty) => {
        unsafe extern "C" fn governed($($argument: $type),*) -> $result {
            let driver = || {
                type Function = unsafe extern "C" fn($($type),*) -> $result;
                // SAFETY: the slot holds the driver's function of this very ABI symbol (or a stand-in
                // that reads no arguments), whose signature the table gives; and a body runs it within
                // the program's own call only, with its arguments.
                unsafe {
                    std::mem::transmute::<usize, Function>(originals::$name.address())($($argument),*)
                }
            };
            let body = || {
                let driver = Call::new(&driver).into_fn();
                define!(@body $group $body, driver, $($argument)*)
            };
            guard(Err($errors::UNKNOWN), stringify!($name), Call::new(&body))
        }
    };
    ({ always $errors:ident $body:path } fn $name:ident($($argument:ident: $type:ty),* $(,)?) -> $result:ty) => {
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($argument: $type),*) -> $result {
            define!(@governed always $errors $body, $name($($argument: $type),*) -> $result);
            // SAFETY: the program's own call.
            unsafe { governed($($argument),*) }
        }
    };
    ({ $group:ident $errors:ident $body:path } fn $name:ident($($argument:ident: $type:ty),* $(,)?) -> $result:ty) => {
        // In assembly, because only a jump leaves the arguments where they are, on the stack too: passing a
        // call on costs a load, a test and two jumps.
        #[unsafe(no_mangle)]
        #[unsafe(naked)]
        pub unsafe extern "C" fn $name($($argument: $type),*) -> $result {
            define!(@governed $group $errors $body, $name($($argument: $type),*) -> $result);
            naked_asm!(
                "test byte ptr [rip + {mode}], {group}",
                "jnz {governed}",
                "mov rax, qword ptr [rip + {slot} + {address}]",
                "test rax, rax", // not resolved yet
                "jz {governed}",
                "jmp rax",
                mode = sym mode::MODE,
                group = const mode::mask!($group),
                slot = sym originals::$name,
                address = const Original::ADDRESS_OFFSET,
                governed = sym governed,
            )
        }
    };
}

macro_rules! hooks {
    ($($library:ident $errors:ident $signature:ident { $($group:ident { $($body:path: $($name:ident)+;)* })* })*) => {
        mod originals {
            use super::{Original, original};
            $($($($(
                pub static $name: Original = original!($library $name);
            )+)*)*)*
        }
        $($($($( $signature! { $name, define, { $group $errors $body } } )+)*)*)*

        /// Every hooked symbol, in the order written.
        static HOOKS: &[Hook] = &[$($($($(
            Hook { address: $name as *const (), original: &originals::$name },
        )+)*)*)*];
    };
}

hooks! {
    Cuda CUerror cuda_signature {
        always {
            hook::start::init: cuInit;
            hook::lookup::get_proc_address: cuGetProcAddress;
            hook::lookup::get_proc_address_v2: cuGetProcAddress_v2;
            hook::lookup::get_export_table: cuGetExportTable;
        }
        limited {
            hook::information::memory: cuMemGetInfo_v2;
            hook::information::memory_v1: cuMemGetInfo;
            hook::information::total: cuDeviceTotalMem_v2;
            hook::information::total_v1: cuDeviceTotalMem;

            hook::linear::alloc: cuMemAlloc_v2;
            hook::linear::alloc_v1: cuMemAlloc;
            hook::linear::alloc_pitch: cuMemAllocPitch_v2;
            hook::linear::alloc_pitch_v1: cuMemAllocPitch;
            hook::linear::alloc_managed: cuMemAllocManaged;
            hook::linear::free: cuMemFree_v2;
            hook::linear::free_v1: cuMemFree;

            hook::pool::alloc: cuMemAllocAsync cuMemAllocAsync_ptsz;
            hook::pool::alloc_from: cuMemAllocFromPoolAsync cuMemAllocFromPoolAsync_ptsz;
            hook::pool::free: cuMemFreeAsync cuMemFreeAsync_ptsz;
            hook::pool::create: cuMemPoolCreate;
            hook::pool::destroy: cuMemPoolDestroy;
            hook::pool::trim: cuMemPoolTrimTo;
            hook::pool::import: cuMemPoolImportFromShareableHandle;

            hook::physical::create: cuMemCreate;
            hook::physical::release: cuMemRelease;
            hook::physical::map: cuMemMap;
            hook::physical::unmap: cuMemUnmap;
            hook::physical::retain: cuMemRetainAllocationHandle;
            hook::physical::export: cuMemExportToShareableHandle;
            hook::physical::import: cuMemImportFromShareableHandle;

            hook::array::create: cuArrayCreate_v2;
            hook::array::create_v1: cuArrayCreate;
            hook::array::create_3d: cuArray3DCreate_v2;
            hook::array::create_3d_v1: cuArray3DCreate;
            hook::array::destroy: cuArrayDestroy;
            hook::array::create_mipmapped: cuMipmappedArrayCreate;
            hook::array::destroy_mipmapped: cuMipmappedArrayDestroy;

            hook::graph::add_alloc_node: cuGraphAddMemAllocNode;
            hook::graph::add_node: cuGraphAddNode;
            hook::graph::add_node_v2: cuGraphAddNode_v2 cuGraphAddNode_v3;
            hook::graph::instantiate: cuGraphInstantiate cuGraphInstantiate_v2;
            hook::graph::instantiate_with_flags: cuGraphInstantiateWithFlags;
            hook::graph::instantiate_with_params: cuGraphInstantiateWithParams cuGraphInstantiateWithParams_ptsz;
            hook::graph::destroy: cuGraphExecDestroy;
            hook::graph::upload: cuGraphUpload cuGraphUpload_ptsz;
            hook::graph::launch::<Legacy>: cuGraphLaunch;
            hook::graph::launch::<PerThread>: cuGraphLaunch_ptsz;
            hook::graph::trim: cuDeviceGraphMemTrim;

            hook::context::create: cuCtxCreate cuCtxCreate_v2 cuGLCtxCreate cuGLCtxCreate_v2;
            hook::context::create_vdpau: cuVDPAUCtxCreate cuVDPAUCtxCreate_v2;
            hook::context::create_v3: cuCtxCreate_v3;
            hook::context::create_v4: cuCtxCreate_v4;
            hook::context::destroy: cuCtxDestroy cuCtxDestroy_v2 cuCtxDetach;
            hook::context::retain_primary: cuDevicePrimaryCtxRetain;
            hook::context::end_primary:
                cuDevicePrimaryCtxRelease cuDevicePrimaryCtxRelease_v2
                cuDevicePrimaryCtxReset cuDevicePrimaryCtxReset_v2;
            hook::context::set_limit: cuCtxSetLimit;

            hook::module::module: cuModuleLoad cuModuleLoadData cuModuleLoadFatBinary;
            hook::module::module_with_options: cuModuleLoadDataEx;
            hook::module::library: cuLibraryLoadData cuLibraryLoadFromFile;
            hook::module::function: cuModuleGetFunction;
            hook::module::global: cuModuleGetGlobal_v2 cuLibraryGetGlobal cuLibraryGetManaged;
            hook::module::global_v1: cuModuleGetGlobal;
            hook::module::library_kernel: cuLibraryGetKernel;
            hook::module::library_module: cuLibraryGetModule;
            hook::module::kernel_function: cuKernelGetFunction;
            hook::module::load_function: cuFuncLoad;
            hook::context::create_green: cuGreenCtxCreate;
        }
        plain {
            hook::module::unload: cuGreenCtxDestroy cuCtxFromGreenCtx;
            hook::stream::create: cuStreamCreate cuStreamCreateWithPriority cuGreenCtxStreamCreate;
            hook::graph::capture_begins:
                cuStreamBeginCapture cuStreamBeginCapture_ptsz cuStreamBeginCapture_v2 cuStreamBeginCapture_v2_ptsz
                cuStreamBeginCaptureToGraph cuStreamBeginCaptureToGraph_ptsz
                cuStreamBeginCaptureToCig cuStreamBeginCaptureToCig_ptsz
                cuStreamBeginRecaptureToGraph cuStreamBeginRecaptureToGraph_ptsz;
            hook::module::unload: cuModuleUnload cuLibraryUnload;
            hook::module::unsettling: cuDeviceSetMemPool cuMemSetMemPool;
            hook::pool::share:
                cuIpcGetMemHandle cuIpcOpenMemHandle cuIpcOpenMemHandle_v2 cuIpcGetEventHandle cuIpcOpenEventHandle
                cuMemPoolExportToShareableHandle;
        }
        subject {
            hook::stream::destroy: cuStreamDestroy cuStreamDestroy_v2;
            hook::graph::capture_ends::<Legacy>: cuStreamEndCapture cuStreamEndCaptureToCig;
            hook::graph::capture_ends::<PerThread>: cuStreamEndCapture_ptsz cuStreamEndCaptureToCig_ptsz;
            hook::graph::changed:
                cuGraphExecUpdate cuGraphExecUpdate_v2 cuGraphExecNodeSetParams
                cuGraphExecKernelNodeSetParams cuGraphExecKernelNodeSetParams_v2
                cuGraphExecMemcpyNodeSetParams cuGraphExecMemsetNodeSetParams cuGraphExecHostNodeSetParams
                cuGraphExecChildGraphNodeSetParams cuGraphExecEventRecordNodeSetEvent
                cuGraphExecEventWaitNodeSetEvent cuGraphExecExternalSemaphoresSignalNodeSetParams
                cuGraphExecExternalSemaphoresWaitNodeSetParams cuGraphExecBatchMemOpNodeSetParams
                cuGraphNodeSetEnabled;
        }
        launch {
            hook::launch::kernel::<Legacy>: cuLaunchKernel;
            hook::launch::kernel::<PerThread>: cuLaunchKernel_ptsz;
            hook::launch::kernel_ex::<Legacy>: cuLaunchKernelEx;
            hook::launch::kernel_ex::<PerThread>: cuLaunchKernelEx_ptsz;
            hook::launch::cooperative::<Legacy>: cuLaunchCooperativeKernel;
            hook::launch::cooperative::<PerThread>: cuLaunchCooperativeKernel_ptsz;
            hook::launch::cooperative_on_many: cuLaunchCooperativeKernelMultiDevice;
            hook::launch::shapeless: cuLaunch;
            hook::launch::grid: cuLaunchGrid;
            hook::launch::grid_async: cuLaunchGridAsync;
        }
        paced {
            hook::stream::synchronize::<Legacy>: cuStreamSynchronize;
            hook::stream::synchronize::<PerThread>: cuStreamSynchronize_ptsz;
            hook::stream::synchronize_a_context: cuCtxSynchronize_v2;
            hook::stream::synchronize_event: cuEventSynchronize;
            hook::stream::wait_in_context: cuCtxWaitEvent;
            hook::stream::wait_in_green_context: cuGreenCtxWaitEvent;
            hook::stream::wait_for_semaphores::<Legacy>: cuWaitExternalSemaphoresAsync;
            hook::stream::wait_for_semaphores::<PerThread>: cuWaitExternalSemaphoresAsync_ptsz;
            hook::stream::wait_for_graphics::<Legacy>: cuGraphicsMapResources;
            hook::stream::wait_for_graphics::<PerThread>: cuGraphicsMapResources_ptsz;

            hook::copy::from_host::<Legacy>: cuMemcpyHtoD cuMemcpyHtoD_v2;
            hook::copy::from_host::<PerThread>: cuMemcpyHtoD_v2_ptds;
            hook::copy::from_host_on::<Legacy>: cuMemcpyHtoDAsync cuMemcpyHtoDAsync_v2;
            hook::copy::from_host_on::<PerThread>: cuMemcpyHtoDAsync_v2_ptsz;
            hook::copy::host_to_array::<Legacy>: cuMemcpyHtoA cuMemcpyHtoA_v2;
            hook::copy::host_to_array::<PerThread>: cuMemcpyHtoA_v2_ptds;
            hook::copy::host_to_array_on::<Legacy>: cuMemcpyHtoAAsync cuMemcpyHtoAAsync_v2;
            hook::copy::host_to_array_on::<PerThread>: cuMemcpyHtoAAsync_v2_ptsz;
            hook::copy::to_host::<Legacy>: cuMemcpyDtoH cuMemcpyDtoH_v2;
            hook::copy::to_host::<PerThread>: cuMemcpyDtoH_v2_ptds;
            hook::copy::to_host_on::<Legacy>: cuMemcpyDtoHAsync cuMemcpyDtoHAsync_v2;
            hook::copy::to_host_on::<PerThread>: cuMemcpyDtoHAsync_v2_ptsz;
            hook::copy::array_to_host::<Legacy>: cuMemcpyAtoH cuMemcpyAtoH_v2;
            hook::copy::array_to_host::<PerThread>: cuMemcpyAtoH_v2_ptds;
            hook::copy::array_to_host_on::<Legacy>: cuMemcpyAtoHAsync cuMemcpyAtoHAsync_v2;
            hook::copy::array_to_host_on::<PerThread>: cuMemcpyAtoHAsync_v2_ptsz;
            hook::copy::within::<Legacy>: cuMemcpyDtoD cuMemcpyDtoD_v2;
            hook::copy::within::<PerThread>: cuMemcpyDtoD_v2_ptds;
            hook::copy::within_on::<Legacy>: cuMemcpyDtoDAsync cuMemcpyDtoDAsync_v2;
            hook::copy::within_on::<PerThread>: cuMemcpyDtoDAsync_v2_ptsz;
            hook::copy::with_array::<Legacy>: cuMemcpyAtoD cuMemcpyAtoD_v2 cuMemcpyDtoA cuMemcpyDtoA_v2;
            hook::copy::with_array::<PerThread>: cuMemcpyAtoD_v2_ptds cuMemcpyDtoA_v2_ptds;
            hook::copy::between_arrays::<Legacy>: cuMemcpyAtoA cuMemcpyAtoA_v2;
            hook::copy::between_arrays::<PerThread>: cuMemcpyAtoA_v2_ptds;
            hook::copy::between::<Legacy>: cuMemcpyPeer;
            hook::copy::between::<PerThread>: cuMemcpyPeer_ptds;
            hook::copy::between_on::<Legacy>: cuMemcpyPeerAsync;
            hook::copy::between_on::<PerThread>: cuMemcpyPeerAsync_ptsz;
            hook::copy::unified::<Legacy>: cuMemcpy;
            hook::copy::unified::<PerThread>: cuMemcpy_ptds;
            hook::copy::unified_on::<Legacy>: cuMemcpyAsync;
            hook::copy::unified_on::<PerThread>: cuMemcpyAsync_ptsz;
            hook::copy::unified_with_attributes::<Legacy>: cuMemcpyWithAttributesAsync;
            hook::copy::unified_with_attributes::<PerThread>: cuMemcpyWithAttributesAsync_ptsz;
            hook::copy::prefetch::<Legacy>: cuMemPrefetchAsync;
            hook::copy::prefetch::<PerThread>: cuMemPrefetchAsync_ptsz;
            hook::copy::prefetch_to::<Legacy>: cuMemPrefetchAsync_v2;
            hook::copy::prefetch_to::<PerThread>: cuMemPrefetchAsync_v2_ptsz;

            hook::copy::fill::<Legacy>:
                cuMemsetD8 cuMemsetD8_v2 cuMemsetD16 cuMemsetD16_v2 cuMemsetD32 cuMemsetD32_v2;
            hook::copy::fill::<PerThread>: cuMemsetD8_v2_ptds cuMemsetD16_v2_ptds cuMemsetD32_v2_ptds;
            hook::copy::fill_on::<Legacy>: cuMemsetD8Async cuMemsetD16Async cuMemsetD32Async;
            hook::copy::fill_on::<PerThread>: cuMemsetD8Async_ptsz cuMemsetD16Async_ptsz cuMemsetD32Async_ptsz;
            hook::copy::fill_rectangle::<Legacy>:
                cuMemsetD2D8 cuMemsetD2D8_v2 cuMemsetD2D16 cuMemsetD2D16_v2 cuMemsetD2D32 cuMemsetD2D32_v2;
            hook::copy::fill_rectangle::<PerThread>:
                cuMemsetD2D8_v2_ptds cuMemsetD2D16_v2_ptds cuMemsetD2D32_v2_ptds;
            hook::copy::fill_rectangle_on::<Legacy>: cuMemsetD2D8Async cuMemsetD2D16Async cuMemsetD2D32Async;
            hook::copy::fill_rectangle_on::<PerThread>:
                cuMemsetD2D8Async_ptsz cuMemsetD2D16Async_ptsz cuMemsetD2D32Async_ptsz;

            hook::copy::part::<Legacy>:
                cuMemcpy2D cuMemcpy2D_v2 cuMemcpy2DUnaligned cuMemcpy2DUnaligned_v2 cuMemcpy3D cuMemcpy3D_v2;
            hook::copy::part::<PerThread>:
                cuMemcpy2D_v2_ptds cuMemcpy2DUnaligned_v2_ptds cuMemcpy3D_v2_ptds;
            hook::copy::part_on::<Legacy>:
                cuMemcpy2DAsync cuMemcpy2DAsync_v2 cuMemcpy3DAsync cuMemcpy3DAsync_v2;
            hook::copy::part_on::<PerThread>: cuMemcpy2DAsync_v2_ptsz cuMemcpy3DAsync_v2_ptsz;
            hook::copy::part_between::<Legacy>: cuMemcpy3DPeer;
            hook::copy::part_between::<PerThread>: cuMemcpy3DPeer_ptds;
            hook::copy::part_between_on::<Legacy>: cuMemcpy3DPeerAsync;
            hook::copy::part_between_on::<PerThread>: cuMemcpy3DPeerAsync_ptsz;

            hook::batch::copies::<Legacy>: cuMemcpyBatchAsync;
            hook::batch::copies::<PerThread>: cuMemcpyBatchAsync_ptsz;
            hook::batch::copies_v2::<Legacy>: cuMemcpyBatchAsync_v2;
            hook::batch::copies_v2::<PerThread>: cuMemcpyBatchAsync_v2_ptsz;
            hook::batch::boxes::<Legacy>: cuMemcpy3DBatchAsync;
            hook::batch::boxes::<PerThread>: cuMemcpy3DBatchAsync_ptsz;
            hook::batch::boxes_v2::<Legacy>: cuMemcpy3DBatchAsync_v2;
            hook::batch::boxes_v2::<PerThread>: cuMemcpy3DBatchAsync_v2_ptsz;
            hook::batch::one_box::<Legacy>: cuMemcpy3DWithAttributesAsync;
            hook::batch::one_box::<PerThread>: cuMemcpy3DWithAttributesAsync_ptsz;
            hook::batch::over_fabric::<Legacy>: cuFabricCpyBatchAsync;
            hook::batch::over_fabric::<PerThread>: cuFabricCpyBatchAsync_ptsz;
            hook::batch::prefetches::<Legacy>: cuMemPrefetchBatchAsync cuMemDiscardAndPrefetchBatchAsync;
            hook::batch::prefetches::<PerThread>:
                cuMemPrefetchBatchAsync_ptsz cuMemDiscardAndPrefetchBatchAsync_ptsz;
            hook::batch::decompress::<Legacy>: cuMemBatchDecompressAsync;
            hook::batch::decompress::<PerThread>: cuMemBatchDecompressAsync_ptsz;
            hook::batch::write_value::<Legacy>:
                cuStreamWriteValue32 cuStreamWriteValue32_v2 cuStreamWriteValue64 cuStreamWriteValue64_v2;
            hook::batch::write_value::<PerThread>:
                cuStreamWriteValue32_ptsz cuStreamWriteValue32_v2_ptsz
                cuStreamWriteValue64_ptsz cuStreamWriteValue64_v2_ptsz;
            hook::batch::values::<Legacy>: cuStreamBatchMemOp cuStreamBatchMemOp_v2;
            hook::batch::values::<PerThread>: cuStreamBatchMemOp_ptsz cuStreamBatchMemOp_v2_ptsz;
        }
        paced_plain {
            hook::stream::synchronize_context: cuCtxSynchronize;
        }
        paced_subject {
            hook::stream::wait::<Legacy>:
                cuStreamWaitEvent cuStreamWaitValue32 cuStreamWaitValue32_v2 cuStreamWaitValue64
                cuStreamWaitValue64_v2 cuLaunchHostFunc cuLaunchHostFunc_v2 cuStreamAddCallback;
            hook::stream::wait::<PerThread>:
                cuStreamWaitEvent_ptsz cuStreamWaitValue32_ptsz cuStreamWaitValue32_v2_ptsz
                cuStreamWaitValue64_ptsz cuStreamWaitValue64_v2_ptsz cuLaunchHostFunc_ptsz
                cuLaunchHostFunc_v2_ptsz cuStreamAddCallback_ptsz;
        }
    }
    Nvml NvmlError nvml_signature {
        always {
            hook::nvml::memory: nvmlDeviceGetMemoryInfo;
            hook::nvml::memory_v2: nvmlDeviceGetMemoryInfo_v2;
            hook::nvml::processes_v1: nvmlDeviceGetComputeRunningProcesses;
            hook::nvml::processes:
                nvmlDeviceGetComputeRunningProcesses_v2 nvmlDeviceGetComputeRunningProcesses_v3;
            hook::nvml::no_processes_v1:
                nvmlDeviceGetGraphicsRunningProcesses nvmlDeviceGetMPSComputeRunningProcesses;
            hook::nvml::no_processes:
                nvmlDeviceGetGraphicsRunningProcesses_v2 nvmlDeviceGetGraphicsRunningProcesses_v3
                nvmlDeviceGetMPSComputeRunningProcesses_v2 nvmlDeviceGetMPSComputeRunningProcesses_v3;
            hook::nvml::process_details: nvmlDeviceGetRunningProcessDetailList;

            hook::nvml_utilization::rates: nvmlDeviceGetUtilizationRates;
            hook::nvml_utilization::domains: nvmlDeviceGetDynamicPstatesInfo;
            hook::nvml_utilization::samples: nvmlDeviceGetSamples;
            hook::nvml_utilization::processes: nvmlDeviceGetProcessUtilization;
            hook::nvml_utilization::processes_info: nvmlDeviceGetProcessesUtilizationInfo;
        }
    }
}

/// The hook of the ABI symbol `name`, if it has one.
pub fn find(name: &CStr) -> Option<&'static Hook> {
    find_by_name(name.to_bytes())
}

/// As [`find`], for text.
pub fn find_by_name(name: &[u8]) -> Option<&'static Hook> {
    static SORTED: Leaked<Vec<&'static Hook>> = Leaked::new();
    let name_of = |hook: &Hook| hook.original.name.to_bytes();
    let sorted = SORTED.get_or_make(|| {
        let mut hooks: Vec<&Hook> = Vec::with_capacity(HOOKS.len());
        for hook in HOOKS {
            hooks.insert(hooks.partition_point(|other| name_of(other) < name_of(hook)), hook);
        }
        hooks
    });
    let position = sorted.binary_search_by(|hook| name_of(hook).cmp(name)).ok()?;
    sorted.get(position).copied()
}

/// The hook whose original lives at `address`, if there is one.
pub fn find_by_original(address: usize) -> Option<&'static Hook> {
    static SORTED: Leaked<Vec<(usize, &'static Hook)>> = Leaked::new();
    let sorted = SORTED.get_or_make(|| {
        let mut hooks: Vec<(usize, &Hook)> = Vec::with_capacity(HOOKS.len());
        for hook in HOOKS {
            if let Some(address) = hook.original.find() {
                hooks.insert(hooks.partition_point(|&(other, _)| other < address), (address, hook));
            }
        }
        hooks
    });
    let position = sorted.binary_search_by_key(&address, |&(address, _)| address).ok()?;
    sorted.get(position).map(|&(_, hook)| hook)
}
