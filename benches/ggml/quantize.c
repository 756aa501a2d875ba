// Quantizes the weights that `block_table` wrote with ggml's own quantizers and an importance matrix, as llama-quantize does.
//
//     quantize FOLDER THREADS REPETITIONS
//
// FOLDER has weights.f32 and curvature.f32, of which ggml can take one row for all (the importance of columns): the first. Prints
// nanoseconds a weight (the median) and the weighted error for that row, Σ d (w − ŵ)² / Σ d w². Build it with the headers
// and objects of ggml (ggml-base is enough):
//
//     cc -O2 -I ggml/include benches/ggml/quantize.c -o quantize -L build/src -lggml-base -lstdc++ -lm -lpthread

#include "ggml.h"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define COLUMNS 1024

static const enum ggml_type TYPES[] = {GGML_TYPE_Q4_0, GGML_TYPE_IQ4_NL, GGML_TYPE_TQ2_0, GGML_TYPE_Q2_K, GGML_TYPE_Q3_K, GGML_TYPE_Q4_K, GGML_TYPE_IQ4_XS};

typedef struct {
    enum ggml_type type;
    const float *weights, *importance;
    char *out;
    long first, last;
} Part;

static float *read_floats(const char *folder, const char *name, long *count) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "rb");
    if (!file || fseek(file, 0, SEEK_END)) { perror(path); exit(1); }
    *count = ftell(file) / 4;
    rewind(file);
    float *values = malloc(4 * *count);
    if (fread(values, 4, *count, file) != (size_t)*count) { perror(path); exit(1); }
    fclose(file);
    return values;
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + 1e-9 * t.tv_nsec;
}

static void *quantize(void *argument) {
    const Part *part = argument;
    ggml_quantize_chunk(part->type, part->weights, part->out, part->first * COLUMNS, part->last - part->first, COLUMNS, part->importance);
    return NULL;
}

static int rising(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

int main(int count, char **arguments) {
    if (count != 4) { fprintf(stderr, "expected FOLDER THREADS REPETITIONS\n"); return 2; }
    long n, m;
    const float *weights = read_floats(arguments[1], "weights.f32", &n), *importance = read_floats(arguments[1], "curvature.f32", &m);
    const int threads = atoi(arguments[2]), repetitions = atoi(arguments[3]);
    const long rows = n / COLUMNS;
    char *out = malloc(4 * n);
    float *decoded = malloc(4 * n);
    memset(out, 1, 4 * n);
    for (size_t t = 0; t < sizeof TYPES / sizeof *TYPES; t++) {
        const enum ggml_type type = TYPES[t];
        ggml_quantize_init(type);
        double *seconds = malloc(repetitions * sizeof *seconds);
        for (int repetition = 0; repetition < repetitions; repetition++) {
            pthread_t all[64];
            Part parts[64];
            const double start = now();
            for (int i = 0; i < threads; i++) {
                parts[i] = (Part){type, weights, importance, out, rows * i / threads, rows * (i + 1) / threads};
                pthread_create(&all[i], NULL, quantize, &parts[i]);
            }
            for (int i = 0; i < threads; i++) pthread_join(all[i], NULL);
            seconds[repetition] = now() - start;
        }
        qsort(seconds, repetitions, sizeof *seconds, rising);
        ggml_get_type_traits(type)->to_float(out, decoded, n);
        double error = 0, energy = 0;
        for (long i = 0; i < n; i++) {
            const double d = importance[i % COLUMNS], w = weights[i], gap = w - decoded[i];
            error += d * gap * gap;
            energy += d * w * w;
        }
        printf("%-7s %6.2f ns a weight, error %.6f\n", ggml_type_name(type), 1e9 * seconds[repetitions / 2] / n, error / energy);
        free(seconds);
    }
    return 0;
}
