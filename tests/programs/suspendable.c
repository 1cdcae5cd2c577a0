/* Holds memory with known contents, and does what it is told on standard input, a line at a time:
 *   work         checks the contents, changes them, and says "worked" and how often it has
 *   alloc MIB    says "alloc_1" (2, 3, ...) and the result; what it gets it keeps
 *   managed      allocates managed memory
 *   free         frees what "managed" and "alloc" have allocated
 *   share        makes an IPC handle
 *   ask          makes a call that the library doesn't see
 *   sleep MS     is away from the driver for a while
 * usage: suspendable MIB */
#include "program.h"

#define KEPT 64

static CUdeviceptr held, kept[KEPT];
static size_t held_bytes;
static uint32_t rounds;
static int kept_count, asked;

static void put(uint32_t value) {
    uint32_t values[1024];
    for (int i = 0; i < 1024; i++) values[i] = value + (uint32_t)i;
    MUST(cuMemcpyHtoD(held, values, sizeof values));
    MUST(cuMemcpyHtoD(held + held_bytes - sizeof values, values, sizeof values));
}

static int is(uint32_t value) {
    uint32_t first[1024], last[1024];
    MUST(cuMemcpyDtoH(first, held, sizeof first));
    MUST(cuMemcpyDtoH(last, held + held_bytes - sizeof last, sizeof last));
    for (int i = 0; i < 1024; i++)
        if (first[i] != value + (uint32_t)i || last[i] != value + (uint32_t)i) return 0;
    return 1;
}

static void obey(const char *line) {
    CUipcMemHandle handle;
    unsigned number = 0;
    if (strncmp(line, "work", 4) == 0) {
        if (!is(rounds)) {
            printf("spoiled %u\n", rounds);
            _exit(5);
        }
        put(++rounds);
        printf("worked %u\n", rounds);
    } else if (sscanf(line, "alloc %u", &number) == 1 && kept_count < KEPT) {
        int result = (int)cuMemAlloc(&kept[kept_count], number * MIB_BYTES);
        if (result == 0) kept_count++;
        printf("alloc_%d %d\n", ++asked, result);
    } else if (strncmp(line, "managed", 7) == 0) {
        MUST(cuMemAllocManaged(&kept[kept_count++], MIB_BYTES, CU_MEM_ATTACH_GLOBAL));
        printf("managed 0\n");
    } else if (strncmp(line, "free", 4) == 0) {
        while (kept_count > 0) MUST(cuMemFree(kept[--kept_count]));
        printf("free 0\n");
    } else if (strncmp(line, "share", 5) == 0) {
        MUST(cuIpcGetMemHandle(&handle, held));
        printf("share 0\n");
    } else if (strncmp(line, "ask", 3) == 0) {
        CUdevice device;
        MUST(cuCtxGetDevice(&device));
        printf("asked 0\n");
    } else if (sscanf(line, "sleep %u", &number) == 1) {
        usleep(number * 1000);
        printf("slept 0\n");
    } else if (line[0] != '\n') {
        _exit(6);
    }
    fflush(stdout);
}

int main(int argc, char **argv) {
    char line[64];
    held_bytes = (size_t)atoi(argc > 1 ? argv[1] : "64") * MIB_BYTES;
    use_device(0);
    MUST(cuMemAlloc(&held, held_bytes));
    put(0);
    printf("ready\n");
    fflush(stdout);
    while (fgets(line, sizeof line, stdin)) obey(line);
    printf("ended\n");
    return 0;
}
