// Losses per row. A training loss overwrites the outputs with their gradient; `append_loss` averages the rows.
#include "common.cuh"

// One warp per row: -log softmax(y)[target], and (softmax(y) - onehot) / rows.
extern "C" __global__ void softmax_cross_entropy(const unsigned char* targets, float* logits, double* losses,
                                                 unsigned rows, unsigned classes) {
    const unsigned lane = threadIdx.x % 32, warps = gridDim.x * (blockDim.x / 32);
    for (unsigned row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32; row < rows; row += warps) {
        float* y = logits + Count(row) * classes;
        const unsigned target = targets[row];
        float largest = __uint_as_float(0xff800000u);  // -infinity
        for (unsigned c = lane; c < classes; c += 32) largest = fmaxf(largest, y[c]);
        for (int by = 16; by > 0; by /= 2) largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, by));
        const double of_target = double(y[target]) - double(largest);
        double sum = 0.0;
        for (unsigned c = lane; c < classes; c += 32) sum += double(expf(y[c] - largest));
        for (int by = 16; by > 0; by /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, by);
        // All lanes read the target's logit before one overwrites it.
        __syncwarp();
        const float weight = 1.0f / float(rows);
        const float factor = float(double(weight) / sum);
        for (unsigned c = lane; c < classes; c += 32) {
            y[c] = expf(y[c] - largest) * factor - (c == target ? weight : 0.0f);
        }
        if (lane == 0) losses[row] = log(sum) - of_target;
    }
}

// One warp per row: max(0, 1 - t y)² with t = 1 at the target and -1 elsewhere.
extern "C" __global__ void squared_hinge(const unsigned char* targets, float* outputs, double* losses, unsigned rows,
                                         unsigned classes) {
    const unsigned lane = threadIdx.x % 32, warps = gridDim.x * (blockDim.x / 32);
    const double count = double(rows) * double(classes);
    for (unsigned row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32; row < rows; row += warps) {
        float* y = outputs + Count(row) * classes;
        double sum = 0.0;
        for (unsigned c = lane; c < classes; c += 32) {
            const double t = c == targets[row] ? 1.0 : -1.0;
            double margin_violation = 1.0 - t * double(y[c]);
            // Unlike max, this keeps what is not finite.
            margin_violation = margin_violation < 0.0 && is_finite(y[c]) ? 0.0 : margin_violation;
            sum += margin_violation * margin_violation;
            y[c] = float(-2.0 * t * margin_violation / count);
        }
        for (int by = 16; by > 0; by /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, by);
        if (lane == 0) losses[row] = sum;
    }
}

// One warp per row, for evaluation: the loss, and 1 if the argmax (the first of equal values) is not the target.
extern "C" __global__ void evaluate_outputs(const unsigned char* targets, const float* outputs, double* losses,
                                            double* wrong, unsigned rows, unsigned classes, unsigned hinge) {
    const unsigned lane = threadIdx.x % 32, warps = gridDim.x * (blockDim.x / 32);
    for (unsigned row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32; row < rows; row += warps) {
        const float* y = outputs + Count(row) * classes;
        const unsigned target = targets[row];
        float largest = __uint_as_float(0xff800000u);
        unsigned argmax = 0;
        for (unsigned c = lane; c < classes; c += 32) {
            if (y[c] > largest) {
                largest = y[c];
                argmax = c;
            }
        }
        for (int by = 16; by > 0; by /= 2) {
            const float other = __shfl_xor_sync(0xffffffffu, largest, by);
            const unsigned there = __shfl_xor_sync(0xffffffffu, argmax, by);
            if (other > largest || (other == largest && there < argmax)) {
                largest = other;
                argmax = there;
            }
        }
        double sum = 0.0;
        for (unsigned c = lane; c < classes; c += 32) {
            if (hinge) {
                const double margin_violation = 1.0 - (c == target ? 1.0 : -1.0) * double(y[c]);
                // Unlike max, this keeps what is not finite.
                sum += margin_violation < 0.0 && is_finite(y[c]) ? 0.0 : margin_violation * margin_violation;
            } else {
                sum += exp(double(y[c]) - double(largest));
            }
        }
        for (int by = 16; by > 0; by /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, by);
        if (lane == 0) {
            losses[row] = hinge ? sum / classes : log(sum) + double(largest) - double(y[target]);
            wrong[row] = argmax == target ? 0.0 : 1.0;
        }
    }
}

// One block: appends `factor` times the sum of `values` to the log; in an evaluation, adds the sum of `wrong` to its errors.
extern "C" __global__ void append_loss(const double* values, const double* wrong, Count numel, double factor,
                                     StepLog* log) {
    if (is_stopped(log)) return;
    double sums[2] = {};
    for (Count i = threadIdx.x; i < numel; i += blockDim.x) {
        sums[0] += values[i];
        if (wrong) sums[1] += wrong[i];
    }
    block_sums(sums);
    if (threadIdx.x != 0) return;
    const double loss = sums[0] * factor;
    if (log->losses < LOG_CAPACITY) log->loss[log->losses++] = loss;
    log->errors += unsigned(sums[1]);
    // x - x is NaN for NaN and infinity.
    if (!(loss - loss == 0.0)) stop(log, STOP_LOSS, 0, 0);
}
