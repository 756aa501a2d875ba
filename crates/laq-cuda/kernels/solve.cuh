// What the kernels of all solvers share: the problem (1) of one group of rows, cut into chunks of which every block has one.
// The layouts are those of `src/backend/quantize.rs`.
#pragma once
#include "common.cuh"

constexpr double LARGEST_FLOAT = 3.4028234663852886e38;

// A method: its codebook seen from zero outwards, and how it solves.
struct Codebook {
    double midpoint[MAX_MAGNITUDES];
    // The value of a level, from -128 on.
    float value[256];
    float magnitude[MAX_MAGNITUDES];
    unsigned magnitudes;
    int first_positive, first_negative;
    unsigned has_zero;
    unsigned solver;
    // 1: one scale. 2: one for the positive weights and one for the negative ones.
    unsigned sides;
};

// What a group keeps from step to step.
struct GroupState {
    float scale[2];
    // `reported`: iterations, error and zeros are those of the last solve; not so after a state was loaded.
    unsigned solved, trained, iterations, reported;
    double error;
    unsigned long long zeros;
    double scale_gradient[2];
    float first_moment[2], second_moment[2];
};

// A group: where its numbers are, and which blocks it has.
struct Group {
    const float* weights;
    const float* second_moment;
    signed char* levels;
    float* quantized;
    GroupState* state;
    Count size;
    unsigned parameter, group, first_block, blocks;
    // Weights of a block.
    Count chunk;
};

// What a group is solved in.
struct GroupWorkspace {
    // Of each side: the sums of d x and of d over its weights, with d = 1 where all curvatures are zero.
    double product[2], square[2];
    double scale[2];
    double largest_curvature;
    float threshold[2][MAX_MAGNITUDES];
    unsigned unweighted[2], done[2], iterations[2];
    float largest;
    // Blocks that have done their part.
    unsigned arrived;
};

struct Weight {
    // The weight's magnitude, its curvature and its side.
    float x, d;
    unsigned side;
};

__device__ float curvature(float second_moment) { return sqrtf(second_moment) + CURVATURE_FLOOR; }

// The group of this block, and the weights that are its own.
struct Part {
    const Group* group;
    GroupWorkspace* workspace;
    unsigned index;
    Count begin, end;
};

__device__ Part part_of(const Group* groups, GroupWorkspace* workspaces, const unsigned* group_of_block) {
    const unsigned index = group_of_block[blockIdx.x];
    const Group* group = groups + index;
    const Count begin = Count(blockIdx.x - group->first_block) * group->chunk;
    const Count end = begin + group->chunk < group->size ? begin + group->chunk : group->size;
    return {group, workspaces + index, index, begin, end};
}

// Weights that a thread reads before it uses the first, so that enough of memory is under way.
constexpr unsigned AT_ONCE = 4;

// Calls `each` with the index, the weight and the second moment of all weights of a part.
template <class Each>
__device__ void for_numbers(const Part& part, const Each& each) {
    const float* weights = part.group->weights;
    const float* second_moment = part.group->second_moment;
    for (Count first = part.begin + threadIdx.x; first < part.end; first += AT_ONCE * blockDim.x) {
        float w[AT_ONCE] = {}, v[AT_ONCE] = {};
        UNROLL for (unsigned k = 0; k < AT_ONCE; ++k) {
            const Count i = first + k * blockDim.x;
            if (i >= part.end) break;
            w[k] = weights[i];
            v[k] = second_moment[i];
        }
        UNROLL for (unsigned k = 0; k < AT_ONCE; ++k) {
            const Count i = first + k * blockDim.x;
            if (i < part.end) each(i, w[k], v[k]);
        }
    }
}

// Calls `each` with the weights of a part; where there are two sides, a zero is on neither.
template <class Each>
__device__ void for_weights(const Part& part, unsigned sides, const Each& each) {
    const bool unweighted[2] = {part.workspace->unweighted[0] != 0, part.workspace->unweighted[1] != 0};
    for_numbers(part, [&](Count, float w, float v) {
        const unsigned side = sides == 2 && w < 0.0f ? 1 : 0;
        if (sides == 2 && w == 0.0f) return;
        const float d = (side == 0 ? unweighted[0] : unweighted[1]) ? 1.0f : curvature(v);
        each(Weight{fabsf(w), d, side});
    });
}

// For all threads of the block whether it is the last of `blocks` that come here, which `arrived` counts; what the others
// wrote before can then be read.
__device__ bool is_last(unsigned* arrived, unsigned blocks) {
    SHARED(unsigned, last, [1]);
    __syncthreads();
    if (threadIdx.x == 0) {
        __threadfence();
        last[0] = atomicAdd(arrived, 1u) + 1 == blocks;
        if (last[0]) *arrived = 0;
        __threadfence();
    }
    __syncthreads();
    return last[0] != 0;
}

// The sums over `blocks` blocks, of which this is number `block`, for all threads of the last one; chunk by chunk in order.
template <int K>
__device__ bool sums_of_blocks(double (&sums)[K], double* partial, unsigned* arrived, unsigned block, unsigned blocks) {
    block_sums(sums);
    if (threadIdx.x == 0) {
        UNROLL for (int k = 0; k < K; ++k) partial[Count(block) * K + k] = sums[k];
    }
    if (!is_last(arrived, blocks)) return false;
    const volatile double* all = partial;
    UNROLL for (int k = 0; k < K; ++k) sums[k] = 0.0;
    for (unsigned other = threadIdx.x; other < blocks; other += blockDim.x) {
        UNROLL for (int k = 0; k < K; ++k) sums[k] += all[Count(other) * K + k];
    }
    block_sums(sums);
    return true;
}

// The same over the blocks of a group.
template <int K>
__device__ bool group_sums(const Part& part, double (&sums)[K], double* partial) {
    const unsigned first = part.group->first_block;
    return sums_of_blocks(sums, partial + Count(first) * K, &part.workspace->arrived, blockIdx.x - first, part.group->blocks);
}

// How many of `count` rising numbers `x` is above.
__device__ unsigned above(const float* thresholds, unsigned count, float x) {
    return partition_point(0, count, [&](unsigned m) { return x > thresholds[m]; });
}

// The thresholds on |w| between neighbouring magnitudes for a scale; a scale of zero has none.
__device__ void set_thresholds(GroupWorkspace* workspace, const Codebook* codebook, unsigned side, double scale) {
    for (unsigned m = threadIdx.x; m + 1 < codebook->magnitudes; m += blockDim.x) {
        workspace->threshold[side][m] =
            scale > 0.0 ? __double2float_rd(codebook->midpoint[m] * scale) : __uint_as_float(0x7f800000u);
    }
}

// The nearest float that is finite.
__device__ float to_float(double scale) {
    return float(scale < -LARGEST_FLOAT ? -LARGEST_FLOAT : scale > LARGEST_FLOAT ? LARGEST_FLOAT : scale);
}
