/* Compares what cuGetProcAddress answers here with what the driver itself answers, over every name on
 * standard input, every version on the command line and every stream flag. The driver is asked directly, at
 * the address that its own symbol table gives.
 *
 * An answer is right if result and status are the driver's, and the pointer is the driver's or, where the
 * preloaded library defines the very symbol that lies there, that definition. */
#include "original.h"
#include "program.h"

typedef CUresult (*with_status)(const char *, void **, int, cuuint64_t, CUdriverProcAddressQueryResult *);
typedef CUresult (*without_status)(const char *, void **, int, cuuint64_t);

static struct definitions driver, preloaded;
static unsigned long checked, found, hooked, wrong;

/* Where the driver and the preloaded library define the same symbol. */
static struct pair {
    uintptr_t drivers, hook;
} *pairs;
static size_t pair_count;

static void pair_up(void) {
    pairs = (struct pair *)calloc(preloaded.count + 1, sizeof *pairs);
    for (size_t i = 0; pairs && i < preloaded.count; i++) {
        uintptr_t drivers = defined_at(&driver, preloaded.list[i].name);
        if (drivers) pairs[pair_count++] = (struct pair){drivers, preloaded.list[i].address};
    }
}

/* The preloaded library's definition of the symbol that the driver has at `address`, or 0. */
static uintptr_t hook_of(uintptr_t address, uintptr_t preferred) {
    uintptr_t any = 0;
    for (size_t i = 0; i < pair_count; i++) {
        if (pairs[i].drivers != address) continue;
        any = pairs[i].hook;
        if (any == preferred) break;
    }
    return any;
}

static void complain(const char *name, int version, int flags, const char *what) {
    if (wrong++ < 20) printf("wrong %s version %d flags %d: %s\n", name, version, flags, what);
}

static void compare(const char *name, int version, int flags, void *ours, void *drivers) {
    checked++;
    if (!ours || !drivers) {
        if (ours != drivers) complain(name, version, flags, ours ? "made up" : "lost");
        return;
    }
    found++;
    uintptr_t hook = hook_of((uintptr_t)drivers, (uintptr_t)ours);
    if (hook == 0 && ours == drivers) return;
    if (hook == 0) return complain(name, version, flags, "not the driver's pointer");
    if (hook != (uintptr_t)ours) return complain(name, version, flags, "not the hook of the same symbol");
    hooked++;
}

int main(int argc, char **argv) {
    char name[256];
    MUST(cuInit(0));
    driver = definitions_of("libcuda.so");
    preloaded = definitions_of("libvcuda.so");
    pair_up();
    with_status driver_v2 = (with_status)defined_at(&driver, "cuGetProcAddress_v2");
    without_status driver_v1 = (without_status)defined_at(&driver, "cuGetProcAddress");
    without_status our_v1 = (without_status)defined_at(preloaded.count ? &preloaded : &driver, "cuGetProcAddress");
    if (!driver_v2 || !driver_v1 || !our_v1) {
        printf("failed 0 no cuGetProcAddress in %zu symbols\n", driver.count);
        return 3;
    }
    while (fgets(name, sizeof name, stdin)) {
        name[strcspn(name, "\n")] = 0;
        for (int i = 1; i < argc; i++)
            for (int flags = 0; flags <= 2; flags++) {
                int version = atoi(argv[i]);
                void *ours = &checked, *drivers = &checked;
                CUdriverProcAddressQueryResult our_status = 77, driver_status = 77;
                CUresult our_result = cuGetProcAddress(name, &ours, version, (cuuint64_t)flags, &our_status);
                CUresult driver_result = driver_v2(name, &drivers, version, (cuuint64_t)flags, &driver_status);
                if (our_result != driver_result) complain(name, version, flags, "another result");
                if (our_status != driver_status) complain(name, version, flags, "another status");
                compare(name, version, flags, ours, drivers);
                ours = drivers = &checked;
                our_result = our_v1(name, &ours, version, (cuuint64_t)flags);
                driver_result = driver_v1(name, &drivers, version, (cuuint64_t)flags);
                if (our_result != driver_result) complain(name, version, flags, "another result without status");
                compare(name, version, flags, ours, drivers);
            }
    }
    printf("checked %lu\nfound %lu\nhooked %lu\nwrong %lu\n", checked, found, hooked, wrong);
    return 0;
}
