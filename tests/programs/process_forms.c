/* The ways in which processes come about and go on, with CUDA in them:
 *
 *     process_forms FORM
 *
 * Each prints what every process was told, and waits at "check" where the test looks from outside. */
#include "program.h"
#include <errno.h>
#include <pthread.h>
#include <spawn.h>
#include <sys/stat.h>
#include <sys/wait.h>

extern char **environ;
static const char *self;
enum { TAKEN_MIB = 256 };

static CUdeviceptr take(const char *who) {
    CUdeviceptr address = 0;
    CUresult result = cuMemAlloc(&address, TAKEN_MIB * MIB_BYTES);
    printf("%s_got %d\n", who, result);
    fflush(stdout);
    return address;
}

static void use_and_take(const char *who) {
    use_device(0);
    take(who);
}

static int wait_for(pid_t child) {
    int status = -1;
    if (waitpid(child, &status, 0) != child) return -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* Both use CUDA after the fork. */
static void fork_before_init(void) {
    int go[2], ready[2];
    char byte = 0;
    MUST(pipe(go));
    MUST(pipe(ready));
    pid_t child = fork();
    if (child == 0) {
        close(go[1]);
        use_and_take("child");
        if (write(ready[1], &byte, 1) != 1 || read(go[0], &byte, 1) < 0) _exit(5);
        _exit(0);
    }
    close(go[0]);
    use_and_take("parent");
    if (read(ready[0], &byte, 1) != 1) _exit(5);
    meet("check");
    close(go[1]);
    printf("child_status %d\n", wait_for(child));
    meet("check");
}

/* The child has the parent's memory image and no CUDA: the driver refuses it, and it holds nothing. */
static void fork_after_init(void) {
    use_and_take("parent");
    pid_t child = fork();
    if (child == 0) {
        size_t free_now = 0, total = 0;
        CUdeviceptr address;
        printf("child_init %d\n", cuInit(0));
        printf("child_got %d\n", cuMemAlloc(&address, MIB_BYTES));
        printf("child_info %d\n", cuMemGetInfo(&free_now, &total));
        printf("child_free %d\n", cuMemFree(0x1000));
        fflush(stdout);
        _exit(0);
    }
    printf("child_status %d\n", wait_for(child));
    meet("check");
    take("parent_again");
    meet("check");
}

/* Started anew by each of the ways a program can start another. */
static void start_anew(const char *how) {
    char *const arguments[] = {(char *)self, "once", NULL};
    pid_t child;
    use_and_take("parent");
    if (!strcmp(how, "fork_exec") || !strcmp(how, "vfork")) {
        child = !strcmp(how, "vfork") ? vfork() : fork();
        if (child == 0) {
            execv(self, arguments);
            _exit(127);
        }
    } else {
        MUST(posix_spawn(&child, self, NULL, NULL, arguments, environ));
    }
    printf("child_status %d\n", wait_for(child));
    meet("check");
}

/* The same process becomes another program: what it held is free again. */
static void exec_over(void) {
    char *const arguments[] = {(char *)self, "once", "wait", NULL};
    use_and_take("before");
    meet("check");
    execv(self, arguments);
}

static void once(int waits) {
    use_and_take("after");
    if (waits) meet("check");
}

static void *allocate_and_free(void *unused) {
    CUcontext context;
    (void)unused;
    MUST(cuDevicePrimaryCtxRetain(&context, 0));
    MUST(cuCtxSetCurrent(context));
    for (int i = 0; i < 400; i++) {
        CUdeviceptr address;
        size_t free_now, total;
        MUST(cuMemAlloc(&address, (size_t)(1 + i % 7) * 300000));
        MUST(cuMemGetInfo(&free_now, &total));
        MUST(cuMemFree(address));
    }
    MUST(cuDevicePrimaryCtxRelease(0));
    return NULL;
}

/* On small stacks, as thread pools have them. */
static void threads(void) {
    enum { THREADS = 16 };
    pthread_t all[THREADS];
    pthread_attr_t attributes;
    use_device(0);
    uint64_t before = free_bytes();
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 64 << 10);
    for (int i = 0; i < THREADS; i++) MUST(pthread_create(&all[i], &attributes, allocate_and_free, NULL));
    for (int i = 0; i < THREADS; i++) MUST(pthread_join(all[i], NULL));
    printf("lost_bytes %lld\n", (long long)(before - free_bytes()));
    meet("check");
}

/* Some programs close every descriptor they did not open. */
static void closes_descriptors(void) {
    use_and_take("before");
    int keep_in = dup(0), keep_out = dup(1);
    for (int descriptor = 3; descriptor < 1024; descriptor++)
        if (descriptor != keep_in && descriptor != keep_out) close(descriptor);
    take("after");
    printf("free_mib %.0f\n", mib(free_bytes()));
    meet("check");
}

/* A daemon: a grandchild in a session of its own, with nothing open. */
static void daemon_form(const char *report) {
    char unfinished[4096];
    snprintf(unfinished, sizeof unfinished, "%s.unfinished", report);
    pid_t child = fork();
    if (child == 0) {
        setsid();
        if (fork() != 0) _exit(0);
        if (chdir("/")) _exit(5);
        umask(0);
        for (int descriptor = 0; descriptor < 1024; descriptor++) close(descriptor);
        CUcontext context;
        CUdeviceptr address = 0;
        CUresult result = cuInit(0);
        if (!result) result = cuDevicePrimaryCtxRetain(&context, 0);
        if (!result) result = cuCtxSetCurrent(context);
        if (!result) result = cuMemAlloc(&address, TAKEN_MIB * MIB_BYTES);
        FILE *file = fopen(unfinished, "w");
        if (!file) _exit(6);
        fprintf(file, "%d %o\n", result, (unsigned)umask(0));
        fclose(file);
        rename(unfinished, report);
        _exit(0);
    }
    printf("child_status %d\n", wait_for(child));
    while (access(report, F_OK)) usleep(1000);
}

static volatile int stop;
static void *allocate_until_told(void *context) {
    CUdeviceptr address;
    MUST(cuCtxSetCurrent((CUcontext)context));
    while (!stop) {
        MUST(cuMemAlloc(&address, 3 * MIB_BYTES));
        MUST(cuMemFree(address));
    }
    return NULL;
}

/* Children are forked while other threads are in the midst of allocating: none may hang. */
static void fork_while_allocating(void) {
    pthread_t allocating[2];
    CUcontext context = use_device(0);
    for (int i = 0; i < 2; i++) MUST(pthread_create(&allocating[i], NULL, allocate_until_told, context));
    int ended = 0;
    for (int i = 0; i < 200; i++) {
        pid_t child = fork();
        if (child == 0) {
            CUdeviceptr address;
            alarm(10);
            int refused = cuMemAlloc(&address, MIB_BYTES) != CUDA_SUCCESS;
            cuInit(0);
            _exit(refused ? 0 : 1);
        }
        ended += wait_for(child) == 0;
    }
    stop = 1;
    for (int i = 0; i < 2; i++) pthread_join(allocating[i], NULL);
    printf("ended %d\n", ended);
    meet("check");
}

int main(int argc, char **argv) {
    const char *form = argc > 1 ? argv[1] : "";
    static char path[4096];
    ssize_t length = readlink("/proc/self/exe", path, sizeof path - 1);
    if (length < 0) return 3;
    self = path;
    if (!strcmp(form, "fork_before_init")) fork_before_init();
    else if (!strcmp(form, "fork_after_init")) fork_after_init();
    else if (!strcmp(form, "fork_exec") || !strcmp(form, "vfork") || !strcmp(form, "posix_spawn")) start_anew(form);
    else if (!strcmp(form, "exec")) exec_over();
    else if (!strcmp(form, "once")) once(argc > 2);
    else if (!strcmp(form, "threads")) threads();
    else if (!strcmp(form, "close_descriptors")) closes_descriptors();
    else if (!strcmp(form, "daemon") && argc > 2) daemon_form(argv[2]);
    else if (!strcmp(form, "fork_while_allocating")) fork_while_allocating();
    else return 2;
    return 0;
}
