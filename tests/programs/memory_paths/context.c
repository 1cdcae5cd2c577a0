/* Memory the driver takes without being asked for bytes: contexts, stacks, streams, modules. */
#include "path.h"

enum { STREAMS_PER_STEP = 64 };

/* The size of a step is a name only: what a context takes is the driver's affair. */
static CUresult take_context(size_t bytes) {
    (void)bytes;
    CUcontext before, created;
    CUresult result = cuCtxGetCurrent(&before);
#if CUDA_VERSION >= 13000
    result = THEN(result, cuCtxCreate(&created, NULL, 0, device));
#else
    result = THEN(result, cuCtxCreate(&created, 0, device));
#endif
    if (result) return result;
    next_piece()->object = created;
    piece_count++;
    return cuCtxSetCurrent(before);
}

static CUresult release_contexts(void) {
    CUresult result = CUDA_SUCCESS;
    while (piece_count > 0) ALSO(result, cuCtxDestroy((CUcontext)pieces[--piece_count].object));
    return result;
}

/* Every resident thread gets another KiB. */
static CUresult take_stack(size_t bytes) {
    (void)bytes;
    size_t now_bytes;
    CUresult result = cuCtxGetLimit(&now_bytes, CU_LIMIT_STACK_SIZE);
    if (result) return result;
    struct piece *piece = next_piece();
    piece->bytes = now_bytes;
    result = cuCtxSetLimit(CU_LIMIT_STACK_SIZE, now_bytes + 1024);
    piece_count += result == CUDA_SUCCESS;
    return result;
}

static CUresult release_stack(void) {
    if (piece_count == 0) return CUDA_SUCCESS;
    piece_count = 0;
    return cuCtxSetLimit(CU_LIMIT_STACK_SIZE, pieces[0].bytes);
}

static CUresult take_streams(size_t bytes) {
    (void)bytes;
    for (int made = 0; made < STREAMS_PER_STEP; made++) {
        CUstream created;
        CUresult result = cuStreamCreate(&created, CU_STREAM_NON_BLOCKING);
        if (result) {
            while (made-- > 0) cuStreamDestroy((CUstream)pieces[--piece_count].object);
            return result;
        }
        next_piece()->object = created;
        piece_count++;
    }
    return CUDA_SUCCESS;
}

static CUresult release_streams(void) {
    CUresult result = CUDA_SUCCESS;
    while (piece_count > 0) ALSO(result, cuStreamDestroy((CUstream)pieces[--piece_count].object));
    return result;
}

/* Code with a variable of the step's size. */
static CUresult take_module(size_t bytes) {
    char code[256];
    snprintf(code, sizeof code,
             ".version 7.0\n.target sm_70\n.address_size 64\n"
             ".visible .global .align 16 .b8 store[%zu];\n.visible .entry empty() { ret; }\n",
             bytes);
    CUmodule loaded;
    CUdeviceptr address;
    size_t store_bytes;
    CUresult result = cuModuleLoadData(&loaded, code);
    if (result) return result;
    /* Loading may be put off until something of the module is needed. */
    result = cuModuleGetGlobal(&address, &store_bytes, loaded, "store");
    if (result) {
        cuModuleUnload(loaded);
        return result;
    }
    next_piece()->object = loaded;
    piece_count++;
    return result;
}

static CUresult release_modules(void) {
    CUresult result = CUDA_SUCCESS;
    while (piece_count > 0) ALSO(result, cuModuleUnload((CUmodule)pieces[--piece_count].object));
    return result;
}

/* A context on some of the multiprocessors, with a stream in it. */
static CUresult take_green(size_t bytes) {
    (void)bytes;
    CUdevResource whole, part, rest;
    CUdevResourceDesc description;
    CUgreenCtx green;
    unsigned groups = 1;
    CUresult result = cuDeviceGetDevResource(device, &whole, CU_DEV_RESOURCE_TYPE_SM);
    result = THEN(result, cuDevSmResourceSplitByCount(&part, &groups, &whole, &rest, 0, 16));
    result = THEN(result, cuDevResourceGenerateDesc(&description, &part, 1));
    result = THEN(result, cuGreenCtxCreate(&green, description, device, CU_GREEN_CTX_DEFAULT_STREAM));
    if (result) return result;
    next_piece()->object = green;
    piece_count++;
    return result;
}

static CUresult release_green(void) {
    CUresult result = CUDA_SUCCESS;
    while (piece_count > 0) ALSO(result, cuGreenCtxDestroy((CUgreenCtx)pieces[--piece_count].object));
    return result;
}

/* Steps whose size is unknown count as one byte, so that only what was taken ends them. */
const struct path context_paths[] = {
    {"context", 1, 0, NULL, take_context, release_contexts},
    {"stack_limit", 1, 0, NULL, take_stack, release_stack},
    {"streams", 1, 64, NULL, take_streams, release_streams},
    {"module", 0, 0, NULL, take_module, release_modules},
    {"green_context", 1, 0, NULL, take_green, release_green},
    NO_MORE_PATHS,
};
