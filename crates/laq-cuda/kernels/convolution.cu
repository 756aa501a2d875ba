// 3 x 3 convolutions as products: im2col and its adjoint.
#include "common.cuh"

// columns[pixel][p][q][c] = input[pixel + (p - 1, q - 1)][c], zero outside of the image.
extern "C" __global__ void im2col(const float* input, float* columns, Count numel, unsigned height, unsigned width,
                                  unsigned channels) {
    for_each(numel, [&](auto i) {
        const unsigned c = unsigned(i % channels), tap = unsigned(i / channels % 9);
        const auto pixel = i / channels / 9;
        const unsigned column = unsigned(pixel % width), row = unsigned(pixel / width % height);
        // Coordinates of the tap plus one, so that they are unsigned.
        const unsigned y = row + tap / 3, x = column + tap % 3;
        const bool inside = y >= 1 && y <= height && x >= 1 && x <= width;
        const Count from = pixel - row * width - column + Count(y - 1) * width + (x - 1);
        columns[i] = inside ? input[from * channels + c] : 0.0f;
    });
}

// The adjoint of `im2col`: an input element sums up to nine elements of `columns`, in the order of the taps.
extern "C" __global__ void col2im(const float* columns, float* input, Count numel, unsigned height, unsigned width,
                                  unsigned channels) {
    for_each(numel, [&](auto i) {
        const unsigned c = unsigned(i % channels);
        const auto pixel = i / channels;
        const unsigned column = unsigned(pixel % width), row = unsigned(pixel / width % height);
        float sum = 0.0f;
        for (unsigned tap = 0; tap < 9; ++tap) {
            // Coordinates, plus one, of the pixel whose window has this element at `tap`.
            const unsigned y = row + 2 - tap / 3, x = column + 2 - tap % 3;
            if (y < 1 || y > height || x < 1 || x > width) continue;
            const Count of = pixel - row * width - column + Count(y - 1) * width + (x - 1);
            sum += columns[(of * 9 + tap) * channels + c];
        }
        input[i] = sum;
    });
}
