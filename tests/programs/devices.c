/* Starts CUDA and says what the program is told of its devices. Ends with status 0 whatever CUDA answers.
 *
 *     devices [hold]
 *
 * With "hold" it makes a context on each device, says "held" and waits for a line. */
#include "program.h"

static void describe(int ordinal, int with_context) {
    CUdevice device;
    CUuuid uuid;
    CUcontext context;
    size_t total = 0, free_now = 0, info_total = 0;
    char name[100] = "";
    MUST(cuDeviceGet(&device, ordinal));
    MUST(cuDeviceGetUuid(&uuid, device));
    MUST(cuDeviceGetName(name, sizeof name, device));
    CUresult result = cuDeviceTotalMem(&total, device);
    printf("device_%d_uuid GPU-", ordinal);
    for (int i = 0; i < 16; i++)
        printf("%s%02x", i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "", (unsigned char)uuid.bytes[i]);
    printf("\ndevice_%d_name %s\ndevice_%d_total_result %d\ndevice_%d_total %zu\n", ordinal, name, ordinal, result,
           ordinal, total);
    if (!with_context) return;
    result = cuDevicePrimaryCtxRetain(&context, device);
    printf("device_%d_context %d\n", ordinal, result);
    if (result) return;
    MUST(cuCtxSetCurrent(context));
    result = cuMemGetInfo(&free_now, &info_total);
    printf("device_%d_info %d\ndevice_%d_free %zu\ndevice_%d_info_total %zu\n", ordinal, result, ordinal, free_now,
           ordinal, info_total);
}

int main(int argc, char **argv) {
    int count = -1;
    CUresult result = cuInit(0);
    printf("init %d\n", result);
    printf("init_again %d\n", cuInit(0));
    CUresult counted = cuDeviceGetCount(&count);
    printf("count_result %d\ncount %d\n", counted, count);
    int hold = argc > 1 && !strcmp(argv[1], "hold");
    for (int ordinal = 0; result == CUDA_SUCCESS && ordinal < count; ordinal++) describe(ordinal, 1);
    if (hold) meet("held");
    return 0;
}
