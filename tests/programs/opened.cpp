// A C++ program that is not linked to CUDA: it opens the driver, asks for functions by name and by version,
// and takes memory until it is refused. An exception is thrown across the whole of it.
#include "program.h"
#include <dlfcn.h>
#include <stdexcept>
#include <string>
#include <vector>

template <typename Function> Function look_up(void *library, const char *name) {
    void *found = dlsym(library, name);
    if (!found) throw std::runtime_error(std::string("no ") + name);
    return reinterpret_cast<Function>(found);
}

class Refused : public std::runtime_error {
public:
    explicit Refused(CUresult result) : std::runtime_error("refused"), result(result) {}
    CUresult result;
};

static void check(CUresult result) {
    if (result != CUDA_SUCCESS) throw Refused(result);
}

int main(int argc, char **argv) {
    std::size_t most_mib = argc > 1 ? std::stoul(argv[1]) : 1024;
    void *library = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL);
    if (!library) {
        std::printf("failed 0 %s\n", dlerror());
        return 3;
    }
    std::vector<CUdeviceptr> held;
    try {
        auto init = look_up<CUresult (*)(unsigned)>(library, "cuInit");
        auto ask = look_up<CUresult (*)(const char *, void **, int, cuuint64_t, CUdriverProcAddressQueryResult *)>(
            library, "cuGetProcAddress_v2");
        check(init(0));
        auto by_version = [&](const char *name) {
            void *found = nullptr;
            check(ask(name, &found, CUDA_VERSION < 13000 ? CUDA_VERSION : 13000, 0, nullptr));
            return found;
        };
        auto retain = reinterpret_cast<CUresult (*)(CUcontext *, CUdevice)>(by_version("cuDevicePrimaryCtxRetain"));
        auto set_current = reinterpret_cast<CUresult (*)(CUcontext)>(by_version("cuCtxSetCurrent"));
        auto allocate = reinterpret_cast<CUresult (*)(CUdeviceptr *, std::size_t)>(by_version("cuMemAlloc"));
        auto release = reinterpret_cast<CUresult (*)(CUdeviceptr)>(by_version("cuMemFree"));
        CUcontext context;
        check(retain(&context, 0));
        check(set_current(context));
        try {
            while (held.size() * 64 < most_mib) {
                CUdeviceptr address;
                check(allocate(&address, 64 * MIB_BYTES));
                held.push_back(address);
            }
            std::printf("refused 0\n");
        } catch (const Refused &refusal) {
            std::printf("refused %d\n", refusal.result);
        }
        std::printf("got_mib %zu\n", held.size() * 64);
        for (CUdeviceptr address : held) check(release(address));
    } catch (const std::exception &error) {
        std::printf("failed 0 %s\n", error.what());
        return 3;
    }
    return 0;
}
