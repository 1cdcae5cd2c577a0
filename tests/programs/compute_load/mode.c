/* Ways to give a GPU work. */
#include "load.h"

enum { GRAPH_KERNELS = 20 };
#define COPY_BYTES (16 * MIB_BYTES)

/* Not declared unless everything is compiled for per-thread streams. */
extern __typeof__(cuLaunchKernel) cuLaunchKernel_ptsz;

static void give_plain(struct lane *lane) {
    MUST(cuLaunchKernel(load_kernel, load_blocks, 1, 1, THREADS_PER_BLOCK, 1, 1, load_shared_bytes, lane->stream,
                        kernel_parameters(), NULL));
}

static void give_legacy(struct lane *lane) {
    (void)lane;
    MUST(cuLaunchKernel(load_kernel, load_blocks, 1, 1, THREADS_PER_BLOCK, 1, 1, load_shared_bytes, NULL,
                        kernel_parameters(), NULL));
}

static void give_per_thread(struct lane *lane) {
    (void)lane;
    MUST(cuLaunchKernel_ptsz(load_kernel, load_blocks, 1, 1, THREADS_PER_BLOCK, 1, 1, load_shared_bytes, NULL,
                             kernel_parameters(), NULL));
}

static void give_cooperative(struct lane *lane) {
    MUST(cuLaunchCooperativeKernel(load_kernel, load_blocks, 1, 1, THREADS_PER_BLOCK, 1, 1, load_shared_bytes,
                                   lane->stream, kernel_parameters()));
}

static void give_ex(struct lane *lane) {
    CUlaunchAttribute attribute = {.id = CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION};
    attribute.value.clusterDim.x = load_clusters;
    attribute.value.clusterDim.y = attribute.value.clusterDim.z = 1;
    CUlaunchConfig config = {load_blocks,       1,         1, THREADS_PER_BLOCK, 1, 1, load_shared_bytes, lane->stream,
                             &attribute, load_clusters > 1};
    MUST(cuLaunchKernelEx(&config, load_kernel, kernel_parameters(), NULL));
}

static void prepare_graph(struct lane *lane) {
    CUgraph graph;
    MUST(cuStreamBeginCapture(lane->stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
    for (int i = 0; i < GRAPH_KERNELS; i++) give_plain(lane);
    MUST(cuStreamEndCapture(lane->stream, &graph));
    MUST(cuGraphInstantiateWithFlags(&lane->graph, graph, 0));
    MUST(cuGraphDestroy(graph));
}

static void give_graph(struct lane *lane) {
    MUST(cuGraphLaunch(lane->graph, lane->stream));
}

static CUdeviceptr copied;
static void *pinned;

static void prepare_copies(struct lane *lane) {
    (void)lane;
    if (copied) return;
    MUST(cuMemAlloc(&copied, COPY_BYTES));
    MUST(cuMemHostAlloc(&pinned, COPY_BYTES, 0));
}

/* To the device and back in turns. */
static void give_copies(struct lane *lane) {
    if (lane->units % 2 == 0)
        MUST(cuMemcpyHtoDAsync(copied, pinned, COPY_BYTES, lane->stream));
    else
        MUST(cuMemcpyDtoHAsync(pinned, copied, COPY_BYTES, lane->stream));
    give_plain(lane);
}

static const struct mode MODES[] = {
    {"sync1", 1, 1, 1, 1, NULL, NULL, give_plain},
    {"sync16", 1, 1, 16, 1, NULL, NULL, give_plain},
    {"burst25", 1, 1, 25, 1, NULL, NULL, give_plain},
    {"free", 1, 1, 0, 1, NULL, NULL, give_plain},
    {"streams8", 8, 1, 0, 1, NULL, NULL, give_plain},
    {"graph20", 1, 1, 0, GRAPH_KERNELS, NULL, prepare_graph, give_graph},
    {"graph20sync", 1, 1, 1, GRAPH_KERNELS, NULL, prepare_graph, give_graph},
    {"cooperative", 1, 1, 0, 1, NULL, NULL, give_cooperative},
    {"ex", 1, 1, 0, 1, NULL, NULL, give_ex},
    {"threads4", 4, 4, 0, 1, NULL, NULL, give_plain},
    {"legacy", 1, 1, 0, 1, CU_STREAM_LEGACY, NULL, give_legacy},
    {"perthread", 1, 1, 0, 1, CU_STREAM_PER_THREAD, NULL, give_per_thread},
    {"copies", 1, 1, 0, 1, NULL, prepare_copies, give_copies},
};
enum { MODE_COUNT = sizeof MODES / sizeof *MODES };

const struct mode *find_mode(const char *name) {
    for (int i = 0; i < MODE_COUNT; i++)
        if (!strcmp(MODES[i].name, name)) return &MODES[i];
    return NULL;
}

void list_modes(void) {
    for (int i = 0; i < MODE_COUNT; i++) printf("%s%c", MODES[i].name, i + 1 < MODE_COUNT ? ' ' : '\n');
}
