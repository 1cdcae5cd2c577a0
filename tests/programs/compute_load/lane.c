/* Which kernels of a stream are done when: by a timing event after some of them, read once it is done. */
#include "load.h"

static CUevent base;
static uint64_t base_ns;

/* Ties the events' clock to the monotonic one, to some microseconds. */
void lanes_begin(void) {
    if (!base) MUST(cuEventCreate(&base, CU_EVENT_DEFAULT));
    MUST(cuCtxSynchronize());
    uint64_t before = now_ns();
    MUST(cuEventRecord(base, NULL));
    MUST(cuEventSynchronize(base));
    base_ns = before + (now_ns() - before) / 2;
}

void lane_open(struct lane *lane, CUstream stream, int mark_every, int ring) {
    memset(lane, 0, sizeof *lane);
    lane->mark_every = (uint64_t)mark_every;
    lane->ring = ring;
    if (stream)
        lane->stream = stream;
    else
        MUST(cuStreamCreate(&lane->stream, CU_STREAM_NON_BLOCKING));
    for (int i = 0; i < ring; i++) MUST(cuEventCreate(&lane->marks[i], CU_EVENT_DEFAULT));
}

static void lane_note(struct lane *lane, uint64_t time_ns, uint64_t kernels) {
    if (lane->noted == lane->room) {
        lane->room = lane->room ? lane->room * 2 : 4096;
        lane->notes = realloc(lane->notes, lane->room * sizeof *lane->notes);
        if (!lane->notes) {
            puts("failed 0 out of memory");
            _exit(3);
        }
    }
    lane->notes[lane->noted++] = (struct note){time_ns, kernels};
}

/* Waits for the oldest mark. */
static void harvest(struct lane *lane) {
    float ms;
    CUevent mark = lane->marks[lane->head];
    MUST(cuEventSynchronize(mark));
    MUST(cuEventElapsedTime(&ms, base, mark));
    lane_note(lane, base_ns + (uint64_t)((double)ms * 1e6), lane->marked[lane->head]);
    lane->head = (lane->head + 1) % lane->ring;
    lane->count--;
}

static void mark(struct lane *lane) {
    if (lane->count == lane->ring) harvest(lane);
    int place = (lane->head + lane->count) % lane->ring;
    MUST(cuEventRecord(lane->marks[place], lane->stream));
    lane->marked[place] = lane->pending;
    lane->pending = 0;
    lane->count++;
}

void lane_add(struct lane *lane, uint64_t kernels) {
    lane->pending += kernels;
    if (lane->pending >= lane->mark_every) mark(lane);
}

void lane_settle(struct lane *lane, uint64_t time_ns, uint64_t kernels) {
    while (lane->count > 0) harvest(lane);
    lane_note(lane, time_ns, lane->pending + kernels);
    lane->pending = 0;
}

void lane_drain(struct lane *lane) {
    if (lane->pending > 0) mark(lane);
    while (lane->count > 0) harvest(lane);
}

void lane_close(struct lane *lane) {
    for (int i = 0; i < lane->ring; i++) MUST(cuEventDestroy(lane->marks[i]));
    if (lane->graph) MUST(cuGraphExecDestroy(lane->graph));
    if ((uintptr_t)lane->stream > (uintptr_t)CU_STREAM_PER_THREAD) MUST(cuStreamDestroy(lane->stream));
    free(lane->notes);
}
