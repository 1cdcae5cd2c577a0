/* Keeps a GPU as busy as it can with one kind of work:
 *
 *     compute_copies WORK SECONDS
 *
 * Says "running" when it begins, and in the end how much it did. */
#include "program.h"

static const char *const CODE =
    ".version 7.0\n.target sm_70\n.address_size 64\n// simulated: step duration_ns=200000\n.visible .entry step() { ret; }\n";
enum { COPY_BYTES = 16 << 20, FILL_BYTES = 512 << 20, ROWS = 4096 };

static CUdeviceptr memory, other;
static void *pinned;
static CUstream stream;
static CUfunction kernel;

static void from_host(void) { MUST(cuMemcpyHtoDAsync(memory, pinned, COPY_BYTES, stream)); }
static void to_host(void) { MUST(cuMemcpyDtoHAsync(pinned, memory, COPY_BYTES, stream)); }
static void from_host_waiting(void) { MUST(cuMemcpyHtoD(memory, pinned, COPY_BYTES)); }
static void to_host_waiting(void) { MUST(cuMemcpyDtoH(pinned, memory, COPY_BYTES)); }
static void unified(void) { MUST(cuMemcpyAsync(memory, (CUdeviceptr)(uintptr_t)pinned, COPY_BYTES, stream)); }
static void unified_waiting(void) { MUST(cuMemcpy(memory, (CUdeviceptr)(uintptr_t)pinned, COPY_BYTES)); }
static void unified_within(void) { MUST(cuMemcpy(other, memory, FILL_BYTES)); }
static void within(void) { MUST(cuMemcpyDtoDAsync(other, memory, FILL_BYTES, stream)); }
static void within_default(void) { MUST(cuMemcpyDtoD(other, memory, FILL_BYTES)); }
static void fill(void) { MUST(cuMemsetD32Async(memory, 7, FILL_BYTES / 4, stream)); }
static void fill_default(void) { MUST(cuMemsetD8(memory, 7, FILL_BYTES)); }
static void fill_rows(void) { MUST(cuMemsetD2D8Async(memory, FILL_BYTES / ROWS, 7, FILL_BYTES / ROWS, ROWS, stream)); }

static void rectangle(void) {
    CUDA_MEMCPY2D copy = {.srcMemoryType = CU_MEMORYTYPE_HOST, .srcHost = pinned, .srcPitch = COPY_BYTES / ROWS,
                          .dstMemoryType = CU_MEMORYTYPE_DEVICE, .dstDevice = memory, .dstPitch = COPY_BYTES / ROWS,
                          .WidthInBytes = COPY_BYTES / ROWS, .Height = ROWS};
    MUST(cuMemcpy2DAsync(&copy, stream));
}

static void launch(void) { MUST(cuLaunchKernel(kernel, 1, 1, 1, 1, 1, 1, 0, stream, NULL, NULL)); }

static void mixed(void) {
    from_host();
    launch();
    fill();
    to_host();
}

static const struct work {
    const char *name;
    void (*once)(void);
} WORKS[] = {
    {"from_host", from_host}, {"to_host", to_host}, {"from_host_waiting", from_host_waiting},
    {"to_host_waiting", to_host_waiting}, {"unified", unified}, {"unified_waiting", unified_waiting},
    {"unified_within", unified_within}, {"within", within}, {"within_default", within_default},
    {"fill", fill}, {"fill_default", fill_default}, {"fill_rows", fill_rows}, {"rectangle", rectangle},
    {"launch", launch}, {"mixed", mixed},
};

int main(int argc, char **argv) {
    const struct work *work = NULL;
    for (size_t i = 0; argc == 3 && i < sizeof WORKS / sizeof *WORKS; i++)
        if (!strcmp(argv[1], WORKS[i].name)) work = &WORKS[i];
    if (!work) return 2;
    use_device(0);
    CUmodule module;
    MUST(cuModuleLoadData(&module, CODE));
    MUST(cuModuleGetFunction(&kernel, module, "step"));
    MUST(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    MUST(cuMemAlloc(&memory, FILL_BYTES));
    MUST(cuMemAlloc(&other, FILL_BYTES));
    MUST(cuMemHostAlloc(&pinned, COPY_BYTES, 0));
    printf("running\n");
    fflush(stdout);
    uint64_t end_ns = now_ns() + (uint64_t)(atof(argv[2]) * 1e9);
    unsigned long count = 0;
    for (; now_ns() < end_ns; count++) work->once();
    MUST(cuCtxSynchronize());
    printf("count %lu\n", count);
    return 0;
}
