//! Graphs: what their nodes are made of.

use super::{
    CU_GRAPH_NODE_TYPE_GRAPH, CU_GRAPH_NODE_TYPE_KERNEL, CU_GRAPH_NODE_TYPE_MEM_ALLOC,
    CU_GRAPH_NODE_TYPE_MEM_FREE, CUcontext, CUdeviceptr, CUfunction, CUgraph, CUgraphInstantiateResult,
    CUgraphNode, CUgraphNodeType, CUkernel, CUmemAccessDesc, CUmemPoolProps, CUstream,
};
use crate::layout::c_structs;
use core::ffi::c_void;

c_structs! {
    /// An allocation node: takes memory when the graph runs.
    #[derive(Eq)]
    struct CUDA_MEM_ALLOC_NODE_PARAMS_v1 [120] {
        [0] poolProps: CUmemPoolProps,
        [88] accessDescs: *const CUmemAccessDesc,
        [96] accessDescCount: usize,
        [104] bytesize: usize,
        [112] dptr: CUdeviceptr,
    }

    /// The same, as it stands in [`CUgraphNodeParams`].
    #[derive(Eq)]
    struct CUDA_MEM_ALLOC_NODE_PARAMS_v2 [120] {
        [0] poolProps: CUmemPoolProps,
        [88] accessDescs: *const CUmemAccessDesc,
        [96] accessDescCount: usize,
        [104] bytesize: usize,
        [112] dptr: CUdeviceptr,
    }

    /// A node that frees what an allocation node took.
    #[derive(Eq)]
    struct CUDA_MEM_FREE_NODE_PARAMS [8] {
        [0] dptr: CUdeviceptr,
    }

    /// A kernel node, before CUDA 12.
    #[derive(Eq)]
    struct CUDA_KERNEL_NODE_PARAMS_v1 [56] {
        [0] func: CUfunction,
        [8] gridDimX: u32,
        [12] gridDimY: u32,
        [16] gridDimZ: u32,
        [20] blockDimX: u32,
        [24] blockDimY: u32,
        [28] blockDimZ: u32,
        [32] sharedMemBytes: u32,
        [40] kernelParams: *mut *mut c_void,
        [48] extra: *mut *mut c_void,
    }

    /// A kernel node.
    #[derive(Eq)]
    struct CUDA_KERNEL_NODE_PARAMS [72] {
        [0] func: CUfunction,
        [8] gridDimX: u32,
        [12] gridDimY: u32,
        [16] gridDimZ: u32,
        [20] blockDimX: u32,
        [24] blockDimY: u32,
        [28] blockDimZ: u32,
        [32] sharedMemBytes: u32,
        [40] kernelParams: *mut *mut c_void,
        [48] extra: *mut *mut c_void,
        [56] kern: CUkernel,
        [64] ctx: CUcontext,
    }

    /// The same, as it stands in [`CUgraphNodeParams`].
    #[derive(Eq)]
    struct CUDA_KERNEL_NODE_PARAMS_v3 [72] {
        [0] func: CUfunction,
        [8] gridDimX: u32,
        [12] gridDimY: u32,
        [16] gridDimZ: u32,
        [20] blockDimX: u32,
        [24] blockDimY: u32,
        [28] blockDimZ: u32,
        [32] sharedMemBytes: u32,
        [40] kernelParams: *mut *mut c_void,
        [48] extra: *mut *mut c_void,
        [56] kern: CUkernel,
        [64] ctx: CUcontext,
    }

    /// A node that sets memory, before CUDA 12.
    #[derive(Eq)]
    struct CUDA_MEMSET_NODE_PARAMS [40] {
        [0] dst: CUdeviceptr,
        [8] pitch: usize,
        [16] value: u32,
        [20] elementSize: u32,
        [24] width: usize,
        [32] height: usize,
    }

    /// A node that sets memory, as it stands in [`CUgraphNodeParams`].
    #[derive(Eq)]
    struct CUDA_MEMSET_NODE_PARAMS_v2 [48] {
        [0] dst: CUdeviceptr,
        [8] pitch: usize,
        [16] value: u32,
        [20] elementSize: u32,
        [24] width: usize,
        [32] height: usize,
        [40] ctx: CUcontext,
    }

    /// How `cuGraphInstantiateWithParams` is to work, and what came of it.
    #[derive(Eq)]
    struct CUDA_GRAPH_INSTANTIATE_PARAMS [32] {
        [0] flags: u64,
        [8] hUploadStream: CUstream,
        [16] hErrNode_out: CUgraphNode,
        [24] result_out: CUgraphInstantiateResult,
    }

    /// A node of any kind. What `body` holds is for `type_` to say; read it with the methods.
    #[derive(Eq)]
    struct CUgraphNodeParams [256] {
        [0] type_ as type: CUgraphNodeType,
        [4] reserved0: [i32; 3],
        [16] body as reserved1: [u64; 29],
        [248] reserved2: i64,
    }
}

/// What current headers mean by an allocation node.
pub type CUDA_MEM_ALLOC_NODE_PARAMS = CUDA_MEM_ALLOC_NODE_PARAMS_v1;

impl From<CUDA_MEM_ALLOC_NODE_PARAMS_v2> for CUDA_MEM_ALLOC_NODE_PARAMS_v1 {
    fn from(inner: CUDA_MEM_ALLOC_NODE_PARAMS_v2) -> Self {
        let CUDA_MEM_ALLOC_NODE_PARAMS_v2 { poolProps, accessDescs, accessDescCount, bytesize, dptr } = inner;
        Self { poolProps, accessDescs, accessDescCount, bytesize, dptr }
    }
}

/// A kind of node whose parameters have a place in [`CUgraphNodeParams`].
///
/// # Safety
/// The type must be plain C data, for which every bit pattern is a value, and must be what the driver reads
/// from the start of `body` where `type_` is [`KIND`](Self::KIND).
pub unsafe trait GraphNodeBody: Copy {
    /// The node type that these parameters belong to.
    const KIND: CUgraphNodeType;
}

// SAFETY: numbers, handles and pointers only; the header's union has it as member `alloc`.
unsafe impl GraphNodeBody for CUDA_MEM_ALLOC_NODE_PARAMS_v2 {
    const KIND: CUgraphNodeType = CU_GRAPH_NODE_TYPE_MEM_ALLOC;
}
// SAFETY: a device address; the header's union has it as member `free`.
unsafe impl GraphNodeBody for CUDA_MEM_FREE_NODE_PARAMS {
    const KIND: CUgraphNodeType = CU_GRAPH_NODE_TYPE_MEM_FREE;
}
// SAFETY: numbers, handles and pointers only; the header's union has it as member `kernel`.
unsafe impl GraphNodeBody for CUDA_KERNEL_NODE_PARAMS_v3 {
    const KIND: CUgraphNodeType = CU_GRAPH_NODE_TYPE_KERNEL;
}
// SAFETY: a handle; the header's union has it as the first field of member `graph`.
unsafe impl GraphNodeBody for CUgraph {
    const KIND: CUgraphNodeType = CU_GRAPH_NODE_TYPE_GRAPH;
}

impl CUgraphNodeParams {
    /// Parameters of a node of this kind, and zero elsewhere.
    pub fn new<B: GraphNodeBody>(body: B) -> Self {
        let mut params = Self { type_: B::KIND, ..Self::default() };
        params.write(body);
        params
    }

    /// The parameters, if the node is of this kind.
    pub fn get<B: GraphNodeBody>(&self) -> Option<B> {
        // SAFETY: the place is large and aligned enough (`fits`), and any bits in it are a value of `B`.
        (self.type_ == B::KIND && fits::<B>()).then(|| unsafe { self.body.as_ptr().cast::<B>().read() })
    }

    /// Replaces the parameters, if the node is of this kind; says whether it is.
    pub fn set<B: GraphNodeBody>(&mut self, body: B) -> bool {
        let same_kind = self.type_ == B::KIND;
        if same_kind {
            self.write(body);
        }
        same_kind
    }

    fn write<B: GraphNodeBody>(&mut self, body: B) {
        if fits::<B>() {
            // SAFETY: the place is large and aligned enough, and `[u64; 29]` has a value for any bits.
            unsafe { self.body.as_mut_ptr().cast::<B>().write(body) }
        }
    }
}

const fn fits<B>() -> bool {
    size_of::<B>() <= size_of::<[u64; 29]>() && align_of::<B>() <= align_of::<u64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_gives_its_parameters_only_as_what_it_is() {
        let wanted = CUDA_MEM_ALLOC_NODE_PARAMS_v2 { bytesize: 4096, ..Default::default() };
        let mut node = CUgraphNodeParams::new(wanted);
        assert_eq!(node.type_, CU_GRAPH_NODE_TYPE_MEM_ALLOC);
        assert_eq!(node.get::<CUDA_MEM_ALLOC_NODE_PARAMS_v2>(), Some(wanted));
        assert_eq!(node.get::<CUgraph>(), None);

        let given = CUDA_MEM_ALLOC_NODE_PARAMS_v2 { dptr: CUdeviceptr(0x7f00_0000), ..wanted };
        assert!(node.set(given));
        assert!(!node.set(CUgraph(1)));
        assert_eq!(node.get::<CUDA_MEM_ALLOC_NODE_PARAMS_v2>(), Some(given));
    }
}
