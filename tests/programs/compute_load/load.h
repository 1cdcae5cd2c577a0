/* A load of kernels that each do the same fixed work, and an exact count of those that were done when. */
#ifndef LOAD_H
#define LOAD_H

#include "../program.h"

enum { MOST_LANES = 8, MOST_RING = 64, THREADS_PER_BLOCK = 256 };

/* What is asked for. */
struct request {
    char mode[32];
    /* For the simulated driver; a real one is told by `iterations`. */
    uint64_t kernel_ns;
    uint32_t iterations;
    /* On the monotonic clock; 0 for now. The time that counts begins `warmup` later. */
    uint64_t start_ns;
    double warmup_seconds, seconds;
    /* After each launch the host works for so long. */
    uint64_t gap_ns;
    /* Of a mode that waits: what lies between two waits is a request, and one is due each `every_ns`. */
    uint64_t every_ns;
    /* Works for so long, then rests for so long, in turn; 0: always works. */
    uint64_t on_ns, off_ns;
    /* Kernels done are also told in steps of so long; 0: not. */
    uint64_t bins_ns;
    /* A timing event after so many kernels of a stream, and how many of those may be outstanding; 0: by kernel_ns. */
    int mark_every, ring;
    /* Kernels write down when they ran: "" no, "-" yes, else the file that the busy intervals are written to. */
    char log[256];
};

/* Some kernels that are done, and when that was, on the monotonic clock. */
struct note {
    uint64_t time_ns;
    uint64_t kernels;
};

/* A stream, its work that is outstanding, and the notes of what is done. */
struct lane {
    CUstream stream;
    CUgraphExec graph;
    /* Units of work given to it. */
    uint64_t units;
    /* Kernels since the last mark. */
    uint64_t pending;
    CUevent marks[MOST_RING];
    uint64_t marked[MOST_RING];
    int head, count, ring;
    uint64_t mark_every;
    struct note *notes;
    size_t noted, room;
};

/* kernel.c: the GPU and the kernel */
extern CUfunction load_kernel;
extern unsigned load_blocks, load_shared_bytes, load_clusters;
void open_device(void);
/* What the next launches do; not while some are outstanding. */
void set_work(uint64_t kernel_ns, uint32_t iterations);
void **kernel_parameters(void);

/* record.c: what kernels write down */
void record_begin(size_t entries, CUdeviceptr *counter, CUdeviceptr *ring, uint32_t *capacity);
void record_end(const char *file, uint64_t from_ns, uint64_t until_ns);
void set_record(CUdeviceptr counter, CUdeviceptr ring, uint32_t capacity);
CUfunction timer_kernel(void);

/* lane.c: which kernels are done when */
void lanes_begin(void);
void lane_open(struct lane *lane, CUstream stream, int mark_every, int ring);
/* Counts kernels that were given to the lane; may wait for earlier ones. */
void lane_add(struct lane *lane, uint64_t kernels);
/* Counts kernels that were the last given to it and that, as the host knows, are done, as is all before them. */
void lane_settle(struct lane *lane, uint64_t time_ns, uint64_t kernels);
/* Marks what has no mark yet, and waits for everything. */
void lane_drain(struct lane *lane);
void lane_close(struct lane *lane);

/* mode.c: ways to give a GPU work */
struct mode {
    const char *name;
    int streams, threads;
    /* Waits after so many units; 0: never. */
    int sync_every;
    int kernels_per_unit;
    /* NULL: a stream of its own for each lane. */
    CUstream stream;
    void (*prepare)(struct lane *lane);
    void (*give)(struct lane *lane);
};
const struct mode *find_mode(const char *name);
void list_modes(void);

/* run.c */
struct totals {
    /* From the first to the last note within the time that counts. */
    double kernels, seconds;
    /* Everything from the first launch to the last wait. */
    double all_kernels, all_seconds;
};
struct totals run_load(const struct request *request, int is_quiet);

#endif
