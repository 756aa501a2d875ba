// Batch normalization with ReLU behind it, over a matrix of `rows` by `channels`. Sums are in f64, chunk of rows by chunk
// of rows, and the chunks are added in order: the same bits on every run.
#include "common.cuh"

// Sum of x and of x² of each chunk. Grid: groups of channels by chunks.
extern "C" __global__ void norm_moments(const float* input, double* partial, unsigned rows, unsigned channels,
                                        unsigned chunk) {
    const unsigned channel = blockIdx.x * COLUMN_LANES + threadIdx.x;
    const unsigned end = min(rows, (blockIdx.y + 1) * chunk);
    double sums[2] = {};
    if (channel < channels) {
        for (unsigned row = blockIdx.y * chunk + threadIdx.y; row < end; row += COLUMN_ROWS) {
            const double x = input[Count(row) * channels + channel];
            sums[0] += x;
            sums[1] += x * x;
        }
    }
    store_column_sums(sums, partial, channels);
}

__device__ void norm_total(const double* partial, unsigned chunks, unsigned channels, unsigned channel, double* sum,
                           double* other) {
    *sum = *other = 0.0;
    for (unsigned chunk = 0; chunk < chunks; ++chunk) {
        *sum += partial[(Count(chunk) * 2) * channels + channel];
        *other += partial[(Count(chunk) * 2 + 1) * channels + channel];
    }
}

// Mean and variance of each channel, and with them y = x * factor + offset.
extern "C" __global__ void norm_factors(const double* partial, unsigned chunks, const float* scale, const float* shift,
                                        double* mean, double* variance, float* factor, float* offset, unsigned rows,
                                        unsigned channels, float epsilon) {
    FOR_EACH(c, channels) {
        double sum, squares;
        norm_total(partial, chunks, channels, unsigned(c), &sum, &squares);
        const double mu = sum / rows;
        const double difference = squares / rows - mu * mu;
        // Unlike max, this keeps a NaN.
        const double sigma = difference < 0.0 ? 0.0 : difference;
        const double by = double(scale[c]) / sqrt(sigma + double(epsilon));
        mean[c] = mu;
        variance[c] = sigma;
        factor[c] = float(by);
        offset[c] = float(double(shift[c]) - mu * by);
    }
}

// The same from running averages.
extern "C" __global__ void norm_running_factors(const float* mean, const float* variance, const float* scale,
                                                const float* shift, float* factor, float* offset, unsigned channels,
                                                float epsilon) {
    FOR_EACH(c, channels) {
        const double by = double(scale[c]) / sqrt(double(variance[c]) + double(epsilon));
        factor[c] = float(by);
        offset[c] = float(double(shift[c]) - double(mean[c]) * by);
    }
}

extern "C" __global__ void norm_apply(const float* input, const float* factor, const float* offset, float* output,
                                      Count count, unsigned channels, unsigned relu) {
    FOR_EACH(i, count) {
        const unsigned c = unsigned(i % channels);
        const float y = input[i] * factor[c] + offset[c];
        output[i] = relu && y < 0.0f ? 0.0f : y;
    }
}

// Sum of dy and of dy * x of each chunk, with ReLU only where it let y through.
extern "C" __global__ void norm_products(const float* input, const float* gradient, const float* factor,
                                         const float* offset, double* partial, unsigned rows, unsigned channels,
                                         unsigned chunk, unsigned relu) {
    const unsigned channel = blockIdx.x * COLUMN_LANES + threadIdx.x;
    const unsigned end = min(rows, (blockIdx.y + 1) * chunk);
    double sums[2] = {};
    if (channel < channels) {
        const float by = factor[channel], plus = offset[channel];
        for (unsigned row = blockIdx.y * chunk + threadIdx.y; row < end; row += COLUMN_ROWS) {
            const Count at = Count(row) * channels + channel;
            const float x = input[at];
            if (relu && !(x * by + plus > 0.0f)) continue;
            const double g = gradient[at];
            sums[0] += g;
            sums[1] += g * double(x);
        }
    }
    store_column_sums(sums, partial, channels);
}

// Gradients of scale and shift, and with them dx = dy * factor + x * slope + base.
extern "C" __global__ void norm_slopes(const double* partial, unsigned chunks, const float* scale, const double* mean,
                                       const double* variance, float* scale_gradient, float* shift_gradient,
                                       float* slope, float* base, unsigned rows, unsigned channels, float epsilon) {
    FOR_EACH(c, channels) {
        double sum, with_input;
        norm_total(partial, chunks, channels, unsigned(c), &sum, &with_input);
        const double r = 1.0 / sqrt(variance[c] + double(epsilon));
        const double of_scale = (with_input - mean[c] * sum) * r;
        const double gain = double(scale[c]) * r;
        const double of_input = -gain * r * of_scale / rows;
        scale_gradient[c] = float(of_scale);
        shift_gradient[c] = float(sum);
        slope[c] = float(of_input);
        base[c] = float(-gain * sum / rows - of_input * mean[c]);
    }
}

extern "C" __global__ void norm_through(const float* input, const float* factor, const float* offset, const float* slope,
                                        const float* base, float* gradient, Count count, unsigned channels,
                                        unsigned relu) {
    FOR_EACH(i, count) {
        const unsigned c = unsigned(i % channels);
        const float x = input[i];
        const float g = relu && !(x * factor[c] + offset[c] > 0.0f) ? 0.0f : gradient[i];
        gradient[i] = g * factor[c] + x * slope[c] + base[c];
    }
}

// Moves the running averages towards the batch; nothing once the record is stopped.
extern "C" __global__ void norm_average(const Record* record, const double* batch_mean, const double* batch_variance,
                                        float* mean, float* variance, unsigned rows, unsigned channels, float factor) {
    if (is_stopped(record)) return;
    const double old = 1.0 - double(factor), by = double(factor);
    const double unbiased = double(rows) / double(rows > 1 ? rows - 1 : 1);
    FOR_EACH(c, channels) {
        mean[c] = float(old * double(mean[c]) + by * batch_mean[c]);
        variance[c] = float(old * double(variance[c]) + by * unbiased * batch_variance[c]);
    }
}
