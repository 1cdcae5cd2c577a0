/* Says how busy the management library says GPU 0 is, as a monitor does that never starts CUDA:
 *
 *     utilization LOOKS MILLISECONDS
 *
 * looks so many times, so far apart, and says for each what every call that tells of it answers. */
#include "program.h"
#include <nvml.h>

enum { MOST = 128 };

static void look(nvmlDevice_t gpu, int number) {
    nvmlUtilization_t rates = {0, 0};
    nvmlReturn_t result = nvmlDeviceGetUtilizationRates(gpu, &rates);
    printf("rates_%d %d %u %u\n", number, result, rates.gpu, rates.memory);

    nvmlSample_t samples[MOST];
    nvmlValueType_t type = NVML_VALUE_TYPE_DOUBLE;
    unsigned count = 0;
    nvmlReturn_t sizing = nvmlDeviceGetSamples(gpu, NVML_GPU_UTILIZATION_SAMPLES, 0, &type, &count, NULL);
    printf("samples_sizing_%d %d %u\n", number, sizing, count);
    count = MOST;
    result = nvmlDeviceGetSamples(gpu, NVML_GPU_UTILIZATION_SAMPLES, 0, &type, &count, samples);
    printf("samples_%d %d %u type %u last %u\n", number, result, count, type,
           result == NVML_SUCCESS && count ? samples[count - 1].sampleValue.uiVal : 0);
    unsigned later = MOST;
    unsigned long long never = ~0ull >> 1;
    result = nvmlDeviceGetSamples(gpu, NVML_GPU_UTILIZATION_SAMPLES, never, &type, &later, samples);
    printf("samples_after_all_%d %d\n", number, result);

    nvmlProcessUtilizationSample_t users[MOST];
    count = 0;
    sizing = nvmlDeviceGetProcessUtilization(gpu, NULL, &count, 0);
    unsigned needed = count;
    count = MOST;
    memset(users, 0, sizeof users);
    result = nvmlDeviceGetProcessUtilization(gpu, users, &count, 0);
    printf("users_%d %d sizing %d %u count %u :", number, result, sizing, needed, count);
    for (unsigned i = 0; result == NVML_SUCCESS && i < count; i++) printf(" %u=%u", users[i].pid, users[i].smUtil);
    printf("\n");
    unsigned left = 0;
    for (unsigned i = count; i < MOST; i++) left += users[i].pid != 0;
    printf("left_behind_%d %u\n", number, left);

    nvmlProcessUtilizationInfo_v1_t infos[MOST];
    nvmlProcessesUtilizationInfo_t list;
    memset(&list, 0, sizeof list);
    list.version = nvmlProcessesUtilizationInfo_v1;
    sizing = nvmlDeviceGetProcessesUtilizationInfo(gpu, &list);
    needed = list.processSamplesCount;
    list.processSamplesCount = MOST;
    list.procUtilArray = infos;
    result = nvmlDeviceGetProcessesUtilizationInfo(gpu, &list);
    printf("infos_%d %d sizing %d %u count %u :", number, result, sizing, needed, list.processSamplesCount);
    for (unsigned i = 0; result == NVML_SUCCESS && i < list.processSamplesCount; i++)
        printf(" %u=%u", infos[i].pid, infos[i].smUtil);
    printf("\n");
}

int main(int argc, char **argv) {
    int looks = argc > 1 ? atoi(argv[1]) : 1;
    long milliseconds = argc > 2 ? atol(argv[2]) : 100;
    nvmlDevice_t gpu;
    MUST(nvmlInit());
    MUST(nvmlDeviceGetHandleByIndex(0, &gpu));
    printf("null %d %d\n", nvmlDeviceGetUtilizationRates(gpu, NULL), nvmlDeviceGetProcessUtilization(gpu, NULL, NULL, 0));
    for (int number = 0; number < looks; number++) {
        struct timespec pause = {milliseconds / 1000, milliseconds % 1000 * 1000000};
        nanosleep(&pause, NULL);
        look(gpu, number);
    }
    return 0;
}
