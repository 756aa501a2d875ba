// The kernels of the exact solver: solve_buckets several times, then solve_gather and solve_compare. exact.cuh and
// laq-solvers give the bounds.
#include "exact.cuh"

// The bucket of a threshold: the last whose lower edge is at most the threshold.
__device__ unsigned bucket_of(const Search& search, double threshold) {
    const auto not_above = [&](unsigned edge) { return edge_value(search.edge[edge]) <= threshold; };
    return partition_point(1, search.buckets, not_above) - 1;
}

// T at an edge, from sums that are rounded down; an upper bound once `slack` is added.
__device__ double surplus(const Search& search, unsigned edge) {
    const double product = double(search.above[edge][0]) * search.unit[0];
    const double square = double(search.above[edge][1]) * search.unit[1];
    const double t = product - edge_value(search.edge[edge]) * square;
    // Bounds the rounding of the difference.
    return (t > 0.0 ? t : 0.0) + 1e-14 * product;
}

// An upper bound of H at a scale. `gain` receives the gain of an assignment nearby, a lower bound of the best gain.
__device__ double upper_bound(const Search& search, const Codebook& codebook, double scale, double* gain) {
    double bound = 0.0, product = 0.0, square = 0.0;
    for (unsigned m = 0; m + 1 < codebook.magnitudes; ++m) {
        const double q = codebook.magnitude[m], step = double(codebook.magnitude[m + 1]) - q;
        const double threshold = scale * codebook.midpoint[m];
        const unsigned bucket = bucket_of(search, threshold);
        const double from = edge_value(search.edge[bucket]), to = edge_value(search.edge[bucket + 1]);
        const double at_from = surplus(search, bucket), at_to = surplus(search, bucket + 1);
        double share = (threshold - from) / (to - from);
        share = share < 0.0 ? 0.0 : share > 1.0 ? 1.0 : share;
        bound += step * (at_from + (at_to - at_from) * share + search.slack[0]);
        product += step * double(search.above[bucket + 1][0]) * search.unit[0];
        square += 2.0 * step * codebook.midpoint[m] * (double(search.above[bucket + 1][1]) * search.unit[1] + search.slack[1]);
    }
    *gain = product > 0.0 ? product * product / square : 0.0;
    return bound * (1.0 + 1e-12);
}

// An upper bound of G between two scales, given the bounds of H there: the maximum of 2 a times the chord.
__device__ double max_between(double high, double at_high, double low, double at_low) {
    const double slope = (at_low - at_high) / (high - low);
    double scale = high;
    if (slope > 0.0) {
        scale = 0.5 * (at_low / slope + low);
        scale = scale < low ? low : scale > high ? high : scale;
    }
    return 2.0 * scale * (at_low - slope * (scale - low));
}

// Suffix sums over the buckets, on top of the sums above the last.
__device__ void sum_suffixes(Search* search) {
    const unsigned each = (search->buckets + blockDim.x - 1) / blockDim.x;
    // A thread has consecutive buckets; thread 0 has the highest.
    const unsigned end = threadIdx.x * each < search->buckets ? search->buckets - threadIdx.x * each : 0;
    const unsigned begin = end > each ? end - each : 0;
    const volatile unsigned long long* buckets = &search->sum[0][0];
    unsigned long long own[2] = {0, 0};
    for (unsigned i = begin; i < end; ++i) {
        own[0] += buckets[2 * i];
        own[1] += buckets[2 * i + 1];
    }
    prefix_sums(own);
    unsigned long long total[2];
    for (int k = 0; k < 2; ++k) total[k] = search->above[search->buckets][k] + own[k];
    for (unsigned i = end; i > begin; --i) {
        total[0] += buckets[2 * i - 2];
        total[1] += buckets[2 * i - 1];
        search->above[i - 1][0] = total[0];
        search->above[i - 1][1] = total[1];
    }
    __syncthreads();
}

// Cuts the interval into cells and shrinks it to those that may contain the optimum.
__device__ void narrow(Search* search, const Codebook& codebook) {
    SHARED(double, bounds, [CELLS + 1]);
    SHARED(double, gains, [32]);
    SHARED(unsigned, kept, [2]);
    const double low = search->low, high = search->high, ratio = log(high / low) / CELLS;
    const auto scale_of = [&](unsigned cell) { return cell == CELLS ? high : cell == 0 ? low : low * exp(cell * ratio); };
    double best = search->best;
    for (unsigned cell = threadIdx.x; cell <= CELLS; cell += blockDim.x) {
        double gain;
        bounds[cell] = upper_bound(*search, codebook, scale_of(cell), &gain);
        best = gain > best ? gain : best;
    }
    for (int lanes = 16; lanes > 0; lanes /= 2) {
        const double other = __shfl_xor_sync(0xffffffffu, best, lanes);
        best = other > best ? other : best;
    }
    if (threadIdx.x % 32 == 0) gains[threadIdx.x / 32] = best;
    if (threadIdx.x == 0) {
        kept[0] = CELLS;
        kept[1] = 0;
    }
    __syncthreads();
    for (unsigned warp = 0; warp < blockDim.x / 32; ++warp) best = gains[warp] > best ? gains[warp] : best;
    for (unsigned cell = threadIdx.x; cell < CELLS; cell += blockDim.x) {
        const double most = max_between(scale_of(cell + 1), bounds[cell + 1], scale_of(cell), bounds[cell]);
        // A margin above rounding errors keeps the optimum.
        if (most < best * (1.0 - 1e-12)) continue;
        atomicMin(&kept[0], cell);
        atomicMax(&kept[1], cell + 1);
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        search->best = best;
        if (kept[0] < kept[1]) {
            search->low = scale_of(kept[0]);
            search->high = scale_of(kept[1]);
        }
    }
    __syncthreads();
}

// For each step of the codebook, the buckets whose weights may take it within the interval. Their union becomes the ranges of
// the next refinement, unless this is the last.
__device__ void find_windows(Search* search, const Codebook& codebook, bool last) {
    SHARED(unsigned, ends, [MAX_MAGNITUDES][2]);
    SHARED(unsigned long long, gaps, [MAX_MAGNITUDES][2]);
    const unsigned steps = codebook.magnitudes - 1;
    for (unsigned m = threadIdx.x; m < steps; m += blockDim.x) {
        ends[m][0] = bucket_of(*search, search->low * codebook.midpoint[m]);
        ends[m][1] = bucket_of(*search, search->high * codebook.midpoint[m]) + 1;
        search->from[m] = search->edge[ends[m][0]];
        search->to[m] = search->edge[ends[m][1]];
    }
    __syncthreads();
    if (last) return;
    if (threadIdx.x == 0) {
        unsigned ranges = 0, end = 0;
        for (unsigned m = 0; m < steps; ++m) {
            if (ranges > 0 && ends[m][0] <= end) {
                end = ends[m][1] > end ? ends[m][1] : end;
                search->range[ranges - 1].high = search->edge[end];
            } else {
                if (ranges > 0) {
                    for (int k = 0; k < 2; ++k) {
                        gaps[ranges - 1][k] = search->above[end][k] - search->above[ends[m][0]][k];
                    }
                }
                end = ends[m][1];
                search->range[ranges++] = {search->edge[ends[m][0]], search->edge[end], 0};
            }
        }
        const unsigned long long top[2] = {search->above[end][0], search->above[end][1]};
        search->ranges = ranges;
        lay_out(search, gaps);
        search->above[search->buckets][0] = top[0];
        search->above[search->buckets][1] = top[1];
    }
    __syncthreads();
    clear_buckets(search);
}

// Sums the weights of every bucket, and shrinks the interval.
extern "C" __global__ void solve_buckets(const Group* groups, GroupWorkspace* workspaces, const unsigned* group_of_block, const Codebook* codebook,
                                         Search* searches, unsigned last, const StepLog* log) {
    if (is_stopped(log)) return;
    const Chunk chunk = chunk_of_block(groups, workspaces, group_of_block);
    const GroupWorkspace* workspace = chunk.workspace;
    // Sums of d x and of d in two halves: atomic addition of 64 bits in shared memory is emulated and slow.
    SHARED(unsigned, low, [2][BUCKETS]);
    SHARED(unsigned, high, [2][BUCKETS]);
    const auto add = [&](unsigned k, unsigned bucket, unsigned long long value) {
        const unsigned low_half = unsigned(value);
        const unsigned before = atomicAdd(&low[k][bucket], low_half);
        // The carry does not depend on the order of the threads.
        const unsigned high_half = unsigned(value >> 32) + (before + low_half < before ? 1u : 0u);
        if (high_half != 0) atomicAdd(&high[k][bucket], high_half);
    };
    for (unsigned side = 0; side < codebook->sides; ++side) {
        if (workspace->done[side]) continue;
        Search* search = searches + 2 * chunk.index + side;
        __syncthreads();
        for (unsigned i = threadIdx.x; i < search->buckets; i += blockDim.x) {
            for (int k = 0; k < 2; ++k) low[k][i] = high[k][i] = 0;
        }
        __syncthreads();
        const double units[2] = {1.0 / search->unit[0], 1.0 / search->unit[1]};
        const unsigned ranges = search->ranges, shift = search->shift, below = search->range[0].low;
        for_weights(chunk, codebook->sides, [&](const Weight& weight) {
            const unsigned bits = __float_as_uint(weight.x);
            if (weight.side != side || bits == 0) return;
            unsigned bucket = 0;
            if (bits >= below) {
                const auto begun = [&](unsigned r) { return search->range[r].low <= bits; };
                const Range range = search->range[partition_point(1, ranges, begun) - 1];
                if (bits >= range.high) return;
                bucket = range.base + ((bits - range.low) >> shift);
            } else if (search->range[0].base == 0) {
                return;
            }
            const double d = weight.d;
            add(0, bucket, (unsigned long long)(d * double(weight.x) * units[0]));
            add(1, bucket, (unsigned long long)(d * units[1]));
        });
        __syncthreads();
        for (unsigned i = threadIdx.x; i < search->buckets; i += blockDim.x) {
            for (int k = 0; k < 2; ++k) {
                const unsigned long long sum = (unsigned long long)(high[k][i]) << 32 | low[k][i];
                if (sum != 0) atomicAdd(&search->sum[i][k], sum);
            }
        }
    }
    __threadfence();
    if (!is_last(&chunk.workspace->arrived, chunk.group->blocks)) return;
    for (unsigned side = 0; side < codebook->sides; ++side) {
        if (workspace->done[side]) continue;
        Search* search = searches + 2 * chunk.index + side;
        sum_suffixes(search);
        narrow(search, *codebook);
        find_windows(search, *codebook, last != 0);
    }
}

// The end of the weights in [begin, end), in decreasing order, with x / midpoint >= scale.
__device__ unsigned taken(const unsigned long long* sorted, unsigned begin, unsigned end, double midpoint, double scale) {
    return partition_point(begin, end, [&](unsigned i) {
        return double(__uint_as_float(unsigned(sorted[i] >> 32))) / midpoint >= scale;
    });
}

// Gathers the weights that may take a step within the interval, and sums the steps that are taken throughout it.
extern "C" __global__ void solve_gather(const Group* groups, GroupWorkspace* workspaces, const unsigned* group_of_block, const Codebook* codebook,
                                        double* partial, Search* searches, unsigned long long* const* survivors,
                                        const StepLog* log) {
    if (is_stopped(log)) return;
    const Chunk chunk = chunk_of_block(groups, workspaces, group_of_block);
    const GroupWorkspace* workspace = chunk.workspace;
    const unsigned steps = codebook->magnitudes - 1;
    double sums[4] = {};
    for (unsigned side = 0; side < codebook->sides; ++side) {
        if (workspace->done[side]) continue;
        const unsigned index = 2 * chunk.index + side;
        Search* search = searches + index;
        for_weights(chunk, codebook->sides, [&](const Weight& weight) {
            const unsigned bits = __float_as_uint(weight.x);
            if (weight.side != side || bits == 0 || !(weight.d > 0.0f)) return;
            const unsigned taken = partition_point(0, steps, [&](unsigned m) { return search->to[m] <= bits; });
            const double b = codebook->magnitude[taken], d = weight.d;
            const double product = d * b * double(weight.x), square = d * b * b;
            sums[0] += side == 0 ? product : 0.0;
            sums[1] += side == 0 ? square : 0.0;
            sums[2] += side == 0 ? 0.0 : product;
            sums[3] += side == 0 ? 0.0 : square;
            if (taken < steps && search->from[taken] <= bits) {
                const unsigned at = atomicAdd(&search->survivors, 1u);
                survivors[index][at] = (unsigned long long)(bits) << 32 | __float_as_uint(weight.d);
            }
        });
    }
    if (!group_sums(chunk, sums, partial) || threadIdx.x != 0) return;
    for (unsigned side = 0; side < codebook->sides; ++side) {
        searches[2 * chunk.index + side].product = side == 0 ? sums[0] : sums[2];
        searches[2 * chunk.index + side].square = side == 0 ? sums[1] : sums[3];
    }
}

// An assignment by its gain and scale; of equal gains the smaller scale is better.
struct Candidate {
    double gain, scale;
};

__device__ Candidate better(Candidate a, Candidate b) { return b.gain > a.gain || (b.gain == a.gain && b.scale < a.scale) ? b : a; }

__device__ Candidate candidate(double product, double square) {
    if (!(square > 0.0)) return {0.0, 0.0};
    const double scale = product / square;
    if (scale < LARGEST_FLOAT) return {product * product / square, scale};
    return {LARGEST_FLOAT * (2.0 * product - LARGEST_FLOAT * square), LARGEST_FLOAT};
}

// Sorts the survivors of one side and evaluates all breakpoints of the interval. One block per side; `prefixes` holds two
// doubles per survivor and two more.
extern "C" __global__ void solve_compare(const Group* groups, GroupWorkspace* workspaces, const Codebook* codebook, Search* searches,
                                         unsigned long long* const* survivors, double* const* prefixes,
                                         const StepLog* log) {
    if (is_stopped(log)) return;
    const unsigned index = blockIdx.x, side = index % 2;
    GroupWorkspace* workspace = workspaces + index / 2;
    if (side >= codebook->sides || workspace->done[side]) return;
    const Search* search = searches + index;
    unsigned long long* sorted = survivors[index];
    double* prefix = prefixes[index];
    const unsigned count = search->survivors, steps = codebook->magnitudes - 1;

    // Decreasing order by Batcher's bitonic network, padded with zeros.
    unsigned padded = 1;
    while (padded < count) padded *= 2;
    for (unsigned i = count + threadIdx.x; i < padded; i += blockDim.x) sorted[i] = 0;
    __syncthreads();
    for (unsigned size = 2; size <= padded; size *= 2) {
        for (unsigned apart = size / 2; apart > 0; apart /= 2) {
            for (unsigned i = threadIdx.x; i < padded / 2; i += blockDim.x) {
                const unsigned a = i / apart * 2 * apart + i % apart, b = a + apart;
                const bool decreasing = (a & size) == 0;
                const unsigned long long x = sorted[a], y = sorted[b];
                if ((x < y) == decreasing) {
                    sorted[a] = y;
                    sorted[b] = x;
                }
            }
            __syncthreads();
        }
    }

    // prefix[2 i], prefix[2 i + 1]: sums of d x and of d over the first i.
    const unsigned each = (count + blockDim.x - 1) / blockDim.x;
    const unsigned begin = threadIdx.x * each < count ? threadIdx.x * each : count;
    const unsigned end = begin + each < count ? begin + each : count;
    double own[2] = {0.0, 0.0};
    for (unsigned i = begin; i < end; ++i) {
        const double x = __uint_as_float(unsigned(sorted[i] >> 32)), d = __uint_as_float(unsigned(sorted[i]));
        own[0] += d * x;
        own[1] += d;
    }
    prefix_sums(own);
    double total[2] = {own[0], own[1]};
    for (unsigned i = begin; i < end; ++i) {
        prefix[2 * i] = total[0];
        prefix[2 * i + 1] = total[1];
        const double x = __uint_as_float(unsigned(sorted[i] >> 32)), d = __uint_as_float(unsigned(sorted[i]));
        total[0] += d * x;
        total[1] += d;
    }
    if (begin < count && end == count) {
        prefix[2 * count] = total[0];
        prefix[2 * count + 1] = total[1];
    }
    if (count == 0 && threadIdx.x == 0) prefix[0] = prefix[1] = 0.0;
    // The first weight of each step.
    SHARED(unsigned, starts, [MAX_MAGNITUDES]);
    for (unsigned m = threadIdx.x; m < steps; m += blockDim.x) {
        starts[m] = partition_point(0, count, [&](unsigned i) { return unsigned(sorted[i] >> 32) >= search->to[m]; });
    }
    __syncthreads();

    Candidate best = candidate(search->product, search->square);
    for (unsigned i = threadIdx.x; i < count; i += blockDim.x) {
        const unsigned bits = unsigned(sorted[i] >> 32);
        // Equal weights take their steps at one breakpoint.
        if (i + 1 < count && unsigned(sorted[i + 1] >> 32) == bits) continue;
        for (unsigned step = 0; step < steps; ++step) {
            if (bits < search->from[step] || bits >= search->to[step]) continue;
            const double scale = double(__uint_as_float(bits)) / codebook->midpoint[step];
            double product = search->product, square = search->square;
            for (unsigned m = 0; m < steps; ++m) {
                const unsigned first = starts[m], behind = taken(sorted, first, count, codebook->midpoint[m], scale);
                const double q = double(codebook->magnitude[m + 1]) - double(codebook->magnitude[m]);
                product += q * (prefix[2 * behind] - prefix[2 * first]);
                square += 2.0 * q * codebook->midpoint[m] * (prefix[2 * behind + 1] - prefix[2 * first + 1]);
            }
            best = better(best, candidate(product, square));
        }
    }
    SHARED(Candidate, bests, [32]);
    for (int lanes = 16; lanes > 0; lanes /= 2) {
        const Candidate other = {__shfl_xor_sync(0xffffffffu, best.gain, lanes), __shfl_xor_sync(0xffffffffu, best.scale, lanes)};
        best = better(best, other);
    }
    __syncthreads();
    if (threadIdx.x % 32 == 0) bests[threadIdx.x / 32] = best;
    __syncthreads();
    if (threadIdx.x == 0) {
        for (unsigned warp = 1; warp < blockDim.x / 32; ++warp) best = better(best, bests[warp]);
        workspace->scale[side] = best.scale;
    }
}
