/* What driver calls cost on the host, in nanoseconds:
 *
 *     call_cost [BATCHES=40] [LIVE=100000]
 *
 * Each figure is the median over batches of the time per call within a batch; "best" is the quickest batch.
 * LIVE is the number of allocations kept live for the figures that say so. Bare and under the preloaded
 * library the same program runs: the difference is what the library adds. */
#include "program.h"

static const char *const CODE = ".version 7.0\n.target sm_70\n.address_size 64\n.visible .entry empty() { ret; }\n";
static CUfunction kernel;
static CUstream stream;
static int batches = 40;

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Times `call` in batches of `calls`; `settle` runs untimed after each batch. */
static void measure(const char *name, void (*call)(void), void (*settle)(void), int calls) {
    double ns[1000];
    for (int batch = -2; batch < batches; batch++) {
        uint64_t start = now_ns();
        for (int i = 0; i < calls; i++) call();
        double each = (double)(now_ns() - start) / calls;
        if (settle) settle();
        if (batch >= 0) ns[batch] = each;
    }
    qsort(ns, (size_t)batches, sizeof *ns, by_value);
    printf("%s %.1f best %.1f\n", name, ns[batches / 2], ns[0]);
    fflush(stdout);
}

static void settle(void) {
    MUST(cuStreamSynchronize(stream));
}
static void launch(void) {
    MUST(cuLaunchKernel(kernel, 1, 1, 1, 1, 1, 1, 0, stream, NULL, NULL));
}
static void alloc_free(void) {
    CUdeviceptr address;
    MUST(cuMemAlloc(&address, 4 * MIB_BYTES));
    MUST(cuMemFree(address));
}
static void small_alloc_free(void) {
    CUdeviceptr address;
    MUST(cuMemAlloc(&address, 4096));
    MUST(cuMemFree(address));
}
static void async_alloc_free(void) {
    CUdeviceptr address;
    MUST(cuMemAllocAsync(&address, 4 * MIB_BYTES, stream));
    MUST(cuMemFreeAsync(address, stream));
}
static void memory_info(void) {
    size_t free_now, total;
    MUST(cuMemGetInfo(&free_now, &total));
}
/* Not hooked: what it adds is noise. */
static void current_device(void) {
    CUdevice device;
    MUST(cuCtxGetDevice(&device));
}

int main(int argc, char **argv) {
    if (argc > 1) batches = atoi(argv[1]);
    int live = argc > 2 ? atoi(argv[2]) : 100000;
    if (batches < 1 || batches > 1000 || live < 0) return 2;
    CUmodule module;
    CUmemoryPool pool;
    cuuint64_t keep = UINT64_MAX;
    use_device(0);
    MUST(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    MUST(cuModuleLoadData(&module, CODE));
    MUST(cuModuleGetFunction(&kernel, module, "empty"));
    /* As frameworks set it: freed memory stays in the pool. */
    MUST(cuDeviceGetDefaultMemPool(&pool, 0));
    MUST(cuMemPoolSetAttribute(pool, CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, &keep));

    measure("current_device_ns", current_device, NULL, 20000);
    measure("launch_ns", launch, settle, 500);
    measure("memory_info_ns", memory_info, NULL, 2000);
    measure("alloc_free_ns", alloc_free, NULL, 200);
    measure("small_alloc_free_ns", small_alloc_free, NULL, 500);
    measure("async_alloc_free_ns", async_alloc_free, settle, 200);
    if (live == 0) return 0;
    CUdeviceptr *addresses = calloc((size_t)live, sizeof *addresses);
    if (!addresses) return 3;
    for (int i = 0; i < live; i++) MUST(cuMemAlloc(&addresses[i], 512));
    printf("live %d\n", live);
    measure("alloc_free_live_ns", alloc_free, NULL, 200);
    measure("small_alloc_free_live_ns", small_alloc_free, NULL, 500);
    measure("async_alloc_free_live_ns", async_alloc_free, settle, 200);
    measure("memory_info_live_ns", memory_info, NULL, 2000);
    return 0;
}
