// The step size of a step, and the clock of the log.
#include "common.cuh"

#ifndef NANOSECONDS
__device__ unsigned long long nanoseconds() {
    unsigned long long now;
    asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now));
    return now;
}
#define NANOSECONDS nanoseconds()
#endif

extern "C" __global__ void set_step_size(StepLog* log, float step_size) {
    log->step_size = step_size;
    log->skipped = is_stopped(log);
}

extern "C" __global__ void start_clock(StepLog* log) { log->clock = NANOSECONDS; }

extern "C" __global__ void stop_clock(StepLog* log) { log->nanoseconds += NANOSECONDS - log->clock; }
