// All parameters of a network at once: the look for gradients that are not finite, and Adam. A block has a piece of one
// parameter. Compiled without fusing products and sums, so that Adam gives the bits of the CPU backend.
#include "common.cuh"

// `PIECE` and the layout stand in `src/backend/update.rs` too.
constexpr Count PIECE = 4096;

struct Update {
    const float* gradient;
    float* weight;
    float* first;
    float* second;
    Count count;
    float limit;
    unsigned first_block;
};

static_assert(sizeof(Update) == 48, "as the host has it");

// Calls `each` with the index of every number of the block's piece.
template <class Each>
__device__ void for_piece(const Update& update, const Each& each) {
    const Count begin = Count(blockIdx.x - update.first_block) * PIECE;
    const Count end = begin + PIECE < update.count ? begin + PIECE : update.count;
    for (Count i = begin + threadIdx.x; i < end; i += blockDim.x) each(i);
}

extern "C" __global__ void check_gradients(const Update* updates, const unsigned* update_of_block, Record* record) {
    const unsigned parameter = update_of_block[blockIdx.x];
    const Update& update = updates[parameter];
    bool good = true;
    for_piece(update, [&](Count i) { good = good && is_finite(update.gradient[i]); });
    if (!good) stop(record, STOP_GRADIENT, parameter, 0);
}

// Rates as the host has rounded them. Nothing is changed once the record is stopped.
extern "C" __global__ void adam(const Update* updates, const unsigned* update_of_block, const Record* record, float beta1,
                                float rest1, float beta2, float rest2, float epsilon) {
    if (is_stopped(record)) return;
    const Update update = updates[update_of_block[blockIdx.x]];
    const float size = record->step_size, limit = update.limit;
    for_piece(update, [&](Count i) {
        const float g = update.gradient[i];
        const float m = beta1 * update.first[i] + rest1 * g;
        const float v = beta2 * update.second[i] + rest2 * (g * g);
        update.first[i] = m;
        update.second[i] = v;
        const float moved = update.weight[i] - size * m / (sqrtf(v) + epsilon);
        update.weight[i] = moved < -limit ? -limit : moved > limit ? limit : moved;
    });
}
