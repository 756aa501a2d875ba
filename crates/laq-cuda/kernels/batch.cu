// Batches from examples that are in the device's memory.
#include "common.cuh"

// Row r is row order[r] of the images; one thread a number.
extern "C" __global__ void gather_images(const float* images, const unsigned char* labels, const unsigned* order,
                                         float* pixels, unsigned char* targets, Count count, unsigned size) {
    for_each(count, [&](auto i) {
        const auto row = i / size, column = i % size;
        const Count example = order[row];
        pixels[i] = images[example * size + column];
        if (column == 0) targets[row] = labels[example];
    });
}

// Sequence b is the one of number order[b], time-major; the target is the symbol after each.
extern "C" __global__ void gather_text(const unsigned char* text, const unsigned* order, unsigned char* inputs,
                                       unsigned char* targets, unsigned length, unsigned batch) {
    for_each(Count(length) * batch, [&](auto i) {
        const auto place = Count(order[i % batch]) * length + i / batch;
        inputs[i] = text[place];
        targets[i] = text[place + 1];
    });
}
