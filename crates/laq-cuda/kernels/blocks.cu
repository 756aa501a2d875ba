// Quantization in a format: the optimum of each block with a scale of a grid. A call launches check_blocks, then solve_blocks;
// one block of threads a group.
#include "solve.cuh"

// The values of a format in rising order, and its scales.
struct BlockCodebook {
    // Between each value and the next.
    double middle[BLOCK_VALUES];
    float value[BLOCK_VALUES];
    // The largest scale whose values are finite in f32, the largest of the grid, and the smallest that is not negative.
    double limit, largest, smallest;
    unsigned count;
    // Whether the values are their own negatives, and whether the scale has a sign.
    unsigned is_symmetric, is_signed;
    // The level of the first value, and from one to the next.
    int lowest, stride;
    // Bits of the mantissa of a scale, and the exponent of the smallest normal one.
    int mantissa, smallest_normal;
    unsigned reserved;
};

// The value number `place` of one sign of the scale.
__device__ double value_of(const BlockCodebook* codebook, bool negated, unsigned place) {
    return negated ? -double(codebook->value[codebook->count - 1 - place]) : double(codebook->value[place]);
}

__device__ double middle_of(const BlockCodebook* codebook, bool negated, unsigned place) {
    return negated ? -codebook->middle[codebook->count - 2 - place] : codebook->middle[place];
}

// An assignment by its gain: twice the reduction of the error at its best scale of the grid.
struct BlockCandidate {
    double gain, scale;
    unsigned negated;
};

// Of equal gains the scale that is not negated is better, then the smaller one.
__device__ BlockCandidate better_block(BlockCandidate a, BlockCandidate b) {
    if (a.gain != b.gain) return b.gain > a.gain ? b : a;
    if (a.negated != b.negated) return b.negated < a.negated ? b : a;
    return b.scale < a.scale ? b : a;
}

// Between two scales of the grid around a positive one.
__device__ double grid_step(const BlockCodebook* codebook, double scale) {
    const int exponent = ilogb(scale);
    return ldexp(1.0, (exponent > codebook->smallest_normal ? exponent : codebook->smallest_normal) - codebook->mantissa);
}

// The best scale of the grid for the sums of an assignment is a neighbour of S / D.
__device__ BlockCandidate best_on_grid(const BlockCodebook* codebook, bool negated, double product, double square) {
    BlockCandidate best = {0.0, codebook->smallest, negated};
    if (!(product > 0.0) || !(square > 0.0)) return best;
    const double scale = product / square;
    double below = codebook->smallest, above = below;
    if (scale > codebook->smallest) {
        const double step = grid_step(codebook, scale);
        below = floor(scale / step) * step;
        above = below < scale ? below + step : below;
        const double most = codebook->largest < codebook->limit ? codebook->largest : codebook->limit;
        if (above > most) {
            const double limit_step = grid_step(codebook, most);
            if (below > most) below = floor(most / limit_step) * limit_step;
            above = below;
        }
        if (below < codebook->smallest) below = codebook->smallest;
    }
    UNROLL for (int k = 0; k < 2; ++k) {
        const double at = k == 0 ? below : above;
        const double gain = at * (2.0 * product - at * square);
        if (gain > best.gain) {
            best.gain = gain;
            best.scale = at;
        }
    }
    return best;
}

// Checks the weights.
extern "C" __global__ void check_blocks(const Group* groups, StepLog* log) {
    const Group& group = groups[blockIdx.x];
    bool finite = true;
    for (Count i = threadIdx.x; i < group.size; i += blockDim.x) {
        const float w = group.weights[i], d = curvature(group.second_moment[i]);
        // x - x is NaN for NaN and infinity.
        finite = finite && w - w == 0.0f && d - d == 0.0f;
    }
    if (!finite) stop(log, STOP_SOLVE, group.parameter, group.group);
}

// The nearest values change where a weight passes the middle of two, at the scale w / middle. All assignments right below one
// of these scales are compared, and that of infinitely large scales.
extern "C" __global__ void solve_blocks(const Group* groups, const BlockCodebook* codebook, const StepLog* log) {
    if (is_stopped(log)) return;
    const Group& group = groups[blockIdx.x];
    const unsigned size = unsigned(group.size), steps = codebook->count - 1;
    SHARED(float, w, [BLOCK_WEIGHTS]);
    SHARED(float, d, [BLOCK_WEIGHTS]);
    SHARED(double, quotient, [BLOCK_WEIGHTS * BLOCK_VALUES]);
    SHARED(BlockCandidate, of_threads, [BLOCK_THREADS]);
    for (unsigned i = threadIdx.x; i < size; i += blockDim.x) {
        w[i] = group.weights[i];
        d[i] = curvature(group.second_moment[i]);
    }
    BlockCandidate best = {0.0, codebook->smallest, 0};
    const unsigned signs = codebook->is_signed && !codebook->is_symmetric ? 2 : 1;
    for (unsigned sign = 0; sign < signs; ++sign) {
        const bool negated = sign == 1;
        __syncthreads();
        for (unsigned at = threadIdx.x; at < size * steps; at += blockDim.x) {
            const double middle = middle_of(codebook, negated, at % steps);
            quotient[at] = middle != 0.0 ? double(w[at / steps]) / middle : 0.0;
        }
        __syncthreads();
        for (unsigned at = threadIdx.x; at <= size * steps; at += blockDim.x) {
            const bool infinite = at == size * steps;
            if (!infinite && !(quotient[at] > 0.0)) continue;
            const double scale = infinite ? 0.0 : quotient[at];
            double product = 0.0, square = 0.0;
            for (unsigned i = 0; i < size; ++i) {
                unsigned place = 0;
                for (unsigned j = 0; j < steps; ++j) {
                    const double middle = middle_of(codebook, negated, j);
                    // Computed as the scale is, so that equal weights pass together.
                    const double passes = quotient[i * steps + j];
                    bool above = w[i] > 0.0f;
                    if (middle > 0.0) above = !infinite && passes >= scale;
                    if (middle < 0.0) above = infinite || passes < scale;
                    place += above ? 1 : 0;
                }
                const double v = value_of(codebook, negated, place), weighted = double(d[i]) * v;
                product += weighted * double(w[i]);
                square += weighted * v;
            }
            best = better_block(best, best_on_grid(codebook, negated, product, square));
        }
    }
    of_threads[threadIdx.x] = best;
    __syncthreads();
    for (unsigned half = blockDim.x / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) of_threads[threadIdx.x] = better_block(of_threads[threadIdx.x], of_threads[threadIdx.x + half]);
        __syncthreads();
    }
    best = of_threads[0];
    const bool negated = best.negated != 0;
    const float scale = negated ? -float(best.scale) : float(best.scale);
    const double inverse = best.scale > 0.0 ? 1.0 / best.scale : 0.0;
    double sums[2] = {};
    for (unsigned i = threadIdx.x; i < size; i += blockDim.x) {
        const double x = double(w[i]) * inverse;
        unsigned place = 0;
        for (unsigned j = 0; j < steps; ++j) {
            const double middle = middle_of(codebook, negated, j);
            // Symmetric values are those of the magnitude with the sign of the weight.
            const bool above = codebook->is_symmetric ? middle <= 0.0 || fabs(x) > middle : x > middle;
            place += above ? 1 : 0;
        }
        if (codebook->is_symmetric ? w[i] < 0.0f : negated) place = codebook->count - 1 - place;
        const float quantized = scale * codebook->value[place];
        const double gap = double(w[i]) - double(quantized);
        sums[0] += double(d[i]) * (gap * gap);
        sums[1] += codebook->value[place] == 0.0f ? 1.0 : 0.0;
        group.levels[i] = (signed char)(codebook->lowest + codebook->stride * int(place));
        group.quantized[i] = quantized;
    }
    block_sums(sums);
    if (threadIdx.x != 0) return;
    GroupState* state = group.state;
    state->scale[0] = state->scale[1] = scale;
    state->error = 0.5 * sums[0];
    state->zeros = (unsigned long long)sums[1];
    state->solved = state->reported = state->iterations = 1;
}
