// Helpers of all kernels. NVRTC has no headers, so nothing is included. The host prepends the shared constants; tests
// include cuda_on_cpu.h before.
#pragma once

// Declares shared memory, so that the emulator can give every block its own.
#ifndef SHARED
#define SHARED(type, name, size) __shared__ type name size
#endif

// Unrolls a loop, so that the arrays that it indexes can be registers.
#ifndef UNROLL
#define UNROLL _Pragma("unroll")
#endif

typedef unsigned long long Count;

constexpr double LARGEST_FLOAT = 3.4028234663852886e38;

// A grid-stride loop over the indices below `count`. Indices have 32 bits where they fit: 64-bit division is several times
// slower.
template <class Body>
__device__ void for_each(Count count, const Body& body) {
    if (count < 1u << 31) {
        const unsigned end = unsigned(count), stride = gridDim.x * blockDim.x;
        for (unsigned index = blockIdx.x * blockDim.x + threadIdx.x; index < end; index += stride) body(index);
    } else {
        const Count stride = Count(gridDim.x) * blockDim.x;
        for (Count index = Count(blockIdx.x) * blockDim.x + threadIdx.x; index < count; index += stride) body(index);
    }
}

// The first index in [low, high) where `holds` is false, or `high`; `holds` is true before and false after.
template <class Predicate>
__device__ unsigned partition_point(unsigned low, unsigned high, const Predicate& holds) {
    while (low < high) {
        const unsigned middle = low + (high - low) / 2;
        if (holds(middle)) low = middle + 1;
        else high = middle;
    }
    return low;
}

// Warps of the largest block.
constexpr unsigned MAX_WARPS = 32;

// Block-wide sums of K values per thread, for every thread. The order of summation depends on the block size alone. All
// threads must call it; the block size is a multiple of 32.
template <int K>
__device__ void block_sums(double (&values)[K]) {
    SHARED(double, of_warps, [K][MAX_WARPS]);
    UNROLL for (int k = 0; k < K; ++k) {
        for (int lanes = 16; lanes > 0; lanes /= 2) values[k] += __shfl_xor_sync(0xffffffffu, values[k], lanes);
    }
    __syncthreads();
    if (threadIdx.x % 32 == 0) {
        UNROLL for (int k = 0; k < K; ++k) of_warps[k][threadIdx.x / 32] = values[k];
    }
    __syncthreads();
    UNROLL for (int k = 0; k < K; ++k) {
        values[k] = 0.0;
        for (unsigned warp = 0; warp < blockDim.x / 32; ++warp) values[k] += of_warps[k][warp];
    }
}

// Column sums of a matrix: a block has COLUMN_LANES columns, one per lane, and reads COLUMN_ROWS rows at once.

// Sums K values per thread over the rows of the block; every thread gets the sums of its column.
template <int K>
__device__ void column_totals(double (&values)[K]) {
    SHARED(double, of_rows, [K][COLUMN_ROWS][COLUMN_LANES]);
    __syncthreads();
    UNROLL for (int k = 0; k < K; ++k) of_rows[k][threadIdx.y][threadIdx.x] = values[k];
    __syncthreads();
    UNROLL for (int k = 0; k < K; ++k) {
        values[k] = 0.0;
        for (unsigned row = 0; row < COLUMN_ROWS; ++row) values[k] += of_rows[k][row][threadIdx.x];
    }
}

// Stores the column sums of the block's chunk of rows to `partial[chunk][K][columns]`.
template <int K>
__device__ void store_column_sums(double (&values)[K], double* partial, unsigned columns) {
    column_totals(values);
    const unsigned column = blockIdx.x * COLUMN_LANES + threadIdx.x;
    if (threadIdx.y != 0 || column >= columns) return;
    UNROLL for (int k = 0; k < K; ++k) partial[(Count(blockIdx.y) * K + k) * columns + column] = values[k];
}

// Loads the column sums of all chunks; every thread gets the sums of its column.
template <int K>
__device__ void load_column_sums(double (&values)[K], const double* partial, unsigned chunks, unsigned columns) {
    const unsigned column = blockIdx.x * COLUMN_LANES + threadIdx.x;
    UNROLL for (int k = 0; k < K; ++k) {
        values[k] = 0.0;
        for (unsigned chunk = threadIdx.y; column < columns && chunk < chunks; chunk += COLUMN_ROWS) {
            values[k] += partial[(Count(chunk) * K + k) * columns + column];
        }
    }
    column_totals(values);
}

// What steps leave for the host.
struct StepLog {
    // The code of the first stop, or NOT_STOPPED.
    unsigned long long stop;
    // The time when the clock was started, and the total between starts and stops.
    unsigned long long clock;
    unsigned long long nanoseconds;
    float step_size;
    unsigned losses, errors;
    // Whether the current step was submitted after one that stopped.
    unsigned skipped;
    double loss[LOG_CAPACITY];
};

__device__ bool is_stopped(const StepLog* log) { return log->stop != NOT_STOPPED; }

// The smallest code wins, whatever the order of the threads. A skipped step stops nothing.
__device__ void stop(StepLog* log, unsigned long long why, unsigned parameter, unsigned group) {
    if (log->skipped) return;
    atomicMin(&log->stop, why << 2 * STOP_INDEX_BITS | (unsigned long long)(parameter) << STOP_INDEX_BITS | group);
}

__device__ bool is_finite(float x) { return (__float_as_uint(x) & 0x7f800000u) != 0x7f800000u; }
