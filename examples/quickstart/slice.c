/* An ordinary CUDA program: asks the driver for memory in four ways until it gets no more, and says how far
 * it got. It knows nothing of vcuda.
 *
 *   slice               one line for each question: what was asked, bytes, how it ended, separated by tabs
 *   slice hold FILE     takes what it can get, says how much, and keeps it until FILE exists
 *
 * Builds without NVIDIA's headers: it declares the few functions it calls, and finds them in libcuda.so.1. */
#define _POSIX_C_SOURCE 200809L
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { MOST_BLOCKS = 32, OUT_OF_MEMORY = 2 };
static const size_t MIB = (size_t)1 << 20;
static const size_t BLOCK_BYTES = (size_t)256 << 20;

typedef unsigned long long device_pointer;

struct location { int type, id; };
struct allocation { int type, handle_types; struct location location; void *windows; unsigned char flags[8]; };
struct array { size_t width, height; int format; unsigned channels; };

static int (*init)(unsigned flags);
static int (*device_get)(int *device, int ordinal);
static int (*device_name)(char *name, int length, int device);
static int (*device_total)(size_t *bytes, int device);
static int (*context_retain)(void **context, int device);
static int (*context_set)(void *context);
static int (*get_info)(size_t *free_bytes, size_t *total_bytes);
static int (*error_name)(int error, const char **name);
static int (*linear_alloc)(device_pointer *pointer, size_t bytes);
static int (*linear_free)(device_pointer pointer);
static int (*async_alloc)(device_pointer *pointer, size_t bytes, void *stream);
static int (*async_free)(device_pointer pointer, void *stream);
static int (*stream_wait)(void *stream);
static int (*default_pool)(void **pool, int device);
static int (*pool_trim)(void *pool, size_t keep_bytes);
static int (*vmm_create)(unsigned long long *handle, size_t bytes, const struct allocation *what, unsigned long long flags);
static int (*vmm_release)(unsigned long long handle);
static int (*array_create)(void **array, const struct array *what);
static int (*array_destroy)(void *array);

static int device;

static void find_functions(void) {
    static const struct { void *slot; const char *name; } functions[] = {
        {&init, "cuInit"},
        {&device_get, "cuDeviceGet"},
        {&device_name, "cuDeviceGetName"},
        {&device_total, "cuDeviceTotalMem_v2"},
        {&context_retain, "cuDevicePrimaryCtxRetain"},
        {&context_set, "cuCtxSetCurrent"},
        {&get_info, "cuMemGetInfo_v2"},
        {&error_name, "cuGetErrorName"},
        {&linear_alloc, "cuMemAlloc_v2"},
        {&linear_free, "cuMemFree_v2"},
        {&async_alloc, "cuMemAllocAsync"},
        {&async_free, "cuMemFreeAsync"},
        {&stream_wait, "cuStreamSynchronize"},
        {&default_pool, "cuDeviceGetDefaultMemPool"},
        {&pool_trim, "cuMemPoolTrimTo"},
        {&vmm_create, "cuMemCreate"},
        {&vmm_release, "cuMemRelease"},
        {&array_create, "cuArrayCreate_v2"},
        {&array_destroy, "cuArrayDestroy"},
    };
    void *driver = dlopen("libcuda.so.1", RTLD_NOW);
    if (!driver) { fprintf(stderr, "no CUDA driver: %s\n", dlerror()); exit(1); }
    for (size_t i = 0; i < sizeof functions / sizeof functions[0]; i++) {
        void *found = dlsym(driver, functions[i].name);
        if (!found) { fprintf(stderr, "the driver has no %s\n", functions[i].name); exit(1); }
        memcpy(functions[i].slot, &found, sizeof found);
    }
}

static const char *name_of(int error) {
    const char *name = NULL;
    return error_name(error, &name) == 0 && name ? name : "an unknown error";
}

static void must(int error, const char *what) {
    if (error == 0) return;
    fprintf(stderr, "%s: %s\n", what, name_of(error));
    exit(1);
}

static int take_linear(void **block) { return linear_alloc((device_pointer *)block, BLOCK_BYTES); }
static int give_linear(void *block) { return linear_free((device_pointer)block); }

static int take_async(void **block) {
    int error = async_alloc((device_pointer *)block, BLOCK_BYTES, NULL);
    return error ? error : stream_wait(NULL);
}
static int give_async(void *block) { return async_free((device_pointer)block, NULL); }

static int take_vmm(void **block) {
    struct allocation what = {.type = 1, .location = {.type = 1, .id = device}};
    return vmm_create((unsigned long long *)block, BLOCK_BYTES, &what, 0);
}
static int give_vmm(void *block) { return vmm_release((unsigned long long)block); }

static int take_array(void **block) {
    struct array what = {.width = 4096, .height = 4096, .format = 0x20, .channels = 4}; /* four floats a cell */
    return array_create(block, &what);
}
static int give_array(void *block) { return array_destroy(block); }

/* Takes blocks until there are no more, says how many, and gives them all back. */
static void fill(const char *path, int (*take)(void **), int (*give)(void *)) {
    void *blocks[MOST_BLOCKS] = {0};
    int count = 0, error = 0;
    while (count < MOST_BLOCKS && (error = take(&blocks[count])) == 0) count++;
    printf("%s\t%zu\t%s\n", path, count * BLOCK_BYTES, error ? name_of(error) : "stopped asking");
    for (int i = 0; i < count; i++) must(give(blocks[i]), path);
    must(stream_wait(NULL), "cuStreamSynchronize");
    void *pool;
    must(default_pool(&pool, device), "cuDeviceGetDefaultMemPool");
    must(pool_trim(pool, 0), "cuMemPoolTrimTo");
}

/* Takes 32 MiB at a time, so that two of us at once get turns. */
static void hold(const char *stop) {
    device_pointer pointer;
    size_t bytes = 0, step = 32 * MIB;
    int error = 0;
    const struct timespec pause = {.tv_nsec = 2000000};
    while (bytes < MOST_BLOCKS * BLOCK_BYTES && (error = linear_alloc(&pointer, step)) == 0) {
        bytes += step;
        nanosleep(&pause, NULL);
    }
    printf("%d\t%zu\t%s\n", (int)getpid(), bytes, error ? name_of(error) : "stopped asking");
    fflush(stdout);
    while (access(stop, F_OK) != 0) nanosleep(&pause, NULL);
}

int main(int count, char **arguments) {
    find_functions();
    must(init(0), "cuInit");
    must(device_get(&device, 0), "cuDeviceGet");
    void *context;
    must(context_retain(&context, device), "cuDevicePrimaryCtxRetain");
    must(context_set(context), "cuCtxSetCurrent");
    if (count == 3 && strcmp(arguments[1], "hold") == 0) {
        hold(arguments[2]);
        return 0;
    }
    char name[128] = "";
    size_t total, free_bytes, total_again;
    must(device_name(name, sizeof name, device), "cuDeviceGetName");
    must(device_total(&total, device), "cuDeviceTotalMem");
    must(get_info(&free_bytes, &total_again), "cuMemGetInfo");
    printf("name\t0\t%s\n", name);
    printf("cuDeviceTotalMem\t%zu\t\n", total);
    printf("cuMemGetInfo: total\t%zu\t\n", total_again);
    printf("cuMemGetInfo: free\t%zu\t\n", free_bytes);
    fill("cuMemAlloc", take_linear, give_linear);
    fill("cuMemAllocAsync", take_async, give_async);
    fill("cuMemCreate", take_vmm, give_vmm);
    fill("cuArrayCreate", take_array, give_array);
    fill("cuMemAlloc, once more", take_linear, give_linear);
    return 0;
}
