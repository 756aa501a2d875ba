// 2 x 2 max pooling of images with channels innermost; a last odd row or column is left out.
#include "common.cuh"

// One thread an output: its value, and which of the four it was. Of equal ones the first; a NaN is taken, and then kept.
extern "C" __global__ void max_pool(const float* input, unsigned char* places, float* output, Count outputs,
                                    unsigned height, unsigned width, unsigned channels) {
    const unsigned across = width / 2, down = height / 2;
    for_each(outputs, [&](auto i) {
        const auto c = i % channels, j = i / channels % across, row = i / channels / across;
        // There are several times as many inputs as outputs.
        const Count image = row / down, top = row % down;
        const Count first = ((image * height + 2 * top) * width + 2 * j) * channels + c;
        const Count below = Count(width) * channels;
        const Count at[4] = {first, first + channels, first + below, first + below + channels};
        float most = input[at[0]];
        unsigned char place = 0;
        for (int k = 1; k < 4; ++k) {
            const float x = input[at[k]];
            if (x > most || (x != x && most == most)) {
                most = x;
                place = (unsigned char)k;
            }
        }
        output[i] = most;
        places[i] = place;
    });
}

// One thread an input.
extern "C" __global__ void max_pool_backward(const unsigned char* places, const float* output_gradient,
                                             float* input_gradient, Count inputs, unsigned height, unsigned width,
                                             unsigned channels) {
    const unsigned across = width / 2, down = height / 2;
    for_each(inputs, [&](auto i) {
        const auto c = i % channels, column = i / channels % width, row = i / channels / width;
        const auto image = row / height, line = row % height;
        float gradient = 0.0f;
        if (line / 2 < down && column / 2 < across) {
            const auto output = ((image * down + line / 2) * across + column / 2) * channels + c;
            if (places[output] == 2 * (line % 2) + column % 2) gradient = output_gradient[output];
        }
        input_gradient[i] = gradient;
    });
}
