// What all kernels share. NVRTC ships no headers, so nothing is included; tests include cuda_on_cpu.h before.
#pragma once

// How a kernel declares its shared memory, so that the emulator can give every block its own.
#ifndef SHARED
#define SHARED(type, name, size) __shared__ type name size
#endif

// A loop that is to be written out, so that the arrays that it goes through can be registers.
#ifndef UNROLL
#define UNROLL _Pragma("unroll")
#endif

typedef unsigned long long Count;

// Calls `body` with every index below `count`; a kernel over elements is launched with any number of blocks, whose threads
// stride through them. Where they fit, indices have 32 bits: quotients of those take a fraction of the time.
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

// The first place from `low` on, and below `high`, for which `holds` is not true; it is true for all before.
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
constexpr int MOST_WARPS = 32;

// The sums over the block of K numbers a thread, in an order that depends on the size of the block alone; every thread gets
// them. All threads of the block take part, whose number is a multiple of 32.
template <int K>
__device__ void block_sums(double (&values)[K]) {
    SHARED(double, of_warps, [K][MOST_WARPS]);
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

// Sums over the rows of a matrix, column by column: a block has 32 columns, one a lane, and eight rows at a time.
constexpr int COLUMN_LANES = 32;
constexpr int COLUMN_ROWS = 8;

// Of the K sums that a thread has of its rows, those of all rows of the block; every thread gets them for its column.
template <int K>
__device__ void column_totals(double (&values)[K]) {
    SHARED(double, of_rows, [K][COLUMN_ROWS][COLUMN_LANES]);
    __syncthreads();
    UNROLL for (int k = 0; k < K; ++k) of_rows[k][threadIdx.y][threadIdx.x] = values[k];
    __syncthreads();
    UNROLL for (int k = 0; k < K; ++k) {
        values[k] = 0.0;
        for (int row = 0; row < COLUMN_ROWS; ++row) values[k] += of_rows[k][row][threadIdx.x];
    }
}

// The K sums that a thread has of its rows become those of the block's chunk of rows, in `partial[chunk][K][columns]`.
template <int K>
__device__ void store_column_sums(double (&values)[K], double* partial, unsigned columns) {
    column_totals(values);
    const unsigned column = blockIdx.x * COLUMN_LANES + threadIdx.x;
    if (threadIdx.y != 0 || column >= columns) return;
    UNROLL for (int k = 0; k < K; ++k) partial[(Count(blockIdx.y) * K + k) * columns + column] = values[k];
}

// The sums of all chunks, for a block of such threads; the same for all threads of a column.
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

// What steps leave behind for the host; `src/record.rs` has the same layout.
constexpr unsigned RECORD_CAPACITY = 256;

struct Record {
    // The code of the first stop; NOT_STOPPED before.
    unsigned long long stop;
    // When the clock was started, and the time it has taken in all.
    unsigned long long clock;
    unsigned long long nanoseconds;
    float step_size;
    unsigned losses, errors;
    // Whether the step under way was begun behind one that stopped.
    unsigned skipped;
    double loss[RECORD_CAPACITY];
};

constexpr unsigned long long NOT_STOPPED = ~0ull;
// In the order in which a step comes by them.
constexpr unsigned long long STOP_SOLVE = 0;
constexpr unsigned long long STOP_LOSS = 1;
constexpr unsigned long long STOP_GRADIENT = 2;

__device__ bool is_stopped(const Record* record) { return record->stop != NOT_STOPPED; }

// Of several threads the smallest code wins, so that it does not depend on who comes first. A step behind one that stopped
// has nothing to say.
__device__ void stop(Record* record, unsigned long long why, unsigned parameter, unsigned group) {
    if (record->skipped) return;
    atomicMin(&record->stop, why << 60 | (unsigned long long)(parameter) << 30 | group);
}

__device__ bool is_finite(float x) { return (__float_as_uint(x) & 0x7f800000u) != 0x7f800000u; }
