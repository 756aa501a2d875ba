// What all kernels share. NVRTC ships no headers, so nothing is included; tests include cuda_on_cpu.h before.
#pragma once

// How a kernel declares its shared memory, so that the emulator can give every block its own.
#ifndef SHARED
#define SHARED(type, name, size) __shared__ type name size
#endif

typedef unsigned long long Count;

// Every kernel over elements is launched with any number of blocks and strides through them.
#define FOR_EACH(index, count)                                                           \
    for (Count index = Count(blockIdx.x) * blockDim.x + threadIdx.x; index < (count);     \
         index += Count(gridDim.x) * blockDim.x)

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

// The sum over the block, in an order that depends on the size of the block alone; every thread gets it. All threads of
// the block take part, whose number is a multiple of 32.
template <class T>
__device__ T block_sum(T value) {
    SHARED(T, of_warps, [MOST_WARPS]);
    for (int lanes = 16; lanes > 0; lanes /= 2) value += __shfl_xor_sync(0xffffffffu, value, lanes);
    __syncthreads();
    if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = value;
    __syncthreads();
    T sum = 0;
    for (unsigned warp = 0; warp < blockDim.x / 32; ++warp) sum += of_warps[warp];
    return sum;
}

// Sums over the rows of a matrix, column by column: a block has 32 columns, one a lane, and eight rows at a time.
constexpr int COLUMN_LANES = 32;
constexpr int COLUMN_ROWS = 8;

// The K sums that a thread has of its rows become those of the block's chunk of rows, in `partial[chunk][K][columns]`.
template <int K>
__device__ void store_column_sums(const double (&of_thread)[K], double* partial, unsigned columns) {
    SHARED(double, sums, [K][COLUMN_ROWS][COLUMN_LANES]);
    for (int k = 0; k < K; ++k) sums[k][threadIdx.y][threadIdx.x] = of_thread[k];
    __syncthreads();
    const unsigned column = blockIdx.x * COLUMN_LANES + threadIdx.x;
    if (threadIdx.y < K && column < columns) {
        double total = 0.0;
        for (int row = 0; row < COLUMN_ROWS; ++row) total += sums[threadIdx.y][row][threadIdx.x];
        partial[(Count(blockIdx.y) * K + threadIdx.y) * columns + column] = total;
    }
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
    unsigned losses;
    unsigned long long errors;
    double loss[RECORD_CAPACITY];
};

constexpr unsigned long long NOT_STOPPED = ~0ull;
constexpr unsigned long long STOP_LOSS = 0;
constexpr unsigned long long STOP_GRADIENT = 1;
constexpr unsigned long long STOP_SOLVE = 2;

__device__ bool is_stopped(const Record* record) { return record->stop != NOT_STOPPED; }

// Of several threads the smallest code wins, so that it does not depend on who comes first.
__device__ void stop(Record* record, unsigned long long why, unsigned parameter, unsigned group) {
    atomicMin(&record->stop, why << 60 | (unsigned long long)(parameter) << 30 | group);
}

__device__ bool is_finite(float x) { return (__float_as_uint(x) & 0x7f800000u) != 0x7f800000u; }
