/* Takes device memory along one path until it is refused, gives it back, and takes it again:
 *
 *     memory_paths PATH STEP_MIB MAX_MIB [hold]
 *     memory_paths list
 *
 * Prints how much it got and what refused it. With "hold" it waits for a line of input when it has taken
 * all it can ("full"), and again when it has given all back ("empty"). */
#include "path.h"

struct piece pieces[MOST_PIECES];
int piece_count;
CUdevice device;
CUstream stream;

static const struct path *const all_paths[] = {linear_paths, pool_paths,    physical_paths, array_paths,
                                               graph_paths,  context_paths, shared_paths};

struct piece *next_piece(void) {
    if (piece_count == MOST_PIECES) {
        printf("failed 0 more than %d steps\n", MOST_PIECES);
        exit(3);
    }
    memset(&pieces[piece_count], 0, sizeof pieces[piece_count]);
    return &pieces[piece_count];
}

static const struct path *find(const char *name) {
    for (size_t list = 0; list < sizeof all_paths / sizeof *all_paths; list++)
        for (const struct path *path = all_paths[list]; path->name; path++)
            if (!strcmp(path->name, name)) return path;
    return NULL;
}

static void print_names(void) {
    for (size_t list = 0; list < sizeof all_paths / sizeof *all_paths; list++)
        for (const struct path *path = all_paths[list]; path->name; path++) puts(path->name);
}

struct outcome {
    int steps;
    uint64_t asked_bytes, taken_bytes;
    CUresult refused;
};

static struct outcome take_all(const struct path *path, size_t step_bytes, uint64_t max_bytes) {
    struct outcome outcome = {0, 0, 0, CUDA_SUCCESS};
    uint64_t start_bytes = free_bytes();
    for (; outcome.asked_bytes < max_bytes; outcome.steps++) {
        /* Where a step has no size, what it took ends it. Others on the same GPU are in that figure. */
        if (step_bytes == 1 && outcome.taken_bytes >= max_bytes) break;
        if (path->most_steps && outcome.steps == path->most_steps) break;
        outcome.refused = path->take(step_bytes);
        if (outcome.refused) break;
        outcome.asked_bytes += step_bytes;
        uint64_t left_bytes = free_bytes();
        outcome.taken_bytes = left_bytes < start_bytes ? start_bytes - left_bytes : 0;
    }
    return outcome;
}

int main(int argc, char **argv) {
    if (argc == 2 && !strcmp(argv[1], "list")) {
        print_names();
        return 0;
    }
    const struct path *path = argc >= 4 ? find(argv[1]) : NULL;
    if (!path) {
        fprintf(stderr, "usage: memory_paths PATH STEP_MIB MAX_MIB [hold]; memory_paths list\n");
        return 2;
    }
    int hold = argc > 4 && !strcmp(argv[4], "hold");
    size_t step_bytes = path->step_bytes ? path->step_bytes : strtoull(argv[2], NULL, 10) * MIB_BYTES;
    uint64_t max_bytes = strtoull(argv[3], NULL, 10) * MIB_BYTES;

    /* A path's second process is started before this one uses CUDA. */
    CUresult ready = path->start ? path->start() : CUDA_SUCCESS;
    use_device(0);
    MUST(cuCtxGetDevice(&device));
    MUST(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));

    uint64_t start_bytes = free_bytes();
    struct outcome first = {0, 0, 0, ready};
    if (ready == CUDA_SUCCESS) first = take_all(path, step_bytes, max_bytes);
    if (first.asked_bytes == 0 && first.refused != CUDA_ERROR_OUT_OF_MEMORY) {
        printf("unsupported %d\n", first.refused);
        return 0;
    }
    printf("step_mib %.3f\n", mib(step_bytes));
    printf("start_free_mib %.3f\n", mib(start_bytes));
    printf("got_mib %.3f\n", mib(first.asked_bytes));
    printf("taken_mib %.3f\n", mib(first.taken_bytes));
    printf("steps %d\n", first.steps);
    printf("refused %d\n", first.refused);
    printf("left_mib %.3f\n", mib(free_bytes()));
    if (hold) meet("full");
    CUresult released = path->release();
    printf("released %d\n", released);
    printf("returned_mib %.3f\n", mib(free_bytes()) - mib(start_bytes) + mib(first.taken_bytes));
    if (hold) meet("empty");
    struct outcome again = take_all(path, step_bytes, max_bytes);
    printf("again_mib %.3f\n", mib(again.asked_bytes));
    printf("again_steps %d\n", again.steps);
    printf("again_taken_mib %.3f\n", mib(again.taken_bytes));
    printf("again_refused %d\n", again.refused);
    path->release();
    return 0;
}
