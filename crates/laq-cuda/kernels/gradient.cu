// From the gradient by the quantized weights to that by the latent ones, for the methods where it is not the same; and the
// training of scales. Grid: chunks of a group by groups.
#include "solve.cuh"

// Of a group, between the two kernels of DoReFa.
struct TanhWork {
    double product;
    Count largest_at;
};

// TTQ: the gradient times the scale of its level, and the gradients of both scales.
extern "C" __global__ void ttq_gradient(State* states, const signed char* levels, float* gradient, double* partial,
                                        unsigned* arrived, Count size) {
    State* state = states + blockIdx.y;
    if (!state->solved) return;
    const float positive = state->scale[0], negative = state->scale[1];
    double sums[2] = {};
    const Count first = Count(blockIdx.y) * size, begin = Count(blockIdx.x) * CHUNK;
    const Count end = begin + CHUNK < size ? begin + CHUNK : size;
    for (Count i = begin + threadIdx.x; i < end; i += blockDim.x) {
        const float g = gradient[first + i];
        const int level = levels[first + i];
        if (level > 0) {
            sums[0] += double(g);
            gradient[first + i] = g * positive;
        } else if (level < 0) {
            sums[1] -= double(g);
            gradient[first + i] = g * negative;
        }
    }
    double* of_group = partial + Count(blockIdx.y) * gridDim.x * 2;
    const bool last = sums_of_blocks(sums, of_group, arrived + blockIdx.y, blockIdx.x, gridDim.x);
    if (!last || threadIdx.x != 0) return;
    state->scale_gradient[0] = sums[0];
    state->scale_gradient[1] = sums[1];
    state->trained = 1;
}

// Adam on both scales of every group.
extern "C" __global__ void update_scales(const Record* record, State* states, unsigned groups, float beta1, float rest1,
                                         float beta2, float rest2, float epsilon) {
    if (is_stopped(record)) return;
    FOR_EACH(i, 2 * Count(groups)) {
        State* state = states + i / 2;
        const unsigned side = unsigned(i % 2);
        if (!state->trained || !state->solved) continue;
        const float g = float(state->scale_gradient[side]);
        const float m = beta1 * state->first_moment[side] + rest1 * g;
        const float v = beta2 * state->second_moment[side] + rest2 * (g * g);
        state->first_moment[side] = m;
        state->second_moment[side] = v;
        state->scale[side] -= record->step_size * m / (sqrtf(v) + epsilon);
    }
}

// DoReFa, one block a group: the sum of g tanh w, and the first weight of the largest magnitude.
extern "C" __global__ void tanh_sums(const float* weights, const float* gradient, TanhWork* works, Count size) {
    const Count first = Count(blockIdx.x) * size;
    SHARED(unsigned, most, [1]);
    SHARED(unsigned long long, place, [1]);
    if (threadIdx.x == 0) {
        most[0] = 0;
        place[0] = ~0ull;
    }
    __syncthreads();
    double product = 0.0;
    unsigned largest = 0;
    for (Count i = threadIdx.x; i < size; i += blockDim.x) {
        const float w = weights[first + i];
        product += double(gradient[first + i]) * tanh(double(w));
        const unsigned bits = __float_as_uint(fabsf(w));
        largest = bits > largest ? bits : largest;
    }
    atomicMax(&most[0], largest);
    product = block_sum(product);
    for (Count i = threadIdx.x; i < size; i += blockDim.x) {
        if (__float_as_uint(fabsf(weights[first + i])) == most[0]) {
            atomicMin(&place[0], (unsigned long long)i);
            break;
        }
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        works[blockIdx.x].product = product;
        works[blockIdx.x].largest_at = place[0];
    }
}

// (1 - t²) / M times g, but for the largest weight, which only moves the others.
extern "C" __global__ void tanh_gradient(const float* weights, float* gradient, const TanhWork* works, Count size,
                                         Count count) {
    FOR_EACH(i, count) {
        const Count first = i / size * size;
        const TanhWork& work = works[i / size];
        const double at_largest = tanh(double(weights[first + work.largest_at])), magnitude = fabs(at_largest);
        if (magnitude == 0.0) continue;
        const double t = tanh(double(weights[i])), g = gradient[i];
        const double passed = i - first == work.largest_at
                                  ? -(1.0 - t * t) / magnitude * (work.product - g * t) / t
                                  : g * (1.0 - t * t) / magnitude;
        gradient[i] = to_float(passed);
    }
}
