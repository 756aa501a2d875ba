// Elementwise kernels: fill, ReLU, and the search for a value that is not finite.
#include "common.cuh"

extern "C" __global__ void fill(float* values, Count numel, float value) {
    for_each(numel, [&](auto i) { values[i] = value; });
}

// max(0, x); NaN propagates.
extern "C" __global__ void relu(float* values, Count numel) {
    for_each(numel, [&](auto i) {
        const float x = values[i];
        values[i] = x < 0.0f ? 0.0f : x;
    });
}

extern "C" __global__ void relu_backward(const float* output, float* gradient, Count numel) {
    for_each(numel, [&](auto i) {
        if (!(output[i] > 0.0f)) gradient[i] = 0.0f;
    });
}

// The smallest index of a NaN or infinity; `index` is initialized with the largest integer.
extern "C" __global__ void first_not_finite(const float* values, Count numel, unsigned long long* index) {
    Count smallest = ~Count(0);
    for_each(numel, [&](auto i) {
        if (!is_finite(values[i]) && i < smallest) smallest = i;
    });
    if (smallest != ~Count(0)) atomicMin(index, smallest);
}
