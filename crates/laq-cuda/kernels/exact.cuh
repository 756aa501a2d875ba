// The optimum of problem (1), as in `exact` of laq-solvers, for codebooks with zero. Relative to all zeros, a scale a reduces
// twice the error by G(a) = 2 a H(a), H(a) = sum over steps (q_j - q_(j-1)) T(a mid_j), with the convex T(t) = sum d max(x - t, 0).
// Sums over buckets of x bound G from both sides and so give an interval of scales that contains the optimum. The buckets are
// refined within the interval until few weights are left to sort.
//
// Sums of buckets are integers, so that the order of addition does not matter: d x and d in units such that the total fits
// into 62 bits. Each sum is too small by less than one unit per weight; the bounds add this slack.
#pragma once
#include "solve.cuh"

// The shift of the first buckets: 32 buckets per octave, 64 octaves.
constexpr unsigned FIRST_SHIFT = 18;
// Cells of the interval of scales: two edges per thread.
constexpr unsigned CELLS = 511;

// The floats with bits in [low, high), in consecutive buckets from `base` on.
struct Range {
    unsigned low, high, base;
};

struct Search {
    // The optimum is between these scales and gains at least `best`.
    double low, high, best;
    // The units of d x and d, and the slack of their sums.
    double unit[2], slack[2];
    unsigned buckets, ranges, shift;
    // The number of gathered weights.
    unsigned survivors;
    Range range[MAX_MAGNITUDES];
    // Lower edges of the buckets as bits, then the upper edge of the last.
    unsigned edge[BUCKETS + 1];
    unsigned reserved;
    // Sums of d x and d in every bucket, and of all weights above each edge.
    unsigned long long sum[BUCKETS][2];
    unsigned long long above[BUCKETS + 1][2];
    // For each step, the bits [from, to) of the weights that may take it within the interval.
    unsigned from[MAX_MAGNITUDES], to[MAX_MAGNITUDES];
    // Sums of d b x and d b² over the steps taken throughout the interval.
    double product, square;
};

// Exclusive prefix sums over the block of two values per thread; the order of summation depends on the block size alone.
template <class T>
__device__ void prefix_sums(T (&values)[2]) {
    SHARED(T, of_warps, [2][MAX_WARPS]);
    const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    T up_to[2] = {values[0], values[1]};
    for (unsigned apart = 1; apart < 32; apart *= 2) {
        for (int k = 0; k < 2; ++k) {
            const T other = __shfl_up_sync(0xffffffffu, up_to[k], apart);
            if (lane >= apart) up_to[k] += other;
        }
    }
    __syncthreads();
    if (lane == 31) {
        for (int k = 0; k < 2; ++k) of_warps[k][warp] = up_to[k];
    }
    __syncthreads();
    for (int k = 0; k < 2; ++k) {
        const T before = __shfl_up_sync(0xffffffffu, up_to[k], 1);
        values[k] = lane == 0 ? T(0) : before;
        for (unsigned other = 0; other < warp; ++other) values[k] += of_warps[k][other];
    }
}

// The float with these bits; the largest finite one for infinity.
__device__ double edge_value(unsigned bits) {
    return bits >= 0x7f800000u ? 3.402823669209385e38 : double(__uint_as_float(bits));
}

// Chooses the finest shift whose buckets fit, and the first bucket of each range. One thread.
__device__ void lay_out(Search* search, unsigned long long (*gaps)[2]) {
    unsigned buckets = 0;
    for (unsigned shift = 0; shift < 32; ++shift) {
        buckets = search->ranges - 1;
        for (unsigned r = 0; r < search->ranges; ++r) {
            buckets += ((search->range[r].high - search->range[r].low - 1) >> shift) + 1;
        }
        search->shift = shift;
        if (buckets <= BUCKETS) break;
    }
    search->buckets = buckets;
    unsigned base = 0;
    for (unsigned r = 0; r < search->ranges; ++r) {
        Range& range = search->range[r];
        range.base = base;
        base += ((range.high - range.low - 1) >> search->shift) + 1;
        // The gap up to the next range is one bucket, whose sums are known.
        if (r + 1 < search->ranges) {
            search->edge[base] = range.high;
            search->sum[base][0] = gaps[r][0];
            search->sum[base][1] = gaps[r][1];
            ++base;
        }
    }
    search->edge[buckets] = search->range[search->ranges - 1].high;
}

// Sets the edges of the buckets of all ranges and clears their sums. All threads.
__device__ void clear_buckets(Search* search) {
    for (unsigned r = 0; r < search->ranges; ++r) {
        const Range range = search->range[r];
        const unsigned count = ((range.high - range.low - 1) >> search->shift) + 1;
        for (unsigned i = threadIdx.x; i < count; i += blockDim.x) {
            search->edge[range.base + i] = range.low + (i << search->shift);
            search->sum[range.base + i][0] = search->sum[range.base + i][1] = 0;
        }
    }
}

// Initializes interval and buckets. All threads.
__device__ void begin_search(Search* search, const Codebook& codebook, double product, double square, float largest,
                             double largest_curvature, Count size) {
    __syncthreads();
    if (threadIdx.x == 0) {
        const unsigned bits = __float_as_uint(largest) + 1;
        search->best = product * product / square;
        const double high = double(largest) / codebook.midpoint[0] * (1.0 + 1e-15);
        search->high = high < LARGEST_FLOAT ? high : LARGEST_FLOAT;
        // Below `low`, G <= 2 a q_k sum d x is less than `best`, with q_k = 1.
        const double low = 0.5 * search->best / product * (1.0 - 1e-9);
        search->low = low < 0.5 * search->high ? low : 0.5 * search->high;
        const double most[2] = {double(size) * largest_curvature * double(largest), double(size) * largest_curvature};
        for (int k = 0; k < 2; ++k) {
            int exponent;
            frexp(most[k], &exponent);
            search->unit[k] = ldexp(1.0, exponent - 62);
            search->slack[k] = double(size) * search->unit[k];
        }
        // Buckets down to 64 octaves below the largest magnitude, and one bucket below.
        const unsigned end = ((bits - 1) >> FIRST_SHIFT) + 1;
        const unsigned first = end > BUCKETS - 1 ? (end - (BUCKETS - 1)) << FIRST_SHIFT : 0;
        search->survivors = 0;
        search->ranges = 1;
        search->shift = FIRST_SHIFT;
        search->range[0] = {first, bits, first > 0 ? 1u : 0u};
        search->buckets = ((bits - first - 1) >> FIRST_SHIFT) + 1 + search->range[0].base;
        search->edge[0] = 0;
        search->sum[0][0] = search->sum[0][1] = 0;
        search->edge[search->buckets] = bits;
        search->above[search->buckets][0] = search->above[search->buckets][1] = 0;
    }
    __syncthreads();
    clear_buckets(search);
    __syncthreads();
}
