// Batches from a dataset in the device's memory.
#include "common.cuh"

// Row r of `pixels` is row permutation[r] of `images`. One thread per element.
extern "C" __global__ void gather_images(const float* images, const unsigned char* labels, const unsigned* permutation,
                                         float* pixels, unsigned char* targets, Count numel, unsigned image_size) {
    for_each(numel, [&](auto i) {
        const auto row = i / image_size, column = i % image_size;
        const Count example = permutation[row];
        pixels[i] = images[example * image_size + column];
        if (column == 0) targets[row] = labels[example];
    });
}

// Sequence b of the batch is sequence permutation[b] of the text; time-major. A target is the token after the input.
extern "C" __global__ void gather_text(const unsigned char* text, const unsigned* permutation, unsigned char* inputs,
                                       unsigned char* targets, unsigned length, unsigned batch) {
    for_each(Count(length) * batch, [&](auto i) {
        const auto at = Count(permutation[i % batch]) * length + i / batch;
        inputs[i] = text[at];
        targets[i] = text[at + 1];
    });
}
