/* Does what standard input says, one line at a time, and answers each with its number:
 *
 *     take MIB     allocates and fills; "N RESULT"
 *     give         frees what was taken last; "N RESULT"
 *     memory       "N FREE_MIB TOTAL_MIB"
 *     monitor      the same from the management library
 *     check        reads all back; "N WRONG", the pieces that are not as they were filled
 *     end
 *
 * Says "ready" first. With the argument "monitor" it uses the management library alone. */
#include "program.h"
#include <nvml.h>

enum { MOST_PIECES = 256 };

static struct {
    CUdeviceptr address;
    size_t bytes;
    unsigned char filling;
} pieces[MOST_PIECES];
static int piece_count, filled;

static CUresult take(size_t bytes) {
    if (piece_count == MOST_PIECES) return CUDA_ERROR_INVALID_VALUE;
    CUresult result = cuMemAlloc(&pieces[piece_count].address, bytes);
    if (result) return result;
    pieces[piece_count].bytes = bytes;
    pieces[piece_count].filling = (unsigned char)(++filled);
    MUST(cuMemsetD8(pieces[piece_count].address, pieces[piece_count].filling, bytes));
    MUST(cuCtxSynchronize());
    piece_count++;
    return CUDA_SUCCESS;
}

static CUresult give(void) {
    return piece_count > 0 ? cuMemFree(pieces[--piece_count].address) : CUDA_ERROR_INVALID_VALUE;
}

/* First, middle and last byte of each. */
static int check(void) {
    int wrong = 0;
    for (int i = 0; i < piece_count; i++) {
        size_t places[] = {0, pieces[i].bytes / 2, pieces[i].bytes - 1};
        for (int j = 0; j < 3; j++) {
            unsigned char found = 0;
            MUST(cuMemcpyDtoH(&found, pieces[i].address + places[j], 1));
            if (found != pieces[i].filling) {
                wrong++;
                break;
            }
        }
    }
    return wrong;
}

static void monitor(int number) {
    nvmlDevice_t managed;
    nvmlMemory_t memory;
    MUST(nvmlDeviceGetHandleByIndex(0, &managed));
    MUST(nvmlDeviceGetMemoryInfo(managed, &memory));
    printf("%d %.0f %.0f\n", number, mib(memory.free), mib(memory.total));
}

int main(int argc, char **argv) {
    char line[64];
    size_t free_now, total;
    MUST(nvmlInit());
    if (argc < 2 || strcmp(argv[1], "monitor")) use_device(0);
    puts("ready");
    fflush(stdout);
    for (int number = 1; fgets(line, sizeof line, stdin); number++) {
        if (!strncmp(line, "take ", 5)) {
            printf("%d %d\n", number, take(strtoull(line + 5, NULL, 10) * MIB_BYTES));
        } else if (!strcmp(line, "give\n")) {
            printf("%d %d\n", number, give());
        } else if (!strcmp(line, "memory\n")) {
            MUST(cuMemGetInfo(&free_now, &total));
            printf("%d %.0f %.0f\n", number, mib(free_now), mib(total));
        } else if (!strcmp(line, "monitor\n")) {
            monitor(number);
        } else if (!strcmp(line, "check\n")) {
            printf("%d %d\n", number, check());
        } else {
            break;
        }
        fflush(stdout);
    }
    return 0;
}
