/* One way of taking device memory, and the list that holds what was taken. */
#ifndef PATH_H
#define PATH_H

#include "../program.h"

struct path {
    const char *name;
    /* Bytes that one step asks for; 0 for what the command line says. */
    size_t step_bytes;
    /* Steps after which it is enough; 0 for as many as it takes. */
    int most_steps;
    /* Prepares what the steps need; may be null. */
    CUresult (*start)(void);
    /* One step. A step that fails leaves nothing behind. */
    CUresult (*take)(size_t bytes);
    /* Gives everything back. */
    CUresult (*release)(void);
};

/* What one step took. Each path uses the members it needs. */
struct piece {
    CUdeviceptr address;
    size_t bytes;
    CUmemGenericAllocationHandle physical;
    void *object, *second_object;
};

enum { MOST_PIECES = 1 << 17 };
extern struct piece pieces[MOST_PIECES];
extern int piece_count;
extern CUdevice device;
extern CUstream stream;

/* Ends lists of paths. */
#define NO_MORE_PATHS {NULL, 0, 0, NULL, NULL, NULL}

extern const struct path linear_paths[], pool_paths[], physical_paths[], array_paths[], graph_paths[],
    context_paths[], shared_paths[];

/* The next free piece, emptied. Count it with `piece_count++` once the step has worked. */
struct piece *next_piece(void);

/* Goes on with `call` only if nothing failed before it. */
#define THEN(result, call) ((result) == CUDA_SUCCESS ? (call) : (result))
/* Remembers the first failure, and makes the call in any case. */
#define ALSO(result, call)                                     \
    do {                                                       \
        CUresult also_result = (call);                         \
        if ((result) == CUDA_SUCCESS) (result) = also_result;  \
    } while (0)

#endif
