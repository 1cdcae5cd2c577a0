/* Stream-ordered memory, from the device's own pool and from the program's. */
#include "path.h"

static CUmemoryPool pool;
static int keeps;

static CUresult take_default(size_t bytes) {
    struct piece *piece = next_piece();
    CUresult result = cuMemAllocAsync(&piece->address, bytes, stream);
    result = THEN(result, cuStreamSynchronize(stream));
    piece_count += result == CUDA_SUCCESS;
    return result;
}

/* The symbol for streams that are each thread's own, by its own name. */
extern CUresult CUDAAPI cuMemAllocAsync_ptsz(CUdeviceptr *address, size_t bytes, CUstream on);

static CUresult take_per_thread(size_t bytes) {
    struct piece *piece = next_piece();
    CUresult result = cuMemAllocAsync_ptsz(&piece->address, bytes, CU_STREAM_PER_THREAD);
    result = THEN(result, cuStreamSynchronize(CU_STREAM_PER_THREAD));
    piece_count += result == CUDA_SUCCESS;
    return result;
}

static CUresult release_to_pool(void) {
    CUresult result = CUDA_SUCCESS;
    while (piece_count > 0) ALSO(result, cuMemFreeAsync(pieces[--piece_count].address, stream));
    ALSO(result, cuStreamSynchronize(stream));
    return result;
}

static CUresult make_pool(void) {
    CUmemPoolProps properties;
    memset(&properties, 0, sizeof properties);
    properties.allocType = CU_MEM_ALLOCATION_TYPE_PINNED;
    properties.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
    properties.location.id = device;
    return cuMemPoolCreate(&pool, &properties);
}

static CUresult take_from_own(size_t bytes) {
    CUresult result = pool ? CUDA_SUCCESS : make_pool();
    struct piece *piece = next_piece();
    result = THEN(result, cuMemAllocFromPoolAsync(&piece->address, bytes, pool, stream));
    result = THEN(result, cuStreamSynchronize(stream));
    piece_count += result == CUDA_SUCCESS;
    return result;
}

static CUresult release_own(void) {
    CUresult result = release_to_pool();
    ALSO(result, cuMemPoolDestroy(pool));
    pool = NULL;
    return result;
}

/* First the pool takes everything and keeps it when it is freed; then plain memory must get it back. */
static CUresult take_kept(size_t bytes) {
    if (!keeps) {
        CUmemoryPool own;
        cuuint64_t everything = UINT64_MAX;
        CUresult result = cuDeviceGetDefaultMemPool(&own, device);
        result = THEN(result, cuMemPoolSetAttribute(own, CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, &everything));
        if (result) return result;
        keeps = 1;
    }
    if (keeps == 1) return take_default(bytes);
    CUresult result = cuMemAlloc(&next_piece()->address, bytes);
    piece_count += result == CUDA_SUCCESS;
    return result;
}

static CUresult release_kept(void) {
    if (keeps == 1) {
        keeps = 2;
        return release_to_pool();
    }
    CUresult result = CUDA_SUCCESS;
    while (piece_count > 0) ALSO(result, cuMemFree(pieces[--piece_count].address));
    return result;
}

const struct path pool_paths[] = {
    {"async_default", 0, 0, NULL, take_default, release_to_pool},
    {"async_per_thread", 0, 0, NULL, take_per_thread, release_to_pool},
    {"async_pool", 0, 0, NULL, take_from_own, release_own},
    {"async_kept", 0, 0, NULL, take_kept, release_kept},
    NO_MORE_PATHS,
};
