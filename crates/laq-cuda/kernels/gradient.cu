// The gradient of the latent weights from that of the quantized weights, for methods where they differ, and the training of
// scales. Grid: chunks of a group by groups.
#include "solve.cuh"

// Passed from `tanh_sums` to `tanh_gradient`, per group.
struct TanhWork {
    double product, magnitude;
    Count largest_at;
};

// TTQ: the gradient times the scale of the level, and the gradients of both scales.
extern "C" __global__ void ttq_gradient(GroupState* states, const signed char* levels, float* gradient, double* partial,
                                        unsigned* arrived, Count group_size) {
    GroupState* state = states + blockIdx.y;
    if (!state->solved) return;
    const float positive = state->scale[0], negative = state->scale[1];
    double sums[2] = {};
    const Count first = Count(blockIdx.y) * group_size, begin = Count(blockIdx.x) * GRADIENT_BLOCK;
    const Count end = begin + GRADIENT_BLOCK < group_size ? begin + GRADIENT_BLOCK : group_size;
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
extern "C" __global__ void update_scales(const StepLog* log, GroupState* states, unsigned groups, float beta1, float one_minus_beta1,
                                         float beta2, float one_minus_beta2, float epsilon) {
    if (is_stopped(log)) return;
    for_each(2 * Count(groups), [&](auto i) {
        GroupState* state = states + i / 2;
        const unsigned side = unsigned(i % 2);
        if (!state->trained || !state->solved) return;
        const float g = fmaxf(-LARGEST_GRADIENT, fminf(LARGEST_GRADIENT, float(state->scale_gradient[side])));
        const float m = beta1 * state->first_moment[side] + one_minus_beta1 * g;
        const float v = beta2 * state->second_moment[side] + one_minus_beta2 * (g * g);
        state->first_moment[side] = m;
        state->second_moment[side] = v;
        state->scale[side] -= log->step_size * m / (sqrtf(v) + epsilon);
    });
}

// The maximum over the block, for every thread.
__device__ Count block_max(Count value) {
    SHARED(Count, of_warps, [MAX_WARPS]);
    for (int lanes = 16; lanes > 0; lanes /= 2) {
        const Count other = __shfl_xor_sync(0xffffffffu, value, lanes);
        value = other > value ? other : value;
    }
    __syncthreads();
    if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = value;
    __syncthreads();
    for (unsigned warp = 0; warp < blockDim.x / 32; ++warp) value = of_warps[warp] > value ? of_warps[warp] : value;
    return value;
}

// DoReFa: the sum of g tanh w, and the first weight of the largest magnitude. `partial` holds two values per block.
extern "C" __global__ void tanh_sums(const float* weights, const float* gradient, double* partial, unsigned* arrived,
                                     TanhWork* workspaces, Count group_size) {
    const Count first = Count(blockIdx.y) * group_size, begin = Count(blockIdx.x) * GRADIENT_BLOCK;
    const Count end = begin + GRADIENT_BLOCK < group_size ? begin + GRADIENT_BLOCK : group_size;
    double product[1] = {};
    // The bits of a magnitude, then the complement of its index, so that the first of equal magnitudes is the maximum.
    Count largest = 0;
    for (Count i = begin + threadIdx.x; i < end; i += blockDim.x) {
        const float w = weights[first + i];
        product[0] += double(gradient[first + i]) * tanh(double(w));
        const Count key = Count(__float_as_uint(fabsf(w))) << 32 | (0xffffffffu - unsigned(i));
        largest = key > largest ? key : largest;
    }
    largest = block_max(largest);
    double* sums = partial + 2 * Count(blockIdx.y) * gridDim.x;
    Count* keys = (Count*)(sums + gridDim.x);
    if (threadIdx.x == 0) keys[blockIdx.x] = largest;
    if (!sums_of_blocks(product, sums, arrived + blockIdx.y, blockIdx.x, gridDim.x)) return;
    const volatile Count* all = keys;
    for (unsigned block = threadIdx.x; block < gridDim.x; block += blockDim.x) {
        const Count key = all[block];
        largest = key > largest ? key : largest;
    }
    largest = block_max(largest);
    if (threadIdx.x != 0) return;
    const double magnitude = tanh(double(__uint_as_float(unsigned(largest >> 32))));
    workspaces[blockIdx.y] = {product[0], magnitude, 0xffffffffu - unsigned(largest)};
}

// g (1 - t²) / M; the largest weight only scales the others.
extern "C" __global__ void tanh_gradient(const float* weights, float* gradient, const TanhWork* workspaces, unsigned group_size,
                                         Count numel) {
    for_each(numel, [&](auto i) {
        const TanhWork& workspace = workspaces[i / group_size];
        if (workspace.magnitude == 0.0) return;
        const double t = tanh(double(weights[i])), g = gradient[i];
        const double passed = i % group_size == workspace.largest_at
                                  ? -(1.0 - t * t) / workspace.magnitude * (workspace.product - g * t) / t
                                  : g * (1.0 - t * t) / workspace.magnitude;
        gradient[i] = to_float(passed);
    });
}
