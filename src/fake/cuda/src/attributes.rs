//! What devices answer when asked for an attribute: an H200's answers, with what differs between models
//! put in.

use vcuda_driver::cuda::types::*;
use vcuda_fake_machine::Gpu;

/// Answers for the attributes 1 to 147 of an H200 with driver 580.159.
const H200: [i32; 147] = [
    1024,
    1024,
    1024,
    64,
    2_147_483_647,
    65535,
    65535,
    49152,
    65536,
    32, // 1
    2_147_483_647,
    65536,
    1_980_000,
    512,
    1,
    132,
    0,
    0,
    1,
    0, // 11
    131_072,
    131_072,
    65536,
    16384,
    16384,
    16384,
    32768,
    32768,
    2048,
    512, // 21
    1,
    1,
    0,
    0,
    0,
    3_201_000,
    6016,
    62_914_560,
    2048,
    3, // 31
    1,
    32768,
    2048,
    1,
    32768,
    32768,
    8192,
    8192,
    32768,
    0, // 41
    32,
    32768,
    32768,
    2046,
    32768,
    131_072,
    65536,
    16384,
    16384,
    16384, // 51
    32768,
    2048,
    32768,
    32768,
    2048,
    32768,
    32768,
    2046,
    268_435_456,
    131_072, // 61
    65000,
    2_097_120,
    32768,
    32768,
    9,
    0,
    32768,
    1,
    1,
    1, // 71
    233_472,
    65536,
    1,
    0,
    0,
    0,
    2,
    0,
    1,
    1, // 81
    1,
    0,
    0,
    0,
    1,
    1,
    232_448,
    0,
    1,
    0, // 91
    0,
    1,
    1,
    0,
    0,
    32,
    1,
    39_321_600,
    134_217_728,
    1, // 101
    1024,
    1,
    1,
    1,
    1,
    1,
    1,
    100,
    9,
    1, // 111
    1,
    1,
    1,
    1,
    1,
    4,
    1,
    1,
    1,
    0, // 121
    -1,
    0,
    0,
    0,
    0,
    0,
    0,
    0,
    590_680_286,
    415_174_878, // 131
    1,
    1,
    0,
    1,
    1,
    0,
    0, // 141
];

/// What a GPU answers; `None` for an attribute that there isn't.
pub fn of_gpu(gpu: &Gpu, attribute: CUdevice_attribute) -> Option<i32> {
    let usual = *H200.get(usize::try_from(attribute).ok()?.checked_sub(1)?)?;
    Some(match attribute {
        CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT => gpu.multiprocessors as i32,
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR => gpu.compute_major as i32,
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR => gpu.compute_minor as i32,
        CU_DEVICE_ATTRIBUTE_PCI_BUS_ID => gpu.pci_bus as i32,
        CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR => threads_per_multiprocessor(gpu) as i32,
        // Sharing over a network, compressed and NUMA memory: none of that here.
        CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_FABRIC_SUPPORTED => 0,
        CU_DEVICE_ATTRIBUTE_DMA_BUF_SUPPORTED | CU_DEVICE_ATTRIBUTE_SPARSE_CUDA_ARRAY_SUPPORTED => 0,
        _ => usual,
    })
}

/// Threads that one multiprocessor keeps at once.
pub fn threads_per_multiprocessor(gpu: &Gpu) -> u64 {
    match (gpu.compute_major, gpu.compute_minor) {
        (7, 5) => 1024,
        (8, 6 | 9) => 1536,
        _ => 2048,
    }
}
