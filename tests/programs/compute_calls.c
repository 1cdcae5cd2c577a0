/* What one launch costs the host, call by call, in nanoseconds:
 *
 *     compute_calls [BURSTS=200] [LAUNCHES=512] [IDLE_US=15000]
 *
 * Bursts of short kernels with idle time between them, so that the GPU is busy for a small part of the time only.
 * "beside_p99_ns" leaves out each burst's slowest calls, as many as it may record timing events: one
 * for each begun half millisecond and one at its beginning. The clock's own cost, "clock_ns", is in all figures. */
#include "program.h"

static const char *const CODE =
    ".version 7.0\n.target sm_70\n.address_size 64\n// simulated: short duration_ns=2000\n.visible .entry short() { ret; }\n";
enum { MOST_LAUNCHES = 4096 };

static int by_value(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static uint32_t at(const uint32_t *sorted, size_t count, double part) {
    return sorted[(size_t)((double)(count - 1) * part + 0.5)];
}

int main(int argc, char **argv) {
    int bursts = argc > 1 ? atoi(argv[1]) : 200, launches = argc > 2 ? atoi(argv[2]) : 512;
    int idle_us = argc > 3 ? atoi(argv[3]) : 15000;
    if (bursts < 1 || launches < 8 || launches > MOST_LAUNCHES || idle_us < 0) return 2;
    CUmodule module;
    CUfunction kernel;
    CUstream stream;
    use_device(0);
    MUST(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    MUST(cuModuleLoadData(&module, CODE));
    MUST(cuModuleGetFunction(&kernel, module, "short"));

    size_t most = (size_t)bursts * (size_t)launches, all = 0, beside = 0;
    uint32_t *every = malloc(most * sizeof *every), *without = malloc(most * sizeof *without);
    uint32_t ns[MOST_LAUNCHES];
    if (!every || !without) return 3;
    uint64_t busy_ns = 0, start = now_ns();
    for (int burst = -5; burst < bursts; burst++) {
        if (burst == 0) start = now_ns();
        uint64_t begin = now_ns(), before = begin;
        for (int i = 0; i < launches; i++) {
            MUST(cuLaunchKernel(kernel, 1, 1, 1, 1, 1, 1, 0, stream, NULL, NULL));
            uint64_t after = now_ns();
            ns[i] = (uint32_t)(after - before);
            before = after;
        }
        MUST(cuStreamSynchronize(stream));
        uint64_t taken = now_ns() - begin;
        if (burst >= 0) {
            int events = (int)(taken / 500000) + 2;
            qsort(ns, (size_t)launches, sizeof *ns, by_value);
            memcpy(every + all, ns, (size_t)launches * sizeof *ns);
            all += (size_t)launches;
            if (events < launches) {
                memcpy(without + beside, ns, (size_t)(launches - events) * sizeof *ns);
                beside += (size_t)(launches - events);
            }
            busy_ns += taken;
        }
        usleep((useconds_t)idle_us);
    }
    double wall_ns = (double)(now_ns() - start);
    uint64_t clock_start = now_ns();
    for (int i = 0; i < 100000; i++) now_ns();
    double clock_ns = (double)(now_ns() - clock_start) / 100000;
    qsort(every, all, sizeof *every, by_value);
    qsort(without, beside, sizeof *without, by_value);
    printf("calls %zu\nbusy_at_most %.3f\nclock_ns %.1f\n", all, (double)busy_ns / wall_ns, clock_ns);
    printf("p50_ns %u\np90_ns %u\np99_ns %u\n", at(every, all, 0.5), at(every, all, 0.9), at(every, all, 0.99));
    if (beside > 0) printf("beside_p99_ns %u\n", at(without, beside, 0.99));
    return 0;
}
