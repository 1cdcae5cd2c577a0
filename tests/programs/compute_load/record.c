/* What kernels write down by the GPU's own timer, and the time that it was busy by that: no event is asked. */
#include "load.h"

struct interval {
    uint64_t begin_ns, end_ns;
};

static CUdeviceptr counter, device_ring;
static struct interval *ring;
static uint32_t capacity;
static uint64_t timer_base, host_base, step_ns;

/* Reads the GPU's timer between two readings of the monotonic clock. */
static void tie_clocks(void) {
    static uint64_t *answer;
    static CUdeviceptr device_answer;
    if (!answer) {
        MUST(cuMemHostAlloc((void **)&answer, 16, CU_MEMHOSTALLOC_DEVICEMAP));
        MUST(cuMemHostGetDevicePointer(&device_answer, answer, 0));
    }
    uint64_t best = UINT64_MAX;
    for (int i = 0; i < 12; i++) {
        /* The last readings find the timer's step. */
        uint32_t readings = i < 10 ? 1 : 10000;
        void *parameters[] = {&device_answer, &readings};
        answer[0] = answer[1] = 0;
        uint64_t before = now_ns();
        MUST(cuLaunchKernel(timer_kernel(), 1, 1, 1, 1, 1, 1, 0, NULL, parameters, NULL));
        MUST(cuCtxSynchronize());
        uint64_t taken = now_ns() - before;
        if (readings > 1)
            step_ns = answer[1];
        else if (taken < best) {
            best = taken;
            timer_base = answer[0];
            host_base = before + taken / 2;
        }
    }
}

void record_begin(size_t entries, CUdeviceptr *counter_out, CUdeviceptr *ring_out, uint32_t *capacity_out) {
    if (entries > capacity) {
        if (ring) MUST(cuMemFreeHost(ring));
        capacity = (uint32_t)entries;
        MUST(cuMemHostAlloc((void **)&ring, capacity * sizeof *ring, CU_MEMHOSTALLOC_DEVICEMAP));
        MUST(cuMemHostGetDevicePointer(&device_ring, ring, 0));
        if (!counter) MUST(cuMemAlloc(&counter, 4));
    }
    tie_clocks();
    MUST(cuMemsetD32(counter, 0, 1));
    MUST(cuCtxSynchronize());
    *counter_out = counter;
    *ring_out = device_ring;
    *capacity_out = capacity;
}

static int by_begin(const void *a, const void *b) {
    uint64_t x = ((const struct interval *)a)->begin_ns, y = ((const struct interval *)b)->begin_ns;
    return (x > y) - (x < y);
}

/* Merges intervals in place; gives how many are left. */
static size_t merge(struct interval *intervals, size_t count) {
    size_t kept = 0;
    qsort(intervals, count, sizeof *intervals, by_begin);
    for (size_t i = 0; i < count; i++) {
        if (kept > 0 && intervals[i].begin_ns <= intervals[kept - 1].end_ns) {
            if (intervals[i].end_ns > intervals[kept - 1].end_ns) intervals[kept - 1].end_ns = intervals[i].end_ns;
        } else {
            intervals[kept++] = intervals[i];
        }
    }
    return kept;
}

void record_end(const char *file, uint64_t from_ns, uint64_t until_ns) {
    uint32_t written = 0;
    MUST(cuMemcpyDtoH(&written, counter, sizeof written));
    printf("globaltimer_step_ns %llu\n", (unsigned long long)step_ns);
    /* The simulated driver's kernels write nothing. */
    if (written == 0 || step_ns == 0) {
        puts("logged_kernels 0");
        return;
    }
    size_t count = merge(ring, written < capacity ? written : capacity);
    uint64_t from = timer_base + (from_ns - host_base), until = timer_base + (until_ns - host_base), busy = 0;
    FILE *out = strcmp(file, "-") ? fopen(file, "w") : NULL;
    for (size_t i = 0; i < count; i++) {
        uint64_t begin = ring[i].begin_ns > from ? ring[i].begin_ns : from;
        uint64_t end = ring[i].end_ns < until ? ring[i].end_ns : until;
        if (end <= begin) continue;
        busy += end - begin;
        if (out) fprintf(out, "%llu %llu\n", (unsigned long long)begin, (unsigned long long)end);
    }
    if (out) fclose(out);
    printf("logged_kernels %u\nlog_dropped %u\n", written / 2, written > capacity ? (written - capacity) / 2 : 0);
    printf("busy_share %.5f\n", busy / (double)(until_ns - from_ns));
}
