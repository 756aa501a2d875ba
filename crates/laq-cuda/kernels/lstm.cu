// The LSTM without its products. A row of gates holds i, f, g, o, `hidden` elements each.
#include "lstm.cuh"

// table[token][gate row] = W_x[gate row][token] + b[gate row]: the contribution of a token to the pre-activations.
extern "C" __global__ void lstm_token_table(const float* weight_ih, const float* bias, float* table, unsigned vocabulary,
                                            unsigned gate_rows) {
    for_each(Count(vocabulary) * gate_rows, [&](auto i) {
        const auto token = i / gate_rows, row = i % gate_rows;
        table[i] = weight_ih[row * vocabulary + token] + bias[row];
    });
}

// One time step of `batch` rows. `gates` enters as W_h h of the previous step (unspecified at the first) and leaves as the
// activations.
extern "C" __global__ void lstm_cell(const unsigned char* tokens, const float* table, float* gates, const float* previous,
                                     float* cell, float* state, unsigned batch, unsigned hidden, unsigned first) {
    for_each(Count(batch) * hidden, [&](auto at) {
        const Count row = at / hidden;
        const unsigned unit = unsigned(at % hidden);
        float* a = gates + row * 4 * hidden + unit;
        const float* of_token = table + Count(tokens[row]) * 4 * hidden + unit;
        float x[4];
        for (int gate = 0; gate < 4; ++gate) x[gate] = of_token[gate * hidden] + (first ? 0.0f : a[gate * hidden]);
        float c = first ? 0.0f : previous[at];
        state[at] = cell_forward(x, c);
        cell[at] = c;
        for (int gate = 0; gate < 4; ++gate) a[gate * hidden] = x[gate];
    });
}

// One time step of the backward pass: `gates` become the clipped gradients of the pre-activations; `dc_next` as in
// `cell_backward`. `last` marks the last time step, which comes first.
extern "C" __global__ void lstm_cell_backward(float* gates, const float* previous, const float* cell,
                                              const float* state_gradient, float* dc_next, float clip, unsigned batch,
                                              unsigned hidden, unsigned first, unsigned last) {
    for_each(Count(batch) * hidden, [&](auto at) {
        const Count row = at / hidden;
        const unsigned unit = unsigned(at % hidden);
        float* a = gates + row * 4 * hidden + unit;
        float x[4];
        for (int gate = 0; gate < 4; ++gate) x[gate] = a[gate * hidden];
        float dc = last ? 0.0f : dc_next[at];
        cell_backward(x, first ? 0.0f : previous[at], cell[at], state_gradient[at], dc, clip);
        dc_next[at] = dc;
        for (int gate = 0; gate < 4; ++gate) a[gate * hidden] = x[gate];
    });
}

// Row r is the one-hot vector of token r.
extern "C" __global__ void one_hot(const unsigned char* tokens, float* output, Count numel, unsigned vocabulary) {
    for_each(numel, [&](auto i) { output[i] = tokens[i / vocabulary] == i % vocabulary ? 1.0f : 0.0f; });
}
