//! Handles, device addresses and identifiers.

use crate::layout::{c_structs, handles};

handles! {
    /// A context: one program's state on one device.
    CUcontext(usize);
    /// A loaded module.
    CUmodule(usize);
    /// A function of a module.
    CUfunction(usize);
    /// A library: code not bound to one context.
    CUlibrary(usize);
    /// A kernel of a library.
    CUkernel(usize);
    /// A stream. 0 is the default stream, [`CU_STREAM_LEGACY`] and [`CU_STREAM_PER_THREAD`] name one.
    CUstream(usize);
    /// An event.
    CUevent(usize);
    /// An array: memory in the layout that textures read.
    CUarray(usize);
    /// A mipmapped array.
    CUmipmappedArray(usize);
    /// A memory pool.
    CUmemoryPool(usize);
    /// A graph as it is built.
    CUgraph(usize);
    /// A node of a graph.
    CUgraphNode(usize);
    /// A node of a graph as device code sees it.
    CUgraphDeviceNode(usize);
    /// A graph ready to launch.
    CUgraphExec(usize);
    /// A green context: a part of a device's processors.
    CUgreenCtx(usize);
    /// What a green context is to be made of.
    CUdevResourceDesc(usize);
    /// Memory of another API.
    CUexternalMemory(usize);
    /// A semaphore of another API.
    CUexternalSemaphore(usize);
    /// A resource shared with a graphics API.
    CUgraphicsResource(usize);
    /// A texture reference.
    CUtexref(usize);
    /// A surface reference.
    CUsurfref(usize);
    /// A link in progress.
    CUlinkState(usize);
    /// A user object: a destructor that a graph keeps.
    CUuserObject(usize);
    /// A registered notification of memory events.
    CUasyncCallbackHandle(usize);
    /// A registered log listener.
    CUlogsCallbackHandle(usize);
    /// A registered core dump listener.
    CUcoredumpCallbackHandle(usize);
    /// A running checkpoint operation.
    CUcheckpointOperationHandle(usize);
    /// An address in device memory.
    CUdeviceptr(u64);
    /// An address in device memory as functions older than CUDA 3.2 take it.
    CUdeviceptr_v1(u32);
    /// Physical memory made by `cuMemCreate`.
    CUmemGenericAllocationHandle(u64);
}

/// The default stream that the whole context shares.
pub const CU_STREAM_LEGACY: CUstream = CUstream(1);
/// The calling thread's own default stream.
pub const CU_STREAM_PER_THREAD: CUstream = CUstream(2);

c_structs! {
    /// An identifier of 16 bytes.
    #[derive(Eq, Hash, PartialOrd, Ord)]
    struct CUuuid [16] {
        [0] bytes: [u8; 16],
    }

    /// A handle by which another process can open a `cuMemAlloc` allocation.
    #[derive(Eq, Hash)]
    struct CUipcMemHandle [64] {
        [0] reserved: [u8; 64],
    }

    /// A handle by which another process can open an event.
    #[derive(Eq, Hash)]
    struct CUipcEventHandle [64] {
        [0] reserved: [u8; 64],
    }
}
