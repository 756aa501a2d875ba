// Batch normalization fused with ReLU, of a rows x channels matrix. Sums are in f64 per chunk of rows, and chunks are summed in
// order: the same bits on every run.
#include "common.cuh"

// Σ x and Σ x² over rows of a channel.
__device__ void add_sums(double (&sums)[2], const float* input, unsigned begin, unsigned end, unsigned channels,
                            unsigned channel) {
    if (channel >= channels) return;
    for (unsigned row = begin + threadIdx.y; row < end; row += COLUMN_ROWS) {
        const double x = input[Count(row) * channels + channel];
        sums[0] += x;
        sums[1] += x * x;
    }
}

// Σ x and Σ x² of each chunk. Grid: groups of channels by chunks.
extern "C" __global__ void batch_norm_sums(const float* input, double* partial, unsigned rows, unsigned channels,
                                        unsigned chunk) {
    const unsigned channel = blockIdx.x * COLUMN_LANES + threadIdx.x;
    double sums[2] = {};
    add_sums(sums, input, blockIdx.y * chunk, min(rows, (blockIdx.y + 1) * chunk), channels, channel);
    store_column_sums(sums, partial, channels);
}

// The coefficients of a linear function.
struct Line {
    float factor, offset;
};

__device__ Line line_of(double mean, double variance, float scale, float shift, float epsilon) {
    const double by = double(scale) / sqrt(variance + double(epsilon));
    return {float(by), float(double(shift) - mean * by)};
}

// The results of a forward pass per channel.
struct Statistics {
    double* mean;
    double* variance;
    float* factor;
    float* offset;
};

// Mean, variance and coefficients of a channel from its sums; the same for all threads of a channel.
__device__ Line store_statistics(const double (&sums)[2], const float* scale, const float* shift, const Statistics& statistics, unsigned rows,
                             unsigned channel, float epsilon) {
    const double mu = sums[0] / rows;
    const double difference = sums[1] / rows - mu * mu;
    // Unlike max, this propagates NaN.
    const double sigma = difference < 0.0 ? 0.0 : difference;
    const Line line = line_of(mu, sigma, scale[channel], shift[channel], epsilon);
    if (threadIdx.y == 0) {
        statistics.mean[channel] = mu;
        statistics.variance[channel] = sigma;
        statistics.factor[channel] = line.factor;
        statistics.offset[channel] = line.offset;
    }
    return line;
}

__device__ float normalized(float x, Line line, unsigned relu) {
    const float y = x * line.factor + line.offset;
    return relu && y < 0.0f ? 0.0f : y;
}

// Grid: groups of channels.
extern "C" __global__ void batch_norm_coefficients(const double* partial, unsigned chunks, const float* scale, const float* shift,
                                        double* mean, double* variance, float* factor, float* offset, unsigned rows,
                                        unsigned channels, float epsilon) {
    double sums[2];
    load_column_sums(sums, partial, chunks, channels);
    const unsigned channel = blockIdx.x * COLUMN_LANES + threadIdx.x;
    if (channel < channels) store_statistics(sums, scale, shift, {mean, variance, factor, offset}, rows, channel, epsilon);
}

// The forward pass for one chunk of rows. Grid: groups of channels.
extern "C" __global__ void batch_norm_fused(const float* input, const float* scale, const float* shift, double* mean,
                                      double* variance, float* factor, float* offset, float* output, unsigned rows,
                                      unsigned channels, float epsilon, unsigned relu) {
    const unsigned channel = blockIdx.x * COLUMN_LANES + threadIdx.x;
    double sums[2] = {};
    add_sums(sums, input, 0, rows, channels, channel);
    column_totals(sums);
    if (channel >= channels) return;
    const Line line = store_statistics(sums, scale, shift, {mean, variance, factor, offset}, rows, channel, epsilon);
    for (unsigned row = threadIdx.y; row < rows; row += COLUMN_ROWS) {
        const Count at = Count(row) * channels + channel;
        output[at] = normalized(input[at], line, relu);
    }
}

// Coefficients from the running statistics.
extern "C" __global__ void batch_norm_running_coefficients(const float* mean, const float* variance, const float* scale,
                                                const float* shift, float* factor, float* offset, unsigned channels,
                                                float epsilon) {
    for_each(channels, [&](auto c) {
        const Line line = line_of(double(mean[c]), double(variance[c]), scale[c], shift[c], epsilon);
        factor[c] = line.factor;
        offset[c] = line.offset;
    });
}

extern "C" __global__ void batch_norm_apply(const float* input, const float* factor, const float* offset, float* output,
                                      Count numel, unsigned channels, unsigned relu) {
    for_each(numel, [&](auto i) {
        const unsigned c = unsigned(i % channels);
        output[i] = normalized(input[i], {factor[c], offset[c]}, relu);
    });
}

// Σ dy and Σ dy x over rows of a channel; with ReLU, over those with y > 0.
__device__ void add_backward_sums(double (&sums)[2], const float* input, const float* gradient, Line line, unsigned begin,
                             unsigned end, unsigned channels, unsigned channel, unsigned relu) {
    for (unsigned row = begin + threadIdx.y; row < end; row += COLUMN_ROWS) {
        const Count at = Count(row) * channels + channel;
        const float x = input[at];
        if (relu && !(x * line.factor + line.offset > 0.0f)) continue;
        const double g = gradient[at];
        sums[0] += g;
        sums[1] += g * double(x);
    }
}

// Σ dy and Σ dy x of each chunk. Grid: groups of channels by chunks.
extern "C" __global__ void batch_norm_backward_sums(const float* input, const float* gradient, const float* factor,
                                         const float* offset, double* partial, unsigned rows, unsigned channels,
                                         unsigned chunk, unsigned relu) {
    const unsigned channel = blockIdx.x * COLUMN_LANES + threadIdx.x;
    double sums[2] = {};
    if (channel < channels) {
        const Line line = {factor[channel], offset[channel]};
        add_backward_sums(sums, input, gradient, line, blockIdx.y * chunk, min(rows, (blockIdx.y + 1) * chunk), channels, channel,
                     relu);
    }
    store_column_sums(sums, partial, channels);
}

// The gradients of scale and shift of a channel from its sums, and slope and base of dx = dy * factor + x * slope + base; the
// same for all threads of a channel.
__device__ Line store_gradients(const double (&sums)[2], const float* scale, const double* mean, const double* variance,
                            float* scale_gradient, float* shift_gradient, unsigned rows, unsigned c, float epsilon) {
    const double r = 1.0 / sqrt(variance[c] + double(epsilon));
    const double of_scale = (sums[1] - mean[c] * sums[0]) * r;
    const double gain = double(scale[c]) * r;
    const double of_input = -gain * r * of_scale / rows;
    if (threadIdx.y == 0) {
        scale_gradient[c] = float(of_scale);
        shift_gradient[c] = float(sums[0]);
    }
    return {float(of_input), float(-gain * sums[0] / rows - of_input * mean[c])};
}

// dx from dy, x, and the coefficients of y and dx.
__device__ float input_gradient(float gradient, float x, Line line, Line slope, unsigned relu) {
    const float g = relu && !(x * line.factor + line.offset > 0.0f) ? 0.0f : gradient;
    return g * line.factor + x * slope.factor + slope.offset;
}

// Grid: groups of channels.
extern "C" __global__ void batch_norm_backward_coefficients(const double* partial, unsigned chunks, const float* scale, const double* mean,
                                       const double* variance, float* scale_gradient, float* shift_gradient,
                                       float* slope, float* base, unsigned rows, unsigned channels, float epsilon) {
    double sums[2];
    load_column_sums(sums, partial, chunks, channels);
    const unsigned c = blockIdx.x * COLUMN_LANES + threadIdx.x;
    if (c >= channels) return;
    const Line line = store_gradients(sums, scale, mean, variance, scale_gradient, shift_gradient, rows, c, epsilon);
    if (threadIdx.y == 0) {
        slope[c] = line.factor;
        base[c] = line.offset;
    }
}

extern "C" __global__ void batch_norm_backward_apply(const float* input, const float* factor, const float* offset, const float* slope,
                                        const float* base, float* gradient, Count numel, unsigned channels,
                                        unsigned relu) {
    for_each(numel, [&](auto i) {
        const unsigned c = unsigned(i % channels);
        gradient[i] = input_gradient(gradient[i], input[i], {factor[c], offset[c]}, {slope[c], base[c]}, relu);
    });
}

// The backward pass for one chunk of rows. Grid: groups of channels.
extern "C" __global__ void batch_norm_backward_fused(const float* input, const float* factor, const float* offset,
                                               const float* scale, const double* mean, const double* variance,
                                               float* scale_gradient, float* shift_gradient, float* gradient,
                                               unsigned rows, unsigned channels, float epsilon, unsigned relu) {
    const unsigned c = blockIdx.x * COLUMN_LANES + threadIdx.x;
    Line line = {0.0f, 0.0f};
    double sums[2] = {};
    if (c < channels) {
        line = {factor[c], offset[c]};
        add_backward_sums(sums, input, gradient, line, 0, rows, channels, c, relu);
    }
    column_totals(sums);
    if (c >= channels) return;
    const Line slope = store_gradients(sums, scale, mean, variance, scale_gradient, shift_gradient, rows, c, epsilon);
    for (unsigned row = threadIdx.y; row < rows; row += COLUMN_ROWS) {
        const Count at = Count(row) * channels + c;
        gradient[at] = input_gradient(gradient[at], input[at], line, slope, relu);
    }
}

// Moves the running statistics towards those of the batch. No effect if the log is stopped.
extern "C" __global__ void update_running_stats(const StepLog* log, const double* batch_mean, const double* batch_variance,
                                        float* mean, float* variance, unsigned rows, unsigned channels, float momentum) {
    if (is_stopped(log)) return;
    const double old = 1.0 - double(momentum), by = double(momentum);
    const double unbiased = double(rows) / double(rows > 1 ? rows - 1 : 1);
    for_each(channels, [&](auto c) {
        mean[c] = float(old * double(mean[c]) + by * batch_mean[c]);
        variance[c] = float(fmin(old * double(variance[c]) + by * unbiased * batch_variance[c], LARGEST_FLOAT));
    });
}
