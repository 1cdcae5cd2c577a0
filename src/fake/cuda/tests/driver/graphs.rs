//! Graphs, built by hand and captured.

use crate::api::*;
use crate::driver_test;
use crate::program::*;
use std::ffi::c_void;
use std::ptr::{null, null_mut};
use std::time::Duration;
use vcuda_driver::cuda::types::*;
use vcuda_driver::result::{CUerror, CUresult};

fn graph() -> CUgraph {
    let mut graph = CUgraph::NULL;
    cuGraphCreate(&mut graph, 0).unwrap();
    graph
}

fn instantiate(graph: CUgraph) -> CUgraphExec {
    let mut exec = CUgraphExec::NULL;
    cuGraphInstantiateWithFlags(&mut exec, graph, 0).unwrap();
    exec
}

fn graph_memory_mib(attribute: u32) -> u64 {
    let mut value = 0_u64;
    cuDeviceGetGraphMemAttribute(0, attribute, (&raw mut value).cast()).unwrap();
    value / MIB as u64
}

fn alloc_params(bytes: usize) -> CUDA_MEM_ALLOC_NODE_PARAMS {
    CUDA_MEM_ALLOC_NODE_PARAMS {
        poolProps: CUmemPoolProps {
            allocType: CU_MEM_ALLOCATION_TYPE_PINNED,
            location: CUmemLocation { type_: CU_MEM_LOCATION_TYPE_DEVICE, id: 0 },
            ..CUmemPoolProps::default()
        },
        bytesize: bytes,
        ..CUDA_MEM_ALLOC_NODE_PARAMS::default()
    }
}

driver_test! {
    fn allocation_nodes_take_memory_at_the_first_launch_until_trimmed() {
        begin();
        let (stream, graph) = (stream(), graph());
        let (mut allocation, mut freeing) = (CUgraphNode::NULL, CUgraphNode::NULL);
        let mut params = alloc_params(100 * MIB);
        cuGraphAddMemAllocNode(&mut allocation, graph, null(), 0, &mut params).unwrap();
        assert!(!params.dptr.is_null());
        cuGraphAddMemFreeNode(&mut freeing, graph, &allocation, 1, params.dptr).unwrap();
        let mut exec = CUgraphExec::NULL;
        assert_eq!(taken_mib(|| exec = instantiate(graph)), 0);
        assert_eq!(taken_mib(|| cuGraphLaunch(exec, stream).unwrap()), 128);
        assert_eq!(taken_mib(|| cuGraphLaunch(exec, stream).unwrap()), 0);
        assert_eq!(graph_memory_mib(CU_GRAPH_MEM_ATTR_RESERVED_MEM_CURRENT), 128);
        assert_eq!(taken_mib(|| cuGraphExecDestroy(exec).unwrap()), 0);
        assert_eq!(taken_mib(|| cuDeviceGraphMemTrim(0).unwrap()), -128);
        cuGraphDestroy(graph).unwrap();
    }
}

driver_test! {
    fn what_a_graph_leaves_allocated_is_the_programs() {
        begin();
        let (stream, graph) = (stream(), graph());
        let mut params = alloc_params(10 * MIB);
        cuGraphAddMemAllocNode(&mut CUgraphNode::default(), graph, null(), 0, &mut params).unwrap();
        let exec = instantiate(graph);
        assert_eq!(cuMemsetD8_v2(params.dptr, 1, 8), Err(CUerror::INVALID_VALUE));
        cuGraphLaunch(exec, stream).unwrap();
        write(params.dptr, &[5_u8; 8]);
        assert_eq!(cuGraphLaunch(exec, stream), Err(CUerror::INVALID_VALUE), "it is allocated still");
        assert_eq!(taken_mib(|| cuDeviceGraphMemTrim(0).unwrap()), 0);
        assert_eq!(taken_mib(|| cuMemFree_v2(params.dptr).unwrap()), 0);
        assert_eq!(taken_mib(|| cuDeviceGraphMemTrim(0).unwrap()), -32);
        assert_eq!(taken_mib(|| cuGraphLaunch(exec, stream).unwrap()), 32, "it takes memory anew");
    }
}

/// A graph with one kernel that fills three words.
fn fill_params(parameters: &mut [*mut c_void; 3]) -> CUDA_KERNEL_NODE_PARAMS {
    CUDA_KERNEL_NODE_PARAMS {
        func: function("fill_u32"),
        gridDimX: 1,
        gridDimY: 1,
        gridDimZ: 1,
        blockDimX: 32,
        blockDimY: 1,
        blockDimZ: 1,
        kernelParams: parameters.as_mut_ptr(),
        ..CUDA_KERNEL_NODE_PARAMS::default()
    }
}

driver_test! {
    fn kernel_nodes_keep_their_parameters_and_take_others() {
        begin();
        let (stream, graph, memory) = (stream(), graph(), alloc(12));
        let (mut to, mut value, mut count) = (memory, 1_u32, 3_u64);
        let mut parameters: [*mut c_void; 3] =
            [(&raw mut to).cast(), (&raw mut value).cast(), (&raw mut count).cast()];
        let mut node = CUgraphNode::NULL;
        let params = fill_params(&mut parameters);
        cuGraphAddKernelNode_v2(&mut node, graph, null(), 0, &params).unwrap();
        // SAFETY: the variable lives; it is changed behind the compiler's back, as the driver will read it.
        unsafe { (&raw mut value).write_volatile(2) };
        let exec = instantiate(graph);
        cuGraphLaunch(exec, stream).unwrap();
        assert_eq!(read::<u32>(memory, 3), [1, 1, 1], "as when the node was added");

        let mut shown = CUDA_KERNEL_NODE_PARAMS::default();
        cuGraphKernelNodeGetParams_v2(node, &mut shown).unwrap();
        assert_eq!((shown.func, shown.blockDimX), (params.func, 32));
        // SAFETY: the driver gave an array of one pointer per parameter, to values that the node keeps.
        let shown_value = unsafe { shown.kernelParams.add(1).read().cast::<u32>().read() };
        assert_eq!(shown_value, 1);

        cuGraphExecKernelNodeSetParams_v2(exec, node, &params).unwrap();
        cuGraphLaunch(exec, stream).unwrap();
        assert_eq!(read::<u32>(memory, 3), [2, 2, 2]);
    }
}

fn update(exec: CUgraphExec, graph: CUgraph) -> (CUresult, u32) {
    let mut result = [0_u64; 3];
    let code = cuGraphExecUpdate_v2(exec, graph, result.as_mut_ptr().cast());
    (code, result[0] as u32)
}

driver_test! {
    fn a_graph_of_the_same_shape_replaces_the_old_one() {
        begin();
        let (stream, memory) = (stream(), alloc(4));
        let with_fill = |value| {
            let graph = graph();
            let params = CUDA_MEMSET_NODE_PARAMS {
                dst: memory,
                pitch: 0,
                value,
                elementSize: 4,
                width: 1,
                height: 1,
            };
            cuGraphAddMemsetNode(&mut CUgraphNode::default(), graph, null(), 0, &params, CUcontext::NULL).unwrap();
            graph
        };
        let exec = instantiate(with_fill(1));
        assert_eq!(update(exec, with_fill(2)), (Ok(()), 0));
        cuGraphLaunch(exec, stream).unwrap();
        assert_eq!(read::<u32>(memory, 1), [2]);
        assert_eq!(update(exec, graph()), (Err(CUerror::GRAPH_EXEC_UPDATE_FAILURE), 2));
    }
}

driver_test! {
    fn all_nodes_of_a_graph_take_their_time_even_when_changed() {
        begin();
        const BYTES: usize = 2_500_000;
        let (stream, graph, device, mut host) = (stream(), graph(), alloc(BYTES), vec![0_u8; BYTES]);
        let kernel_params = |ns: &mut u64, parameters: &mut [*mut c_void; 1]| {
            *parameters = [std::ptr::from_mut(ns).cast()];
            CUDA_KERNEL_NODE_PARAMS {
                func: function("spin"),
                gridDimX: 1,
                gridDimY: 1,
                gridDimZ: 1,
                blockDimX: 32,
                blockDimY: 1,
                blockDimZ: 1,
                kernelParams: parameters.as_mut_ptr(),
                ..CUDA_KERNEL_NODE_PARAMS::default()
            }
        };
        let copy = CUDA_MEMCPY3D {
            srcMemoryType: CU_MEMORYTYPE_HOST,
            srcHost: host.as_mut_ptr().cast(),
            dstMemoryType: CU_MEMORYTYPE_DEVICE,
            dstDevice: device,
            WidthInBytes: BYTES,
            Height: 1,
            Depth: 1,
            ..CUDA_MEMCPY3D::default()
        };
        let fill =
            CUDA_MEMSET_NODE_PARAMS { dst: device, pitch: 0, value: 1, elementSize: 1, width: BYTES, height: 1 };
        let (mut ns, mut parameters) = (1_000_000_u64, [null_mut()]);
        let params = kernel_params(&mut ns, &mut parameters);
        let mut nodes = [CUgraphNode::NULL; 5];
        cuGraphAddKernelNode_v2(&mut nodes[0], graph, null(), 0, &params).unwrap();
        let (before, after) = nodes.split_at_mut(1);
        cuGraphAddKernelNode_v2(&mut after[0], graph, &before[0], 1, &params).unwrap();
        cuGraphAddMemcpyNode(&mut after[1], graph, &before[0], 1, &copy, CUcontext::NULL).unwrap();
        cuGraphAddMemsetNode(&mut after[2], graph, &before[0], 1, &fill, CUcontext::NULL).unwrap();
        let copying = Duration::from_nanos(1000 + BYTES as u64 / 25);
        let filling = Duration::from_nanos(1000 + BYTES as u64 / 2000);
        let exec = instantiate(graph);
        let launch_thrice = || (0..3).for_each(|_| cuGraphLaunch(exec, stream).unwrap());
        let kernels = Duration::from_millis(2);
        assert_eq!(busy_for(launch_thrice), 3 * (kernels + copying + filling));

        let (mut longer_ns, mut parameters) = (4_000_000_u64, [null_mut()]);
        let longer = kernel_params(&mut longer_ns, &mut parameters);
        cuGraphExecKernelNodeSetParams_v2(exec, nodes[1], &longer).unwrap();
        assert_eq!(busy_for(launch_thrice), 3 * (Duration::from_millis(5) + copying + filling));
        assert_eq!(update(exec, graph), (Ok(()), 0));
        assert_eq!(busy_for(launch_thrice), 3 * (kernels + copying + filling), "as the graph is");
    }
}

fn begin_capture(stream: CUstream) {
    cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_MODE_GLOBAL).unwrap();
}

driver_test! {
    fn captured_work_runs_when_the_graph_does() {
        begin();
        let (one, other, kernel, fork, join) = (stream(), stream(), function("spin"), event(), event());
        begin_capture(one);
        let time = Duration::from_millis(5);
        spin(kernel, one, time);
        cuEventRecord(fork, one).unwrap();
        cuStreamWaitEvent(other, fork, 0).unwrap();
        spin(kernel, other, time);
        let mut address = CUdeviceptr::NULL;
        cuMemAllocAsync(&mut address, 64 * MIB, other).unwrap();
        cuMemFreeAsync(address, other).unwrap();
        cuEventRecord(join, other).unwrap();
        cuStreamWaitEvent(one, join, 0).unwrap();
        let mut graph = CUgraph::NULL;
        cuStreamEndCapture(one, &mut graph).unwrap();
        cuStreamQuery(one).unwrap();
        let mut count = 0;
        cuGraphGetNodes(graph, null_mut(), &mut count).unwrap();
        let mut nodes = vec![CUgraphNode::NULL; count];
        cuGraphGetNodes(graph, nodes.as_mut_ptr(), &mut count).unwrap();
        let kinds: Vec<u32> = nodes
            .iter()
            .map(|&node| {
                let mut kind = 99;
                cuGraphNodeGetType(node, &mut kind).unwrap();
                kind
            })
            .collect();
        let (kernel, alloc, free) =
            (CU_GRAPH_NODE_TYPE_KERNEL, CU_GRAPH_NODE_TYPE_MEM_ALLOC, CU_GRAPH_NODE_TYPE_MEM_FREE);
        assert_eq!(kinds, [kernel, kernel, alloc, free]);
        let exec = instantiate(graph);
        assert_eq!(taken_mib(|| cuGraphLaunch(exec, one).unwrap()), 64);
        assert!(timed(|| cuStreamSynchronize(one).unwrap()) > time);
    }
}

driver_test! {
    fn a_capture_forbids_what_could_disturb_it() {
        begin();
        let (captured, other, done) = (stream(), stream(), event());
        let in_capture = |call: &dyn Fn() -> CUresult| {
            begin_capture(captured);
            let result = call();
            let mut status = 0;
            cuStreamIsCapturing(captured, &mut status).unwrap();
            let ended = cuStreamEndCapture(captured, &mut CUgraph::default());
            let is_valid = status == CU_STREAM_CAPTURE_STATUS_ACTIVE;
            assert_eq!(ended.is_ok(), is_valid);
            (result, is_valid)
        };
        let forbidden = (Err(CUerror::STREAM_CAPTURE_UNSUPPORTED), false);
        assert_eq!(in_capture(&|| try_alloc(MIB)), forbidden);
        assert_eq!(in_capture(&|| cuStreamSynchronize(captured)), forbidden);
        assert_eq!(in_capture(&|| cuStreamQuery(other)), forbidden);
        assert_eq!(in_capture(&|| cuCtxSynchronize()), forbidden);
        assert_eq!(in_capture(&|| cuEventQuery(done)), forbidden);
        assert_eq!(in_capture(&|| cuMemAllocAsync(&mut CUdeviceptr::default(), MIB, other)), forbidden);
        let captured_event = || {
            cuEventRecord(done, captured)?;
            cuEventQuery(done)
        };
        assert_eq!(in_capture(&captured_event), (Err(CUerror::CAPTURED_EVENT), false));
        let looking = || cuMemGetInfo_v2(&mut 0, &mut 0);
        assert_eq!(in_capture(&looking), (Ok(()), true));
        let refused = cuStreamBeginCapture_v2(CUstream::NULL, CU_STREAM_CAPTURE_MODE_GLOBAL);
        assert_eq!(refused, Err(CUerror::STREAM_CAPTURE_UNSUPPORTED));
    }
}
