/* An ordinary CUDA program: has the GPU do the same work again and again for some seconds, and says every 50 ms how often
 * it is done. It knows nothing of vcuda.
 *
 *   work SECONDS        lines with the seconds since its start and the number of kernels done
 *
 * Builds without NVIDIA's headers: it declares the few functions it calls, and finds them in libcuda.so.1. */
#define _POSIX_C_SOURCE 200809L
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

/* A thread multiplies and adds; what comes of it is stored only if it is negative, which none is. On the simulated
 * driver the comment says how long that takes. */
static const char CODE[] =
    ".version 7.0\n"
    ".target sm_70\n"
    ".address_size 64\n"
    "// simulated: work duration_ns=1000000\n"
    ".visible .entry work(.param .u64 nowhere)\n"
    "{\n"
    "    .reg .pred %p<2>;\n"
    "    .reg .f32 %f<3>;\n"
    "    .reg .b32 %r<2>;\n"
    "    .reg .b64 %d<2>;\n"
    "    mov.u32 %r1, %tid.x;\n"
    "    cvt.rn.f32.u32 %f1, %r1;\n"
    "    mov.u32 %r1, 150000;\n"
    "again:\n"
    "    fma.rn.f32 %f1, %f1, 0f3F7FBE77, 0f3DCCCCCD;\n"
    "    sub.u32 %r1, %r1, 1;\n"
    "    setp.ne.u32 %p1, %r1, 0;\n"
    "    @%p1 bra again;\n"
    "    setp.ge.f32 %p1, %f1, 0f00000000;\n"
    "    @%p1 ret;\n"
    "    ld.param.u64 %d1, [nowhere];\n"
    "    st.global.f32 [%d1], %f1;\n"
    "    ret;\n"
    "}\n";

/* Kernels that are given to the GPU before any is waited for. */
enum { AT_ONCE = 4, THREADS = 256, MULTIPROCESSORS = 16 };

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static void *library;

/* Ends the program with a line if a call fails. */
static void must(const char *name, int error) {
    if (error == 0) return;
    fprintf(stderr, "work: %s failed: CUDA error %d\n", name, error);
    exit(1);
}

#define FUNCTION(name, ...) int (*name)(__VA_ARGS__) = (int (*)(__VA_ARGS__))dlsym(library, #name)

int main(int argc, char **argv) {
    double seconds = argc > 1 ? atof(argv[1]) : 5, start, told = 0;
    void *context, *module, *kernel;
    unsigned long long nowhere = 0, done = 0;
    void *parameters[] = {&nowhere};
    int device, count;

    library = dlopen("libcuda.so.1", RTLD_NOW);
    if (!library) return fprintf(stderr, "work: %s\n", dlerror()), 1;
    FUNCTION(cuInit, unsigned);
    FUNCTION(cuDeviceGet, int *, int);
    FUNCTION(cuDeviceGetAttribute, int *, int, int);
    FUNCTION(cuDevicePrimaryCtxRetain, void **, int);
    FUNCTION(cuCtxSetCurrent, void *);
    FUNCTION(cuModuleLoadData, void **, const void *);
    FUNCTION(cuModuleGetFunction, void **, void *, const char *);
    FUNCTION(cuLaunchKernel, void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void *,
             void **, void **);
    FUNCTION(cuCtxSynchronize, void);

    must("cuInit", cuInit(0));
    must("cuDeviceGet", cuDeviceGet(&device, 0));
    must("cuDeviceGetAttribute", cuDeviceGetAttribute(&count, MULTIPROCESSORS, device));
    must("cuDevicePrimaryCtxRetain", cuDevicePrimaryCtxRetain(&context, device));
    must("cuCtxSetCurrent", cuCtxSetCurrent(context));
    must("cuModuleLoadData", cuModuleLoadData(&module, CODE));
    must("cuModuleGetFunction", cuModuleGetFunction(&kernel, module, "work"));
    /* The first launch takes longer than all others. */
    must("cuLaunchKernel", cuLaunchKernel(kernel, (unsigned)count, 1, 1, THREADS, 1, 1, 0, NULL, parameters, NULL));
    must("cuCtxSynchronize", cuCtxSynchronize());

    for (start = now(); now() < start + seconds;) {
        for (int i = 0; i < AT_ONCE; i++)
            must("cuLaunchKernel", cuLaunchKernel(kernel, (unsigned)count, 1, 1, THREADS, 1, 1, 0, NULL, parameters, NULL));
        must("cuCtxSynchronize", cuCtxSynchronize());
        done += AT_ONCE;
        if (now() - told < 0.05) continue;
        told = now();
        printf("%.4f %llu\n", told - start, done);
        fflush(stdout);
    }
    return 0;
}
