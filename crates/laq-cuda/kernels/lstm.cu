// The LSTM but for its products. Gates are stored as i, f, g, o, each of `hidden` numbers a row.
#include "lstm.cuh"

// table[symbol][gate row] = W_x[gate row][symbol] + b[gate row]: what a symbol adds to the pre-activations.
extern "C" __global__ void lstm_table(const float* weight_ih, const float* bias, float* table, unsigned symbols,
                                      unsigned gate_rows) {
    for_each(Count(symbols) * gate_rows, [&](auto i) {
        const auto symbol = i / gate_rows, row = i % gate_rows;
        table[i] = weight_ih[row * symbols + symbol] + bias[row];
    });
}

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
        float c = first ? 0.0f : previous[at];
        state[at] = cell_forward(x, c);
        cell[at] = c;
        for (int gate = 0; gate < 4; ++gate) a[gate * hidden] = x[gate];
    });
}

// One time step back: `gates` become the gradients of the pre-activations, clipped, and `carried` goes from dL/dc of this step
// to that of the step before. `last` is the step that is gone through first.
extern "C" __global__ void lstm_cell_backward(float* gates, const float* previous, const float* cell,
                                              const float* state_gradient, float* carried, float limit, unsigned batch,
                                              unsigned hidden, unsigned first, unsigned last) {
    for_each(Count(batch) * hidden, [&](auto at) {
        const Count row = at / hidden;
        const unsigned unit = unsigned(at % hidden);
        float* a = gates + row * 4 * hidden + unit;
        float x[4];
        for (int gate = 0; gate < 4; ++gate) x[gate] = a[gate * hidden];
        float dc = last ? 0.0f : carried[at];
        cell_backward(x, first ? 0.0f : previous[at], cell[at], state_gradient[at], dc, limit);
        carried[at] = dc;
        for (int gate = 0; gate < 4; ++gate) a[gate * hidden] = x[gate];
    });
}

// One at a row's symbol, zero elsewhere.
extern "C" __global__ void one_hot(const unsigned char* input, float* hot, Count count, unsigned symbols) {
    for_each(count, [&](auto i) { hot[i] = input[i / symbols] == i % symbols ? 1.0f : 0.0f; });
}
