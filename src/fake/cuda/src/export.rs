//! The exported symbols: those of the table that are implemented, each with the body behind it, and all
//! others as functions that say that they aren't supported.
//!
//! No signature is written here: all come from the table.

use crate::edge::FromC;
use crate::gate::{Call, When};
use std::ffi::c_void;

/// Exports one implemented symbol.
macro_rules! export {
    ({ $when:ident $module:ident $body:ident } fn $name:ident($($argument:ident: $type:ty),* $(,)?) -> $result:ty) => {
        #[unsafe(no_mangle)]
        #[allow(non_snake_case)]
        pub unsafe extern "C" fn $name($($argument: $type),*) -> $result {
            static CALL: Call = Call::new(stringify!($name), When::$when);
            CALL.run(|| {
                // SAFETY: the program vouches for its pointers by calling.
                crate::$module::$body($(unsafe { FromC::from_c($argument) }?),*)
            })
        }
    };
}

/// Takes lines of `module::body: symbols;`, exports the symbols, and defines `export_rest!`, which exports
/// any other as a function that isn't supported.
macro_rules! implement {
    ($dollar:tt $($when:ident { $($module:ident::$body:ident: $($name:ident)+;)* })*) => {
        $($($( vcuda_driver::cuda_signature! { $name, export, { $when $module $body } } )+)*)*

        macro_rules! export_rest {
            $($($( ($name) => {}; )+)*)*
            ($dollar other:ident) => {
                #[unsafe(no_mangle)]
                #[allow(non_snake_case)]
                pub extern "C" fn $dollar other() -> vcuda_driver::result::CUresult {
                    static CALL: Call = Call::new(stringify!($dollar other), When::Initialised);
                    CALL.run(|| Err(vcuda_driver::result::CUerror::NOT_SUPPORTED))
                }
            };
        }
    };
}

implement! {$
    Always {
        driver::initialise: cuInit;
        driver::version: cuDriverGetVersion;
        errors::name: cuGetErrorName;
        errors::description: cuGetErrorString;
        proc_address::get: cuGetProcAddress;
        proc_address::get_v2: cuGetProcAddress_v2;
        proc_address::export_table: cuGetExportTable;
    }
    Initialised {
        device::count: cuDeviceGetCount;
        device::get: cuDeviceGet;
        device::name: cuDeviceGetName;
        device::uuid: cuDeviceGetUuid cuDeviceGetUuid_v2;
        device::total_memory: cuDeviceTotalMem_v2;
        device::total_memory_v1: cuDeviceTotalMem;
        device::attribute: cuDeviceGetAttribute;
        device::compute_capability: cuDeviceComputeCapability;
        device::properties: cuDeviceGetProperties;
        device::pci_bus_id: cuDeviceGetPCIBusId;
        device::by_pci_bus_id: cuDeviceGetByPCIBusId;
        device::can_access_peer: cuDeviceCanAccessPeer;
        device::peer_attribute: cuDeviceGetP2PAttribute;
        device::exec_affinity_support: cuDeviceGetExecAffinitySupport;
        device::texture_1d_linear_width: cuDeviceGetTexture1DLinearMaxWidth;

        primary::retain: cuDevicePrimaryCtxRetain;
        primary::release: cuDevicePrimaryCtxRelease cuDevicePrimaryCtxRelease_v2;
        primary::reset: cuDevicePrimaryCtxReset cuDevicePrimaryCtxReset_v2;
        primary::get_state: cuDevicePrimaryCtxGetState;
        primary::set_flags: cuDevicePrimaryCtxSetFlags cuDevicePrimaryCtxSetFlags_v2;

        context::create: cuCtxCreate cuCtxCreate_v2;
        context::create_v3: cuCtxCreate_v3;
        context::create_v4: cuCtxCreate_v4;
        context::destroy: cuCtxDestroy cuCtxDestroy_v2 cuCtxDetach;
        context::attach: cuCtxAttach;
        context::push: cuCtxPushCurrent cuCtxPushCurrent_v2;
        context::pop: cuCtxPopCurrent cuCtxPopCurrent_v2;
        context::set: cuCtxSetCurrent;
        context::get: cuCtxGetCurrent;
        context::get_device: cuCtxGetDevice;
        context::get_device_of: cuCtxGetDevice_v2;
        limits::get_flags: cuCtxGetFlags;
        limits::set_flags: cuCtxSetFlags;
        context::get_id: cuCtxGetId;
        context::get_api_version: cuCtxGetApiVersion;
        context::synchronize: cuCtxSynchronize;
        context::synchronize_of: cuCtxSynchronize_v2;
        limits::get_limit: cuCtxGetLimit;
        limits::set_limit: cuCtxSetLimit;
        limits::get_cache_config: cuCtxGetCacheConfig;
        limits::set_cache_config: cuCtxSetCacheConfig cuCtxSetSharedMemConfig;
        limits::get_shared_config: cuCtxGetSharedMemConfig;
        limits::reset_persisting_cache: cuCtxResetPersistingL2Cache;
        limits::stream_priority_range: cuCtxGetStreamPriorityRange;
        limits::get_exec_affinity: cuCtxGetExecAffinity;
        limits::enable_peer_access: cuCtxEnablePeerAccess;
        limits::disable_peer_access: cuCtxDisablePeerAccess;

        green::device_resource: cuDeviceGetDevResource;
        green::context_resource: cuCtxGetDevResource;
        green::green_resource: cuGreenCtxGetDevResource;
        green::split_by_count: cuDevSmResourceSplitByCount;
        green::describe: cuDevResourceGenerateDesc;
        green::create: cuGreenCtxCreate;
        green::destroy: cuGreenCtxDestroy;
        green::as_context: cuCtxFromGreenCtx;
        green::get_id: cuGreenCtxGetId;
        green::create_stream: cuGreenCtxStreamCreate;

        memory::alloc: cuMemAlloc_v2;
        memory::alloc_pitch: cuMemAllocPitch_v2;
        memory::alloc_managed: cuMemAllocManaged;
        memory::free: cuMemFree_v2;
        memory::get_info: cuMemGetInfo_v2;
        memory::get_info_v1: cuMemGetInfo;
        memory::get_address_range: cuMemGetAddressRange_v2;
        memory::alloc_host: cuMemAllocHost_v2;
        memory::alloc_host_v1: cuMemAllocHost;
        memory::host_alloc: cuMemHostAlloc;
        memory::free_host: cuMemFreeHost;
        memory::host_register: cuMemHostRegister cuMemHostRegister_v2;
        memory::host_unregister: cuMemHostUnregister;
        memory::host_device_pointer: cuMemHostGetDevicePointer_v2;
        memory::host_flags: cuMemHostGetFlags;

        pool::alloc_async: cuMemAllocAsync cuMemAllocAsync_ptsz;
        pool::alloc_from_pool_async: cuMemAllocFromPoolAsync cuMemAllocFromPoolAsync_ptsz;
        pool::free_async: cuMemFreeAsync cuMemFreeAsync_ptsz;
        pool::create: cuMemPoolCreate;
        pool::destroy: cuMemPoolDestroy;
        pool::trim_to: cuMemPoolTrimTo;
        pool::get_attribute: cuMemPoolGetAttribute;
        pool::set_attribute: cuMemPoolSetAttribute;
        pool::set_access: cuMemPoolSetAccess;
        pool::get_access: cuMemPoolGetAccess;
        pool::get_default: cuDeviceGetDefaultMemPool;
        pool::get_current: cuDeviceGetMemPool;
        pool::set_current: cuDeviceSetMemPool;
        pool::get_default_at: cuMemGetDefaultMemPool;
        pool::get_current_at: cuMemGetMemPool;
        pool::set_current_at: cuMemSetMemPool;

        vmm::create: cuMemCreate;
        vmm::release: cuMemRelease;
        vmm::retain: cuMemRetainAllocationHandle;
        vmm::reserve: cuMemAddressReserve;
        vmm::free_addresses: cuMemAddressFree;
        vmm::map: cuMemMap;
        vmm::unmap: cuMemUnmap;
        vmm::set_access: cuMemSetAccess;
        vmm::get_access: cuMemGetAccess;
        vmm::granularity: cuMemGetAllocationGranularity;
        vmm::properties: cuMemGetAllocationPropertiesFromHandle;
        vmm::export: cuMemExportToShareableHandle;
        vmm::import: cuMemImportFromShareableHandle;

        ipc::get: cuIpcGetMemHandle;
        ipc::open: cuIpcOpenMemHandle cuIpcOpenMemHandle_v2;
        ipc::close: cuIpcCloseMemHandle;

        array::create: cuArrayCreate_v2;
        array::create_v1: cuArrayCreate;
        array::create_3d: cuArray3DCreate_v2;
        array::create_3d_v1: cuArray3DCreate;
        array::destroy: cuArrayDestroy;
        array::descriptor: cuArrayGetDescriptor_v2;
        array::descriptor_v1: cuArrayGetDescriptor;
        array::descriptor_3d: cuArray3DGetDescriptor_v2;
        array::descriptor_3d_v1: cuArray3DGetDescriptor;
        array::memory_requirements: cuArrayGetMemoryRequirements;
        array::mipmap_create: cuMipmappedArrayCreate;
        array::mipmap_destroy: cuMipmappedArrayDestroy;
        array::mipmap_level: cuMipmappedArrayGetLevel;
        array::mipmap_memory_requirements: cuMipmappedArrayGetMemoryRequirements;

        transfer::unified: cuMemcpy cuMemcpy_ptds;
        transfer::unified_async: cuMemcpyAsync cuMemcpyAsync_ptsz;
        transfer::host_to_device: cuMemcpyHtoD_v2 cuMemcpyHtoD_v2_ptds;
        transfer::host_to_device_async: cuMemcpyHtoDAsync_v2 cuMemcpyHtoDAsync_v2_ptsz;
        transfer::device_to_host: cuMemcpyDtoH_v2 cuMemcpyDtoH_v2_ptds;
        transfer::device_to_host_async: cuMemcpyDtoHAsync_v2 cuMemcpyDtoHAsync_v2_ptsz;
        transfer::device_to_device: cuMemcpyDtoD_v2 cuMemcpyDtoD_v2_ptds;
        transfer::device_to_device_async: cuMemcpyDtoDAsync_v2 cuMemcpyDtoDAsync_v2_ptsz;
        transfer::peer: cuMemcpyPeer cuMemcpyPeer_ptds;
        transfer::peer_async: cuMemcpyPeerAsync cuMemcpyPeerAsync_ptsz;
        transfer::rectangle: cuMemcpy2D_v2 cuMemcpy2D_v2_ptds cuMemcpy2DUnaligned_v2 cuMemcpy2DUnaligned_v2_ptds;
        transfer::rectangle_async: cuMemcpy2DAsync_v2 cuMemcpy2DAsync_v2_ptsz;
        transfer::boxed: cuMemcpy3D_v2 cuMemcpy3D_v2_ptds;
        transfer::boxed_async: cuMemcpy3DAsync_v2 cuMemcpy3DAsync_v2_ptsz;
        transfer::boxed_peer: cuMemcpy3DPeer cuMemcpy3DPeer_ptds;
        transfer::boxed_peer_async: cuMemcpy3DPeerAsync cuMemcpy3DPeerAsync_ptsz;
        transfer::array_to_array: cuMemcpyAtoA_v2 cuMemcpyAtoA_v2_ptds;
        transfer::array_to_device: cuMemcpyAtoD_v2 cuMemcpyAtoD_v2_ptds;
        transfer::device_to_array: cuMemcpyDtoA_v2 cuMemcpyDtoA_v2_ptds;
        transfer::array_to_host: cuMemcpyAtoH_v2 cuMemcpyAtoH_v2_ptds;
        transfer::host_to_array: cuMemcpyHtoA_v2 cuMemcpyHtoA_v2_ptds;
        transfer::array_to_host_async: cuMemcpyAtoHAsync_v2 cuMemcpyAtoHAsync_v2_ptsz;
        transfer::host_to_array_async: cuMemcpyHtoAAsync_v2 cuMemcpyHtoAAsync_v2_ptsz;
        transfer::batch: cuMemcpyBatchAsync cuMemcpyBatchAsync_ptsz;
        transfer::batch_v2: cuMemcpyBatchAsync_v2 cuMemcpyBatchAsync_v2_ptsz;

        fill::u8_line: cuMemsetD8_v2 cuMemsetD8_v2_ptds;
        fill::u16_line: cuMemsetD16_v2 cuMemsetD16_v2_ptds;
        fill::u32_line: cuMemsetD32_v2 cuMemsetD32_v2_ptds;
        fill::u8_async: cuMemsetD8Async cuMemsetD8Async_ptsz;
        fill::u16_async: cuMemsetD16Async cuMemsetD16Async_ptsz;
        fill::u32_async: cuMemsetD32Async cuMemsetD32Async_ptsz;
        fill::u8_rectangle: cuMemsetD2D8_v2 cuMemsetD2D8_v2_ptds;
        fill::u16_rectangle: cuMemsetD2D16_v2 cuMemsetD2D16_v2_ptds;
        fill::u32_rectangle: cuMemsetD2D32_v2 cuMemsetD2D32_v2_ptds;
        fill::u8_rectangle_async: cuMemsetD2D8Async cuMemsetD2D8Async_ptsz;
        fill::u16_rectangle_async: cuMemsetD2D16Async cuMemsetD2D16Async_ptsz;
        fill::u32_rectangle_async: cuMemsetD2D32Async cuMemsetD2D32Async_ptsz;

        pointer::get_attribute: cuPointerGetAttribute;
        pointer::get_attributes: cuPointerGetAttributes;
        pointer::set_attribute: cuPointerSetAttribute;
        pointer::advise: cuMemAdvise;
        pointer::advise_v2: cuMemAdvise_v2;
        pointer::prefetch: cuMemPrefetchAsync cuMemPrefetchAsync_ptsz;
        pointer::prefetch_v2: cuMemPrefetchAsync_v2 cuMemPrefetchAsync_v2_ptsz;

        stream::create: cuStreamCreate;
        stream::create_with_priority: cuStreamCreateWithPriority;
        stream::destroy: cuStreamDestroy cuStreamDestroy_v2;
        stream::synchronize: cuStreamSynchronize cuStreamSynchronize_ptsz;
        stream::query: cuStreamQuery cuStreamQuery_ptsz;
        stream::wait_event: cuStreamWaitEvent cuStreamWaitEvent_ptsz;
        stream::get_flags: cuStreamGetFlags cuStreamGetFlags_ptsz;
        stream::get_priority: cuStreamGetPriority cuStreamGetPriority_ptsz;
        stream::get_id: cuStreamGetId cuStreamGetId_ptsz;
        stream::get_context: cuStreamGetCtx cuStreamGetCtx_ptsz;
        stream::get_context_v2: cuStreamGetCtx_v2 cuStreamGetCtx_v2_ptsz;
        stream::get_device: cuStreamGetDevice cuStreamGetDevice_ptsz;
        stream::get_attribute: cuStreamGetAttribute cuStreamGetAttribute_ptsz;
        stream::set_attribute: cuStreamSetAttribute cuStreamSetAttribute_ptsz;
        stream::copy_attributes: cuStreamCopyAttributes cuStreamCopyAttributes_ptsz;
        stream::attach_memory: cuStreamAttachMemAsync cuStreamAttachMemAsync_ptsz;

        capture::begin_v1: cuStreamBeginCapture cuStreamBeginCapture_ptsz;
        capture::begin: cuStreamBeginCapture_v2 cuStreamBeginCapture_v2_ptsz;
        capture::begin_to_graph: cuStreamBeginCaptureToGraph cuStreamBeginCaptureToGraph_ptsz;
        capture::end: cuStreamEndCapture cuStreamEndCapture_ptsz;
        capture::is_capturing: cuStreamIsCapturing cuStreamIsCapturing_ptsz;
        capture::info: cuStreamGetCaptureInfo cuStreamGetCaptureInfo_ptsz;
        capture::info_v2: cuStreamGetCaptureInfo_v2 cuStreamGetCaptureInfo_v2_ptsz;
        capture::info_v3: cuStreamGetCaptureInfo_v3 cuStreamGetCaptureInfo_v3_ptsz;
        capture::update_dependencies: cuStreamUpdateCaptureDependencies cuStreamUpdateCaptureDependencies_ptsz;
        capture::update_dependencies_v2: cuStreamUpdateCaptureDependencies_v2 cuStreamUpdateCaptureDependencies_v2_ptsz;
        capture::exchange_mode: cuThreadExchangeStreamCaptureMode;

        callback::launch: cuLaunchHostFunc cuLaunchHostFunc_ptsz;
        callback::launch_v2: cuLaunchHostFunc_v2 cuLaunchHostFunc_v2_ptsz;
        callback::add: cuStreamAddCallback cuStreamAddCallback_ptsz;
        values::write_32: cuStreamWriteValue32 cuStreamWriteValue32_ptsz cuStreamWriteValue32_v2 cuStreamWriteValue32_v2_ptsz;
        values::write_64: cuStreamWriteValue64 cuStreamWriteValue64_ptsz cuStreamWriteValue64_v2 cuStreamWriteValue64_v2_ptsz;
        values::wait_32: cuStreamWaitValue32 cuStreamWaitValue32_ptsz cuStreamWaitValue32_v2 cuStreamWaitValue32_v2_ptsz;
        values::wait_64: cuStreamWaitValue64 cuStreamWaitValue64_ptsz cuStreamWaitValue64_v2 cuStreamWaitValue64_v2_ptsz;

        values::batch: cuStreamBatchMemOp cuStreamBatchMemOp_ptsz cuStreamBatchMemOp_v2 cuStreamBatchMemOp_v2_ptsz;

        event::create: cuEventCreate;
        event::destroy: cuEventDestroy cuEventDestroy_v2;
        event::record: cuEventRecord cuEventRecord_ptsz;
        event::record_with_flags: cuEventRecordWithFlags cuEventRecordWithFlags_ptsz;
        event::record_on_context: cuCtxRecordEvent;
        event::wait_on_context: cuCtxWaitEvent;
        event::query: cuEventQuery;
        event::synchronize: cuEventSynchronize;
        event::elapsed: cuEventElapsedTime cuEventElapsedTime_v2;

        module::load: cuModuleLoad;
        module::load_data: cuModuleLoadData cuModuleLoadFatBinary;
        module::load_data_ex: cuModuleLoadDataEx;
        module::unload: cuModuleUnload;
        module::loading_mode: cuModuleGetLoadingMode;
        module::get_function: cuModuleGetFunction;
        module::function_count: cuModuleGetFunctionCount;
        module::enumerate_functions: cuModuleEnumerateFunctions;
        module::get_global: cuModuleGetGlobal_v2;
        library::load_data: cuLibraryLoadData;
        library::load_file: cuLibraryLoadFromFile;
        library::unload: cuLibraryUnload;
        library::kernel: cuLibraryGetKernel;
        library::kernel_count: cuLibraryGetKernelCount;
        library::enumerate_kernels: cuLibraryEnumerateKernels;
        library::module: cuLibraryGetModule;
        library::global: cuLibraryGetGlobal;
        library::kernel_function: cuKernelGetFunction;
        library::kernel_library: cuKernelGetLibrary;
        library::kernel_name: cuKernelGetName;
        library::kernel_param_info: cuKernelGetParamInfo;
        library::kernel_param_count: cuKernelGetParamCount;
        library::kernel_attribute: cuKernelGetAttribute;
        library::set_kernel_attribute: cuKernelSetAttribute;
        library::set_kernel_cache_config: cuKernelSetCacheConfig;
        function::attribute: cuFuncGetAttribute;
        function::set_attribute: cuFuncSetAttribute;
        function::set_config: cuFuncSetCacheConfig cuFuncSetSharedMemConfig;
        function::module: cuFuncGetModule;
        function::name: cuFuncGetName;
        function::param_info: cuFuncGetParamInfo;
        function::param_count: cuFuncGetParamCount;
        function::is_loaded: cuFuncIsLoaded;
        function::load: cuFuncLoad;
        function::blocks_per_multiprocessor: cuOccupancyMaxActiveBlocksPerMultiprocessor;
        function::blocks_per_multiprocessor_with_flags: cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags;
        function::potential_block_size: cuOccupancyMaxPotentialBlockSize;
        function::potential_block_size_with_flags: cuOccupancyMaxPotentialBlockSizeWithFlags;
        function::available_shared_bytes: cuOccupancyAvailableDynamicSMemPerBlock;
        link::create: cuLinkCreate cuLinkCreate_v2;
        link::add_data: cuLinkAddData cuLinkAddData_v2;
        link::complete: cuLinkComplete;
        link::destroy: cuLinkDestroy;

        launch::kernel: cuLaunchKernel cuLaunchKernel_ptsz;
        launch::ex: cuLaunchKernelEx cuLaunchKernelEx_ptsz;
        launch::cooperative: cuLaunchCooperativeKernel cuLaunchCooperativeKernel_ptsz;
        launch::cooperative_multi_device: cuLaunchCooperativeKernelMultiDevice;
        launch::set_block: cuFuncSetBlockShape;
        launch::set_shared_bytes: cuFuncSetSharedSize;
        launch::set_parameter_bytes: cuParamSetSize;
        launch::set_integer: cuParamSeti;
        launch::set_float: cuParamSetf;
        launch::set_bytes: cuParamSetv;
        launch::prepared: cuLaunch;
        launch::prepared_grid: cuLaunchGrid;
        launch::prepared_grid_async: cuLaunchGridAsync;

        graph::create: cuGraphCreate;
        graph::destroy: cuGraphDestroy;
        graph::destroy_node: cuGraphDestroyNode;
        graph::clone: cuGraphClone;
        graph::find_in_clone: cuGraphNodeFindInClone;
        graph::get_nodes: cuGraphGetNodes;
        graph::get_root_nodes: cuGraphGetRootNodes;
        graph::get_edges: cuGraphGetEdges;
        graph::get_edges_v2: cuGraphGetEdges_v2;
        graph::node_dependencies: cuGraphNodeGetDependencies;
        graph::node_dependencies_v2: cuGraphNodeGetDependencies_v2;
        graph::node_dependents: cuGraphNodeGetDependentNodes;
        graph::node_dependents_v2: cuGraphNodeGetDependentNodes_v2;
        graph::add_dependencies: cuGraphAddDependencies;
        graph::add_dependencies_v2: cuGraphAddDependencies_v2;
        graph::remove_dependencies: cuGraphRemoveDependencies;
        graph::remove_dependencies_v2: cuGraphRemoveDependencies_v2;
        graph::node_type: cuGraphNodeGetType;
        graph::node_graph: cuGraphNodeGetContainingGraph;

        node::add_kernel_v1: cuGraphAddKernelNode;
        node::add_kernel: cuGraphAddKernelNode_v2;
        node::add_copy: cuGraphAddMemcpyNode;
        node::add_fill: cuGraphAddMemsetNode;
        node::add_host: cuGraphAddHostNode;
        node::add_child: cuGraphAddChildGraphNode;
        node::add_empty: cuGraphAddEmptyNode;
        node::add_values: cuGraphAddBatchMemOpNode;
        node::add_event_record: cuGraphAddEventRecordNode;
        node::add_event_wait: cuGraphAddEventWaitNode;
        node::add_alloc: cuGraphAddMemAllocNode;
        node::add_free: cuGraphAddMemFreeNode;
        node::add_any: cuGraphAddNode;
        node::add_any_v2: cuGraphAddNode_v2 cuGraphAddNode_v3;
        node::set_any: cuGraphNodeSetParams cuGraphNodeSetParams_v2;
        node::set_any_in: cuGraphExecNodeSetParams;
        node::get_kernel: cuGraphKernelNodeGetParams_v2;
        node::get_kernel_v1: cuGraphKernelNodeGetParams;
        node::set_kernel: cuGraphKernelNodeSetParams_v2;
        node::set_kernel_v1: cuGraphKernelNodeSetParams;
        node::set_kernel_in: cuGraphExecKernelNodeSetParams_v2;
        node::set_kernel_in_v1: cuGraphExecKernelNodeSetParams;
        node::get_copy: cuGraphMemcpyNodeGetParams;
        node::set_copy: cuGraphMemcpyNodeSetParams;
        node::set_copy_in: cuGraphExecMemcpyNodeSetParams;
        node::get_fill: cuGraphMemsetNodeGetParams;
        node::set_fill: cuGraphMemsetNodeSetParams;
        node::set_fill_in: cuGraphExecMemsetNodeSetParams;
        node::get_host: cuGraphHostNodeGetParams;
        node::set_host: cuGraphHostNodeSetParams;
        node::set_host_in: cuGraphExecHostNodeSetParams;
        node::set_values: cuGraphBatchMemOpNodeSetParams;
        node::set_values_in: cuGraphExecBatchMemOpNodeSetParams;
        node::get_child: cuGraphChildGraphNodeGetGraph;
        node::set_child_in: cuGraphExecChildGraphNodeSetParams;
        node::get_alloc: cuGraphMemAllocNodeGetParams;
        node::get_free: cuGraphMemFreeNodeGetParams;
        node::get_event: cuGraphEventRecordNodeGetEvent cuGraphEventWaitNodeGetEvent;
        node::set_record_event: cuGraphEventRecordNodeSetEvent;
        node::set_wait_event: cuGraphEventWaitNodeSetEvent;
        node::set_record_event_in: cuGraphExecEventRecordNodeSetEvent;
        node::set_wait_event_in: cuGraphExecEventWaitNodeSetEvent;

        exec::instantiate: cuGraphInstantiateWithFlags;
        exec::instantiate_v2: cuGraphInstantiate cuGraphInstantiate_v2;
        exec::instantiate_with_params: cuGraphInstantiateWithParams cuGraphInstantiateWithParams_ptsz;
        exec::destroy: cuGraphExecDestroy;
        exec::upload: cuGraphUpload cuGraphUpload_ptsz;
        exec::launch: cuGraphLaunch cuGraphLaunch_ptsz;
        exec::get_flags: cuGraphExecGetFlags;
        exec::get_enabled: cuGraphNodeGetEnabled;
        exec::set_enabled: cuGraphNodeSetEnabled;
        exec::update: cuGraphExecUpdate;
        exec::update_v2: cuGraphExecUpdate_v2;

        graph_memory::trim: cuDeviceGraphMemTrim;
        graph_memory::get_attribute: cuDeviceGetGraphMemAttribute;
        graph_memory::set_attribute: cuDeviceSetGraphMemAttribute;

        profiler::start: cuProfilerStart;
        profiler::stop: cuProfilerStop;
    }
    Stopped {
        checkpoint::get_state: cuCheckpointProcessGetState;
        checkpoint::get_restore_thread: cuCheckpointProcessGetRestoreThreadId;
        checkpoint::lock: cuCheckpointProcessLock;
        checkpoint::checkpoint: cuCheckpointProcessCheckpoint;
        checkpoint::restore: cuCheckpointProcessRestore;
        checkpoint::unlock: cuCheckpointProcessUnlock;
    }
}

/// Exports what is left of the table, and lists all addresses.
macro_rules! export_all {
    ($($name:ident)*) => {
        $( export_rest! { $name } )*

        /// Every exported symbol, in the order of the table.
        static ADDRESSES: &[(&str, Address)] = &[$((stringify!($name), Address($name as *const ()))),*];
    };
}
vcuda_driver::cuda_symbols! { export_all }

/// The address of a function.
struct Address(*const ());

// SAFETY: a function's address is the same for all threads.
unsafe impl Sync for Address {}

/// The address of an exported symbol.
pub fn address_of(name: &str) -> Option<*mut c_void> {
    let place = ADDRESSES.binary_search_by(|(other, _)| (*other).cmp(name)).ok()?;
    ADDRESSES.get(place).map(|(_, address)| address.0.cast_mut().cast())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_symbol_of_the_table_has_its_address() {
        for symbol in vcuda_driver::cuda::symbols::SYMBOLS {
            assert!(address_of(symbol.name).is_some(), "{}", symbol.name);
        }
        assert!(address_of("cuNothing").is_none());
    }
}
