/* Looks names up in every way dlsym offers and says in which library each answer lies. */
#include "program.h"
#include <dlfcn.h>

static const char *object_of(const void *address) {
    Dl_info info;
    if (!address) return "null";
    if (!dladdr(address, &info) || !info.dli_fname) return "unknown";
    const char *file = strrchr(info.dli_fname, '/');
    return file ? file + 1 : info.dli_fname;
}

static void say(const char *how, const char *name, const void *address) {
    printf("%s %s %s\n", how, name, object_of(address));
}

static void say_missing(const char *how, void *handle, const char *name) {
    dlerror();
    void *found = dlsym(handle, name);
    const char *error = dlerror();
    printf("%s %s %s %s\n", how, name, object_of(found), error && strstr(error, name) ? "explained" : "unexplained");
}

static void from(const char *how, void *handle) {
    static const char *const names[] = {"cuMemAlloc_v2",  "cuMemAllocAsync_ptsz", "cuMemcpyHtoD_v2", "cuDeviceGetCount",
                                        "cuGetProcAddress", "cuGetProcAddress_v2", "cuGetExportTable"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        void *first = dlsym(handle, names[i]);
        say(how, names[i], first);
        if (dlsym(handle, names[i]) != first) printf("changed %s %s\n", how, names[i]);
    }
    say_missing(how, handle, "cuNoSuchFunction");
    say_missing(how, handle, "noSuchFunction");
}

int main(int argc, char **argv) {
    void *cuda = dlopen("libcuda.so.1", RTLD_NOW);
    void *management = dlopen("libnvidia-ml.so.1", RTLD_NOW);
    void *c_library = dlopen("libc.so.6", RTLD_NOW);
    if (!cuda || !management || !c_library) {
        printf("failed 0 %s\n", dlerror());
        return 3;
    }
    MUST(cuInit(0));
    say("linked", "cuMemAlloc_v2", (void *)cuMemAlloc);
    say("linked", "cuMemcpyHtoD_v2", (void *)cuMemcpyHtoD);
    from("handle", cuda);
    from("default", RTLD_DEFAULT);
    from("next", RTLD_NEXT);
    say("handle", "nvmlDeviceGetMemoryInfo", dlsym(management, "nvmlDeviceGetMemoryInfo"));
    say("handle", "nvmlDeviceGetName", dlsym(management, "nvmlDeviceGetName"));
    /* A handle of another library has none of the driver's names. */
    say_missing("other_handle", c_library, "cuMemAlloc_v2");
    say("version", "memcpy", dlvsym(RTLD_DEFAULT, "memcpy", "GLIBC_2.14"));
    say("version", "no_such_version", dlvsym(RTLD_DEFAULT, "memcpy", "GLIBC_0.1"));
    say("version", "cuMemAlloc_v2", dlvsym(cuda, "cuMemAlloc_v2", "NO_SUCH_VERSION"));
    /* Libraries named on the command line: whatever they define is theirs. */
    for (int i = 1; i < argc; i++) {
        void *library = dlopen(argv[i], RTLD_NOW | RTLD_LOCAL);
        const char *const *names = library ? (const char *const *)dlsym(library, "defined_names") : NULL;
        for (; names && *names; names++) say("foreign", *names, dlsym(library, *names));
        void *(*look)(void *, const char *) = library ? (void *(*)(void *, const char *))dlsym(library, "look_up") : NULL;
        if (look) say("by_library", "cuMemAlloc_v2", look(cuda, "cuMemAlloc_v2"));
    }
    return 0;
}
