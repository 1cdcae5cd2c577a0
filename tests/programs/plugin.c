/* A library that uses CUDA for the program that loads it. */
#include "program.h"

int plugin_allocate(unsigned long long *address, size_t bytes) {
    CUdeviceptr pointer = 0;
    CUresult result = cuMemAlloc(&pointer, bytes);
    *address = pointer;
    return (int)result;
}
