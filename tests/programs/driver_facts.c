/* Measures what a driver really does where vcuda has to predict it: how much device memory each
 * kind of request takes, whether lookups agree, what calls cost, and when a killed process's memory
 * and locks come back. Run by scripts/gpu-facts on a real GPU, bare. Prints one fact per line. */
#define _GNU_SOURCE
#include <cuda.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <nvml.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MIB (1024.0 * 1024.0)
static nvmlDevice_t nvml;
static CUdevice device;

static double now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e9 + t.tv_nsec;
}
static double device_used(void) {
    nvmlMemory_t m;
    nvmlDeviceGetMemoryInfo(nvml, &m);
    return m.used / MIB;
}
static double process_used(unsigned pid) {
    nvmlProcessInfo_t info[64];
    unsigned count = 64;
    if (nvmlDeviceGetComputeRunningProcesses(nvml, &count, info) != NVML_SUCCESS) return -1;
    for (unsigned i = 0; i < count; i++)
        if (info[i].pid == pid) return info[i].usedGpuMemory / MIB;
    return 0;
}
static void list_processes(const char *when) {
    nvmlProcessInfo_t info[64];
    unsigned count = 64;
    nvmlReturn_t r = nvmlDeviceGetComputeRunningProcesses(nvml, &count, info);
    printf("processes %s: result %d, me %d:", when, r, getpid());
    for (unsigned i = 0; r == 0 && i < count; i++)
        printf(" [%u %.0f MiB]", info[i].pid, info[i].usedGpuMemory / MIB);
    printf("\n");
}
static double before_device, before_process;
static void mark(void) {
    before_device = device_used();
    before_process = process_used(getpid());
}
static void took(const char *what) {
    printf("took %-44s device %9.2f  process %9.2f MiB\n", what, device_used() - before_device,
           process_used(getpid()) - before_process);
    mark();
}
#define CHECK(call)                                   \
    do {                                              \
        CUresult r_ = (call);                         \
        if (r_) printf("FAILED %d: %s\n", r_, #call); \
    } while (0)

static const char *PTX = ".version 7.0\n.target sm_70\n.address_size 64\n"
                         ".visible .entry spin(.param .u64 ns) {\n .reg .u64 %a,%b,%c,%d; .reg .pred %p;\n"
                         " ld.param.u64 %c,[ns]; mov.u64 %a,%globaltimer;\nL: mov.u64 %b,%globaltimer; "
                         "sub.u64 %d,%b,%a; setp.lt.u64 %p,%d,%c; @%p bra L;\n ret;\n}\n"
                         ".visible .entry empty() { ret; }\n";

static void lookups(const char *names_file) {
    FILE *f = fopen(names_file, "r");
    if (!f) {
        printf("lookups: no %s\n", names_file);
        return;
    }
    void *lib = dlopen("libcuda.so.1", RTLD_NOW);
    char name[256];
    int same = 0, differ = 0, missing = 0;
    while (fscanf(f, "%255s", name) == 1) {
        if (strncmp(name, "cu", 2) || strstr(name, "_v") || strstr(name, "_pt")) continue;
        int found = 0;
        int versions[] = {2000,  3020,  4000,  6050,  7000,  8000,  9000, 10000,
                          11000, 11020, 11040, 12000, 12020, 12050, 13000};
        for (unsigned v = 0; v < sizeof versions / sizeof *versions; v++)
            for (int flags = 0; flags <= 2; flags++) {
                void *p = NULL;
                CUdriverProcAddressQueryResult status;
                if (cuGetProcAddress(name, &p, versions[v], flags, &status) || !p) continue;
                found = 1;
                Dl_info info;
                if (dladdr(p, &info) && info.dli_sname && info.dli_saddr == p &&
                    dlsym(lib, info.dli_sname) == p)
                    same++;
                else {
                    differ++;
                    if (differ < 20)
                        printf("lookups: %s version %d flags %d is no exported address\n", name, versions[v],
                               flags);
                }
            }
        missing += !found;
    }
    printf("lookups: exported addresses %d, others %d, names never found %d\n", same, differ, missing);
    void *p = NULL;
    CUdriverProcAddressQueryResult status;
    CUresult r = cuGetProcAddress("cuMemAlloc_v2", &p, 13000, 0, &status);
    printf("lookups: suffixed name cuMemAlloc_v2 gives result %d status %d pointer %s\n", r, status,
           p ? "set" : "null");
    fclose(f);
}

static void array_requirements(const char *what, unsigned w, unsigned h, unsigned d, CUarray_format fmt,
                               unsigned ch, unsigned flags) {
    CUDA_ARRAY3D_DESCRIPTOR a = {.Width = w,
                                 .Height = h,
                                 .Depth = d,
                                 .Format = fmt,
                                 .NumChannels = ch,
                                 .Flags = flags | CUDA_ARRAY3D_DEFERRED_MAPPING};
    CUarray arr = NULL;
    CUDA_ARRAY_MEMORY_REQUIREMENTS req = {0};
    mark();
    double t = now_ns();
    CUresult r = cuArray3DCreate(&arr, &a);
    CUresult q = r ? r : cuArrayGetMemoryRequirements(&req, arr, device);
    if (!r) cuArrayDestroy(arr);
    double asked = now_ns() - t;
    a.Flags = flags;
    t = now_ns();
    CUresult c = cuArray3DCreate(&arr, &a);
    double made = now_ns() - t;
    char line[200];
    snprintf(line, sizeof line,
             "array %s (deferred %d/%d says %.2f MiB align %zu in %.0f us; create %d in %.0f us)", what, r, q,
             req.size / MIB, req.alignment, asked / 1e3, c, made / 1e3);
    took(line);
    if (!c) cuArrayDestroy(arr);
    mark();
}

static void cost(const char *what, double start, int n) {
    printf("cost %-50s %10.1f ns\n", what, (now_ns() - start) / n);
}

static void kill_order(void) {
    char path[] = "/dev/shm/driver-facts-XXXXXX";
    int fd = mkstemp(path);
    if (ftruncate(fd, 4096)) return;
    for (int round = 0; round < 5; round++) {
        int ready[2];
        if (pipe(ready)) return;
        double base = device_used();
        pid_t child = fork();
        if (child == 0) {
            int own = open(path, O_RDWR | O_CLOEXEC);
            struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 5000, .l_len = 1};
            fcntl(own, F_OFD_SETLK, &lock);
            void *keep = mmap(NULL, 4096, PROT_READ, MAP_SHARED, own, 0);
            madvise(keep, 4096, MADV_DONTFORK);
            close(own);
            CUcontext ctx;
            CUdevice d;
            CUdeviceptr p;
            cuInit(0);
            cuDeviceGet(&d, 0);
            cuDevicePrimaryCtxRetain(&ctx, d);
            cuCtxSetCurrent(ctx);
            for (int i = 0; i < 20; i++) {
                cuMemAlloc(&p, 1ull << 30);
                cuMemsetD8(p, 1, 1ull << 30);
            }
            cuCtxSynchronize();
            if (write(ready[1], "x", 1) != 1) _exit(1);
            pause();
        }
        char c;
        if (read(ready[0], &c, 1) != 1) return;
        double held = device_used();
        double start = now_ns(), lock_free = 0, memory_free = 0, at_lock = 0;
        kill(child, SIGKILL);
        while (now_ns() - start < 5e9 && (!lock_free || !memory_free)) {
            struct flock probe = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 5000, .l_len = 1};
            if (!lock_free && fcntl(fd, F_OFD_GETLK, &probe) == 0 && probe.l_type == F_UNLCK) {
                lock_free = now_ns() - start;
                at_lock = device_used() - base;
            }
            if (!memory_free && device_used() - base < 1) memory_free = now_ns() - start;
        }
        waitpid(child, NULL, 0);
        printf("kill: held %.0f MiB; lock free after %.2f ms (device still had %.0f MiB then), memory free "
               "after %.2f ms\n",
               held - base, lock_free / 1e6, at_lock, memory_free / 1e6);
        close(ready[0]);
        close(ready[1]);
    }
    unlink(path);
    close(fd);
}
enum { SMALL = 4000 };
static CUdeviceptr small[SMALL];
static CUstream st;
static const CUmemPoolProps props = {
    .allocType = CU_MEM_ALLOCATION_TYPE_PINNED,
    .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE},
};

/* In which 2 MiB chunks small allocations lie, and what they take. */
static void small_allocations(void) {
    size_t sizes[] = {4, 513, 100 << 10, 700 << 10, 1 << 20, (1 << 20) + 1};
    for (unsigned s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        int n = sizes[s] > 600000 ? 50 : 1000, chunks = 0;
        for (int i = 0; i < n; i++) CHECK(cuMemAlloc(&small[i], sizes[s]));
        for (int i = 0; i < n; i++) {
            int seen = 0;
            for (int j = 0; j < i && !seen; j++) seen = (small[j] >> 21) == (small[i] >> 21);
            chunks += !seen;
        }
        char line[100];
        snprintf(line, sizeof line, "%d x %zu B in %d chunks (stride %lld)", n, sizes[s], chunks,
                 (long long)(small[1] - small[0]));
        took(line);
        for (int i = 0; i < n; i += 2) CHECK(cuMemFree(small[i]));
        took("  every other freed");
        for (int i = 1; i < n; i += 2) CHECK(cuMemFree(small[i]));
        took("  all freed");
    }
}

/* Large, pitched and managed memory. */
static void linear_memory(void) {
    CUdeviceptr p;
    size_t pitch;
    CHECK(cuMemAlloc(&p, 3 << 20));
    took("3 MiB");
    CHECK(cuMemFree(p));
    took("  freed");
    CHECK(cuMemAllocPitch(&p, &pitch, 1000, 100000, 4));
    took("pitched 1000 x 100000");
    printf("pitch %zu\n", pitch);
    CHECK(cuMemFree(p));
    took("  freed");
    CHECK(cuMemAllocManaged(&p, 256 << 20, CU_MEM_ATTACH_GLOBAL));
    took("managed 256 MiB");
    CHECK(cuMemsetD8(p, 1, 256 << 20));
    CHECK(cuCtxSynchronize());
    took("  touched");
    CHECK(cuMemFree(p));
    took("  freed");
}

/* Arrays: what a twin with deferred mapping states, and what the real one takes. */
static void arrays(void) {
    array_requirements("1D 65536 float4", 65536, 0, 0, CU_AD_FORMAT_FLOAT, 4, 0);
    array_requirements("1D 1024 float", 1024, 0, 0, CU_AD_FORMAT_FLOAT, 1, 0);
    array_requirements("2D 1000x1000 u8", 1000, 1000, 0, CU_AD_FORMAT_UNSIGNED_INT8, 1, 0);
    array_requirements("2D 4096^2 float4", 4096, 4096, 0, CU_AD_FORMAT_FLOAT, 4, 0);
    array_requirements("2D 3000x3000 float", 3000, 3000, 0, CU_AD_FORMAT_FLOAT, 1, 0);
    array_requirements("2D surface 3000x3000 float", 3000, 3000, 0, CU_AD_FORMAT_FLOAT, 1,
                       CUDA_ARRAY3D_SURFACE_LDST);
    array_requirements("3D 100^3 float", 100, 100, 100, CU_AD_FORMAT_FLOAT, 1, 0);
    array_requirements("3D 512^3 u8", 512, 512, 512, CU_AD_FORMAT_UNSIGNED_INT8, 1, 0);
    array_requirements("layered 1024^2x10 float", 1024, 1024, 10, CU_AD_FORMAT_FLOAT, 1,
                       CUDA_ARRAY3D_LAYERED);
    array_requirements("cubemap 1000^2 float", 1000, 1000, 6, CU_AD_FORMAT_FLOAT, 1, CUDA_ARRAY3D_CUBEMAP);
    array_requirements("2D 16x16 u8", 16, 16, 0, CU_AD_FORMAT_UNSIGNED_INT8, 1, 0);
    {
        CUDA_ARRAY3D_DESCRIPTOR a = {.Width = 2048,
                                     .Height = 2048,
                                     .Format = CU_AD_FORMAT_FLOAT,
                                     .NumChannels = 1,
                                     .Flags = CUDA_ARRAY3D_DEFERRED_MAPPING};
        CUmipmappedArray m;
        CUDA_ARRAY_MEMORY_REQUIREMENTS req = {0};
        mark();
        CUresult r = cuMipmappedArrayCreate(&m, &a, 12),
                 q = cuMipmappedArrayGetMemoryRequirements(&req, m, device);
        printf("mipmap deferred %d/%d says %.2f MiB\n", r, q, req.size / MIB);
        if (!r) cuMipmappedArrayDestroy(m);
        took("mipmap deferred, destroyed");
        a.Flags = 0;
        CHECK(cuMipmappedArrayCreate(&m, &a, 12));
        took("mipmap 2048^2 float 12 levels");
        CHECK(cuMipmappedArrayDestroy(m));
        took("  destroyed");
        /* many small arrays: shared chunks? */
        CUarray arr[200];
        CUDA_ARRAY3D_DESCRIPTOR s = {
            .Width = 64, .Height = 64, .Format = CU_AD_FORMAT_FLOAT, .NumChannels = 1};
        for (int i = 0; i < 200; i++) CHECK(cuArray3DCreate(&arr[i], &s));
        took("200 arrays 64x64 float");
        for (int i = 0; i < 200; i++) cuArrayDestroy(arr[i]);
        took("  destroyed");
        s.Width = 65536;
        s.Height = 0;
        s.NumChannels = 4;
        for (int i = 0; i < 10; i++) CHECK(cuArray3DCreate(&arr[i], &s));
        took("10 arrays 1D 65536 float4");
        for (int i = 0; i < 10; i++) cuArrayDestroy(arr[i]);
        took("  destroyed");
    }
}

/* Pools: growth steps, when they shrink, what asking costs. */
static void pools(void) {
    CUdeviceptr p;
    double t;
    CUmemoryPool pool;
    cuuint64_t v, u;
    CHECK(cuStreamCreate(&st, CU_STREAM_NON_BLOCKING));
    took("first stream");
    CHECK(cuDeviceGetDefaultMemPool(&pool, device));
    CHECK(cuMemAllocAsync(&p, 100 << 20, st));
    took("async 100 MiB default pool");
    cuMemPoolGetAttribute(pool, CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT, &v);
    cuMemPoolGetAttribute(pool, CU_MEMPOOL_ATTR_USED_MEM_CURRENT, &u);
    printf("pool reserved %.1f used %.1f\n", v / MIB, u / MIB);
    t = now_ns();
    for (int i = 0; i < 100000; i++) cuMemPoolGetAttribute(pool, CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT, &v);
    cost("cuMemPoolGetAttribute reserved", t, 100000);
    t = now_ns();
    for (int i = 0; i < 100000; i++) cuMemPoolGetAttribute(pool, CU_MEMPOOL_ATTR_USED_MEM_CURRENT, &v);
    cost("cuMemPoolGetAttribute used", t, 100000);
    t = now_ns();
    for (int i = 0; i < 100000; i++) {
        CUmemoryPool q;
        cuDeviceGetMemPool(&q, device);
    }
    cost("cuDeviceGetMemPool", t, 100000);
    CHECK(cuMemFreeAsync(p, st));
    took("  freed async, not synced");
    CHECK(cuStreamSynchronize(st));
    took("  synced");
    cuMemPoolGetAttribute(pool, CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT, &v);
    printf("pool reserved %.1f\n", v / MIB);
    for (int i = 0; i < 40; i++) {
        CHECK(cuMemAllocAsync(&small[i], 5 << 20, st));
        if (i % 8 == 7) {
            cuMemPoolGetAttribute(pool, CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT, &v);
            printf("  pool after %d x 5 MiB: reserved %.1f device %.1f\n", i + 1, v / MIB,
                   device_used() - before_device);
        }
    }
    for (int i = 0; i < 40; i++) cuMemFreeAsync(small[i], st);
    cuStreamSynchronize(st);
    took("40 x 5 MiB alloc and free");
    CUmemoryPool mine;
    CHECK(cuMemPoolCreate(&mine, &props));
    took("pool create");
    CHECK(cuMemAllocFromPoolAsync(&p, 33 << 20, mine, st));
    cuMemPoolGetAttribute(mine, CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT, &v);
    printf("explicit pool reserved %.1f\n", v / MIB);
    took("33 MiB from explicit pool");
    cuMemFreeAsync(p, st);
    cuStreamSynchronize(st);
    took("  freed, synced");
    cuMemPoolDestroy(mine);
    took("  pool destroyed");
}

/* Graphs with allocation nodes: when memory is taken and given back. */
static void graphs(void) {
    CUdeviceptr p;
    double t;
    cuuint64_t u;
    {
        CUgraph g;
        CUgraphNode an, fn;
        CUgraphExec ex;
        cuuint64_t gr;
        CHECK(cuGraphCreate(&g, 0));
        CUDA_MEM_ALLOC_NODE_PARAMS ap = {.poolProps = props, .bytesize = 100 << 20};
        CHECK(cuGraphAddMemAllocNode(&an, g, NULL, 0, &ap));
        took("graph alloc node 100 MiB added");
        CHECK(cuGraphAddMemFreeNode(&fn, g, &an, 1, ap.dptr));
        CHECK(cuGraphInstantiateWithFlags(&ex, g, 0));
        took("  instantiated");
        CHECK(cuGraphUpload(ex, st));
        cuStreamSynchronize(st);
        took("  uploaded");
        CHECK(cuGraphLaunch(ex, st));
        cuDeviceGetGraphMemAttribute(device, CU_GRAPH_MEM_ATTR_RESERVED_MEM_CURRENT, &gr);
        printf("  graph reserved right after launch %.1f\n", gr / MIB);
        took("  launched, not synced");
        cuStreamSynchronize(st);
        took("  synced");
        cuDeviceGetGraphMemAttribute(device, CU_GRAPH_MEM_ATTR_RESERVED_MEM_CURRENT, &gr);
        cuDeviceGetGraphMemAttribute(device, CU_GRAPH_MEM_ATTR_USED_MEM_CURRENT, &u);
        printf("  graph reserved %.1f used %.1f\n", gr / MIB, u / MIB);
        t = now_ns();
        for (int i = 0; i < 10000; i++)
            cuDeviceGetGraphMemAttribute(device, CU_GRAPH_MEM_ATTR_RESERVED_MEM_CURRENT, &gr);
        cost("cuDeviceGetGraphMemAttribute", t, 10000);
        cuGraphExecDestroy(ex);
        took("  exec destroyed");
        cuDeviceGraphMemTrim(device);
        took("  trimmed");
        cuGraphDestroy(g);
        took("  graph destroyed");
        /* alloc without free inside: pages stay used */
        CHECK(cuGraphCreate(&g, 0));
        CHECK(cuGraphAddMemAllocNode(&an, g, NULL, 0, &ap));
        CHECK(cuGraphInstantiateWithFlags(&ex, g, 0));
        took("graph unfreed alloc instantiated");
        CHECK(cuGraphLaunch(ex, st));
        cuStreamSynchronize(st);
        took("  launched");
        cuDeviceGetGraphMemAttribute(device, CU_GRAPH_MEM_ATTR_RESERVED_MEM_CURRENT, &gr);
        cuDeviceGetGraphMemAttribute(device, CU_GRAPH_MEM_ATTR_USED_MEM_CURRENT, &u);
        printf("  graph reserved %.1f used %.1f\n", gr / MIB, u / MIB);
        CHECK(cuMemFree(ap.dptr));
        took("  freed with cuMemFree");
        cuDeviceGraphMemTrim(device);
        took("  trimmed");
        cuGraphExecDestroy(ex);
        cuGraphDestroy(g);
        /* captured */
        CHECK(cuStreamBeginCapture(st, CU_STREAM_CAPTURE_MODE_GLOBAL));
        CHECK(cuMemAllocAsync(&p, 64 << 20, st));
        CHECK(cuMemFreeAsync(p, st));
        CHECK(cuStreamEndCapture(st, &g));
        took("captured alloc 64 MiB");
        CHECK(cuGraphInstantiateWithFlags(&ex, g, 0));
        took("  instantiated");
        CHECK(cuGraphLaunch(ex, st));
        cuStreamSynchronize(st);
        took("  launched");
        cuDeviceGetGraphMemAttribute(device, CU_GRAPH_MEM_ATTR_RESERVED_MEM_CURRENT, &gr);
        printf("  graph reserved %.1f\n", gr / MIB);
        cuGraphExecDestroy(ex);
        cuGraphDestroy(g);
        cuDeviceGraphMemTrim(device);
        took("  destroyed, trimmed");
    }
}

/* Stack and heap limits. */
static void context_limits(void) {
    size_t lim;
    cuCtxGetLimit(&lim, CU_LIMIT_STACK_SIZE);
    printf("stack limit %zu\n", lim);
    mark();
    CHECK(cuCtxSetLimit(CU_LIMIT_STACK_SIZE, 8 << 10));
    took("stack limit 8 KiB");
    cuCtxGetLimit(&lim, CU_LIMIT_STACK_SIZE);
    printf("stack limit now %zu\n", lim);
    CHECK(cuCtxSetLimit(CU_LIMIT_STACK_SIZE, 1024));
    took("  back to 1 KiB");
    CHECK(cuCtxSetLimit(CU_LIMIT_STACK_SIZE, 3000));
    took("stack limit 3000");
    CHECK(cuCtxSetLimit(CU_LIMIT_STACK_SIZE, 1024));
    took("  back");
    CHECK(cuCtxSetLimit(CU_LIMIT_MALLOC_HEAP_SIZE, 256 << 20));
    took("malloc heap 256 MiB");
}

/* Streams, as they become many. */
static void streams(void) {
    CUstream many[128];
    for (int i = 0; i < 128; i++) {
        CHECK(cuStreamCreate(&many[i], CU_STREAM_NON_BLOCKING));
        if (i == 0 || i == 1 || i == 3 || i == 7 || i == 15 || i == 31 || i == 63 || i == 127) {
            char l[40];
            snprintf(l, sizeof l, "streams up to %d", i + 1);
            took(l);
        }
    }
    for (int i = 0; i < 128; i++) cuStreamDestroy(many[i]);
    took("  destroyed");
}

/* Modules and libraries. */
static void modules(void) {
    double t;
    CUmodule mod;
    CUfunction fn;
    CUlibrary lib;
    CUkernel k;
    t = now_ns();
    CHECK(cuModuleLoadData(&mod, PTX));
    cost("cuModuleLoadData of a PTX", t, 1);
    took("module loaded");
    CHECK(cuModuleGetFunction(&fn, mod, "spin"));
    took("  function");
    unsigned long long ns = 1000;
    void *args[] = {&ns};
    CHECK(cuLaunchKernel(fn, 1, 1, 1, 1, 1, 1, 0, st, args, NULL));
    cuStreamSynchronize(st);
    took("  launched");
    CHECK(cuLibraryLoadData(&lib, PTX, NULL, NULL, 0, NULL, NULL, 0));
    took("library loaded");
    CHECK(cuLibraryGetKernel(&k, lib, "spin"));
    took("  kernel");
    CHECK(cuKernelGetFunction(&fn, k));
    took("  function");
}

/* What calls cost on the host. */
static void costs(void) {
    CUdeviceptr p;
    double t;
    t = now_ns();
    for (int i = 0; i < 100; i++) process_used(getpid());
    cost("nvmlDeviceGetComputeRunningProcesses", t, 100);
    t = now_ns();
    for (int i = 0; i < 100; i++) device_used();
    cost("nvmlDeviceGetMemoryInfo", t, 100);
    size_t f, tot;
    t = now_ns();
    for (int i = 0; i < 1000; i++) cuMemGetInfo(&f, &tot);
    cost("cuMemGetInfo", t, 1000);
    CUdevice dd;
    t = now_ns();
    for (int i = 0; i < 1000000; i++) cuCtxGetDevice(&dd);
    cost("cuCtxGetDevice", t, 1000000);
    char page[4096];
    t = now_ns();
    for (int i = 0; i < 1000000; i++) syscall(SYS_rt_sigprocmask, ~0, page, NULL, 8);
    cost("readability check by rt_sigprocmask", t, 1000000);
    t = now_ns();
    for (int i = 0; i < 1000000; i++) syscall(SYS_getpid);
    cost("getpid", t, 1000000);
    t = now_ns();
    for (int i = 0; i < 3000; i++) {
        cuMemAlloc(&p, 4 << 20);
        cuMemFree(p);
    }
    cost("cuMemAlloc+Free 4 MiB", t, 3000);
    t = now_ns();
    for (int i = 0; i < 3000; i++) {
        cuMemAlloc(&p, 4096);
        cuMemFree(p);
    }
    cost("cuMemAlloc+Free 4 KiB", t, 3000);
    CHECK(cuMemAllocAsync(&small[0], 4 << 20, st));
    t = now_ns();
    for (int i = 0; i < 30000; i++) {
        cuMemAllocAsync(&p, 4 << 20, st);
        cuMemFreeAsync(p, st);
    }
    cost("cuMemAllocAsync+FreeAsync 4 MiB", t, 30000);
    t = now_ns();
    for (int i = 0; i < 1000; i++) {
        CUmemGenericAllocationHandle h;
        CUmemAllocationProp mp = {.type = CU_MEM_ALLOCATION_TYPE_PINNED,
                                  .location = {CU_MEM_LOCATION_TYPE_DEVICE, {0}}};
        cuMemCreate(&h, 2 << 20, &mp, 0);
        cuMemRelease(h);
    }
    cost("cuMemCreate+Release 2 MiB", t, 1000);
}

int main(int argc, char **argv) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    double t = now_ns();
    if (nvmlInitWithFlags(NVML_INIT_FLAG_NO_ATTACH) != NVML_SUCCESS) printf("NO_ATTACH init failed\n");
    cost("nvmlInitWithFlags(NO_ATTACH)", t, 1);
    nvmlShutdown();
    t = now_ns();
    if (nvmlInit()) {
        printf("skipped: no GPU\n");
        return 0;
    }
    cost("nvmlInit", t, 1);
    nvmlDeviceGetHandleByIndex(0, &nvml);
    t = now_ns();
    process_used(1);
    cost("first process list", t, 1);
    list_processes("before cuInit");
    if (argc > 2 && !strcmp(argv[2], "kill")) {
        kill_order();
        return 0;
    }
    t = now_ns();
    CHECK(cuInit(0));
    cost("cuInit", t, 1);
    CHECK(cuDeviceGet(&device, 0));
    CUcontext ctx, second;
    mark();
    t = now_ns();
    CHECK(cuDevicePrimaryCtxRetain(&ctx, device));
    cost("cuDevicePrimaryCtxRetain", t, 1);
    took("primary context retained");
    CHECK(cuCtxSetCurrent(ctx));
    took("primary context current");
    list_processes("with context");
    if (argc > 2 && !strcmp(argv[2], "pids")) return 0;
    int cnt, th;
    cuDeviceGetAttribute(&cnt, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, device);
    cuDeviceGetAttribute(&th, CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR, device);
    printf("SMs %d threads/SM %d\n", cnt, th);
    lookups(argc > 1 ? argv[1] : "exports.txt");

    CHECK(cuCtxCreate(&second, NULL, 0, device));
    took("second context");
    CHECK(cuCtxDestroy(second));
    took("second context destroyed");
    CHECK(cuCtxSetCurrent(ctx));

    small_allocations();
    linear_memory();
    arrays();
    pools();
    graphs();
    context_limits();
    streams();
    modules();
    costs();
    mark();
    cuDevicePrimaryCtxReset(device);
    took("primary context reset");
    list_processes("after reset");
    return 0;
}
