/* Memory that a second process opens as well: it is there once, and the process that made it pays. */
#include "path.h"
#include <sys/wait.h>

static int to_child = -1, from_child = -1;

/* One order to the second process: open this memory, or close everything (a null handle's flag). */
struct order {
    int open;
    CUipcMemHandle handle;
};

static void second_process(int in, int out) {
    static CUdeviceptr opened[MOST_PIECES];
    int count = 0;
    struct order order;
    CUresult result = cuInit(0);
    CUcontext context;
    result = THEN(result, cuDevicePrimaryCtxRetain(&context, 0));
    result = THEN(result, cuCtxSetCurrent(context));
    while (write(out, &result, sizeof result) == sizeof result && read(in, &order, sizeof order) == sizeof order) {
        if (order.open) {
            result = cuIpcOpenMemHandle(&opened[count], order.handle, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS);
            count += result == CUDA_SUCCESS;
        } else {
            result = CUDA_SUCCESS;
            while (count > 0) ALSO(result, cuIpcCloseMemHandle(opened[--count]));
        }
    }
    _exit(0);
}

static CUresult answer(void) {
    CUresult result;
    return read(from_child, &result, sizeof result) == sizeof result ? result : CUDA_ERROR_UNKNOWN;
}

static CUresult start_second_process(void) {
    int down[2], up[2];
    if (pipe(down) || pipe(up)) return CUDA_ERROR_OPERATING_SYSTEM;
    pid_t child = fork();
    if (child < 0) return CUDA_ERROR_OPERATING_SYSTEM;
    if (child == 0) {
        close(down[1]);
        close(up[0]);
        second_process(down[0], up[1]);
    }
    close(down[0]);
    close(up[1]);
    to_child = down[1];
    from_child = up[0];
    return answer();
}

static CUresult tell(const struct order *order) {
    if (write(to_child, order, sizeof *order) != sizeof *order) return CUDA_ERROR_OPERATING_SYSTEM;
    return answer();
}

static CUresult take_shared(size_t bytes) {
    struct piece *piece = next_piece();
    struct order order = {1, {{0}}};
    CUresult result = cuMemAlloc(&piece->address, bytes);
    if (result) return result;
    result = cuIpcGetMemHandle(&order.handle, piece->address);
    result = THEN(result, tell(&order));
    if (result)
        cuMemFree(piece->address);
    else
        piece_count++;
    return result;
}

static CUresult release_shared(void) {
    struct order order = {0, {{0}}};
    CUresult result = tell(&order);
    while (piece_count > 0) ALSO(result, cuMemFree(pieces[--piece_count].address));
    return result;
}

const struct path shared_paths[] = {
    {"ipc", 0, 0, start_second_process, take_shared, release_shared},
    NO_MORE_PATHS,
};
