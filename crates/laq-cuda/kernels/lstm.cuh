// What a cell of an LSTM does with its four gates (i, f, g, o), whichever kernel it is in.
#pragma once
#include "common.cuh"

__device__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

// Pre-activations become activations; the cell before becomes the cell now. Returns what the cell shows.
__device__ float cell_forward(float (&gates)[4], float& cell) {
    gates[0] = sigmoid(gates[0]);
    gates[1] = sigmoid(gates[1]);
    gates[2] = tanhf(gates[2]);
    gates[3] = sigmoid(gates[3]);
    cell = gates[1] * cell + gates[0] * gates[2];
    return gates[3] * tanhf(cell);
}

__device__ float clipped(float x, float limit) { return x < -limit ? -limit : x > limit ? limit : x; }

// Activations become the gradients of the pre-activations, clipped; `carried` goes from dL/dc of this step to that of the step
// before, but for what this step's gradient by its output adds. `before` is the cell of the step before.
__device__ void cell_backward(float (&gates)[4], float before, float cell, float output_gradient, float& carried,
                              float limit) {
    const float i = gates[0], f = gates[1], g = gates[2], o = gates[3], shown = tanhf(cell);
    const float dc = carried + output_gradient * o * (1.0f - shown * shown);
    gates[0] = clipped(dc * g * i * (1.0f - i), limit);
    gates[1] = clipped(dc * before * f * (1.0f - f), limit);
    gates[2] = clipped(dc * i * (1.0f - g * g), limit);
    gates[3] = clipped(output_gradient * shown * o * (1.0f - o), limit);
    carried = dc * f;
}
