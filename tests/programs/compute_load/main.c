/* Loads a GPU with kernels that each do the same work, and counts those done:
 *
 *     compute_load calibrate NS...
 *     compute_load run MODE NS ITERATIONS [KEY=VALUE...]
 *     compute_load serve
 *     compute_load modes
 *
 * The first form finds how many iterations of the kernel's loop take NS nanoseconds, when kernels follow each
 * other, and prints lines "calibrated NS iterations N period_events_ns T period_host_ns T". The second runs a mode
 * once. The third says "ready" and does so for each line "MODE NS ITERATIONS [KEY=VALUE...]" of standard input,
 * ending each with "done". The simulated driver goes by NS, a real one by ITERATIONS.
 *
 * Keys: seconds (2), warmup (0.5) seconds before it, start_ns on the monotonic clock (now), gap_ns of the host's
 * own work after each launch (0), mark_every kernels of a stream an event that tells when they were done, ring of
 * as many of them outstanding (both by NS), log=- to have kernels write down when they ran or log=FILE to
 * have their busy intervals in a file, by the GPU's timer. on_ns and off_ns have it work and rest in turn (always
 * works). every_ns makes requests of a mode that waits, one due each so many nanoseconds: "requests_ns" is what each
 * took from when it was due. bins_ns has "bins" say the kernels done in each so many nanoseconds.
 *
 * "kernels" were done within "seconds", which begin and end with a kernel's end; "window_kernels" in the whole time
 * that was asked for, which began at "from_ns". "all_kernels" and "all_seconds" count everything, by the host's
 * clock. */
#include "load.h"

static int parse(struct request *request, char *line) {
    char *words[16], *rest = NULL;
    int count = 0;
    for (char *word = strtok_r(line, " \n", &rest); word && count < 16; word = strtok_r(NULL, " \n", &rest))
        words[count++] = word;
    *request = (struct request){.warmup_seconds = 0.5, .seconds = 2};
    if (count < 3 || !find_mode(words[0])) return 0;
    snprintf(request->mode, sizeof request->mode, "%s", words[0]);
    request->kernel_ns = strtoull(words[1], NULL, 10);
    request->iterations = (uint32_t)strtoul(words[2], NULL, 10);
    for (int i = 3; i < count; i++) {
        char *value = strchr(words[i], '=');
        if (!value) return 0;
        *value++ = 0;
        if (!strcmp(words[i], "seconds")) request->seconds = atof(value);
        else if (!strcmp(words[i], "warmup")) request->warmup_seconds = atof(value);
        else if (!strcmp(words[i], "start_ns")) request->start_ns = strtoull(value, NULL, 10);
        else if (!strcmp(words[i], "gap_ns")) request->gap_ns = strtoull(value, NULL, 10);
        else if (!strcmp(words[i], "every_ns")) request->every_ns = strtoull(value, NULL, 10);
        else if (!strcmp(words[i], "on_ns")) request->on_ns = strtoull(value, NULL, 10);
        else if (!strcmp(words[i], "off_ns")) request->off_ns = strtoull(value, NULL, 10);
        else if (!strcmp(words[i], "bins_ns")) request->bins_ns = strtoull(value, NULL, 10);
        else if (!strcmp(words[i], "mark_every")) request->mark_every = atoi(value);
        else if (!strcmp(words[i], "ring")) request->ring = atoi(value);
        else if (!strcmp(words[i], "log")) snprintf(request->log, sizeof request->log, "%s", value);
        else return 0;
    }
    return request->kernel_ns > 0 && request->seconds > 0 && request->mark_every >= 0 && request->ring >= 0 && request->ring <= MOST_RING;
}

/* Seconds' worth of kernels one after the other, with an event only now and then. */
static struct totals batch(uint64_t kernel_ns, uint32_t iterations, double seconds) {
    int mark_every = (int)(10000000 / kernel_ns);
    if (mark_every > 400) mark_every = 400;
    struct request request = {.mode = "free", .kernel_ns = kernel_ns, .iterations = iterations, .warmup_seconds = 0.05,
                              .seconds = seconds, .mark_every = mark_every > 0 ? mark_every : 1, .ring = 2};
    return run_load(&request, 1);
}

static double period_ns(uint64_t kernel_ns, uint32_t iterations, double seconds) {
    struct totals totals = batch(kernel_ns, iterations, seconds);
    return totals.kernels > 0 ? totals.seconds * 1e9 / totals.kernels : 0;
}

static void calibrate(uint64_t kernel_ns) {
    uint32_t iterations = (uint32_t)(kernel_ns / 10 + 1);
    for (int round = 0; round < 3; round++) {
        double once = period_ns(kernel_ns, iterations, 0.1 + 5 * (double)kernel_ns / 1e9);
        double twice = period_ns(kernel_ns, 2 * iterations, 0.1 + 10 * (double)kernel_ns / 1e9);
        double slope = (twice - once) / iterations;
        /* The simulated driver's kernels last as long as they are told, whatever they do. */
        if (slope * iterations < 0.2 * once) break;
        double wanted = iterations + ((double)kernel_ns - once) / slope;
        iterations = wanted < 1 ? 1 : (uint32_t)(wanted + 0.5);
    }
    struct totals totals = batch(kernel_ns, iterations, 0.5 + 10 * (double)kernel_ns / 1e9);
    printf("calibrated %llu iterations %u period_events_ns %.3f period_host_ns %.3f\n", (unsigned long long)kernel_ns,
           iterations, totals.seconds * 1e9 / totals.kernels, totals.all_seconds * 1e9 / totals.all_kernels);
    fflush(stdout);
}

static int usage(void) {
    fprintf(stderr, "usage: compute_load calibrate NS... | run MODE NS ITERATIONS [KEY=VALUE...] | serve | modes\n");
    return 2;
}

static int run_line(char *line) {
    struct request request;
    if (!parse(&request, line)) return usage();
    run_load(&request, 0);
    return 0;
}

int main(int argc, char **argv) {
    char line[1024] = "";
    const char *what = argc > 1 ? argv[1] : "";
    if (!strcmp(what, "modes")) return list_modes(), 0;
    if (!strcmp(what, "calibrate") && argc > 2) {
        open_device();
        for (int i = 2; i < argc; i++) {
            uint64_t kernel_ns = strtoull(argv[i], NULL, 10);
            if (kernel_ns < 1000 || kernel_ns > 1000000000) return usage();
            calibrate(kernel_ns);
        }
        return 0;
    }
    if (!strcmp(what, "run")) {
        for (int i = 2; i < argc; i++) snprintf(line + strlen(line), sizeof line - strlen(line), "%s ", argv[i]);
        open_device();
        printf("blocks %u\nclusters %u\n", load_blocks, load_clusters);
        return run_line(line);
    }
    if (strcmp(what, "serve")) return usage();
    open_device();
    printf("clusters %u\npid %d\nready\n", load_clusters, (int)getpid());
    fflush(stdout);
    while (fgets(line, sizeof line, stdin)) {
        if (run_line(line)) return 2;
        puts("done");
        fflush(stdout);
    }
    return 0;
}
