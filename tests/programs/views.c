/* Says what every source tells about device memory, side by side:
 *
 *     views TAKE_MIB      takes that much first
 *     views monitor       uses the management library alone, as nvidia-smi does
 *
 * In both it waits once at "ready" before it asks. */
#include "program.h"
#include <dlfcn.h>
#include <nvml.h>

static nvmlDevice_t gpu;

/* Looks a name up as programs do that outlive driver versions. */
static void *management(const char *name) {
    static void *library;
    if (!library) library = dlopen("libnvidia-ml.so.1", RTLD_NOW);
    return library ? dlsym(library, name) : NULL;
}

struct process_v1 {
    unsigned pid;
    unsigned long long bytes;
};
struct process_v2 {
    unsigned pid;
    unsigned long long bytes;
    unsigned gpu_instance, compute_instance;
};

static void list(const char *name, int is_v1) {
    nvmlReturn_t (*call)(nvmlDevice_t, unsigned *, void *) = (nvmlReturn_t(*)(nvmlDevice_t, unsigned *, void *))management(name);
    if (!call) {
        printf("%s missing\n", name);
        return;
    }
    static union {
        struct process_v1 v1[64];
        struct process_v2 v2[64];
    } processes;
    unsigned none = 0, count = 64;
    nvmlReturn_t sizing = call(gpu, &none, NULL);
    nvmlReturn_t result = call(gpu, &count, &processes);
    printf("%s %d sizing %d %u count %u :", name, result, sizing, none, count);
    for (unsigned i = 0; result == NVML_SUCCESS && i < count; i++)
        printf(" %u=%llu", is_v1 ? processes.v1[i].pid : processes.v2[i].pid,
               is_v1 ? processes.v1[i].bytes : processes.v2[i].bytes);
    printf("\n");
}

static void ask_management(void) {
    nvmlMemory_t memory = {0, 0, 0};
    nvmlMemory_v2_t memory_v2;
    memset(&memory_v2, 0, sizeof memory_v2);
    memory_v2.version = nvmlMemory_v2;
    printf("nvml_init %d\n", nvmlInit());
    nvmlReturn_t result = nvmlDeviceGetHandleByIndex(0, &gpu);
    printf("nvml_handle %d\n", result);
    if (result) return;
    result = nvmlDeviceGetMemoryInfo(gpu, &memory);
    printf("nvml_memory %d total %llu used %llu free %llu\n", result, memory.total, memory.used, memory.free);
    result = nvmlDeviceGetMemoryInfo_v2(gpu, &memory_v2);
    printf("nvml_memory_v2 %d total %llu used %llu free %llu reserved %llu\n", result, memory_v2.total,
           memory_v2.used, memory_v2.free, memory_v2.reserved);
    list("nvmlDeviceGetComputeRunningProcesses", 1);
    list("nvmlDeviceGetComputeRunningProcesses_v2", 0);
    list("nvmlDeviceGetComputeRunningProcesses_v3", 0);
    list("nvmlDeviceGetGraphicsRunningProcesses", 1);
    list("nvmlDeviceGetGraphicsRunningProcesses_v2", 0);
    list("nvmlDeviceGetGraphicsRunningProcesses_v3", 0);
    list("nvmlDeviceGetMPSComputeRunningProcesses", 1);
    list("nvmlDeviceGetMPSComputeRunningProcesses_v2", 0);
    list("nvmlDeviceGetMPSComputeRunningProcesses_v3", 0);
}

int main(int argc, char **argv) {
    int monitor = argc > 1 && !strcmp(argv[1], "monitor");
    printf("pid %d\n", getpid());
    if (!monitor) {
        CUdeviceptr address;
        size_t bytes = (argc > 1 ? strtoull(argv[1], NULL, 10) : 64) * MIB_BYTES;
        use_device(0);
        MUST(cuMemAlloc(&address, bytes));
    }
    meet("ready");
    if (!monitor) {
        size_t free_now, total, device_total;
        CUdevice device;
        MUST(cuMemGetInfo(&free_now, &total));
        MUST(cuCtxGetDevice(&device));
        MUST(cuDeviceTotalMem(&device_total, device));
        printf("cuda_free %zu\ncuda_total %zu\ncuda_device_total %zu\n", free_now, total, device_total);
    }
    ask_management();
    meet("done");
    return 0;
}
