// Quantization: from weights and Adam's second moment to levels, scales and quantized weights. A call launches solve_begin,
// then solve_iterate (TWN, TTQ, alternating solvers) or the kernels of exact.cu, then solve_end.
#include "exact.cuh"

// Checks and sums the weights, and initializes the scales.
extern "C" __global__ void solve_begin(const Group* groups, GroupWorkspace* workspaces, const unsigned* group_of_block, const Codebook* codebook,
                                       double* partial, Search* searches, StepLog* log) {
    const Chunk chunk = chunk_of_block(groups, workspaces, group_of_block);
    const Group& group = *chunk.group;
    GroupWorkspace* workspace = chunk.workspace;
    GroupState* state = group.state;
    const bool warm = state->solved && codebook->solver == ALTERNATING;
    // Sums for each side: d x, d, x, 1, and d b x and d b² with the levels of the previous step.
    double sums[12] = {};
    float largest = 0.0f, largest_curvature = 0.0f;
    bool finite = true;
    const unsigned sides = codebook->sides;
    for_elements(chunk, [&](Count i, float w, float v) {
        const float d = curvature(v);
        // x - x is NaN for NaN and infinity.
        finite = finite && w - w == 0.0f && d - d == 0.0f;
        const float x = fabsf(w);
        largest = x > largest ? x : largest;
        largest_curvature = d > largest_curvature ? d : largest_curvature;
        if (sides == 2 && w == 0.0f) return;
        const bool negative = sides == 2 && w < 0.0f;
        double terms[6] = {double(d) * double(x), double(d), double(x), 1.0, 0.0, 0.0};
        if (warm) {
            float b = codebook->multiplier[int(group.levels[i]) + 128] / codebook->divisor;
            const float with = negative ? -w : w;
            if (negative) b = -b;
            if (sides == 2 && b < 0.0f) b = 0.0f;
            terms[4] = double(d) * double(b) * double(with);
            terms[5] = double(d) * double(b) * double(b);
        }
        UNROLL for (int k = 0; k < 6; ++k) {
            sums[k] += negative ? 0.0 : terms[k];
            sums[6 + k] += negative ? terms[k] : 0.0;
        }
    });
    if (codebook->solver == TTQ && state->solved && threadIdx.x == 0) {
        finite = finite && state->scale[0] - state->scale[0] == 0.0f && state->scale[1] - state->scale[1] == 0.0f;
    }
    if (!finite) stop(log, STOP_SOLVE, group.parameter, group.group);
    // Nonnegative floats compare as their bits.
    SHARED(unsigned, most, [2]);
    if (threadIdx.x == 0) most[0] = most[1] = 0;
    __syncthreads();
    atomicMax(&most[0], __float_as_uint(largest));
    atomicMax(&most[1], __float_as_uint(largest_curvature));
    __syncthreads();
    unsigned* bits = (unsigned*)(partial + Count(gridDim.x) * 12) + 2 * Count(blockIdx.x);
    if (threadIdx.x < 2) bits[threadIdx.x] = most[threadIdx.x];
    if (!group_sums(chunk, sums, partial)) return;

    // The last block of the group continues.
    const volatile unsigned* all_bits = (const unsigned*)(partial + Count(gridDim.x) * 12) + 2 * Count(group.first_block);
    __syncthreads();
    if (threadIdx.x == 0) most[0] = most[1] = 0;
    __syncthreads();
    for (unsigned block = threadIdx.x; block < group.blocks; block += blockDim.x) {
        atomicMax(&most[0], all_bits[2 * block]);
        atomicMax(&most[1], all_bits[2 * block + 1]);
    }
    __syncthreads();
    largest = __uint_as_float(most[0]);
    largest_curvature = __uint_as_float(most[1]);
    const auto begin_side = [&](unsigned side, const double (&sum)[6]) {
        // All curvatures are zero: the unweighted problem.
        const bool unweighted = !(sum[1] > 0.0);
        const double product = unweighted ? sum[2] : sum[0], square = unweighted ? sum[3] : sum[1];
        const double weighted_mean = square > 0.0 && product > 0.0 ? product / square : 0.0;
        const double mean = sum[3] > 0.0 ? sum[2] / sum[3] : 0.0;
        double scale = 0.0;
        bool done = true, unweighted_side = unweighted;
        if (codebook->solver == SIGNS || codebook->solver == TANH) scale = 1.0;
        if (codebook->solver == MEAN_MAGNITUDE) scale = mean;
        if (codebook->solver == LARGEST_MAGNITUDE) scale = double(largest);
        if (codebook->solver == WEIGHTED_SIGNS) scale = weighted_mean;
        if (codebook->solver == TWN || codebook->solver == TTQ) {
            // One unweighted iteration with the threshold 0.7 mean |w|.
            unweighted_side = true;
            done = !(sum[2] > 0.0) || (codebook->solver == TTQ && state->solved);
        }
        if (codebook->solver == ALTERNATING) {
            const bool has_start = sum[4] > 0.0 && sum[5] > 0.0 && sum[4] / sum[5] <= LARGEST_FLOAT;
            scale = has_start ? sum[4] / sum[5] : weighted_mean;
            unweighted_side = unweighted && !has_start;
            done = !(scale > 0.0);
        }
        if (codebook->solver == EXACT) done = !(weighted_mean > 0.0);
        set_thresholds(workspace, codebook, side, scale);
        if (threadIdx.x == 0) {
            if (codebook->solver == TWN || codebook->solver == TTQ) {
                workspace->threshold[0][0] = mean > 0.0 ? __double2float_rd(0.7 * mean) : __uint_as_float(0x7f800000u);
            }
            workspace->product[side] = product;
            workspace->square[side] = square;
            workspace->scale[side] = scale;
            workspace->unweighted[side] = unweighted_side;
            workspace->done[side] = done;
            workspace->iterations[side] = 0;
            workspace->largest = largest;
            workspace->largest_curvature = double(largest_curvature);
        }
        if (codebook->solver == EXACT && !done) {
            begin_search(searches + 2 * chunk.index + side, *codebook, product, square, largest,
                         unweighted ? 1.0 : double(largest_curvature), group.size);
        }
    };
    const double first[6] = {sums[0], sums[1], sums[2], sums[3], sums[4], sums[5]};
    const double second[6] = {sums[6], sums[7], sums[8], sums[9], sums[10], sums[11]};
    begin_side(0, first);
    if (sides == 2) begin_side(1, second);
}

// The best scale for the levels of the current thresholds, and its thresholds.
extern "C" __global__ void solve_iterate(const Group* groups, GroupWorkspace* workspaces, const unsigned* group_of_block, const Codebook* codebook,
                                       double* partial, const StepLog* log) {
    if (is_stopped(log)) return;
    const Chunk chunk = chunk_of_block(groups, workspaces, group_of_block);
    GroupWorkspace* workspace = chunk.workspace;
    if (workspace->done[0] && (codebook->sides == 1 || workspace->done[1])) return;
    SHARED(float, thresholds, [2][MAX_MAGNITUDES]);
    SHARED(float, q, [MAX_MAGNITUDES]);
    const unsigned steps = codebook->magnitudes - 1;
    for (unsigned m = threadIdx.x; m <= steps; m += blockDim.x) {
        q[m] = codebook->magnitude[m];
        for (unsigned side = 0; side < codebook->sides && m < steps; ++side) {
            thresholds[side][m] = workspace->threshold[side][m];
        }
    }
    __syncthreads();
    double sums[4] = {};
    for_weights(chunk, codebook->sides, [&](const Weight& weight) {
        const double b = q[above(thresholds[weight.side], steps, weight.x)], d = weight.d;
        const double product = d * b * double(weight.x), square = d * b * b;
        sums[0] += weight.side == 0 ? product : 0.0;
        sums[1] += weight.side == 0 ? square : 0.0;
        sums[2] += weight.side == 0 ? 0.0 : product;
        sums[3] += weight.side == 0 ? 0.0 : square;
    });
    if (!group_sums(chunk, sums, partial)) return;
    for (unsigned side = 0; side < codebook->sides; ++side) {
        if (workspace->done[side]) continue;
        const double product = side == 0 ? sums[0] : sums[2], square = side == 0 ? sums[1] : sums[3];
        const double before = workspace->scale[side];
        const bool better = product > 0.0 && square > 0.0;
        const double scale = better ? product / square : before;
        __syncthreads();
        if (codebook->solver == ALTERNATING && better) set_thresholds(workspace, codebook, side, scale);
        if (threadIdx.x == 0) {
            workspace->scale[side] = scale;
            workspace->iterations[side] += 1;
            workspace->done[side] = codebook->solver != ALTERNATING || !better || fabs(scale - before) <= SCALE_TOLERANCE;
        }
    }
}

// Levels for the scales, the quantized weights, and their error.
extern "C" __global__ void solve_end(const Group* groups, GroupWorkspace* workspaces, const unsigned* group_of_block, const Codebook* codebook,
                                     double* partial, const StepLog* log) {
    if (is_stopped(log)) return;
    const Chunk chunk = chunk_of_block(groups, workspaces, group_of_block);
    const Group& group = *chunk.group;
    const GroupWorkspace* workspace = chunk.workspace;
    GroupState* state = group.state;
    SHARED(float, thresholds, [2][MAX_MAGNITUDES]);
    SHARED(float, scales, [2]);
    // The step of each scale; see Codebook::step of laq-solvers.
    SHARED(float, scale_steps, [2]);
    const unsigned steps = codebook->magnitudes - 1;
    const bool trained = codebook->solver == TTQ;
    const bool two = codebook->sides == 2;
    for (unsigned side = 0; side < 2; ++side) {
        const unsigned of = two ? side : 0;
        // TTQ starts from the scale of TWN on both sides.
        const float scale = trained && state->solved ? state->scale[side] : to_float(workspace->scale[of]);
        if (threadIdx.x == 0) {
            scales[side] = scale;
            const float step = scale / codebook->divisor;
            // The scale is finite.
            const bool overflows = !(fabsf(step * codebook->divisor) <= float(LARGEST_FLOAT));
            scale_steps[side] = overflows ? __uint_as_float(__float_as_uint(step) - 1u) : step;
        }
        for (unsigned m = threadIdx.x; m < steps; m += blockDim.x) {
            float threshold;
            if (codebook->solver == TWN) {
                threshold = workspace->threshold[0][0];
            } else if (trained) {
                threshold = __double2float_rd(0.05 * double(workspace->largest));
            } else if (codebook->solver == TANH) {
                threshold = __double2float_rd(atanh(tanh(double(workspace->largest)) * codebook->midpoint[m]));
            } else {
                threshold = scale > 0.0f ? __double2float_rd(codebook->midpoint[m] * double(scale))
                                         : __uint_as_float(0x7f800000u);
            }
            thresholds[side][m] = threshold;
        }
    }
    __syncthreads();
    double sums[2] = {};
    for_elements(chunk, [&](Count i, float w, float v) {
        const bool negative = w < 0.0f;
        const int number = int(above(thresholds[negative], steps, fabsf(w)));
        const int level = negative ? codebook->first_negative - number : codebook->first_positive + number;
        const float quantized = codebook->multiplier[level + 128] * scale_steps[level < 0];
        const double gap = double(w) - double(quantized);
        sums[0] += double(curvature(v)) * (gap * gap);
        sums[1] += codebook->has_zero && level == 0 ? 1.0 : 0.0;
        group.levels[i] = (signed char)level;
        group.quantized[i] = quantized;
    });
    if (!group_sums(chunk, sums, partial) || threadIdx.x != 0) return;
    state->scale[0] = scales[0];
    state->scale[1] = scales[1];
    state->error = 0.5 * sums[0];
    state->zeros = (unsigned long long)sums[1];
    state->iterations = 0;
    if (codebook->solver == EXACT) state->iterations = 1;
    if (codebook->solver == ALTERNATING) {
        const unsigned other = two ? workspace->iterations[1] : 0;
        state->iterations = workspace->iterations[0] > other ? workspace->iterations[0] : other;
    }
    state->solved = state->reported = 1;
}
