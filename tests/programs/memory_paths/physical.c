/* Virtual memory management: physical memory by handle, and where it is mapped. */
#include "path.h"

static CUmemAllocationProp properties_here(void) {
    CUmemAllocationProp properties;
    memset(&properties, 0, sizeof properties);
    properties.type = CU_MEM_ALLOCATION_TYPE_PINNED;
    properties.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
    properties.location.id = device;
    return properties;
}

/* Maps `handle` at an address of its own. Leaves nothing behind on failure. */
static CUresult map(struct piece *piece, size_t bytes, CUmemGenericAllocationHandle handle) {
    CUmemAccessDesc access = {{CU_MEM_LOCATION_TYPE_DEVICE, {device}}, CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
    CUresult result = cuMemAddressReserve(&piece->address, bytes, 0, 0, 0);
    if (result) return result;
    piece->bytes = bytes;
    result = cuMemMap(piece->address, bytes, 0, handle, 0);
    if (result == CUDA_SUCCESS) {
        result = cuMemSetAccess(piece->address, bytes, &access, 1);
        if (result) cuMemUnmap(piece->address, bytes);
    }
    if (result) cuMemAddressFree(piece->address, bytes);
    return result;
}

static CUresult take_mapped(size_t bytes) {
    CUmemAllocationProp properties = properties_here();
    struct piece *piece = next_piece();
    CUresult result = cuMemCreate(&piece->physical, bytes, &properties, 0);
    if (result) return result;
    result = map(piece, bytes, piece->physical);
    if (result)
        cuMemRelease(piece->physical);
    else
        piece_count++;
    return result;
}

/* Released at once: the mapping alone keeps the memory. */
static CUresult take_released(size_t bytes) {
    CUresult result = take_mapped(bytes);
    if (result) return result;
    struct piece *piece = &pieces[piece_count - 1];
    result = cuMemRelease(piece->physical);
    piece->physical = 0;
    return result;
}

/* Never mapped: the handle alone keeps the memory. */
static CUresult take_unmapped(size_t bytes) {
    CUmemAllocationProp properties = properties_here();
    CUresult result = cuMemCreate(&next_piece()->physical, bytes, &properties, 0);
    piece_count += result == CUDA_SUCCESS;
    return result;
}

static CUresult release_physical(void) {
    CUresult result = CUDA_SUCCESS;
    while (piece_count > 0) {
        struct piece *piece = &pieces[--piece_count];
        if (piece->address) {
            ALSO(result, cuMemUnmap(piece->address, piece->bytes));
            ALSO(result, cuMemAddressFree(piece->address, piece->bytes));
        }
        if (piece->physical) ALSO(result, cuMemRelease(piece->physical));
    }
    return result;
}

/* Exported as a file descriptor and imported again: one memory with two handles. */
static CUresult take_imported(size_t bytes) {
    CUmemAllocationProp properties = properties_here();
    properties.requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
    CUmemGenericAllocationHandle exported;
    struct piece *piece = next_piece();
    int descriptor = -1;
    CUresult result = cuMemCreate(&exported, bytes, &properties, 0);
    if (result) return result;
    result = cuMemExportToShareableHandle(&descriptor, exported, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0);
    result = THEN(result, cuMemImportFromShareableHandle(&piece->physical, (void *)(uintptr_t)descriptor,
                                                         CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR));
    if (descriptor >= 0) close(descriptor);
    if (result == CUDA_SUCCESS) {
        result = map(piece, bytes, piece->physical);
        if (result) cuMemRelease(piece->physical);
    }
    ALSO(result, cuMemRelease(exported));
    piece_count += result == CUDA_SUCCESS;
    return result;
}

const struct path physical_paths[] = {
    {"vmm", 0, 0, NULL, take_mapped, release_physical},
    {"vmm_released", 0, 0, NULL, take_released, release_physical},
    {"vmm_unmapped", 0, 0, NULL, take_unmapped, release_physical},
    {"vmm_imported", 0, 0, NULL, take_imported, release_physical},
    NO_MORE_PATHS,
};
