// All parameters of a network in one launch: the check of the gradients, and Adam. A block has a piece of one parameter.
// Compiled without fused multiply-add, so that Adam gives the bits of the CPU backend.
#include "common.cuh"

struct Update {
    const float* gradient;
    float* weight;
    float* first_moment;
    float* second_moment;
    Count numel;
    float clip;
    unsigned first_block;
};

// Calls `each` with the index of every element of the block's piece.
template <class Each>
__device__ void for_piece(const Update& update, const Each& each) {
    const Count begin = Count(blockIdx.x - update.first_block) * UPDATE_BLOCK;
    const Count end = begin + UPDATE_BLOCK < update.numel ? begin + UPDATE_BLOCK : update.numel;
    for (Count i = begin + threadIdx.x; i < end; i += blockDim.x) each(i);
}

extern "C" __global__ void check_gradients(const Update* updates, const unsigned* update_of_block, StepLog* log) {
    const unsigned parameter = update_of_block[blockIdx.x];
    const Update& update = updates[parameter];
    bool bounded = true;
    for_piece(update, [&](Count i) { bounded = bounded && fabsf(update.gradient[i]) < LARGEST_GRADIENT; });
    if (!bounded) stop(log, STOP_GRADIENT, parameter, 0);
}

// The host rounds the rates. No effect if the log is stopped.
extern "C" __global__ void adam(const Update* updates, const unsigned* update_of_block, const StepLog* log, float beta1,
                                float one_minus_beta1, float beta2, float one_minus_beta2, float epsilon) {
    if (is_stopped(log)) return;
    const Update update = updates[update_of_block[blockIdx.x]];
    const float size = log->step_size, clip = update.clip;
    for_piece(update, [&](Count i) {
        const float g = update.gradient[i];
        const float m = beta1 * update.first_moment[i] + one_minus_beta1 * g;
        const float v = beta2 * update.second_moment[i] + one_minus_beta2 * (g * g);
        update.first_moment[i] = m;
        update.second_moment[i] = v;
        const float moved = update.weight[i] - size * m / (sqrtf(v) + epsilon);
        update.weight[i] = moved < -clip ? -clip : moved > clip ? clip : moved;
    });
}
