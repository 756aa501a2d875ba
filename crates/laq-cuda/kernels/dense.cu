// Biases of dense layers, convolutions and LSTMs, and their gradients.
#include "common.cuh"

// Every row becomes the bias; the product is then added.
extern "C" __global__ void broadcast_bias(const float* bias, float* output, Count numel, unsigned columns) {
    for_each(numel, [&](auto i) { output[i] = bias[i % columns]; });
}

// Column sums of a chunk of rows. Grid: groups of columns by chunks.
extern "C" __global__ void column_sums(const float* values, double* partial, unsigned rows, unsigned columns,
                                       unsigned chunk) {
    const unsigned column = blockIdx.x * COLUMN_LANES + threadIdx.x;
    const unsigned end = min(rows, (blockIdx.y + 1) * chunk);
    double sums[1] = {};
    if (column < columns) {
        for (unsigned row = blockIdx.y * chunk + threadIdx.y; row < end; row += COLUMN_ROWS) {
            sums[0] += double(values[Count(row) * columns + column]);
        }
    }
    store_column_sums(sums, partial, columns);
}

// The sums of all chunks. Grid: groups of columns.
extern "C" __global__ void sum_chunks(const double* partial, unsigned chunks, unsigned columns, float* sums) {
    double total[1];
    load_column_sums(total, partial, chunks, columns);
    const unsigned column = blockIdx.x * COLUMN_LANES + threadIdx.x;
    if (threadIdx.y == 0 && column < columns) sums[column] = float(total[0]);
}
