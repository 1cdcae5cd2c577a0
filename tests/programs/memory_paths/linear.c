/* Memory with an address of its own, at once: plain, small, pitched, managed; and pinned host memory, which
 * is no device memory and must not count. */
#include "path.h"

static CUresult take_linear(size_t bytes) {
    CUresult result = cuMemAlloc(&next_piece()->address, bytes);
    piece_count += result == CUDA_SUCCESS;
    return result;
}

static CUresult take_pitched(size_t bytes) {
    size_t width_bytes = 60000, pitch_bytes;
    CUresult result = cuMemAllocPitch(&next_piece()->address, &pitch_bytes, width_bytes, bytes / 60416, 4);
    piece_count += result == CUDA_SUCCESS;
    return result;
}

/* Touched on the device: until then the driver takes none. */
static CUresult take_managed(size_t bytes) {
    struct piece *piece = next_piece();
    CUresult result = cuMemAllocManaged(&piece->address, bytes, CU_MEM_ATTACH_GLOBAL);
    if (result) return result;
    result = cuMemsetD8(piece->address, 1, bytes);
    result = THEN(result, cuCtxSynchronize());
    if (result)
        cuMemFree(piece->address);
    else
        piece_count++;
    return result;
}

static CUresult release_linear(void) {
    CUresult result = CUDA_SUCCESS;
    while (piece_count > 0) ALSO(result, cuMemFree(pieces[--piece_count].address));
    return result;
}

static CUresult take_pinned(size_t bytes) {
    CUresult result = cuMemHostAlloc(&next_piece()->object, bytes, 0);
    piece_count += result == CUDA_SUCCESS;
    return result;
}

static CUresult release_pinned(void) {
    CUresult result = CUDA_SUCCESS;
    while (piece_count > 0) ALSO(result, cuMemFreeHost(pieces[--piece_count].object));
    return result;
}

const struct path linear_paths[] = {
    {"linear", 0, 0, NULL, take_linear, release_linear},
    {"small", 100 << 10, 0, NULL, take_linear, release_linear},
    {"odd", 3 * MIB_BYTES + 1, 0, NULL, take_linear, release_linear},
    {"pitched", 0, 0, NULL, take_pitched, release_linear},
    {"managed", 0, 0, NULL, take_managed, release_linear},
    {"pinned_host", 0, 0, NULL, take_pinned, release_pinned},
    NO_MORE_PATHS,
};
