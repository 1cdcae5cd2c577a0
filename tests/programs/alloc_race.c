/* Many processes that take and give back device memory of random sizes along several paths, all at once:
 *
 *     alloc_race PROCESSES SECONDS [most_mib=256] [kills=0] [seed=1] [kinds=31]
 *
 * The kinds add up: 1 linear, 2 small linear, 4 stream-ordered, 8 physical, 16 arrays.
 * With kills, processes are killed with SIGKILL at random moments and replaced, until that many were.
 * Prints how often memory was got and refused, and every result that was neither. The parent itself uses
 * no GPU. */
#include "program.h"
#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/wait.h>

enum { MOST_PROCESSES = 64, MOST_HELD = 12 };

static struct counts {
    atomic_ullong got, refused, errors, over_limit;
    atomic_int last_error;
    atomic_int running;
} *counts;
static uint64_t most_bytes = 256 * MIB_BYTES;
static unsigned long kinds;

static uint64_t random_state;
static uint64_t random_below(uint64_t bound) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state % bound;
}

enum kind { LINEAR, SMALL, ASYNC, PHYSICAL, ARRAY, KINDS };
enum { ALL_KINDS = (1 << KINDS) - 1 };
static struct held {
    enum kind kind;
    CUdeviceptr address;
    CUmemGenericAllocationHandle physical;
    CUarray array;
} held[MOST_HELD];
static int held_count;
static CUstream stream;

static CUresult take(struct held *piece) {
    uint64_t bytes = (1 + random_below(most_bytes / MIB_BYTES)) * MIB_BYTES;
    do {
        piece->kind = (enum kind)random_below(KINDS);
    } while (!(kinds >> piece->kind & 1));
    switch (piece->kind) {
    case LINEAR: return cuMemAlloc(&piece->address, bytes);
    case SMALL: return cuMemAlloc(&piece->address, 1 + random_below(MIB_BYTES));
    case ASYNC: return cuMemAllocAsync(&piece->address, bytes, stream);
    case PHYSICAL: {
        CUmemAllocationProp properties;
        memset(&properties, 0, sizeof properties);
        properties.type = CU_MEM_ALLOCATION_TYPE_PINNED;
        properties.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
        return cuMemCreate(&piece->physical, (bytes / MIB_BYTES + 1) / 2 * 2 * MIB_BYTES, &properties, 0);
    }
    default: {
        CUDA_ARRAY_DESCRIPTOR shape;
        memset(&shape, 0, sizeof shape);
        shape.Width = 4096;
        shape.Height = bytes / MIB_BYTES * 16;
        shape.Format = CU_AD_FORMAT_FLOAT;
        shape.NumChannels = 4;
        return cuArrayCreate(&piece->array, &shape);
    }
    }
}

static CUresult give_back(struct held *piece) {
    switch (piece->kind) {
    case LINEAR:
    case SMALL: return cuMemFree(piece->address);
    case ASYNC: return cuMemFreeAsync(piece->address, stream);
    case PHYSICAL: return cuMemRelease(piece->physical);
    default: return cuArrayDestroy(piece->array);
    }
}

static void note(CUresult result) {
    if (result == CUDA_SUCCESS) return;
    counts->last_error = (int)result;
    counts->errors++;
}

/* In the first process of a container a context may be refused as well: then it is tried again. */
static void start_using_the_gpu(void) {
    CUdevice device;
    CUcontext context;
    CUresult result;
    MUST(cuInit(0));
    MUST(cuDeviceGet(&device, 0));
    while ((result = cuDevicePrimaryCtxRetain(&context, device)) == CUDA_ERROR_OUT_OF_MEMORY) {
        counts->refused++;
        usleep(2000);
    }
    MUST(result);
    MUST(cuCtxSetCurrent(context));
    while ((result = cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING)) == CUDA_ERROR_OUT_OF_MEMORY) usleep(2000);
    MUST(result);
}

static void work(uint64_t until_ns, uint64_t seed) {
    random_state = seed * 0x9e3779b97f4a7c15u + 1;
    start_using_the_gpu();
    counts->running++;
    while (now_ns() < until_ns) {
        size_t free_now, total;
        if (held_count == MOST_HELD || (held_count > 0 && random_below(3) == 0)) {
            int which = (int)random_below((uint64_t)held_count);
            note(give_back(&held[which]));
            held[which] = held[--held_count];
            continue;
        }
        CUresult result = take(&held[held_count]);
        if (result == CUDA_SUCCESS) {
            held_count++;
            counts->got++;
        } else if (result == CUDA_ERROR_OUT_OF_MEMORY) {
            counts->refused++;
            if (held_count > 0) {
                note(give_back(&held[--held_count]));
                note(cuStreamSynchronize(stream));
            }
        } else {
            note(result);
        }
        note(cuMemGetInfo(&free_now, &total));
        counts->over_limit += free_now > total;
    }
    while (held_count > 0) note(give_back(&held[--held_count]));
    note(cuStreamSynchronize(stream));
    _exit(0);
}

static pid_t spawn(uint64_t until_ns, uint64_t seed) {
    pid_t child = fork();
    if (child == 0) work(until_ns, seed);
    if (child < 0) {
        printf("failed %d fork\n", errno);
        exit(3);
    }
    return child;
}

static unsigned long option(int argc, char **argv, const char *name, unsigned long otherwise) {
    size_t length = strlen(name);
    for (int i = 3; i < argc; i++)
        if (!strncmp(argv[i], name, length) && argv[i][length] == '=') return strtoul(argv[i] + length + 1, NULL, 10);
    return otherwise;
}

int main(int argc, char **argv) {
    unsigned long processes = argc > 2 ? strtoul(argv[1], NULL, 10) : 0;
    double seconds = argc > 2 ? strtod(argv[2], NULL) : 0;
    if (processes == 0 || processes > MOST_PROCESSES) {
        fprintf(stderr, "usage: alloc_race PROCESSES SECONDS [most_mib=256] [kills=0] [seed=1] [kinds=31]\n");
        return 2;
    }
    most_bytes = option(argc, argv, "most_mib", 256) * MIB_BYTES;
    kinds = option(argc, argv, "kinds", ALL_KINDS) & ALL_KINDS;
    if (kinds == 0) kinds = ALL_KINDS;
    unsigned long kills_wanted = option(argc, argv, "kills", 0), kills = 0, seed = option(argc, argv, "seed", 1);
    counts = mmap(NULL, sizeof *counts, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (counts == MAP_FAILED) return 3;

    uint64_t start_ns = now_ns(), until_ns = start_ns + (uint64_t)(seconds * 1e9);
    uint64_t kill_gap_ns = kills_wanted ? (until_ns - start_ns) / (kills_wanted + 1) : UINT64_MAX;
    uint64_t next_kill_ns = kills_wanted ? start_ns + kill_gap_ns : UINT64_MAX;
    pid_t children[MOST_PROCESSES];
    for (unsigned long i = 0; i < processes; i++) children[i] = spawn(until_ns, seed * 1000 + i);
    random_state = seed;
    while (now_ns() < until_ns) {
        if (now_ns() >= next_kill_ns && kills < kills_wanted) {
            unsigned long which = random_below(processes);
            kill(children[which], SIGKILL);
            waitpid(children[which], NULL, 0);
            kills++;
            children[which] = spawn(until_ns, seed * 1000 + processes + kills);
            next_kill_ns += kill_gap_ns;
        }
        usleep(500);
    }
    int failed = 0;
    for (unsigned long i = 0; i < processes; i++) {
        int status;
        if (waitpid(children[i], &status, 0) != children[i] || status != 0) failed++;
    }
    printf("got %llu\nrefused %llu\nerrors %llu\nlast_error %d\n", counts->got, counts->refused, counts->errors,
           counts->last_error);
    printf("kills %lu\nstarted %d\nfailed_processes %d\nover_limit %llu\n", kills, counts->running, failed,
           counts->over_limit);
    return 0;
}
