// What a dense layer, a convolution and an LSTM need beside products: biases and their gradients.
#include "common.cuh"

// Every row begins with the bias; the product is added.
extern "C" __global__ void spread_bias(const float* bias, float* output, Count count, unsigned columns) {
    FOR_EACH(i, count) output[i] = bias[i % columns];
}

// The sums of a chunk of rows. Grid: groups of columns by chunks.
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

// The chunks of a column added in order.
extern "C" __global__ void add_chunks(const double* partial, unsigned chunks, unsigned columns, float* sums) {
    FOR_EACH(column, columns) {
        double sum = 0.0;
        for (unsigned chunk = 0; chunk < chunks; ++chunk) sum += partial[Count(chunk) * columns + column];
        sums[column] = float(sum);
    }
}
