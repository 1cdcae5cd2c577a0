/* CUDA arrays of every shape, and mipmapped ones. */
#include "path.h"

static CUresult take_shape(CUDA_ARRAY3D_DESCRIPTOR shape) {
    CUarray array;
    CUresult result = cuArray3DCreate(&array, &shape);
    if (result) return result;
    next_piece()->object = array;
    piece_count++;
    return result;
}

static CUDA_ARRAY3D_DESCRIPTOR shape_of(size_t width, size_t height, size_t depth, CUarray_format format,
                                        unsigned channels, unsigned flags) {
    CUDA_ARRAY3D_DESCRIPTOR shape;
    memset(&shape, 0, sizeof shape);
    shape.Width = width;
    shape.Height = height;
    shape.Depth = depth;
    shape.Format = format;
    shape.NumChannels = channels;
    shape.Flags = flags;
    return shape;
}

static CUresult take_1d(size_t bytes) {
    return take_shape(shape_of(bytes / 16, 0, 0, CU_AD_FORMAT_FLOAT, 4, 0));
}

/* Through the older call, which knows one and two dimensions. */
static CUresult take_2d(size_t bytes) {
    CUDA_ARRAY_DESCRIPTOR shape;
    memset(&shape, 0, sizeof shape);
    shape.Width = 4096;
    shape.Height = bytes / 65536;
    shape.Format = CU_AD_FORMAT_FLOAT;
    shape.NumChannels = 4;
    CUarray array;
    CUresult result = cuArrayCreate(&array, &shape);
    if (result) return result;
    next_piece()->object = array;
    piece_count++;
    return result;
}

static CUresult take_small_2d(size_t bytes) {
    return take_shape(shape_of(64, bytes / 256, 0, CU_AD_FORMAT_FLOAT, 1, 0));
}

static CUresult take_3d(size_t bytes) {
    return take_shape(shape_of(512, 512, bytes >> 18, CU_AD_FORMAT_UNSIGNED_INT8, 1, 0));
}

static CUresult take_layered(size_t bytes) {
    return take_shape(shape_of(1024, 1024, bytes >> 22, CU_AD_FORMAT_FLOAT, 1, CUDA_ARRAY3D_LAYERED));
}

/* Six faces of 1024 x 1024 x 4 x 4 bytes are 96 MiB. */
static CUresult take_cubemap(size_t bytes) {
    (void)bytes;
    return take_shape(shape_of(1024, 1024, 6, CU_AD_FORMAT_FLOAT, 4, CUDA_ARRAY3D_CUBEMAP));
}

static CUresult release_arrays(void) {
    CUresult result = CUDA_SUCCESS;
    while (piece_count > 0) ALSO(result, cuArrayDestroy((CUarray)pieces[--piece_count].object));
    return result;
}

/* All levels together are a third more than the first of 2048 x 2048 x 4 x 4 bytes: 85.3 MiB. */
static CUresult take_mipmapped(size_t bytes) {
    (void)bytes;
    CUDA_ARRAY3D_DESCRIPTOR shape = shape_of(2048, 2048, 0, CU_AD_FORMAT_FLOAT, 4, 0);
    CUmipmappedArray array;
    CUresult result = cuMipmappedArrayCreate(&array, &shape, 12);
    if (result) return result;
    next_piece()->object = array;
    piece_count++;
    return result;
}

static CUresult release_mipmapped(void) {
    CUresult result = CUDA_SUCCESS;
    while (piece_count > 0) ALSO(result, cuMipmappedArrayDestroy((CUmipmappedArray)pieces[--piece_count].object));
    return result;
}

/* One of 1 MiB in one dimension takes 8. */
const struct path array_paths[] = {
    {"array_1d", MIB_BYTES, 512, NULL, take_1d, release_arrays},
    {"array_2d", 0, 0, NULL, take_2d, release_arrays},
    {"array_small", 64 << 10, 0, NULL, take_small_2d, release_arrays},
    {"array_3d", 0, 0, NULL, take_3d, release_arrays},
    {"array_layered", 0, 0, NULL, take_layered, release_arrays},
    {"array_cubemap", 96 * MIB_BYTES, 0, NULL, take_cubemap, release_arrays},
    {"mipmap", 85 * MIB_BYTES + MIB_BYTES / 3, 0, NULL, take_mipmapped, release_mipmapped},
    NO_MORE_PATHS,
};
