/* Frees and takes large blocks in stream order, without ever waiting for the stream: what one stream freed it
 * gets again at once, also where the quota has no room for a second block.
 *
 *     pool_reuse BLOCK_MIB ROUNDS
 */
#include "program.h"

int main(int argc, char **argv) {
    size_t bytes = (argc > 1 ? strtoul(argv[1], NULL, 10) : 1024) * MIB_BYTES;
    int rounds = argc > 2 ? atoi(argv[2]) : 20, got = 0;
    CUstream stream, other;
    CUdeviceptr block = 0, second = 0;
    CUresult result = CUDA_SUCCESS;
    use_device(0);
    MUST(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    MUST(cuStreamCreate(&other, CU_STREAM_NON_BLOCKING));
    for (int round = 0; round < rounds && result == CUDA_SUCCESS; round++) {
        result = cuMemAllocAsync(&block, bytes, stream);
        if (result == CUDA_SUCCESS) {
            got++;
            MUST(cuMemFreeAsync(block, stream));
        }
    }
    printf("got %d\nresult %d\n", got, (int)result);
    MUST(cuMemAllocAsync(&block, bytes, stream));
    printf("second_on_the_same_stream %d\n", (int)cuMemAllocAsync(&second, bytes, stream));
    printf("second_on_another_stream %d\n", (int)cuMemAllocAsync(&second, bytes, other));
    MUST(cuMemFreeAsync(block, stream));
    MUST(cuStreamSynchronize(stream));
    printf("after_waiting %d\n", (int)cuMemAllocAsync(&second, bytes, other));
    return 0;
}
