/* The GPU, and a kernel of fixed work: a chain of dependent multiplications on every multiprocessor. */
#include "load.h"

CUfunction load_kernel;
unsigned load_blocks, load_shared_bytes, load_clusters = 1;
static CUfunction timer;

/* The first thread of the first and of the last block write down when they ran, if there is a counter. The
 * result is stored only if it were negative, which no thread's is. */
static const char *const CODE =
    ".version 7.0\n"
    ".target sm_70\n"
    ".address_size 64\n"
    "// simulated: load duration_ns=param0\n"
    "// simulated: timer duration_ns=2000\n"
    ".visible .entry load(\n"
    "    .param .u64 load_ns, .param .u32 load_iterations, .param .u64 load_sink,\n"
    "    .param .u64 load_counter, .param .u64 load_ring, .param .u32 load_capacity)\n"
    "{\n"
    "    .reg .pred %p<7>;\n"
    "    .reg .f32 %f<4>;\n"
    "    .reg .b32 %r<8>;\n"
    "    .reg .b64 %d<8>;\n"
    "    mov.u32 %r1, %tid.x;\n"
    "    mov.u32 %r2, %ctaid.x;\n"
    "    mov.u32 %r3, %nctaid.x;\n"
    "    ld.param.u64 %d1, [load_counter];\n"
    "    add.u32 %r4, %r2, 1;\n"
    "    setp.eq.u32 %p1, %r2, 0;\n"
    "    setp.eq.or.u32 %p1, %r4, %r3, %p1;\n"
    "    setp.eq.and.u32 %p1, %r1, 0, %p1;\n"
    "    setp.ne.and.u64 %p1, %d1, 0, %p1;\n"
    "    @%p1 mov.u64 %d2, %globaltimer;\n"
    "    bar.sync 0;\n"
    "    ld.param.u32 %r5, [load_iterations];\n"
    "    cvt.rn.f32.u32 %f1, %r1;\n"
    "    mov.f32 %f2, 0f3F7FBE77;\n"
    "    mov.f32 %f3, 0f3DCCCCCD;\n"
    "again:\n"
    "    fma.rn.f32 %f1, %f1, %f2, %f3;\n"
    "    fma.rn.f32 %f1, %f1, %f2, %f3;\n"
    "    fma.rn.f32 %f1, %f1, %f2, %f3;\n"
    "    fma.rn.f32 %f1, %f1, %f2, %f3;\n"
    "    sub.u32 %r5, %r5, 1;\n"
    "    setp.ne.u32 %p2, %r5, 0;\n"
    "    @%p2 bra again;\n"
    "    setp.ge.f32 %p3, %f1, 0f00000000;\n"
    "    @%p3 bra finished;\n"
    "    ld.param.u64 %d3, [load_sink];\n"
    "    st.global.f32 [%d3], %f1;\n"
    "finished:\n"
    "    bar.sync 0;\n"
    "    @!%p1 ret;\n"
    "    mov.u64 %d4, %globaltimer;\n"
    "    atom.global.add.u32 %r6, [%d1], 1;\n"
    "    ld.param.u32 %r7, [load_capacity];\n"
    "    setp.ge.u32 %p4, %r6, %r7;\n"
    "    @%p4 ret;\n"
    "    ld.param.u64 %d5, [load_ring];\n"
    "    mul.wide.u32 %d6, %r6, 16;\n"
    "    add.u64 %d5, %d5, %d6;\n"
    "    st.global.v2.u64 [%d5], {%d2, %d4};\n"
    "    ret;\n"
    "}\n"
    /* The timer's value, and the smallest step that it was seen to make in so many readings. */
    ".visible .entry timer(.param .u64 timer_answer, .param .u32 timer_readings)\n"
    "{\n"
    "    .reg .pred %p<3>;\n"
    "    .reg .b32 %r<2>;\n"
    "    .reg .b64 %d<7>;\n"
    "    ld.param.u64 %d1, [timer_answer];\n"
    "    ld.param.u32 %r1, [timer_readings];\n"
    "    mov.u64 %d2, %globaltimer;\n"
    "    mov.u64 %d3, %d2;\n"
    "    mov.u64 %d6, 0xffffffff;\n"
    "more:\n"
    "    mov.u64 %d4, %globaltimer;\n"
    "    sub.u64 %d5, %d4, %d3;\n"
    "    mov.u64 %d3, %d4;\n"
    "    setp.ne.u64 %p1, %d5, 0;\n"
    "    @%p1 min.u64 %d6, %d6, %d5;\n"
    "    sub.u32 %r1, %r1, 1;\n"
    "    setp.ne.u32 %p2, %r1, 0;\n"
    "    @%p2 bra more;\n"
    "    st.global.u64 [%d1], %d2;\n"
    "    st.global.u64 [%d1+8], %d6;\n"
    "    ret;\n"
    "}\n";

static uint64_t kernel_ns = 1000;
static uint32_t iterations = 1;
static CUdeviceptr sink, counter, ring;
static uint32_t capacity;
static void *parameters[] = {&kernel_ns, &iterations, &sink, &counter, &ring, &capacity};

void set_work(uint64_t ns, uint32_t count) {
    kernel_ns = ns;
    iterations = count > 0 ? count : 1;
}

void set_record(CUdeviceptr new_counter, CUdeviceptr new_ring, uint32_t new_capacity) {
    counter = new_counter;
    ring = new_ring;
    capacity = new_capacity;
}

void **kernel_parameters(void) {
    return parameters;
}

CUfunction timer_kernel(void) {
    return timer;
}

/* Blocks in clusters of two, where the device can have as many at once as there are multiprocessors. */
static void try_clusters(CUdevice device) {
    int can = 0, clusters = 0;
    if (cuDeviceGetAttribute(&can, CU_DEVICE_ATTRIBUTE_CLUSTER_LAUNCH, device) || !can || load_blocks % 2) return;
    CUlaunchAttribute attribute = {.id = CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION};
    attribute.value.clusterDim.x = 2;
    attribute.value.clusterDim.y = attribute.value.clusterDim.z = 1;
    CUlaunchConfig config = {load_blocks, 1, 1, THREADS_PER_BLOCK, 1, 1, load_shared_bytes, NULL, &attribute, 1};
    if (cuOccupancyMaxActiveClusters(&clusters, load_kernel, &config)) return;
    if ((unsigned)clusters >= load_blocks / 2) load_clusters = 2;
}

void open_device(void) {
    CUmodule module;
    CUdevice device;
    int count, most_shared;
    use_device(0);
    MUST(cuCtxGetDevice(&device));
    MUST(cuModuleLoadData(&module, CODE));
    MUST(cuModuleGetFunction(&load_kernel, module, "load"));
    MUST(cuModuleGetFunction(&timer, module, "timer"));
    MUST(cuDeviceGetAttribute(&count, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, device));
    MUST(cuDeviceGetAttribute(&most_shared, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, device));
    /* With all its shared memory taken a multiprocessor has room for one block: each kernel fills the GPU, and
     * two never run beside each other. */
    load_blocks = (unsigned)count;
    load_shared_bytes = (unsigned)most_shared;
    MUST(cuFuncSetAttribute(load_kernel, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, most_shared));
    MUST(cuMemAlloc(&sink, 256));
    try_clusters(device);
}
