// The size of a step, and the time that is taken.
#include "common.cuh"

#ifndef NANOSECONDS
__device__ unsigned long long nanoseconds() {
    unsigned long long now;
    asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now));
    return now;
}
#define NANOSECONDS nanoseconds()
#endif

extern "C" __global__ void begin_step(Record* record, float step_size) {
    record->step_size = step_size;
    record->skipped = is_stopped(record);
}

extern "C" __global__ void start_clock(Record* record) { record->clock = NANOSECONDS; }

extern "C" __global__ void stop_clock(Record* record) { record->nanoseconds += NANOSECONDS - record->clock; }
