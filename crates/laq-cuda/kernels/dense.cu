// What a dense layer, a convolution and an LSTM need beside products: biases and their gradients.
#include "common.cuh"

// Every row begins with the bias; the product is added.
extern "C" __global__ void spread_bias(const float* bias, float* output, Count count, unsigned columns) {
    FOR_EACH(i, count) output[i] = bias[i % columns];
}

constexpr int SUM_LANES = 32;
constexpr int SUM_ROWS = 8;

// The sums of a chunk of rows, column by column, in `partial[chunk][columns]`. Grid: groups of 32 columns by chunks.
extern "C" __global__ void column_sums(const float* values, double* partial, unsigned rows, unsigned columns,
                                       unsigned chunk) {
    SHARED(double, sums, [SUM_ROWS][SUM_LANES]);
    const unsigned column = blockIdx.x * SUM_LANES + threadIdx.x;
    const unsigned end = min(rows, (blockIdx.y + 1) * chunk);
    double sum = 0.0;
    if (column < columns) {
        for (unsigned row = blockIdx.y * chunk + threadIdx.y; row < end; row += SUM_ROWS) {
            sum += double(values[Count(row) * columns + column]);
        }
    }
    sums[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y == 0 && column < columns) {
        double total = 0.0;
        for (int row = 0; row < SUM_ROWS; ++row) total += sums[row][threadIdx.x];
        partial[Count(blockIdx.y) * columns + column] = total;
    }
}

// The chunks of a column added in order.
extern "C" __global__ void add_chunks(const double* partial, unsigned chunks, unsigned columns, float* sums) {
    FOR_EACH(column, columns) {
        double sum = 0.0;
        for (unsigned chunk = 0; chunk < chunks; ++chunk) sum += partial[Count(chunk) * columns + column];
        sums[column] = float(sum);
    }
}
