/* Uses CUDA through a plugin that it loads in an unusual way:
 *
 *     loads_plugin (plain|deepbind|namespace) PLUGIN TAKE_MIB
 */
#include "program.h"
#include <dlfcn.h>

int main(int argc, char **argv) {
    if (argc < 4) return 2;
    unsigned long long address = 0;
    use_device(0);
    void *plugin;
    if (!strcmp(argv[1], "namespace"))
        plugin = dlmopen(LM_ID_NEWLM, argv[2], RTLD_NOW);
    else
        plugin = dlopen(argv[2], RTLD_NOW | (!strcmp(argv[1], "deepbind") ? RTLD_DEEPBIND : 0));
    if (!plugin) {
        printf("failed 0 %s\n", dlerror());
        return 3;
    }
    int (*allocate)(unsigned long long *, size_t) =
        (int (*)(unsigned long long *, size_t))dlsym(plugin, "plugin_allocate");
    printf("found %d\n", allocate != NULL);
    if (allocate) printf("result %d\n", allocate(&address, strtoull(argv[3], NULL, 10) * MIB_BYTES));
    CUdeviceptr small;
    printf("small %d\n", cuMemAlloc(&small, 4 * MIB_BYTES));
    printf("free_mib %.0f\n", mib(free_bytes()));
    return 0;
}
