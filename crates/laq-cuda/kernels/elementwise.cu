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

// Rates as the host has rounded them; `size` is the learning rate with both bias corrections. Nothing is changed where
// `stopped` is not zero: a step whose loss or gradient was not finite.
extern "C" __global__ void adam(const unsigned* stopped, const float* gradient, float* weight, float* first,
                                float* second, Count count, float beta1, float rest1, float beta2, float rest2,
                                const float* size, float epsilon, float limit) {
    if (*stopped != 0) return;
    const float step = *size;
    FOR_EACH(i, count) {
        const float g = gradient[i];
        const float m = beta1 * first[i] + rest1 * g;
        const float v = beta2 * second[i] + rest2 * (g * g);
        first[i] = m;
        second[i] = v;
        const float moved = weight[i] - step * m / (sqrtf(v) + epsilon);
        weight[i] = moved < -limit ? -limit : moved > limit ? limit : moved;
    }
}

// The smallest index of a NaN or an infinity in `found`, which holds the largest number before.
extern "C" __global__ void first_not_finite(const float* values, Count count, Count* found) {
    Count smallest = ~Count(0);
    FOR_EACH(i, count) {
        if ((__float_as_uint(values[i]) & 0x7f800000u) == 0x7f800000u && i < smallest) smallest = i;
    }
    if (smallest != ~Count(0)) atomicMin(found, smallest);
}
