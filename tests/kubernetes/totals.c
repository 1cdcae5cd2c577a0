/* Prints the memory that CUDA says each GPU has. Needs no headers of CUDA. */
#include <stdio.h>

int cuInit(unsigned flags);
int cuDeviceGetCount(int *count);
int cuDeviceGet(int *device, int ordinal);
int cuDeviceTotalMem_v2(size_t *bytes, int device);

int main(void) {
    int count = 0, device;
    int failed = cuInit(0);
    if (!failed) failed = cuDeviceGetCount(&count);
    printf("failed %d\ncount %d\n", failed, count);
    for (int ordinal = 0; ordinal < count; ordinal++) {
        size_t bytes = 0;
        failed = cuDeviceGet(&device, ordinal);
        if (!failed) failed = cuDeviceTotalMem_v2(&bytes, device);
        printf("device_%d_total %zu\n", ordinal, failed ? 0 : bytes);
    }
    return failed != 0;
}
