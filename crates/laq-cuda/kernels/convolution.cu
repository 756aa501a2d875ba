// 3 x 3 convolutions as products: the nine neighbours of every pixel side by side, and back.
#include "common.cuh"

// columns[pixel][p][q][c] = input[pixel moved by (p - 1, q - 1)][c], zero outside of the image.
extern "C" __global__ void neighbours(const float* input, float* columns, Count count, unsigned height, unsigned width,
                                      unsigned channels) {
    for_each(count, [&](auto i) {
        const unsigned c = unsigned(i % channels), place = unsigned(i / channels % 9);
        const auto pixel = i / channels / 9;
        const unsigned column = unsigned(pixel % width), row = unsigned(pixel / width % height);
        // One more than where the neighbour is, so that nothing is negative.
        const unsigned y = row + place / 3, x = column + place % 3;
        const bool inside = y >= 1 && y <= height && x >= 1 && x <= width;
        const Count from = pixel - row * width - column + Count(y - 1) * width + (x - 1);
        columns[i] = inside ? input[from * channels + c] : 0.0f;
    });
}

// The gradient of `neighbours`: every input is in up to nine places, which are added in order.
extern "C" __global__ void from_neighbours(const float* columns, float* input, Count count, unsigned height,
                                           unsigned width, unsigned channels) {
    for_each(count, [&](auto i) {
        const unsigned c = unsigned(i % channels);
        const auto pixel = i / channels;
        const unsigned column = unsigned(pixel % width), row = unsigned(pixel / width % height);
        float sum = 0.0f;
        for (unsigned place = 0; place < 9; ++place) {
            // The pixel whose neighbour at `place` this is, again one too many.
            const unsigned y = row + 2 - place / 3, x = column + 2 - place % 3;
            if (y < 1 || y > height || x < 1 || x > width) continue;
            const Count of = pixel - row * width - column + Count(y - 1) * width + (x - 1);
            sum += columns[(of * 9 + place) * channels + c];
        }
        input[i] = sum;
    });
}
