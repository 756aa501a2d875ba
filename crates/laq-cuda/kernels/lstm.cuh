// An LSTM cell with gates i, f, g, o, for the kernels of lstm.cu and sequence.cu.
#pragma once
#include "common.cuh"

__device__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

// Replaces pre-activations by activations, and the cell of the previous step by that of this step. Returns the hidden state.
__device__ float cell_forward(float (&gates)[4], float& cell) {
    gates[0] = sigmoid(gates[0]);
    gates[1] = sigmoid(gates[1]);
    gates[2] = tanhf(gates[2]);
    gates[3] = sigmoid(gates[3]);
    cell = gates[1] * cell + gates[0] * gates[2];
    return gates[3] * tanhf(cell);
}

__device__ float clipped(float x, float clip) { return x < -clip ? -clip : x > clip ? clip : x; }

// Replaces activations by the clipped gradients of the pre-activations. `dc_next` enters as dL/dc of this step without the
// contribution of its hidden state, and leaves as that of the previous step. `previous` is the cell of the previous step.
__device__ void cell_backward(float (&gates)[4], float previous, float cell, float state_gradient, float& dc_next,
                              float clip) {
    const float i = gates[0], f = gates[1], g = gates[2], o = gates[3], tanh_c = tanhf(cell);
    const float dc = dc_next + state_gradient * o * (1.0f - tanh_c * tanh_c);
    gates[0] = clipped(dc * g * i * (1.0f - i), clip);
    gates[1] = clipped(dc * previous * f * (1.0f - f), clip);
    gates[2] = clipped(dc * i * (1.0f - g * g), clip);
    gates[3] = clipped(state_gradient * tanh_c * o * (1.0f - o), clip);
    dc_next = dc * f;
}
