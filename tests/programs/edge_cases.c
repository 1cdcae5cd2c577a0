/* Calls that a careful program would not make and a real one does, and many live allocations:
 *
 *     edge_cases (answers|contexts|two_devices|capture|many COUNT)
 */
#include "program.h"

static void say(const char *what, CUresult result) {
    printf("%s %d\n", what, result);
}

/* Every answer here must be what the driver alone answers. */
static void answers(void) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    size_t free_now = 1, total = 1;
    CUdeviceptr address = 0, other = 0;
    CUdevice device = 0;
    int on_host = 0;
    say("alloc_before_init", cuMemAlloc(&address, 4096));
    say("info_before_init", cuMemGetInfo(&free_now, &total));
    say("free_before_init", cuMemFree(4096));
    MUST(cuInit(0));
    say("alloc_without_context", cuMemAlloc(&address, 4096));
    say("info_without_context", cuMemGetInfo(&free_now, &total));
    say("free_without_context", cuMemFree(4096));
    say("total_of_no_device", cuDeviceTotalMem(&total, 99));
    say("retain_no_device", cuDevicePrimaryCtxRetain((CUcontext *)&address, 99));
    use_device(0);
    MUST(cuCtxGetDevice(&device));
    say("info_of_nothing", cuMemGetInfo(NULL, NULL));
    say("info_of_free", cuMemGetInfo(&free_now, NULL));
    say("info_of_total", cuMemGetInfo(NULL, &total));
    printf("free_within_total %d\n", free_now > 0 && free_now <= total);
    say("total_to_nowhere", cuDeviceTotalMem(NULL, device));
    say("alloc_nothing", cuMemAlloc(&address, 0));
    say("alloc_to_nowhere", cuMemAlloc(NULL, 4096));
    say("alloc_2_to_50", cuMemAlloc(&address, (size_t)1 << 50));
    say("alloc_everything", cuMemAlloc(&address, SIZE_MAX));
    say("alloc_nearly_everything", cuMemAlloc(&address, SIZE_MAX - 4096));
    size_t pitch;
    say("pitch_overflow", cuMemAllocPitch(&address, &pitch, SIZE_MAX / 2, 1000, 4));
    say("free_null", cuMemFree(0));
    say("free_unknown", cuMemFree(0x7f1234567000));
    say("free_host", cuMemFree((CUdeviceptr)(uintptr_t)&on_host));
    MUST(cuMemAlloc(&address, 8 * MIB_BYTES));
    say("free_interior", cuMemFree(address + 4096));
    say("free_it", cuMemFree(address));
    say("free_twice", cuMemFree(address));
    MUST(cuMemAlloc(&address, 4096));
    MUST(cuMemAlloc(&other, 4096));
    say("free_small", cuMemFree(address));
    say("free_small_twice", cuMemFree(address));
    say("free_other_small", cuMemFree(other));
    say("destroy_no_array", cuArrayDestroy(NULL));
    say("destroy_no_pool", cuMemPoolDestroy(NULL));
    say("release_no_handle", cuMemRelease(0));
    say("unmap_nothing", cuMemUnmap(0x7f0000000000, 2 * MIB_BYTES));
    say("destroy_no_context", cuCtxDestroy(NULL));
    CUuuid unknown = {{1, 2, 3}};
    const void *table = NULL;
    say("unknown_private_table", cuGetExportTable(&table, &unknown));
    say("array_without_shape", cuArrayCreate((CUarray *)&address, NULL));
}

static CUcontext another_context(void) {
    CUcontext context;
#if CUDA_VERSION >= 13000
    MUST(cuCtxCreate(&context, NULL, 0, 0));
#else
    MUST(cuCtxCreate(&context, 0, 0));
#endif
    return context;
}

/* What dies with a context is free again, though nobody freed it. */
static void contexts(void) {
    CUcontext primary = use_device(0);
    CUdeviceptr address;
    CUarray array;
    CUDA_ARRAY_DESCRIPTOR shape = {4096, 512, CU_AD_FORMAT_FLOAT, 4};
    uint64_t before = free_bytes();
    CUcontext other = another_context();
    MUST(cuMemAlloc(&address, 100 * MIB_BYTES));
    MUST(cuMemAlloc(&address, 1000));
    MUST(cuArrayCreate(&array, &shape));
    printf("taken_mib %.1f\n", mib(before - free_bytes()));
    MUST(cuCtxDestroy(other));
    MUST(cuCtxSetCurrent(primary));
    printf("kept_after_destroy_bytes %lld\n", (long long)(before - free_bytes()));
    meet("destroyed");
    MUST(cuMemAlloc(&address, 100 * MIB_BYTES));
    MUST(cuDevicePrimaryCtxReset(0));
    meet("reset");
    primary = use_device(0);
    printf("kept_after_reset_bytes %lld\n", (long long)(before - free_bytes()));
    MUST(cuMemAlloc(&address, 100 * MIB_BYTES));
    /* As often as it was retained; whether a reset counts as a release is the driver's affair. */
    MUST(cuDevicePrimaryCtxRelease(0));
    while (cuDevicePrimaryCtxRelease(0) == CUDA_SUCCESS) continue;
    meet("released");
}

static CUmemoryPool pool_on(int device) {
    CUmemPoolProps properties;
    CUmemoryPool pool;
    memset(&properties, 0, sizeof properties);
    properties.allocType = CU_MEM_ALLOCATION_TYPE_PINNED;
    properties.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
    properties.location.id = device;
    MUST(cuMemPoolCreate(&pool, &properties));
    return pool;
}

/* With the first device current, memory is taken on the second: by its physical memory, and by its pool. */
static void two_devices(void) {
    CUmemAllocationProp properties;
    CUmemGenericAllocationHandle physical;
    CUdeviceptr address;
    CUstream stream;
    memset(&properties, 0, sizeof properties);
    properties.type = CU_MEM_ALLOCATION_TYPE_PINNED;
    properties.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
    properties.location.id = 1;
    use_device(1);
    MUST(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    use_device(0);
    meet("contexts");
    MUST(cuMemCreate(&physical, 256 * MIB_BYTES, &properties, 0));
    meet("physical");
    CUmemoryPool pool = pool_on(1);
    MUST(cuMemAllocFromPoolAsync(&address, 256 * MIB_BYTES, pool, stream));
    MUST(cuStreamSynchronize(stream));
    meet("pool");
    MUST(cuMemFreeAsync(address, stream));
    MUST(cuStreamSynchronize(stream));
    MUST(cuMemPoolDestroy(pool));
    MUST(cuMemRelease(physical));
    meet("released");
}

/* A capture survives whatever is asked meanwhile, also where memory is refused. */
static void capture(void) {
    enum { MOST = 64 };
    static const char *const code = ".version 7.0\n.target sm_70\n.address_size 64\n.visible .entry empty() { ret; }\n";
    CUmodule module;
    CUfunction kernel;
    CUstream stream, other;
    CUgraph graph = NULL;
    CUgraphExec executable;
    CUdeviceptr address = 0, filling[MOST];
    size_t free_now, total;
    int filled = 0;
    use_device(0);
    MUST(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    MUST(cuStreamCreate(&other, CU_STREAM_NON_BLOCKING));
    MUST(cuModuleLoadData(&module, code));
    MUST(cuModuleGetFunction(&kernel, module, "empty"));
    /* All but a little of a 2 GiB slice. */
    while (filled < 22 && cuMemAlloc(&filling[filled], 64 * MIB_BYTES) == CUDA_SUCCESS) filled++;
    MUST(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_RELAXED));
    say("launch", cuLaunchKernel(kernel, 1, 1, 1, 1, 1, 1, 0, stream, NULL, NULL));
    say("info", cuMemGetInfo(&free_now, &total));
    say("alloc_captured", cuMemAllocAsync(&address, 8 * MIB_BYTES, stream));
    say("free_captured", cuMemFreeAsync(address, stream));
    say("alloc_too_much", cuMemAllocAsync(&address, (size_t)1 << 45, other));
    say("end", cuStreamEndCapture(stream, &graph));
    say("instantiate", cuGraphInstantiateWithFlags(&executable, graph, 0));
    say("run", cuGraphLaunch(executable, stream));
    say("finish", cuStreamSynchronize(stream));
    printf("filled %d\n", filled);
}

/* Freed in another order than taken. */
static void many(int count) {
    CUdeviceptr *addresses = calloc((size_t)count, sizeof *addresses);
    use_device(0);
    if (!addresses) exit(3);
    uint64_t before = free_bytes(), start = now_ns();
    for (int i = 0; i < count; i++) MUST(cuMemAlloc(&addresses[i], 512 + (size_t)(i % 16) * 512));
    printf("alloc_ns %.0f\n", (double)(now_ns() - start) / count);
    meet("many");
    start = now_ns();
    for (int i = 0; i < count; i++) MUST(cuMemFree(addresses[(long long)i * 7919 % count]));
    printf("free_ns %.0f\n", (double)(now_ns() - start) / count);
    printf("lost_bytes %lld\n", (long long)(before - free_bytes()));
    meet("none");
}

int main(int argc, char **argv) {
    const char *which = argc > 1 ? argv[1] : "";
    if (!strcmp(which, "answers")) answers();
    else if (!strcmp(which, "contexts")) contexts();
    else if (!strcmp(which, "two_devices")) two_devices();
    else if (!strcmp(which, "capture")) capture();
    else if (!strcmp(which, "many") && argc > 2) many(atoi(argv[2]));
    else return 2;
    return 0;
}
