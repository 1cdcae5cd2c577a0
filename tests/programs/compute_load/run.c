/* One run: lanes are given work until the time is over; then what was done when is counted. */
#include "load.h"
#include <pthread.h>

struct worker {
    const struct request *request;
    const struct mode *mode;
    struct lane *lanes;
    int count;
    uint64_t start_ns, end_ns;
    /* What each request took from when it was due, if there are any. */
    uint64_t *took_ns;
    size_t requests;
};

static int clamp(double value, int least, int most) {
    return value < least ? least : value > most ? most : (int)value;
}

static void wait_until(uint64_t time_ns) {
    while (now_ns() < time_ns) {
        uint64_t left = time_ns - now_ns();
        if (left > 200000 && left < UINT64_MAX / 2) usleep((useconds_t)(left / 1000 - 100));
    }
}

static void drain(struct worker *worker) {
    for (int i = 0; i < worker->count; i++) lane_drain(&worker->lanes[i]);
}

/* Rests, with nothing outstanding, if it is time to. */
static void rest(struct worker *worker, uint64_t on_ns, uint64_t off_ns) {
    uint64_t turn_ns = on_ns + off_ns, into_ns = (now_ns() - worker->start_ns) % turn_ns;
    if (into_ns < on_ns) return;
    uint64_t next_ns = now_ns() + turn_ns - into_ns;
    drain(worker);
    wait_until(next_ns < worker->end_ns ? next_ns : worker->end_ns);
}

static void *work(void *data) {
    struct worker *worker = data;
    const struct mode *mode = worker->mode;
    const struct request *request = worker->request;
    uint64_t gap_ns = request->gap_ns, given = 0;
    wait_until(worker->start_ns);
    while (now_ns() < worker->end_ns) {
        if (request->on_ns) rest(worker, request->on_ns, request->off_ns);
        uint64_t due_ns = worker->start_ns + worker->requests * request->every_ns;
        if (worker->took_ns && given % (uint64_t)mode->sync_every == 0) wait_until(due_ns);
        struct lane *lane = &worker->lanes[given++ % (uint64_t)worker->count];
        mode->give(lane);
        lane->units++;
        if (mode->sync_every && given % (uint64_t)mode->sync_every == 0) {
            MUST(cuStreamSynchronize(lane->stream));
            uint64_t done_ns = now_ns();
            lane_settle(lane, done_ns, (uint64_t)mode->kernels_per_unit);
            if (worker->took_ns) worker->took_ns[worker->requests++] = done_ns - due_ns;
        } else {
            lane_add(lane, (uint64_t)mode->kernels_per_unit);
        }
        if (gap_ns)
            for (uint64_t until = now_ns() + gap_ns; now_ns() < until;) {}
    }
    drain(worker);
    return NULL;
}

static int by_time(const void *a, const void *b) {
    uint64_t x = ((const struct note *)a)->time_ns, y = ((const struct note *)b)->time_ns;
    return (x > y) - (x < y);
}

/* All lanes' notes by time. */
static struct note *gather(struct lane *lanes, int count, size_t *noted) {
    size_t total = 0;
    for (int i = 0; i < count; i++) total += lanes[i].noted;
    struct note *notes = malloc((total + 1) * sizeof *notes);
    if (!notes) _exit(3);
    total = 0;
    for (int i = 0; i < count; i++) {
        if (lanes[i].noted) memcpy(notes + total, lanes[i].notes, lanes[i].noted * sizeof *notes);
        total += lanes[i].noted;
    }
    qsort(notes, total, sizeof *notes, by_time);
    *noted = total;
    return notes;
}

/* Kernels done in each so many nanoseconds of the time that counts. */
static void print_steps(const char *key, uint64_t step_ns, const struct note *notes, size_t noted, uint64_t from_ns,
                        uint64_t until_ns) {
    size_t next = 0;
    while (next < noted && notes[next].time_ns < from_ns) next++;
    printf("%s", key);
    for (uint64_t end = from_ns + step_ns; end <= until_ns; end += step_ns) {
        uint64_t kernels = 0;
        for (; next < noted && notes[next].time_ns < end; next++) kernels += notes[next].kernels;
        printf(" %llu", (unsigned long long)kernels);
    }
    putchar('\n');
}

static struct totals count(const struct note *notes, size_t noted, uint64_t from_ns, uint64_t until_ns, int is_quiet) {
    struct totals totals = {0};
    uint64_t first_ns = 0, last_ns = 0, in_window = 0, between = 0, largest = 0;
    for (size_t i = 0; i < noted; i++) {
        totals.all_kernels += (double)notes[i].kernels;
        if (notes[i].time_ns < from_ns || notes[i].time_ns > until_ns) continue;
        in_window += notes[i].kernels;
        if (notes[i].kernels > largest) largest = notes[i].kernels;
        /* What the first note counts was done before it. */
        if (first_ns)
            between += notes[i].kernels;
        else
            first_ns = notes[i].time_ns;
        last_ns = notes[i].time_ns;
    }
    totals.kernels = (double)between;
    totals.seconds = (double)(last_ns - first_ns) / 1e9;
    if (is_quiet) return totals;
    printf("kernels %llu\nseconds %.9f\n", (unsigned long long)between, totals.seconds);
    printf("window_kernels %llu\nwindow_seconds %.9f\n", (unsigned long long)in_window, (double)(until_ns - from_ns) / 1e9);
    printf("largest_note %llu\n", (unsigned long long)largest);
    print_steps("tenths", 100000000, notes, noted, from_ns, until_ns);
    return totals;
}

/* What those requests took that were due in the time that counts. */
static void print_requests(const struct worker *worker, uint64_t from_ns) {
    printf("requests_ns");
    for (size_t i = 0; i < worker->requests; i++)
        if (worker->start_ns + i * worker->request->every_ns >= from_ns)
            printf(" %llu", (unsigned long long)worker->took_ns[i]);
    putchar('\n');
}

struct totals run_load(const struct request *request, int is_quiet) {
    const struct mode *mode = find_mode(request->mode);
    struct lane *lanes = calloc(MOST_LANES, sizeof *lanes);
    struct worker workers[MOST_LANES];
    pthread_t threads[MOST_LANES];
    CUdeviceptr counter = 0, ring = 0;
    uint32_t capacity = 0;
    if (!mode || !lanes) _exit(3);

    double unit_ns = (double)request->kernel_ns * mode->kernels_per_unit;
    /* A mark for about 2 ms of work in all lanes together, and up to about 16 ms of work queued. */
    int units = clamp(2e6 / unit_ns / mode->streams, 1, 64);
    int mark_every = request->mark_every ? request->mark_every : units * mode->kernels_per_unit;
    int marks = request->ring ? request->ring : clamp(16e6 / (unit_ns * units * mode->streams), mode->streams > 1 ? 1 : 3, 8);
    /* A loop that waits does so by itself only. */
    if (marks < mode->sync_every) marks = mode->sync_every;
    int is_logged = request->log[0] != 0;
    if (is_logged) {
        double most = (request->warmup_seconds + request->seconds) * 1e9 / (double)request->kernel_ns;
        record_begin((size_t)clamp(3 * most + 4096, 4096, 6 << 20), &counter, &ring, &capacity);
    }
    set_work(request->kernel_ns, request->iterations);
    set_record(counter, ring, capacity);
    lanes_begin();
    for (int i = 0; i < mode->streams; i++) {
        lane_open(&lanes[i], mode->stream, mark_every, marks < MOST_RING ? marks : MOST_RING);
        if (mode->prepare) mode->prepare(&lanes[i]);
    }

    uint64_t start_ns = request->start_ns ? request->start_ns : now_ns();
    uint64_t from_ns = start_ns + (uint64_t)(request->warmup_seconds * 1e9);
    uint64_t until_ns = from_ns + (uint64_t)(request->seconds * 1e9);
    for (int i = 0; i < mode->threads; i++) {
        int share = mode->streams / mode->threads;
        workers[i] = (struct worker){.request = request, .mode = mode, .lanes = lanes + i * share, .count = share,
                                     .start_ns = start_ns, .end_ns = until_ns};
        if (request->every_ns && mode->sync_every && i == 0) {
            size_t most = (until_ns - start_ns) / request->every_ns + 2;
            workers[i].took_ns = calloc(most, sizeof *workers[i].took_ns);
            if (!workers[i].took_ns) _exit(3);
        }
        if (mode->threads > 1) MUST(pthread_create(&threads[i], NULL, work, &workers[i]));
    }
    if (mode->threads == 1) work(&workers[0]);
    for (int i = 0; mode->threads > 1 && i < mode->threads; i++) MUST(pthread_join(threads[i], NULL));
    double all_seconds = (double)(now_ns() - start_ns) / 1e9;

    size_t noted;
    struct note *notes = gather(lanes, mode->streams, &noted);
    struct totals totals = count(notes, noted, from_ns, until_ns, is_quiet);
    totals.all_seconds = all_seconds;
    if (!is_quiet) {
        printf("from_ns %llu\n", (unsigned long long)from_ns);
        printf("all_kernels %.0f\nall_seconds %.9f\n", totals.all_kernels, all_seconds);
        if (request->bins_ns) print_steps("bins", request->bins_ns, notes, noted, from_ns, until_ns);
        if (workers[0].took_ns) print_requests(&workers[0], from_ns);
    }
    free(workers[0].took_ns);
    free(notes);
    set_record(0, 0, 0);
    if (is_logged && !is_quiet) record_end(request->log, from_ns, until_ns);
    for (int i = 0; i < mode->streams; i++) lane_close(&lanes[i]);
    free(lanes);
    return totals;
}
