// The LSTM but for its products. Gates are stored as i, f, g, o, each of `hidden` numbers a row.
#include "common.cuh"

// table[symbol][gate row] = W_x[gate row][symbol] + b[gate row]: what a symbol adds to the pre-activations.
extern "C" __global__ void lstm_table(const float* weight_ih, const float* bias, float* table, unsigned symbols,
                                      unsigned gate_rows) {
    for_each(Count(symbols) * gate_rows, [&](auto i) {
        const auto symbol = i / gate_rows, row = i % gate_rows;
        table[i] = weight_ih[row * symbols + symbol] + bias[row];
    });
}

__device__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

// One time step of `batch` rows. `gates` brings W_h h of the step before (nothing at the first) and keeps the activations.
extern "C" __global__ void lstm_cell(const unsigned char* input, const float* table, float* gates, const float* previous,
                                     float* cell, float* state, unsigned batch, unsigned hidden, unsigned first) {
    for_each(Count(batch) * hidden, [&](auto at) {
        const Count row = at / hidden;
        const unsigned unit = unsigned(at % hidden);
        float* a = gates + row * 4 * hidden + unit;
        const float* from = table + Count(input[row]) * 4 * hidden + unit;
        float x[4];
        for (int gate = 0; gate < 4; ++gate) x[gate] = from[gate * hidden] + (first ? 0.0f : a[gate * hidden]);
        const float i = sigmoid(x[0]), f = sigmoid(x[1]), g = tanhf(x[2]), o = sigmoid(x[3]);
        const float c = f * (first ? 0.0f : previous[at]) + i * g;
        a[0] = i;
        a[hidden] = f;
        a[2 * hidden] = g;
        a[3 * hidden] = o;
        cell[at] = c;
        state[at] = o * tanhf(c);
    });
}

__device__ float clipped(float x, float limit) { return x < -limit ? -limit : x > limit ? limit : x; }

// One time step back: `gates` become the gradients of the pre-activations, clipped, and `carried` goes from dL/dc of this step
// to that of the step before. `last` is the step that is gone through first.
extern "C" __global__ void lstm_cell_backward(float* gates, const float* previous, const float* cell,
                                              const float* state_gradient, float* carried, float limit, unsigned batch,
                                              unsigned hidden, unsigned first, unsigned last) {
    for_each(Count(batch) * hidden, [&](auto at) {
        const Count row = at / hidden;
        const unsigned unit = unsigned(at % hidden);
        float* a = gates + row * 4 * hidden + unit;
        const float i = a[0], f = a[hidden], g = a[2 * hidden], o = a[3 * hidden];
        const float shown = tanhf(cell[at]), dh = state_gradient[at];
        const float dc = (last ? 0.0f : carried[at]) + dh * o * (1.0f - shown * shown);
        const float before = first ? 0.0f : previous[at];
        a[0] = clipped(dc * g * i * (1.0f - i), limit);
        a[hidden] = clipped(dc * before * f * (1.0f - f), limit);
        a[2 * hidden] = clipped(dc * i * (1.0f - g * g), limit);
        a[3 * hidden] = clipped(dh * shown * o * (1.0f - o), limit);
        carried[at] = dc * f;
    });
}

// One at a row's symbol, zero elsewhere.
extern "C" __global__ void one_hot(const unsigned char* input, float* hot, Count count, unsigned symbols) {
    for_each(count, [&](auto i) { hot[i] = input[i / symbols] == i % symbols ? 1.0f : 0.0f; });
}
