// Helpers of all solvers: problem (1) of a group of rows, cut into one chunk per block.
#pragma once
#include "common.cuh"

// A codebook by increasing magnitude, and its solver.
struct Codebook {
    double midpoint[MAX_MAGNITUDES];
    // The multiplier of a level, from -128 on. Its value is multiplier / divisor.
    float multiplier[256];
    float magnitude[MAX_MAGNITUDES];
    float divisor;
    unsigned magnitudes;
    int first_positive, first_negative;
    unsigned has_zero;
    unsigned solver;
    // 1: one scale. 2: one for the positive weights and one for the negative ones.
    unsigned sides;
    unsigned reserved;
};

// The state of a group between steps.
struct GroupState {
    float scale[2];
    // `reported`: iterations, error and zeros are those of the last solve; 0 in a restored state.
    unsigned solved, trained, iterations, reported;
    double error;
    unsigned long long zeros;
    double scale_gradient[2];
    float first_moment[2], second_moment[2];
};

// The operands of a group, and its blocks.
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

// Scratch of a group.
struct GroupWorkspace {
    // The sums of d x and of d of each side, with d = 1 if all curvatures are zero.
    double product[2], square[2];
    double scale[2];
    double largest_curvature;
    float threshold[2][MAX_MAGNITUDES];
    unsigned unweighted[2], done[2], iterations[2];
    float largest;
    // The number of finished blocks.
    unsigned arrived;
};

struct Weight {
    // Magnitude, curvature and side.
    float x, d;
    unsigned side;
};

__device__ float curvature(float second_moment) { return sqrtf(second_moment) + CURVATURE_FLOOR; }

// The chunk of a block, and its group.
struct Chunk {
    const Group* group;
    GroupWorkspace* workspace;
    unsigned index;
    Count begin, end;
};

__device__ Chunk chunk_of_block(const Group* groups, GroupWorkspace* workspaces, const unsigned* group_of_block) {
    const unsigned index = group_of_block[blockIdx.x];
    const Group* group = groups + index;
    const Count begin = Count(blockIdx.x - group->first_block) * group->chunk;
    const Count end = begin + group->chunk < group->size ? begin + group->chunk : group->size;
    return {group, workspaces + index, index, begin, end};
}

// Loads in flight per thread.
constexpr unsigned UNROLLED = 4;

// Calls `each` with index, value and second moment of every weight of a chunk.
template <class Each>
__device__ void for_elements(const Chunk& chunk, const Each& each) {
    const float* weights = chunk.group->weights;
    const float* second_moment = chunk.group->second_moment;
    for (Count first = chunk.begin + threadIdx.x; first < chunk.end; first += UNROLLED * blockDim.x) {
        float w[UNROLLED] = {}, v[UNROLLED] = {};
        UNROLL for (unsigned k = 0; k < UNROLLED; ++k) {
            const Count i = first + k * blockDim.x;
            if (i >= chunk.end) break;
            w[k] = weights[i];
            v[k] = second_moment[i];
        }
        UNROLL for (unsigned k = 0; k < UNROLLED; ++k) {
            const Count i = first + k * blockDim.x;
            if (i < chunk.end) each(i, w[k], v[k]);
        }
    }
}

// Calls `each` with every weight of a chunk; with two sides, a zero is on neither.
template <class Each>
__device__ void for_weights(const Chunk& chunk, unsigned sides, const Each& each) {
    const bool unweighted[2] = {chunk.workspace->unweighted[0] != 0, chunk.workspace->unweighted[1] != 0};
    for_elements(chunk, [&](Count, float w, float v) {
        const unsigned side = sides == 2 && w < 0.0f ? 1 : 0;
        if (sides == 2 && w == 0.0f) return;
        const float d = (side == 0 ? unweighted[0] : unweighted[1]) ? 1.0f : curvature(v);
        each(Weight{fabsf(w), d, side});
    });
}

// Whether this block is the last of `blocks` to call, as counted by `arrived`; it then sees what the others wrote.
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

// Sums over `blocks` blocks, of which this is number `block`, in the order of the blocks. True for all threads of the last
// block, which get the sums.
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

// Sums over the blocks of a group.
template <int K>
__device__ bool group_sums(const Chunk& chunk, double (&sums)[K], double* partial) {
    const unsigned first = chunk.group->first_block;
    return sums_of_blocks(sums, partial + Count(first) * K, &chunk.workspace->arrived, blockIdx.x - first, chunk.group->blocks);
}

// The number of increasing thresholds below `x`.
__device__ unsigned above(const float* thresholds, unsigned count, float x) {
    return partition_point(0, count, [&](unsigned m) { return x > thresholds[m]; });
}

// The thresholds on |w| between adjacent magnitudes for a scale; infinite for a scale of zero.
__device__ void set_thresholds(GroupWorkspace* workspace, const Codebook* codebook, unsigned side, double scale) {
    for (unsigned m = threadIdx.x; m + 1 < codebook->magnitudes; m += blockDim.x) {
        workspace->threshold[side][m] =
            scale > 0.0 ? __double2float_rd(codebook->midpoint[m] * scale) : __uint_as_float(0x7f800000u);
    }
}

// Rounds to a finite float.
__device__ float to_float(double scale) {
    return float(scale < -LARGEST_FLOAT ? -LARGEST_FLOAT : scale > LARGEST_FLOAT ? LARGEST_FLOAT : scale);
}
