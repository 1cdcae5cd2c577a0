/* A tenant as a machine has many: holds memory, works now and then, and wants more than it may have.
 *
 *     tenant MEBIBYTES KERNEL_MICROSECONDS PAUSE_MILLISECONDS WANTED_MEBIBYTES
 *
 * Holds MEBIBYTES, says "holding", and then until it is killed: launches a kernel that lasts KERNEL_MICROSECONDS (0: none),
 * asks for WANTED_MEBIBYTES more (0: nothing) and gives them back if it got them, waits for all of it, and pauses. With a
 * pause of -1 it waits for a line on its standard input each time instead, and says "worked" when it has done all that.
 * Needs no headers of NVIDIA's: linked with the simulated libcuda.so, which is all it is for. */
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

typedef unsigned long long address;
extern int cuInit(unsigned flags);
extern int cuDevicePrimaryCtxRetain(void **context, int device);
extern int cuCtxSetCurrent(void *context);
extern int cuCtxSynchronize(void);
extern int cuMemAlloc_v2(address *memory, size_t bytes);
extern int cuMemFree_v2(address memory);
extern int cuModuleLoadData(void **module, const void *image);
extern int cuModuleGetFunction(void **function, void *module, const char *name);
extern int cuLaunchKernel(void *function, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,
                          void *stream, void **parameters, void **extra);

static const char *const CODE =
    ".version 7.0\n"
    ".target sm_70\n"
    ".address_size 64\n"
    "// simulated: work duration_ns=param0\n"
    ".visible .entry work(.param .u64 work_ns)\n"
    "{\n"
    "    ret;\n"
    "}\n";

static void must(int result, const char *what) {
    if (result == 0) return;
    fprintf(stderr, "tenant: %s: error %d\n", what, result);
    exit(1);
}

static long number(char **arguments, int count, int index) {
    return index < count ? atol(arguments[index]) : 0;
}

int main(int count, char **arguments) {
    size_t held = (size_t)number(arguments, count, 1) << 20, wanted = (size_t)number(arguments, count, 4) << 20;
    unsigned long long kernel_ns = (unsigned long long)number(arguments, count, 2) * 1000;
    long pause_ms = number(arguments, count, 3);
    void *context, *module, *function;
    address memory, more;
    must(cuInit(0), "cuInit");
    must(cuDevicePrimaryCtxRetain(&context, 0), "cuDevicePrimaryCtxRetain");
    must(cuCtxSetCurrent(context), "cuCtxSetCurrent");
    if (held) must(cuMemAlloc_v2(&memory, held), "cuMemAlloc");
    must(cuModuleLoadData(&module, CODE), "cuModuleLoadData");
    must(cuModuleGetFunction(&function, module, "work"), "cuModuleGetFunction");
    puts("holding");
    fflush(stdout);
    for (;;) {
        void *parameters[] = {&kernel_ns};
        char line[16];
        if (pause_ms < 0 && !fgets(line, sizeof line, stdin)) return 0;
        if (kernel_ns) must(cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, NULL, parameters, NULL), "cuLaunchKernel");
        if (wanted && cuMemAlloc_v2(&more, wanted) == 0) must(cuMemFree_v2(more), "cuMemFree");
        must(cuCtxSynchronize(), "cuCtxSynchronize");
        if (pause_ms < 0) {
            puts("worked");
            fflush(stdout);
            continue;
        }
        struct timespec pause = {pause_ms / 1000, pause_ms % 1000 * 1000000};
        nanosleep(&pause, NULL);
    }
}
