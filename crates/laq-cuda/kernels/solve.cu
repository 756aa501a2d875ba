// Quantization: from weights and Adam's second moment to levels, scale and quantized weights. The launches of one call are
// solve_begin, then solve_round (TWN, TTQ and the alternating solvers) or those of exact.cu, then solve_end.
#include "exact.cuh"

// Checks the weights, sums them up, and finds the first scale.
extern "C" __global__ void solve_begin(const Job* jobs, Work* works, const unsigned* job_of_block, const Book* book,
                                       double* partial, Search* searches, Record* record) {
    const Part part = part_of(jobs, works, job_of_block);
    const Job& job = *part.job;
    Work* work = part.work;
    State* state = job.state;
    const bool warm = state->solved && book->solver == ALTERNATING;
    // Of each side: d x, d, x, 1; then d b x and d b² of the levels of the step before. All are sums but the last two.
    double sums[12] = {};
    float largest = 0.0f, largest_curvature = 0.0f;
    bool good = true;
    const unsigned sides = book->sides;
    for_numbers(part, [&](Count i, float w, float v) {
        const float d = curvature(v);
        // NaN and infinity minus themselves are NaN.
        good = good && w - w == 0.0f && d - d == 0.0f;
        const float x = fabsf(w);
        largest = x > largest ? x : largest;
        largest_curvature = d > largest_curvature ? d : largest_curvature;
        if (sides == 2 && w == 0.0f) return;
        const bool below = sides == 2 && w < 0.0f;
        double terms[6] = {double(d) * double(x), double(d), double(x), 1.0, 0.0, 0.0};
        if (warm) {
            float b = book->value[int(job.levels[i]) + 128];
            const float with = below ? -w : w;
            if (below) b = -b;
            if (sides == 2 && b < 0.0f) b = 0.0f;
            terms[4] = double(d) * double(b) * double(with);
            terms[5] = double(d) * double(b) * double(b);
        }
        UNROLL for (int k = 0; k < 6; ++k) {
            sums[k] += below ? 0.0 : terms[k];
            sums[6 + k] += below ? terms[k] : 0.0;
        }
    });
    if (book->solver == TTQ && state->solved && threadIdx.x == 0) {
        good = good && state->scale[0] - state->scale[0] == 0.0f && state->scale[1] - state->scale[1] == 0.0f;
    }
    if (!good) stop(record, STOP_SOLVE, job.parameter, job.group);
    // Floats that are not negative are in the order of their bits.
    SHARED(unsigned, most, [2]);
    if (threadIdx.x == 0) most[0] = most[1] = 0;
    __syncthreads();
    atomicMax(&most[0], __float_as_uint(largest));
    atomicMax(&most[1], __float_as_uint(largest_curvature));
    __syncthreads();
    unsigned* bits = (unsigned*)(partial + Count(gridDim.x) * 12) + 2 * Count(blockIdx.x);
    if (threadIdx.x < 2) bits[threadIdx.x] = most[threadIdx.x];
    if (!group_sums(part, sums, partial)) return;

    // The last block of the group goes on.
    const volatile unsigned* all_bits = (const unsigned*)(partial + Count(gridDim.x) * 12) + 2 * Count(job.first_block);
    __syncthreads();
    if (threadIdx.x == 0) most[0] = most[1] = 0;
    __syncthreads();
    for (unsigned block = threadIdx.x; block < job.blocks; block += blockDim.x) {
        atomicMax(&most[0], all_bits[2 * block]);
        atomicMax(&most[1], all_bits[2 * block + 1]);
    }
    __syncthreads();
    largest = __uint_as_float(most[0]);
    largest_curvature = __uint_as_float(most[1]);
    const auto begin_side = [&](unsigned side, const double (&sum)[6]) {
        // Where all curvatures are zero, the problem is that without.
        const bool unweighted = !(sum[1] > 0.0);
        const double product = unweighted ? sum[2] : sum[0], square = unweighted ? sum[3] : sum[1];
        const double weighted_mean = square > 0.0 && product > 0.0 ? product / square : 0.0;
        const double mean = sum[3] > 0.0 ? sum[2] / sum[3] : 0.0;
        double scale = 0.0;
        bool done = true, plain = unweighted;
        if (book->solver == SIGNS || book->solver == TANH) scale = 1.0;
        if (book->solver == MEAN_SIGNS) scale = mean;
        if (book->solver == WEIGHTED_SIGNS) scale = weighted_mean;
        if (book->solver == TWN || book->solver == TTQ) {
            // One round without curvature, above 0.7 mean magnitudes.
            plain = true;
            done = !(sum[2] > 0.0) || (book->solver == TTQ && state->solved);
        }
        if (book->solver == ALTERNATING) {
            scale = sum[4] > 0.0 && sum[5] > 0.0 ? sum[4] / sum[5] : weighted_mean;
            plain = unweighted && !(sum[4] > 0.0 && sum[5] > 0.0);
            done = !(scale > 0.0);
        }
        if (book->solver == EXACT) done = !(weighted_mean > 0.0);
        set_thresholds(work, book, side, scale);
        if (threadIdx.x == 0) {
            if (book->solver == TWN || book->solver == TTQ) {
                work->threshold[0][0] = mean > 0.0 ? __double2float_rd(0.7 * mean) : __uint_as_float(0x7f800000u);
            }
            work->product[side] = product;
            work->square[side] = square;
            work->scale[side] = scale;
            work->unweighted[side] = plain;
            work->done[side] = done;
            work->rounds[side] = 0;
            work->largest = largest;
            work->largest_curvature = double(largest_curvature);
        }
        if (book->solver == EXACT && !done) {
            begin_search(searches + 2 * part.index + side, *book, product, square, largest,
                         unweighted ? 1.0 : double(largest_curvature), job.size);
        }
    };
    const double first[6] = {sums[0], sums[1], sums[2], sums[3], sums[4], sums[5]};
    const double second[6] = {sums[6], sums[7], sums[8], sums[9], sums[10], sums[11]};
    begin_side(0, first);
    if (sides == 2) begin_side(1, second);
}

// The best scale for the levels that the thresholds give, and the thresholds for it.
extern "C" __global__ void solve_round(const Job* jobs, Work* works, const unsigned* job_of_block, const Book* book,
                                       double* partial, const Record* record) {
    if (is_stopped(record)) return;
    const Part part = part_of(jobs, works, job_of_block);
    Work* work = part.work;
    if (work->done[0] && (book->sides == 1 || work->done[1])) return;
    SHARED(float, thresholds, [2][MOST_MAGNITUDES]);
    SHARED(float, q, [MOST_MAGNITUDES]);
    const unsigned steps = book->magnitudes - 1;
    for (unsigned m = threadIdx.x; m <= steps; m += blockDim.x) {
        q[m] = book->magnitude[m];
        for (unsigned side = 0; side < book->sides && m < steps; ++side) {
            thresholds[side][m] = work->threshold[side][m];
        }
    }
    __syncthreads();
    double sums[4] = {};
    for_weights(part, book->sides, [&](const Weight& weight) {
        const double b = q[above(thresholds[weight.side], steps, weight.x)], d = weight.d;
        const double product = d * b * double(weight.x), square = d * b * b;
        sums[0] += weight.side == 0 ? product : 0.0;
        sums[1] += weight.side == 0 ? square : 0.0;
        sums[2] += weight.side == 0 ? 0.0 : product;
        sums[3] += weight.side == 0 ? 0.0 : square;
    });
    if (!group_sums(part, sums, partial)) return;
    for (unsigned side = 0; side < book->sides; ++side) {
        if (work->done[side]) continue;
        const double product = side == 0 ? sums[0] : sums[2], square = side == 0 ? sums[1] : sums[3];
        const double before = work->scale[side];
        const bool better = product > 0.0 && square > 0.0;
        const double scale = better ? product / square : before;
        __syncthreads();
        if (book->solver == ALTERNATING && better) set_thresholds(work, book, side, scale);
        if (threadIdx.x == 0) {
            work->scale[side] = scale;
            work->rounds[side] += 1;
            work->done[side] = book->solver != ALTERNATING || !better || fabs(scale - before) <= SCALE_TOLERANCE;
        }
    }
}

// Levels for the scale, what they decode to, and their error.
extern "C" __global__ void solve_end(const Job* jobs, Work* works, const unsigned* job_of_block, const Book* book,
                                     double* partial, const Record* record) {
    if (is_stopped(record)) return;
    const Part part = part_of(jobs, works, job_of_block);
    const Job& job = *part.job;
    const Work* work = part.work;
    State* state = job.state;
    SHARED(float, thresholds, [2][MOST_MAGNITUDES]);
    SHARED(float, scales, [2]);
    const unsigned steps = book->magnitudes - 1;
    const bool trained = book->solver == TTQ;
    const bool two = book->sides == 2;
    for (unsigned side = 0; side < 2; ++side) {
        const unsigned of = two ? side : 0;
        // TTQ begins with the scale of TWN on both sides, and trains it from there.
        const float scale = trained && state->solved ? state->scale[side] : to_float(work->scale[of]);
        if (threadIdx.x == 0) scales[side] = scale;
        for (unsigned m = threadIdx.x; m < steps; m += blockDim.x) {
            float threshold;
            if (book->solver == TWN) {
                threshold = work->threshold[0][0];
            } else if (trained) {
                threshold = __double2float_rd(0.05 * double(work->largest));
            } else if (book->solver == TANH) {
                threshold = __double2float_rd(atanh(tanh(double(work->largest)) * book->midpoint[m]));
            } else {
                threshold = scale > 0.0f ? __double2float_rd(book->midpoint[m] * double(scale))
                                         : __uint_as_float(0x7f800000u);
            }
            thresholds[side][m] = threshold;
        }
    }
    __syncthreads();
    double sums[2] = {};
    for_numbers(part, [&](Count i, float w, float v) {
        const bool below = w < 0.0f;
        const int number = int(above(thresholds[below], steps, fabsf(w)));
        const int level = below ? book->first_negative - number : book->first_positive + number;
        const float quantized = book->value[level + 128] * scales[level < 0];
        const double gap = double(w) - double(quantized);
        sums[0] += double(curvature(v)) * (gap * gap);
        sums[1] += book->has_zero && level == 0 ? 1.0 : 0.0;
        job.levels[i] = (signed char)level;
        job.quantized[i] = quantized;
    });
    if (!group_sums(part, sums, partial) || threadIdx.x != 0) return;
    state->scale[0] = scales[0];
    state->scale[1] = scales[1];
    state->error = 0.5 * sums[0];
    state->zeros = (unsigned long long)sums[1];
    state->rounds = 0;
    if (book->solver == EXACT) state->rounds = 1;
    if (book->solver == ALTERNATING) {
        const unsigned other = two ? work->rounds[1] : 0;
        state->rounds = work->rounds[0] > other ? work->rounds[0] : other;
    }
    state->solved = state->reported = 1;
}
