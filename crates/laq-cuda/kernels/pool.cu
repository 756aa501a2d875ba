// 2 x 2 max pooling of NHWC images with stride 2; an odd last row or column is dropped.
#include "common.cuh"

// One thread per output: the maximum and its position in the window. The first of equal values; the first NaN wins.
extern "C" __global__ void max_pool(const float* input, unsigned char* argmax, float* output, Count numel,
                                    unsigned height, unsigned width, unsigned channels) {
    const unsigned across = width / 2, down = height / 2;
    for_each(numel, [&](auto i) {
        const auto c = i % channels, j = i / channels % across, row = i / channels / across;
        // Indices of inputs may need 64 bits where those of outputs do not.
        const Count image = row / down, top = row % down;
        const Count first = ((image * height + 2 * top) * width + 2 * j) * channels + c;
        const Count below = Count(width) * channels;
        const Count at[4] = {first, first + channels, first + below, first + below + channels};
        float largest = input[at[0]];
        unsigned char position = 0;
        for (int k = 1; k < 4; ++k) {
            const float x = input[at[k]];
            if (x > largest || (x != x && largest == largest)) {
                largest = x;
                position = (unsigned char)k;
            }
        }
        output[i] = largest;
        argmax[i] = position;
    });
}

// One thread per input.
extern "C" __global__ void max_pool_backward(const unsigned char* argmax, const float* output_gradient,
                                             float* input_gradient, Count numel, unsigned height, unsigned width,
                                             unsigned channels) {
    const unsigned across = width / 2, down = height / 2;
    for_each(numel, [&](auto i) {
        const auto c = i % channels, column = i / channels % width, row = i / channels / width;
        const auto image = row / height, line = row % height;
        float gradient = 0.0f;
        if (line / 2 < down && column / 2 < across) {
            const auto output = ((image * down + line / 2) * across + column / 2) * channels + c;
            if (argmax[output] == 2 * (line % 2) + column % 2) gradient = output_gradient[output];
        }
        input_gradient[i] = gradient;
    });
}
