/* What every test program needs: results as lines of "key value", a clock, and a way to wait for the
 * test that watches from outside. */
#ifndef PROGRAM_H
#define PROGRAM_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <cuda.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define MIB_BYTES ((size_t)1 << 20)

static inline double mib(uint64_t bytes) {
    return bytes / (double)MIB_BYTES;
}

static inline uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* Ends the program with one line if a step that must work does not. */
#define MUST(call)                                                    \
    do {                                                              \
        int must_result = (int)(call);                                \
        if (must_result != 0) {                                       \
            printf("failed %d %s line %d\n", must_result, #call, __LINE__); \
            fflush(stdout);                                           \
            _exit(3);                                                 \
        }                                                             \
    } while (0)

/* Says `key` and waits for a line on standard input: the test looks at the machine meanwhile. */
static inline void meet(const char *key) {
    char line[16];
    printf("%s\n", key);
    fflush(stdout);
    if (!fgets(line, sizeof line, stdin)) _exit(4);
}

/* Makes device `ordinal`'s primary context current. */
static inline CUcontext use_device(int ordinal) {
    CUdevice device;
    CUcontext context;
    MUST(cuInit(0));
    MUST(cuDeviceGet(&device, ordinal));
    MUST(cuDevicePrimaryCtxRetain(&context, device));
    MUST(cuCtxSetCurrent(context));
    return context;
}

static inline uint64_t free_bytes(void) {
    size_t free_now = 0, total = 0;
    MUST(cuMemGetInfo(&free_now, &total));
    return free_now;
}

#endif
