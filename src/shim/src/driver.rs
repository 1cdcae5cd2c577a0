//! The few driver and management calls this library makes on its own account, as safe functions.
//!
//! Every call goes to the original, never through a hook. None of them synchronises a stream, touches the
//! current context, or is forbidden while a stream is being captured.
#![allow(unsafe_code)]

use std::ffi::{c_char, c_void};
use vcuda_driver::cuda::types::*;
use vcuda_driver::nvml::types::*;
use vcuda_driver::result::{CUerror, CUresult, NvmlError, NvmlResult};
use vcuda_driver::{cuda_signature, nvml_signature};

/// Raw originals by ABI symbol.
#[allow(non_snake_case, non_upper_case_globals, clippy::too_many_arguments, clippy::missing_safety_doc)]
mod raw {
    use super::*;
    use crate::library::{Original, original};

    macro_rules! call {
        ({ $library:ident $exempt:ident } fn $name:ident($($argument:ident: $type:ty),* $(,)?) -> $result:ty) => {
            pub unsafe fn $name($($argument: $type),*) -> $result {
                static ORIGINAL: Original = original!($library $name);
                let _exempt = exempt!($exempt);
                // SAFETY: the table's signature for this very ABI symbol; arguments are the caller's care.
                unsafe {
                    let function = std::mem::transmute::<usize, unsafe extern "C" fn($($type),*) -> $result>(
                        ORIGINAL.address(),
                    );
                    function($($argument),*)
                }
            }
        };
    }
    macro_rules! exempt {
        (exempt) => {
            crate::capture::exempt()
        };
        (always_allowed) => {
            ()
        };
    }
    /// Calls that a capture may forbid.
    macro_rules! calls {
        ($($name:ident)*) => { $( cuda_signature! { $name, call, { Cuda exempt } } )* };
    }
    /// Calls that no capture forbids.
    macro_rules! always_allowed_calls {
        ($($name:ident)*) => { $( cuda_signature! { $name, call, { Cuda always_allowed } } )* };
    }
    macro_rules! management_calls {
        ($($name:ident)*) => { $( nvml_signature! { $name, call, { Nvml always_allowed } } )* };
    }
    always_allowed_calls! {
        cuCtxGetDevice cuCtxGetCurrent cuStreamIsCapturing cuThreadExchangeStreamCaptureMode
    }
    calls! {
        cuEventCreate cuEventRecord cuEventQuery cuEventElapsedTime
        cuStreamGetCtx cuCtxPushCurrent_v2 cuCtxPopCurrent_v2
        cuDeviceGetCount cuDeviceGet cuDeviceGetUuid_v2 cuDeviceGetAttribute cuDeviceTotalMem_v2
        cuCtxGetLimit cuStreamGetDevice cuDevicePrimaryCtxGetState
        cuDeviceGetMemPool cuDeviceGetDefaultMemPool cuMemPoolGetAttribute cuMemPoolTrimTo cuMemFree_v2 cuMemFreeAsync cuModuleUnload cuLibraryUnload cuGreenCtxDestroy
        cuDeviceGetGraphMemAttribute cuDeviceGraphMemTrim
        cuGraphGetNodes cuGraphNodeGetType cuGraphMemAllocNodeGetParams cuGraphChildGraphNodeGetGraph
        cuArray3DCreate_v2 cuArrayDestroy cuArrayGetMemoryRequirements
        cuMipmappedArrayCreate cuMipmappedArrayDestroy cuMipmappedArrayGetMemoryRequirements
    }
    management_calls! {
        nvmlInit_v2 nvmlDeviceGetCount_v2 nvmlDeviceGetHandleByIndex_v2
        nvmlDeviceGetUUID nvmlDeviceGetMemoryInfo nvmlDeviceGetComputeRunningProcesses_v3
    }
}

/// A device as the program's ordinal names it, with what accounting needs to know of it.
pub struct DeviceFacts {
    /// Position in the program's own device order.
    pub ordinal: i32,
    /// The GPU's (or MIG slice's) UUID.
    pub uuid: [u8; 16],
    /// Memory of the physical device, in bytes.
    pub physical_bytes: u64,
    /// Streaming multiprocessors.
    pub multiprocessors: u64,
    /// Threads that one multiprocessor holds at most.
    pub threads_per_multiprocessor: u64,
}

/// The devices the program sees, in its own order. Needs an initialised driver.
pub fn devices() -> Result<Vec<DeviceFacts>, CUerror> {
    let mut count = 0;
    // SAFETY: the pointer is to a local of the right type.
    unsafe { raw::cuDeviceGetCount(&raw mut count) }?;
    (0..count).map(device_facts).collect()
}

fn device_facts(ordinal: i32) -> Result<DeviceFacts, CUerror> {
    let mut device = 0;
    let mut uuid = CUuuid { bytes: [0; 16] };
    let mut physical_bytes = 0;
    // SAFETY: each pointer is to a local of the right type.
    unsafe {
        raw::cuDeviceGet(&raw mut device, ordinal)?;
        raw::cuDeviceGetUuid_v2(&raw mut uuid, device)?;
        raw::cuDeviceTotalMem_v2(&raw mut physical_bytes, device)?;
    }
    Ok(DeviceFacts {
        ordinal: device,
        uuid: uuid.bytes,
        physical_bytes: physical_bytes as u64,
        multiprocessors: attribute(device, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        threads_per_multiprocessor: attribute(device, CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR)?,
    })
}

fn attribute(device: CUdevice, which: CUdevice_attribute) -> Result<u64, CUerror> {
    let mut value = 0;
    // SAFETY: the pointer is to a local of the right type.
    unsafe { raw::cuDeviceGetAttribute(&raw mut value, which, device) }?;
    Ok(value.max(0) as u64)
}

/// The device of the calling thread's current context.
#[inline]
pub fn current_device() -> Result<CUdevice, CUerror> {
    let mut device = 0;
    // SAFETY: the pointer is to a local of the right type.
    unsafe { raw::cuCtxGetDevice(&raw mut device) }?;
    Ok(device)
}

/// The calling thread's current context; null where there is none.
#[inline]
pub fn current_context() -> Result<CUcontext, CUerror> {
    let mut context = CUcontext::default();
    // SAFETY: the pointer is to a local of the right type.
    unsafe { raw::cuCtxGetCurrent(&raw mut context) }?;
    Ok(context)
}

/// The device a stream belongs to; the current one where the driver cannot tell (before CUDA 12.8).
pub fn stream_device(stream: CUstream) -> Result<CUdevice, CUerror> {
    let mut device = 0;
    // SAFETY: the stream is the program's own argument, which the driver checks.
    match unsafe { raw::cuStreamGetDevice(stream, &raw mut device) } {
        Ok(()) => Ok(device),
        Err(_) => current_device(),
    }
}

/// Whether a stream is being captured; not, if the driver can't say.
pub fn stream_is_capturing(stream: CUstream) -> bool {
    let mut status = 0;
    // SAFETY: the stream is the program's own argument, which the driver checks.
    let asked = unsafe { raw::cuStreamIsCapturing(stream, &raw mut status) };
    asked.is_ok() && status != CU_STREAM_CAPTURE_STATUS_NONE
}

/// The context a stream belongs to.
pub fn stream_context(stream: CUstream) -> Result<CUcontext, CUerror> {
    let mut context = CUcontext::default();
    // SAFETY: the stream is the program's own argument, which the driver checks.
    unsafe { raw::cuStreamGetCtx(stream, &raw mut context) }?;
    Ok(context)
}

/// A new timing event of `context`, which is current only meanwhile if it wasn't.
pub fn create_event_in(context: CUcontext) -> Result<CUevent, CUerror> {
    let mut event = CUevent::default();
    let is_current = current_context() == Ok(context);
    // SAFETY: the context is that of a stream in use; what is pushed is popped again. The pointers are to locals.
    unsafe {
        if !is_current {
            raw::cuCtxPushCurrent_v2(context)?;
        }
        let created = raw::cuEventCreate(&raw mut event, CU_EVENT_DEFAULT);
        if !is_current {
            let mut popped = CUcontext::default();
            raw::cuCtxPopCurrent_v2(&raw mut popped)?;
        }
        created?;
    }
    Ok(event)
}

/// Marks the end of what the stream was given.
pub fn record_event(event: CUevent, stream: CUstream) -> CUresult {
    // SAFETY: the event is this library's own; the caller knows that the stream lives.
    unsafe { raw::cuEventRecord(event, stream) }
}

/// `NOT_READY` until everything before the event is done.
pub fn query_event(event: CUevent) -> CUresult {
    // SAFETY: the event is this library's own; the driver notices one that went with its context.
    unsafe { raw::cuEventQuery(event) }
}

/// From one event to another, both done.
pub fn elapsed_milliseconds(from: CUevent, to: CUevent) -> Result<f32, CUerror> {
    let mut milliseconds = 0.0;
    // SAFETY: as in `query_event`; the pointer is to a local of the right type.
    unsafe { raw::cuEventElapsedTime(&raw mut milliseconds, from, to) }?;
    Ok(milliseconds)
}

/// Puts this thread into a capture mode and gives the one it was in.
pub fn exchange_capture_mode(mut mode: CUstreamCaptureMode) -> Result<CUstreamCaptureMode, CUerror> {
    // SAFETY: the pointer is to a local of the right type.
    unsafe { raw::cuThreadExchangeStreamCaptureMode(&raw mut mode) }?;
    Ok(mode)
}

/// A limit of the current context, in the limit's own unit.
pub fn context_limit(limit: CUlimit) -> Result<u64, CUerror> {
    let mut value = 0;
    // SAFETY: the pointer is to a local of the right type.
    unsafe { raw::cuCtxGetLimit(&raw mut value, limit) }?;
    Ok(value as u64)
}

/// Whether the device's primary context exists now.
pub fn primary_context_is_active(device: CUdevice) -> Result<bool, CUerror> {
    let (mut flags, mut active) = (0, 0);
    // SAFETY: the pointers are to locals of the right type.
    unsafe { raw::cuDevicePrimaryCtxGetState(device, &raw mut flags, &raw mut active) }?;
    Ok(active != 0)
}

/// The pool that `cuMemAllocAsync` takes from on this device now.
#[inline]
pub fn current_pool(device: CUdevice) -> Result<CUmemoryPool, CUerror> {
    let mut pool = CUmemoryPool::default();
    // SAFETY: the pointer is to a local of the right type.
    unsafe { raw::cuDeviceGetMemPool(&raw mut pool, device) }?;
    Ok(pool)
}

/// The device's default pool.
pub fn default_pool(device: CUdevice) -> Result<CUmemoryPool, CUerror> {
    let mut pool = CUmemoryPool::default();
    // SAFETY: the pointer is to a local of the right type.
    unsafe { raw::cuDeviceGetDefaultMemPool(&raw mut pool, device) }?;
    Ok(pool)
}

/// Bytes of device memory the pool holds, in use or cached.
#[inline]
pub fn pool_reserved_bytes(pool: CUmemoryPool) -> Result<u64, CUerror> {
    pool_attribute(pool, CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT)
}

/// Bytes of the pool that allocations use.
pub fn pool_used_bytes(pool: CUmemoryPool) -> Result<u64, CUerror> {
    pool_attribute(pool, CU_MEMPOOL_ATTR_USED_MEM_CURRENT)
}

#[inline]
fn pool_attribute(pool: CUmemoryPool, which: CUmemPool_attribute) -> Result<u64, CUerror> {
    let mut value = 0u64;
    // SAFETY: both attributes are 64-bit counts, and the driver checks the pool.
    unsafe { raw::cuMemPoolGetAttribute(pool, which, (&raw mut value).cast::<c_void>()) }?;
    Ok(value)
}

/// Gives the pool's unused memory back to the device.
pub fn trim_pool(pool: CUmemoryPool) -> CUresult {
    // SAFETY: the driver checks the pool; only memory that nothing uses is given back.
    unsafe { raw::cuMemPoolTrimTo(pool, 0) }
}

/// Bytes of device memory that graphs hold on this device.
pub fn graph_reserved_bytes(device: CUdevice) -> Result<u64, CUerror> {
    let mut value = 0u64;
    let pointer = (&raw mut value).cast::<c_void>();
    // SAFETY: the attribute is a 64-bit count.
    unsafe { raw::cuDeviceGetGraphMemAttribute(device, CU_GRAPH_MEM_ATTR_RESERVED_MEM_CURRENT, pointer) }?;
    Ok(value)
}

/// Gives back the device memory that graphs hold and nothing uses.
pub fn trim_graph_memory(device: CUdevice) -> CUresult {
    // SAFETY: the driver checks the device; only unused memory is given back.
    unsafe { raw::cuDeviceGraphMemTrim(device) }
}

/// Takes back an allocation the program has not seen yet.
pub fn free(pointer: CUdeviceptr) -> CUresult {
    // SAFETY: the caller owns the allocation: the program was never told of it.
    unsafe { raw::cuMemFree_v2(pointer) }
}

/// Takes back a stream-ordered allocation the program has not seen yet.
pub fn free_async(pointer: CUdeviceptr, stream: CUstream) -> CUresult {
    // SAFETY: as in `free`; the stream is the one it was made on.
    unsafe { raw::cuMemFreeAsync(pointer, stream) }
}

/// Unloads a module the program has not seen yet.
pub fn unload_module(module: CUmodule) -> CUresult {
    // SAFETY: the caller owns the module: the program was never told of it.
    unsafe { raw::cuModuleUnload(module) }
}

/// Unloads a library the program has not seen yet.
pub fn unload_library(library: CUlibrary) -> CUresult {
    // SAFETY: as above.
    unsafe { raw::cuLibraryUnload(library) }
}

/// Destroys a green context the program has not seen yet.
pub fn destroy_green_context(context: CUgreenCtx) -> CUresult {
    // SAFETY: the caller owns the context: the program was never told of it.
    unsafe { raw::cuGreenCtxDestroy(context) }
}

/// What an array of this shape takes, in bytes, as the driver itself says of a twin without memory.
pub fn array_bytes(shape: &CUDA_ARRAY3D_DESCRIPTOR, device: CUdevice) -> Result<u64, CUerror> {
    let twin_shape = CUDA_ARRAY3D_DESCRIPTOR { Flags: shape.Flags | CUDA_ARRAY3D_DEFERRED_MAPPING, ..*shape };
    let mut twin = CUarray::default();
    let mut needs = CUDA_ARRAY_MEMORY_REQUIREMENTS::default();
    // SAFETY: the pointers are to locals of the right types; the twin is destroyed at once.
    unsafe {
        raw::cuArray3DCreate_v2(&raw mut twin, &raw const twin_shape)?;
        let asked = raw::cuArrayGetMemoryRequirements(&raw mut needs, twin, device);
        raw::cuArrayDestroy(twin)?;
        asked?;
    }
    Ok(needs.size as u64)
}

/// As [`array_bytes`], for a mipmapped array of `levels` levels.
pub fn mipmapped_array_bytes(
    shape: &CUDA_ARRAY3D_DESCRIPTOR,
    levels: u32,
    device: CUdevice,
) -> Result<u64, CUerror> {
    let twin_shape = CUDA_ARRAY3D_DESCRIPTOR { Flags: shape.Flags | CUDA_ARRAY3D_DEFERRED_MAPPING, ..*shape };
    let mut twin = CUmipmappedArray::default();
    let mut needs = CUDA_ARRAY_MEMORY_REQUIREMENTS::default();
    // SAFETY: as in `array_bytes`.
    unsafe {
        raw::cuMipmappedArrayCreate(&raw mut twin, &raw const twin_shape, levels)?;
        let asked = raw::cuMipmappedArrayGetMemoryRequirements(&raw mut needs, twin, device);
        raw::cuMipmappedArrayDestroy(twin)?;
        asked?;
    }
    Ok(needs.size as u64)
}

/// The memory allocation nodes of a graph and of the graphs inside it: (device ordinal, bytes) of each.
pub fn graph_allocations(graph: CUgraph) -> Result<Vec<(CUdevice, u64)>, CUerror> {
    let mut found = Vec::new();
    collect_graph_allocations(graph, &mut found)?;
    Ok(found)
}

fn collect_graph_allocations(graph: CUgraph, found: &mut Vec<(CUdevice, u64)>) -> CUresult {
    let mut count = 0usize;
    // SAFETY: with no place for nodes the driver gives their number.
    unsafe { raw::cuGraphGetNodes(graph, std::ptr::null_mut(), &raw mut count) }?;
    let mut nodes = vec![CUgraphNode::default(); count];
    // SAFETY: there is room for `count` nodes.
    unsafe { raw::cuGraphGetNodes(graph, nodes.as_mut_ptr(), &raw mut count) }?;
    for &node in nodes.iter().take(count) {
        let mut kind = 0;
        // SAFETY: the driver listed the node.
        unsafe { raw::cuGraphNodeGetType(node, &raw mut kind) }?;
        if kind == CU_GRAPH_NODE_TYPE_MEM_ALLOC {
            let mut parameters = CUDA_MEM_ALLOC_NODE_PARAMS::default();
            // SAFETY: the node is an allocation node.
            unsafe { raw::cuGraphMemAllocNodeGetParams(node, &raw mut parameters) }?;
            if parameters.poolProps.location.type_ == CU_MEM_LOCATION_TYPE_DEVICE {
                found.push((parameters.poolProps.location.id, parameters.bytesize as u64));
            }
        } else if kind == CU_GRAPH_NODE_TYPE_GRAPH {
            let mut inner = CUgraph::default();
            // SAFETY: the node holds a graph.
            unsafe { raw::cuGraphChildGraphNodeGetGraph(node, &raw mut inner) }?;
            collect_graph_allocations(inner, found)?;
        }
    }
    Ok(())
}

/// Prepares the management library for this process; safe to call again.
pub fn management_init() -> NvmlResult {
    // SAFETY: no arguments. The library counts its users, so the program's own shutdown is not ours.
    unsafe { raw::nvmlInit_v2() }
}

/// The management library's handles of all GPUs of the container, in its own (PCI) order.
pub fn managed_devices() -> Result<Vec<nvmlDevice_t>, NvmlError> {
    let mut count = 0;
    // SAFETY: the pointer is to a local of the right type.
    unsafe { raw::nvmlDeviceGetCount_v2(&raw mut count) }?;
    (0..count)
        .map(|index| {
            let mut device = nvmlDevice_t::default();
            // SAFETY: as above.
            unsafe { raw::nvmlDeviceGetHandleByIndex_v2(index, &raw mut device) }?;
            Ok(device)
        })
        .collect()
}

/// The UUID of a managed device, as text.
pub fn managed_device_uuid(device: nvmlDevice_t) -> Result<String, NvmlError> {
    let mut text = [0u8; 96];
    // SAFETY: the buffer is as long as said.
    unsafe { raw::nvmlDeviceGetUUID(device, text.as_mut_ptr().cast::<c_char>(), text.len() as u32) }?;
    let end = text.iter().position(|&byte| byte == 0).unwrap_or(text.len());
    Ok(String::from_utf8_lossy(text.get(..end).unwrap_or_default()).into_owned())
}

/// Physical memory of a managed device in bytes.
pub fn managed_device_bytes(device: nvmlDevice_t) -> Result<u64, NvmlError> {
    let mut memory = nvmlMemory_t::default();
    // SAFETY: the pointer is to a local of the right type.
    unsafe { raw::nvmlDeviceGetMemoryInfo(device, &raw mut memory) }?;
    Ok(memory.total)
}

/// Device memory that the driver attributes to process `pid`, in bytes: 0 for a process it doesn't list,
/// `None` where it can't say (some MIG, WSL and integrated devices).
pub fn process_bytes(device: nvmlDevice_t, pid: u32) -> Result<Option<u64>, NvmlError> {
    const ROOM: usize = 256;
    let mut on_stack = [nvmlProcessInfo_t::default(); ROOM];
    let mut count = ROOM as u32;
    // SAFETY: the buffer holds `count` entries.
    let answer = unsafe {
        raw::nvmlDeviceGetComputeRunningProcesses_v3(device, &raw mut count, on_stack.as_mut_ptr())
    };
    if answer == Err(NvmlError::INSUFFICIENT_SIZE) {
        let mut entries = vec![nvmlProcessInfo_t::default(); count as usize + ROOM];
        count = entries.len() as u32;
        // SAFETY: the buffer holds `count` entries.
        unsafe {
            raw::nvmlDeviceGetComputeRunningProcesses_v3(device, &raw mut count, entries.as_mut_ptr())
        }?;
        return Ok(bytes_of(entries.get(..count as usize).unwrap_or_default(), pid));
    }
    answer?;
    Ok(bytes_of(on_stack.get(..count as usize).unwrap_or_default(), pid))
}

fn bytes_of(entries: &[nvmlProcessInfo_t], pid: u32) -> Option<u64> {
    let mut total = 0u64;
    for entry in entries.iter().filter(|entry| entry.pid == pid) {
        if entry.usedGpuMemory == NVML_VALUE_NOT_AVAILABLE {
            return None;
        }
        total = total.saturating_add(entry.usedGpuMemory);
    }
    Some(total)
}
