// What treats every number for itself: ReLU, Adam, and the look for numbers that are not finite. Compiled without fusing
// products and sums, so that Adam gives the bits of the CPU backend.
#include "common.cuh"

extern "C" __global__ void fill(float* values, Count count, float value) {
    FOR_EACH(i, count) values[i] = value;
}

// max(0, x), which keeps a NaN.
extern "C" __global__ void relu(float* values, Count count) {
    FOR_EACH(i, count) {
        const float x = values[i];
        values[i] = x < 0.0f ? 0.0f : x;
    }
}

extern "C" __global__ void relu_backward(const float* output, float* gradient, Count count) {
    FOR_EACH(i, count) {
        if (!(output[i] > 0.0f)) gradient[i] = 0.0f;
    }
}

// Rates as the host has rounded them. Nothing is changed once the record is stopped.
extern "C" __global__ void adam(const Record* record, const float* gradient, float* weight, float* first, float* second,
                                Count count, float beta1, float rest1, float beta2, float rest2, float epsilon,
                                float limit) {
    if (is_stopped(record)) return;
    const float size = record->step_size;
    FOR_EACH(i, count) {
        const float g = gradient[i];
        const float m = beta1 * first[i] + rest1 * g;
        const float v = beta2 * second[i] + rest2 * (g * g);
        first[i] = m;
        second[i] = v;
        const float moved = weight[i] - size * m / (sqrtf(v) + epsilon);
        weight[i] = moved < -limit ? -limit : moved > limit ? limit : moved;
    }
}

__device__ bool is_finite(float x) { return (__float_as_uint(x) & 0x7f800000u) != 0x7f800000u; }

// The smallest index of a NaN or an infinity in `found`, which holds the largest number before.
extern "C" __global__ void first_not_finite(const float* values, Count count, Count* found) {
    Count smallest = ~Count(0);
    FOR_EACH(i, count) {
        if (!is_finite(values[i]) && i < smallest) smallest = i;
    }
    if (smallest != ~Count(0)) atomicMin(found, smallest);
}

extern "C" __global__ void check_gradient(const float* values, Count count, unsigned parameter, Record* record) {
    bool good = true;
    FOR_EACH(i, count) good = good && is_finite(values[i]);
    if (!good) stop(record, STOP_GRADIENT, parameter, 0);
}
