// The search for the optimum of problem (1), as in `exact` of laq-solvers, for codebooks with zero: twice what a scale takes
// off the error of all zeros is G(a) = 2 a H(a), H(a) = sum over steps of the codebook (q_j - q_(j-1)) T(a mid_j), with the
// convex T(t) = sum of d max(x - t, 0). Sums over buckets of x bound G from above and below, and leave an interval of scales
// in which the optimum is; the buckets are made narrower within the interval, until few weights are left to be sorted.
//
// Sums of buckets are integers (d x and d in units so small that all weights together fit into 62 bits), so that the order in
// which they are added does not matter. Each is too small by less than one unit a weight, which the bounds allow for.
#pragma once
#include "solve.cuh"

// Mantissa bits that tell the first buckets apart: 32 an octave, so that there are 64 octaves.
constexpr unsigned FIRST_SHIFT = 18;
// Cells that the interval of scales is cut into, so that the threads of a block have two edges each.
constexpr unsigned CELLS = 511;

// The bits of a float whose buckets are next to each other: from `low` to below `high`, from bucket `base` on.
struct Range {
    unsigned low, high, base;
};

struct Search {
    // The optimum is between these scales, and takes off at least `best`.
    double low, high, best;
    // Of d x and of d: a unit, and how far a sum may be too small.
    double unit[2], slack[2];
    unsigned buckets, ranges, shift;
    // Weights that were gathered.
    unsigned survivors;
    Range range[MAX_MAGNITUDES];
    // Lower edges of the buckets as bits, and behind them the upper edge of the last.
    unsigned edge[BUCKETS + 1];
    unsigned reserved;
    // Sums of d x and d in every bucket, and over all weights from each edge up.
    unsigned long long sum[BUCKETS][2];
    unsigned long long above[BUCKETS + 1][2];
    // For each step the bits of the weights that may take it in the interval, from `from` to below `to`.
    unsigned from[MAX_MAGNITUDES], to[MAX_MAGNITUDES];
    // The sums d b x and d b² of those that have taken it.
    double product, square;
};

// Of two numbers a thread, the sums over all threads of the block before this one, in an order that depends on the size of
// the block alone.
template <class T>
__device__ void sums_before(T (&values)[2]) {
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

// The number that bits stand for; those of infinity stand for the end of the last octave.
__device__ double edge_value(unsigned bits) {
    return bits >= 0x7f800000u ? 3.402823669209385e38 : double(__uint_as_float(bits));
}

// The finest shift that makes no more buckets of the ranges than there are, and where each range begins; one thread.
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
        // Behind a range is one bucket for all up to the next, whose sums are known.
        if (r + 1 < search->ranges) {
            search->edge[base] = range.high;
            search->sum[base][0] = gaps[r][0];
            search->sum[base][1] = gaps[r][1];
            ++base;
        }
    }
    search->edge[buckets] = search->range[search->ranges - 1].high;
}

// Edges of the buckets of all ranges, and no sums in them yet; all threads.
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

// The first interval and the first buckets; all threads of a block.
__device__ void begin_search(Search* search, const Codebook& codebook, double product, double square, float largest,
                             double largest_curvature, Count size) {
    __syncthreads();
    if (threadIdx.x == 0) {
        const unsigned bits = __float_as_uint(largest) + 1;
        search->best = product * product / square;
        const double high = double(largest) / codebook.midpoint[0] * (1.0 + 1e-15);
        search->high = high < LARGEST_FLOAT ? high : LARGEST_FLOAT;
        // Below it, 2 a H(a) <= 2 a q_k sum of d x is too little, with q_k = 1.
        const double low = 0.5 * search->best / product * (1.0 - 1e-9);
        search->low = low < 0.5 * search->high ? low : 0.5 * search->high;
        const double most[2] = {double(size) * largest_curvature * double(largest), double(size) * largest_curvature};
        for (int k = 0; k < 2; ++k) {
            int exponent;
            frexp(most[k], &exponent);
            search->unit[k] = ldexp(1.0, exponent - 62);
            search->slack[k] = double(size) * search->unit[k];
        }
        // All magnitudes down to 64 octaves below the largest, and one range for what is below.
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
