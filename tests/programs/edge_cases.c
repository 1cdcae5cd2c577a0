/* Calls that a careful program would not make and a real one does, and many live allocations:
 *
 *     edge_cases (answers|contexts|many COUNT)
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
    else if (!strcmp(which, "many") && argc > 2) many(atoi(argv[2]));
    else return 2;
    return 0;
}
