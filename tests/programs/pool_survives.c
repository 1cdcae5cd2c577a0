/* Goes on using a pool that the driver refused to destroy. */
#include "program.h"

int main(void) {
    CUmemPoolProps properties;
    CUmemoryPool pool;
    CUstream stream;
    CUdeviceptr first, second;
    use_device(0);
    MUST(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    memset(&properties, 0, sizeof properties);
    properties.allocType = CU_MEM_ALLOCATION_TYPE_PINNED;
    properties.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
    MUST(cuMemPoolCreate(&pool, &properties));
    MUST(cuMemAllocFromPoolAsync(&first, 256 * MIB_BYTES, pool, stream));
    printf("destroyed %d\n", (int)cuMemPoolDestroy(pool));
    MUST(cuMemAllocFromPoolAsync(&second, 256 * MIB_BYTES, pool, stream));
    /* Asking makes the library look at its pools, and loading code makes it measure. */
    printf("free_bytes %llu\n", (unsigned long long)free_bytes());
    CUmodule module;
    MUST(cuModuleLoadData(&module, ".version 7.0\n.target sm_70\n.address_size 64\n.visible .entry empty() { ret; }\n"));
    meet("both");
    return 0;
}
