// An LSTM over a whole sequence in one cooperative kernel, forward and backward, with products in TF32.
//
// A block computes UNITS units (4 UNITS rows of W_h) of a slice of SEQUENCES sequences for all time steps, with its rows of W_h
// in registers. The blocks of a slice exchange results through global memory once per time step and wait for each other, so all
// blocks must be resident together.
#include "lstm.cuh"

constexpr unsigned SEQUENCE_WARPS = 8;
// A tile of a product: 16 sequences by 8 columns by 8 terms.
constexpr unsigned TILE_ROWS = 16, TILE_COLUMNS = 8;
constexpr unsigned ROW_TILES = SEQUENCES / TILE_ROWS;
// The pre-activations of a block: its units, gate by gate.
constexpr unsigned COLUMNS = 4 * UNITS;
constexpr unsigned COLUMN_TILES = COLUMNS / TILE_COLUMNS;
// Row lengths in shared memory that avoid most bank conflicts.
constexpr unsigned SUM_STRIDE = COLUMNS + 8, FACTOR_STRIDE = COLUMNS + 4;

#ifndef TENSOR_CORES
// Rounds to TF32.
__device__ unsigned to_tf32(float x) {
    unsigned bits;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
    return bits;
}

// C += A B. With g = lane / 4 and t = lane % 4 a lane holds a[0..3] = A[g][t], A[g + 8][t], A[g][t + 4], A[g + 8][t + 4],
// b[0..1] = B[t][g], B[t + 4][g], and c[0..3] = C[g][2 t], C[g][2 t + 1], C[g + 8][2 t], C[g + 8][2 t + 1].
__device__ void multiply_tile(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Loads what other blocks wrote during this launch, and so bypasses the L1 cache.
__device__ void load_fresh(float (&to)[2], const float* from) {
    asm volatile("ld.global.cg.v2.f32 {%0, %1}, [%2];" : "=f"(to[0]), "=f"(to[1]) : "l"(from) : "memory");
}

__device__ void load_fresh(float (&to)[4], const float* from) {
    asm volatile("ld.global.cg.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(to[0]), "=f"(to[1]), "=f"(to[2]), "=f"(to[3])
                 : "l"(from)
                 : "memory");
}

__device__ void yield_block() {}
#endif

// Stores two adjacent values at once, at an address aligned to eight bytes.
struct alignas(8) Two {
    float x, y;
};

__device__ void store(float* to, float x, float y) { *(Two*)(to) = {x, y}; }

// Publishes what this block wrote to the blocks that wait for it.
__device__ void arrive(unsigned* arrived) {
    __syncthreads();
    if (threadIdx.x == 0) {
        __threadfence();
        atomicAdd(arrived, 1u);
    }
}

// Waits until `count` blocks have arrived.
__device__ void wait_for(const unsigned* arrived, unsigned count) {
    if (threadIdx.x == 0) {
        while (*(const volatile unsigned*)(arrived) < count) yield_block();
        __threadfence();
    }
    __syncthreads();
}

// The last block of a launch resets the counters for the next.
__device__ void leave(unsigned* left, unsigned* arrived, unsigned blocks) {
    if (threadIdx.x == 0 && atomicAdd(left, 1u) + 1 == blocks) {
        *arrived = 0;
        *left = 0;
    }
}

// The elements of a thread for all time steps: two adjacent units of one sequence.
struct Owned {
    unsigned sequence, unit;
    // Whether the sequence exists, and the position within the block.
    bool exists;
    unsigned row, column;
};

__device__ Owned owned(unsigned batch) {
    const unsigned row = threadIdx.x / (UNITS / 2), column = 2 * (threadIdx.x % (UNITS / 2));
    const unsigned sequence = blockIdx.y * SEQUENCES + row;
    return {sequence, blockIdx.x * UNITS + column, sequence < batch, row, column};
}

// The row of W_h of column `column` of the block.
template <unsigned HIDDEN>
__device__ unsigned gate_row(unsigned column) {
    return column / UNITS * HIDDEN + blockIdx.x * UNITS + column % UNITS;
}

// Forward. Every warp has an eighth of the terms of the products; shared memory sums the warps.
template <unsigned HIDDEN>
__device__ void sequence_forward(const unsigned char* tokens, const float* table, const float* weight_hh, float* gates,
                                 float* cells, float* states, unsigned* counters, unsigned length, unsigned batch) {
    constexpr unsigned TERMS = HIDDEN / SEQUENCE_WARPS, CHUNKS = TERMS / 16;
    const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
    unsigned* arrived = counters + 2 * blockIdx.y;
    // Of 16 terms a lane has four adjacent ones; the order of terms within a tile is free as long as both factors agree.
    unsigned weight[CHUNKS][COLUMN_TILES][4];
    UNROLL for (unsigned chunk = 0; chunk < CHUNKS; ++chunk) {
        UNROLL for (unsigned tile = 0; tile < COLUMN_TILES; ++tile) {
            const unsigned row = gate_row<HIDDEN>(tile * TILE_COLUMNS + g);
            const float* from = weight_hh + Count(row) * HIDDEN + warp * TERMS + 16 * chunk + 4 * t;
            UNROLL for (unsigned k = 0; k < 4; ++k) weight[chunk][tile][k] = to_tf32(from[k]);
        }
    }
    SHARED(float, sums, [SEQUENCE_WARPS / 2][SEQUENCES][SUM_STRIDE]);
    const Owned own = owned(batch);
    float cell[2] = {0.0f, 0.0f};
    for (unsigned time = 0; time < length; ++time) {
        if (time > 0) {
            wait_for(arrived, time * gridDim.x);
            float c[ROW_TILES][COLUMN_TILES][4] = {};
            UNROLL for (unsigned chunk = 0; chunk < CHUNKS; ++chunk) {
                UNROLL for (unsigned tile_row = 0; tile_row < ROW_TILES; ++tile_row) {
                    float x[2][4] = {};
                    UNROLL for (unsigned half = 0; half < 2; ++half) {
                        const unsigned sequence = blockIdx.y * SEQUENCES + tile_row * TILE_ROWS + g + 8 * half;
                        const Count before = Count(time - 1) * batch + sequence;
                        if (sequence < batch) {
                            load_fresh(x[half], states + before * HIDDEN + warp * TERMS + 16 * chunk + 4 * t);
                        }
                    }
                    UNROLL for (unsigned step = 0; step < 2; ++step) {
                        const unsigned a[4] = {to_tf32(x[0][2 * step]), to_tf32(x[1][2 * step]), to_tf32(x[0][2 * step + 1]),
                                               to_tf32(x[1][2 * step + 1])};
                        UNROLL for (unsigned tile = 0; tile < COLUMN_TILES; ++tile) {
                            const unsigned b[2] = {weight[chunk][tile][2 * step], weight[chunk][tile][2 * step + 1]};
                            multiply_tile(c[tile_row][tile], a, b);
                        }
                    }
                }
            }
            // The upper half of the warps stores its sums, and the lower half adds them.
            for (unsigned turn = 0; turn < 2; ++turn) {
                if ((warp >= SEQUENCE_WARPS / 2) == (turn == 0)) {
                    UNROLL for (unsigned tile_row = 0; tile_row < ROW_TILES; ++tile_row) {
                        UNROLL for (unsigned tile = 0; tile < COLUMN_TILES; ++tile) {
                            UNROLL for (unsigned k = 0; k < 4; ++k) {
                                float* sum = &sums[warp % (SEQUENCE_WARPS / 2)][tile_row * TILE_ROWS + g + k / 2 * 8]
                                                  [tile * TILE_COLUMNS + 2 * t + k % 2];
                                *sum = turn == 0 ? c[tile_row][tile][k] : *sum + c[tile_row][tile][k];
                            }
                        }
                    }
                }
                __syncthreads();
            }
        }
        if (own.exists) {
            const Count row = Count(time) * batch + own.sequence;
            const float* from = table + Count(tokens[row]) * 4 * HIDDEN + own.unit;
            float x[2][4], shown[2];
            UNROLL for (unsigned k = 0; k < 2; ++k) {
                UNROLL for (unsigned gate = 0; gate < 4; ++gate) {
                    x[k][gate] = from[gate * HIDDEN + k];
                    if (time == 0) continue;
                    float sum = 0.0f;
                    UNROLL for (unsigned part = 0; part < SEQUENCE_WARPS / 2; ++part) {
                        sum += sums[part][own.row][gate * UNITS + own.column + k];
                    }
                    x[k][gate] += sum;
                }
                shown[k] = cell_forward(x[k], cell[k]);
            }
            float* to = gates + row * 4 * HIDDEN + own.unit;
            UNROLL for (unsigned gate = 0; gate < 4; ++gate) store(to + gate * HIDDEN, x[0][gate], x[1][gate]);
            store(cells + row * HIDDEN + own.unit, cell[0], cell[1]);
            store(states + row * HIDDEN + own.unit, shown[0], shown[1]);
        }
        if (time + 1 < length) arrive(arrived);
    }
    leave(arrived + 1, arrived, gridDim.x);
}

// Backward: `gates` become the clipped gradients of the pre-activations. Every warp has an eighth of the columns of the
// products, the contributions of the block's units to the gradients of the previous hidden state. They go to `partial`
// ([2][blocks of units][batch][HIDDEN], alternating between time steps); their readers sum them in order.
template <unsigned HIDDEN>
__device__ void sequence_backward(const float* weight_hh, float* gates, const float* cells, const float* state_gradient,
                                  float* partial, unsigned* counters, float clip, unsigned length, unsigned batch) {
    constexpr unsigned OWN_COLUMNS = HIDDEN / SEQUENCE_WARPS, TILES = OWN_COLUMNS / TILE_COLUMNS, STEPS = COLUMNS / 8;
    const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
    unsigned* arrived = counters + 2 * blockIdx.y;
    unsigned weight[STEPS][TILES][2];
    UNROLL for (unsigned step = 0; step < STEPS; ++step) {
        UNROLL for (unsigned tile = 0; tile < TILES; ++tile) {
            UNROLL for (unsigned half = 0; half < 2; ++half) {
                const unsigned row = gate_row<HIDDEN>(8 * step + 4 * half + t);
                const unsigned column = warp * OWN_COLUMNS + tile * TILE_COLUMNS + g;
                weight[step][tile][half] = to_tf32(weight_hh[Count(row) * HIDDEN + column]);
            }
        }
    }
    SHARED(float, factors, [SEQUENCES][FACTOR_STRIDE]);
    const Owned own = owned(batch);
    const Count buffer_size = Count(gridDim.x) * batch * HIDDEN;
    float dc_next[2] = {0.0f, 0.0f};
    for (unsigned time = length; time-- > 0;) {
        const bool last = time + 1 == length;
        if (!last) wait_for(arrived, (length - 1 - time) * gridDim.x);
        if (own.exists) {
            const Count row = Count(time) * batch + own.sequence;
            float dh[2] = {state_gradient[row * HIDDEN + own.unit], state_gradient[row * HIDDEN + own.unit + 1]};
            if (!last) {
                const float* part = partial + (time + 1) % 2 * buffer_size + Count(own.sequence) * HIDDEN + own.unit;
                for (unsigned block = 0; block < gridDim.x; block += 8) {
                    float found[8][2];
                    UNROLL for (unsigned k = 0; k < 8; ++k) load_fresh(found[k], part + Count(block + k) * batch * HIDDEN);
                    UNROLL for (unsigned k = 0; k < 8; ++k) {
                        dh[0] += found[k][0];
                        dh[1] += found[k][1];
                    }
                }
            }
            float* a = gates + row * 4 * HIDDEN + own.unit;
            UNROLL for (unsigned k = 0; k < 2; ++k) {
                float x[4];
                UNROLL for (unsigned gate = 0; gate < 4; ++gate) x[gate] = a[gate * HIDDEN + k];
                const float previous_cell = time == 0 ? 0.0f : cells[(row - batch) * HIDDEN + own.unit + k];
                cell_backward(x, previous_cell, cells[row * HIDDEN + own.unit + k], dh[k], dc_next[k], clip);
                UNROLL for (unsigned gate = 0; gate < 4; ++gate) {
                    a[gate * HIDDEN + k] = x[gate];
                    factors[own.row][gate * UNITS + own.column + k] = x[gate];
                }
            }
        } else {
            UNROLL for (unsigned gate = 0; gate < 4; ++gate) {
                UNROLL for (unsigned k = 0; k < 2; ++k) factors[own.row][gate * UNITS + own.column + k] = 0.0f;
            }
        }
        if (time == 0) break;
        __syncthreads();
        float* part = partial + time % 2 * buffer_size + Count(blockIdx.x) * batch * HIDDEN;
        UNROLL for (unsigned tile_row = 0; tile_row < ROW_TILES; ++tile_row) {
            float c[TILES][4] = {};
            UNROLL for (unsigned step = 0; step < STEPS; ++step) {
                unsigned a[4];
                UNROLL for (unsigned k = 0; k < 4; ++k) {
                    a[k] = to_tf32(factors[tile_row * TILE_ROWS + g + k % 2 * 8][8 * step + k / 2 * 4 + t]);
                }
                UNROLL for (unsigned tile = 0; tile < TILES; ++tile) multiply_tile(c[tile], a, weight[step][tile]);
            }
            UNROLL for (unsigned half = 0; half < 2; ++half) {
                const unsigned sequence = blockIdx.y * SEQUENCES + tile_row * TILE_ROWS + g + 8 * half;
                if (sequence >= batch) continue;
                float* to = part + Count(sequence) * HIDDEN + warp * OWN_COLUMNS + 2 * t;
                UNROLL for (unsigned tile = 0; tile < TILES; ++tile) {
                    store(to + tile * TILE_COLUMNS, c[tile][2 * half], c[tile][2 * half + 1]);
                }
            }
        }
        arrive(arrived);
    }
    leave(arrived + 1, arrived, gridDim.x);
}

// Grid: groups of UNITS units by slices of SEQUENCES sequences. `counters` holds two values per slice, zero before and after.
extern "C" __global__ void lstm_sequence_128(const unsigned char* tokens, const float* table, const float* weight_hh,
                                             float* gates, float* cells, float* states, unsigned* counters, unsigned length,
                                             unsigned batch) {
    sequence_forward<128>(tokens, table, weight_hh, gates, cells, states, counters, length, batch);
}

extern "C" __global__ void lstm_sequence_256(const unsigned char* tokens, const float* table, const float* weight_hh,
                                             float* gates, float* cells, float* states, unsigned* counters, unsigned length,
                                             unsigned batch) {
    sequence_forward<256>(tokens, table, weight_hh, gates, cells, states, counters, length, batch);
}

extern "C" __global__ void lstm_sequence_512(const unsigned char* tokens, const float* table, const float* weight_hh,
                                             float* gates, float* cells, float* states, unsigned* counters, unsigned length,
                                             unsigned batch) {
    sequence_forward<512>(tokens, table, weight_hh, gates, cells, states, counters, length, batch);
}

extern "C" __global__ void lstm_sequence_backward_128(const float* weight_hh, float* gates, const float* cells,
                                                      const float* state_gradient, float* partial, unsigned* counters,
                                                      float clip, unsigned length, unsigned batch) {
    sequence_backward<128>(weight_hh, gates, cells, state_gradient, partial, counters, clip, length, batch);
}

extern "C" __global__ void lstm_sequence_backward_256(const float* weight_hh, float* gates, const float* cells,
                                                      const float* state_gradient, float* partial, unsigned* counters,
                                                      float clip, unsigned length, unsigned batch) {
    sequence_backward<256>(weight_hh, gates, cells, state_gradient, partial, counters, clip, length, batch);
}

extern "C" __global__ void lstm_sequence_backward_512(const float* weight_hh, float* gates, const float* cells,
                                                      const float* state_gradient, float* partial, unsigned* counters,
                                                      float clip, unsigned length, unsigned batch) {
    sequence_backward<512>(weight_hh, gates, cells, state_gradient, partial, counters, clip, length, batch);
}
