/* Watches device memory from outside, by the management library, some two thousand times a second:
 *
 *     gpu_watch
 *     gpu_watch once
 *
 * The first form says "watching" after its first sample, watches until a line or the end of standard input, and prints the
 * first and the highest figures: what the whole GPU had in use, and what its processes had together. The second
 * prints what the GPU and each process have now. Both look at the first GPU. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <nvml.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { MOST_PROCESSES = 512 };
static nvmlDevice_t gpu;

static double now_seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec + now.tv_nsec / 1e9;
}

static unsigned long long used_bytes(void) {
    nvmlMemory_t memory;
    if (nvmlDeviceGetMemoryInfo(gpu, &memory) != NVML_SUCCESS) return 0;
    return memory.used;
}

static nvmlProcessInfo_t processes[MOST_PROCESSES];

static unsigned long long bytes_of_processes(unsigned *count) {
    unsigned long long sum = 0;
    *count = MOST_PROCESSES;
    if (nvmlDeviceGetComputeRunningProcesses(gpu, count, processes) != NVML_SUCCESS) *count = 0;
    for (unsigned i = 0; i < *count; i++)
        if (processes[i].usedGpuMemory != (unsigned long long)NVML_VALUE_NOT_AVAILABLE) sum += processes[i].usedGpuMemory;
    return sum;
}

int main(int argc, char **argv) {
    nvmlReturn_t result = nvmlInit();
    if (result == NVML_SUCCESS) result = nvmlDeviceGetHandleByIndex(0, &gpu);
    if (result != NVML_SUCCESS) {
        printf("failed %d nvml\n", result);
        return 1;
    }
    unsigned count, most_count = 0;
    unsigned long long samples = 0, first_used = used_bytes(), first_of_processes = bytes_of_processes(&count);
    if (argc > 1 && !strcmp(argv[1], "once")) {
        printf("used %llu\n", first_used);
        for (unsigned i = 0; i < count; i++) printf("process %u %llu\n", processes[i].pid, processes[i].usedGpuMemory);
        return 0;
    }
    unsigned long long peak_used = first_used, peak_of_processes = first_of_processes;
    struct pollfd input = {STDIN_FILENO, POLLIN, 0};
    double start = now_seconds(), longest_gap = 0, last = start;
    puts("watching");
    fflush(stdout);
    while (samples % 16 != 0 || poll(&input, 1, 0) == 0) {
        unsigned long long used = used_bytes(), of_processes = bytes_of_processes(&count);
        if (used > peak_used) peak_used = used;
        if (of_processes > peak_of_processes) peak_of_processes = of_processes;
        if (count > most_count) most_count = count;
        double now = now_seconds();
        if (now - last > longest_gap) longest_gap = now - last;
        last = now;
        samples++;
        /* Faster would take locks of the driver from those who are watched. */
        double ahead = samples * 400e-6 - (now - start);
        if (ahead > 0) usleep((useconds_t)(ahead * 1e6));
    }
    printf("samples %llu\nrate_hz %.0f\nlongest_gap_ms %.2f\n", samples, samples / (last - start), longest_gap * 1e3);
    printf("first_used_bytes %llu\npeak_used_bytes %llu\n", first_used, peak_used);
    printf("first_process_bytes %llu\npeak_process_bytes %llu\n", first_of_processes, peak_of_processes);
    printf("most_processes %u\n", most_count);
    return 0;
}
