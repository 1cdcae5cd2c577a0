/* Memory that graphs allocate and leave allocated: nodes added by hand, nodes captured from a stream, and
 * graphs that are only uploaded. */
#include "path.h"

/* Instantiates `graph` and runs it with `run`; keeps both objects in the next piece if that works. */
static CUresult run_graph(CUgraph graph, CUdeviceptr address, CUresult (*run)(CUgraphExec, CUstream)) {
    CUgraphExec executable = NULL;
    CUresult result = cuGraphInstantiateWithFlags(&executable, graph, 0);
    result = THEN(result, run(executable, stream));
    result = THEN(result, cuStreamSynchronize(stream));
    if (result) {
        if (executable) cuGraphExecDestroy(executable);
        cuGraphDestroy(graph);
        cuDeviceGraphMemTrim(device);
        return result;
    }
    struct piece *piece = next_piece();
    piece->address = address;
    piece->object = graph;
    piece->second_object = executable;
    piece_count++;
    return result;
}

static CUDA_MEM_ALLOC_NODE_PARAMS allocation(size_t bytes) {
    CUDA_MEM_ALLOC_NODE_PARAMS parameters;
    memset(&parameters, 0, sizeof parameters);
    parameters.poolProps.allocType = CU_MEM_ALLOCATION_TYPE_PINNED;
    parameters.poolProps.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
    parameters.poolProps.location.id = device;
    parameters.bytesize = bytes;
    return parameters;
}

static CUresult with_node(size_t bytes, CUresult (*run)(CUgraphExec, CUstream)) {
    CUDA_MEM_ALLOC_NODE_PARAMS parameters = allocation(bytes);
    CUgraph graph;
    CUgraphNode node;
    CUresult result = cuGraphCreate(&graph, 0);
    if (result) return result;
    result = cuGraphAddMemAllocNode(&node, graph, NULL, 0, &parameters);
    if (result) {
        cuGraphDestroy(graph);
        return result;
    }
    return run_graph(graph, parameters.dptr, run);
}

static CUresult take_node(size_t bytes) {
    return with_node(bytes, cuGraphLaunch);
}

static CUresult take_uploaded(size_t bytes) {
    return with_node(bytes, cuGraphUpload);
}

/* The call that adds a node of any kind. */
static CUresult take_any_node(size_t bytes) {
    CUgraphNodeParams parameters;
    CUgraph graph;
    CUgraphNode node;
    memset(&parameters, 0, sizeof parameters);
    parameters.type = CU_GRAPH_NODE_TYPE_MEM_ALLOC;
    CUDA_MEM_ALLOC_NODE_PARAMS alloc = allocation(bytes);
    parameters.alloc.poolProps = alloc.poolProps;
    parameters.alloc.bytesize = bytes;
    CUresult result = cuGraphCreate(&graph, 0);
    if (result) return result;
#if CUDA_VERSION >= 13000
    result = cuGraphAddNode(&node, graph, NULL, NULL, 0, &parameters);
#else
    result = cuGraphAddNode(&node, graph, NULL, 0, &parameters);
#endif
    if (result) {
        cuGraphDestroy(graph);
        return result;
    }
    return run_graph(graph, parameters.alloc.dptr, cuGraphLaunch);
}

static CUresult take_captured(size_t bytes) {
    CUgraph graph = NULL;
    CUdeviceptr address = 0;
    CUresult result = cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL);
    if (result) return result;
    CUresult allocated = cuMemAllocAsync(&address, bytes, stream);
    result = cuStreamEndCapture(stream, &graph);
    if (allocated || result) {
        if (graph) cuGraphDestroy(graph);
        return allocated ? allocated : result;
    }
    return run_graph(graph, address, cuGraphLaunch);
}

static CUresult destroy_graphs(int free_addresses) {
    CUresult result = CUDA_SUCCESS;
    while (piece_count > 0) {
        struct piece *piece = &pieces[--piece_count];
        if (free_addresses) ALSO(result, cuMemFree(piece->address));
        ALSO(result, cuGraphExecDestroy((CUgraphExec)piece->second_object));
        ALSO(result, cuGraphDestroy((CUgraph)piece->object));
    }
    ALSO(result, cuDeviceGraphMemTrim(device));
    return result;
}

static CUresult release_run(void) {
    return destroy_graphs(1);
}

/* What was never launched has no live addresses. */
static CUresult release_uploaded(void) {
    return destroy_graphs(0);
}

const struct path graph_paths[] = {
    {"graph_node", 0, 0, NULL, take_node, release_run},
    {"graph_any_node", 0, 0, NULL, take_any_node, release_run},
    {"graph_capture", 0, 0, NULL, take_captured, release_run},
    {"graph_upload", 0, 0, NULL, take_uploaded, release_uploaded},
    NO_MORE_PATHS,
};
