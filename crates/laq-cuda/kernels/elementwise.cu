// What treats every number for itself: ReLU, and the look for a number that is not finite.
#include "common.cuh"

extern "C" __global__ void fill(float* values, Count count, float value) {
    for_each(count, [&](auto i) { values[i] = value; });
}

// max(0, x), which keeps a NaN.
extern "C" __global__ void relu(float* values, Count count) {
    for_each(count, [&](auto i) {
        const float x = values[i];
        values[i] = x < 0.0f ? 0.0f : x;
    });
}

extern "C" __global__ void relu_backward(const float* output, float* gradient, Count count) {
    for_each(count, [&](auto i) {
        if (!(output[i] > 0.0f)) gradient[i] = 0.0f;
    });
}

// The smallest index of a NaN or an infinity in `found`, which holds the largest number before.
extern "C" __global__ void first_not_finite(const float* values, Count count, Count* found) {
    Count smallest = ~Count(0);
    for_each(count, [&](auto i) {
        if (!is_finite(values[i]) && i < smallest) smallest = i;
    });
    if (smallest != ~Count(0)) atomicMin(found, smallest);
}
