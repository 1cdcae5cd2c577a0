/* A library whose names look like the driver's, or are. None of them is. */
#define DECOY(name) \
    int name(void) { return 7; }

DECOY(cublasCreate_v2)
DECOY(cudnnCreate)
DECOY(cufftPlan1d)
DECOY(curl_easy_init)
DECOY(cudaMalloc)
DECOY(cuda_thing)
DECOY(cuBLAS)
DECOY(cusolverDnCreate)
DECOY(nvmlx)
DECOY(nvml_helper)
DECOY(nvrtcVersion)
/* Another library's function may even have a driver's name. */
DECOY(cuMemAlloc_v2)
DECOY(nvmlDeviceGetMemoryInfo)

const char *const defined_names[] = {
    "cublasCreate_v2", "cudnnCreate", "cufftPlan1d", "curl_easy_init", "cudaMalloc",    "cuda_thing",
    "cuBLAS",          "cusolverDnCreate", "nvmlx",  "nvml_helper",    "nvrtcVersion", "cuMemAlloc_v2",
    "nvmlDeviceGetMemoryInfo", 0,
};
