// Times ggml's product of a quantized matrix and a vector, on one thread.
//
//     matvec REPETITIONS SIZE...
//
// Prints a JSON array of rows as `packed_table` of laq-benches does, for `cargo xtask bench packed --ggml`.
// Every repetition runs all types in turn. ggml has a scale for each block of 32 to 256 weights, and rounds the
// vector to 8 bits within the timed call. The weights are in the buffer that ggml itself prefers (repacked where
// it has such a kernel). Build it with the headers and static libraries of ggml:
//
//     cmake -S ggml -B build -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=OFF -DGGML_NATIVE=ON -DGGML_OPENMP=OFF
//     cmake --build build
//     cc -O2 -I ggml/include benches/ggml/matvec.c -o matvec -L build/src -lggml -lggml-cpu -lggml-base -lstdc++ -lm -lpthread

#include "ggml-alloc.h"
#include "ggml-backend.h"
#include "ggml-cpu.h"
#include "ggml.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef struct {
    const char *name;
    enum ggml_type type;
    struct ggml_cgraph *graph;
    struct ggml_cplan plan;
    size_t bytes;
    double *seconds;
} Case;

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static void *allocate(size_t bytes) {
    void *memory = aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (memory == NULL) {
        fprintf(stderr, "out of memory\n");
        exit(1);
    }
    return memory;
}

static struct ggml_context *context(void) {
    struct ggml_init_params parameters = {1 << 20, NULL, true};
    return ggml_init(parameters);
}

// The buffer type of weights that are re-tiled when they are uploaded, if this build has one.
static ggml_backend_buffer_type_t repacking(void) {
    ggml_backend_reg_t registry = ggml_backend_cpu_reg();
    ggml_backend_dev_get_extra_bufts_t extra = (ggml_backend_dev_get_extra_bufts_t)ggml_backend_reg_get_proc_address(
        registry, "ggml_backend_dev_get_extra_bufts");
    ggml_backend_buffer_type_t *types = extra == NULL ? NULL : extra(ggml_backend_reg_dev_get(registry, 0));
    for (; types != NULL && *types != NULL; types++) {
        if (strcmp(ggml_backend_buft_name(*types), "CPU_REPACK") == 0) {
            return *types;
        }
    }
    return NULL;
}

// y = W·x, compared with the f64 product of the decoded weights.
static Case prepare(const char *name, enum ggml_type type, int size, const float *weights, const float *x,
                    struct ggml_threadpool *pool) {
    Case result = {.name = name, .type = type};
    size_t row = ggml_row_size(type, size);
    result.bytes = row * (size_t)size;
    char *packed = allocate(result.bytes);
    if (type == GGML_TYPE_F32) {
        memcpy(packed, weights, result.bytes);
    } else {
        ggml_quantize_chunk(type, weights, packed, 0, size, size, NULL);
    }
    struct ggml_context *of_weights = context(), *of_product = context();
    struct ggml_tensor *w = ggml_new_tensor_2d(of_weights, type, size, size);
    ggml_backend_buffer_type_t repack = repacking();
    if (repack == NULL || !ggml_backend_alloc_ctx_tensors_from_buft(of_weights, repack) || w->extra == NULL) {
        of_weights = context();
        w = ggml_new_tensor_2d(of_weights, type, size, size);
        ggml_backend_alloc_ctx_tensors_from_buft(of_weights, ggml_backend_cpu_buffer_type());
    }
    ggml_backend_tensor_set(w, packed, 0, result.bytes);
    struct ggml_tensor *input = ggml_new_tensor_1d(of_product, GGML_TYPE_F32, size);
    struct ggml_tensor *output = ggml_mul_mat(of_product, w, input);
    result.graph = ggml_new_graph(of_product);
    ggml_build_forward_expand(result.graph, output);
    ggml_backend_alloc_ctx_tensors_from_buft(of_product, ggml_backend_cpu_buffer_type());
    ggml_backend_tensor_set(input, x, 0, (size_t)size * sizeof(float));
    result.plan = ggml_graph_plan(result.graph, 1, pool);
    result.plan.work_data = allocate(result.plan.work_size + 64);
    ggml_graph_compute(result.graph, &result.plan);

    float *decoded = allocate((size_t)size * sizeof(float));
    double error = 0, norm = 0;
    for (int r = 0; r < size; r++) {
        if (type == GGML_TYPE_F32) {
            memcpy(decoded, packed + (size_t)r * row, row);
        } else {
            ggml_get_type_traits(type)->to_float(packed + (size_t)r * row, decoded, size);
        }
        double expected = 0;
        for (int column = 0; column < size; column++) {
            expected += (double)decoded[column] * x[column];
        }
        double difference = ((float *)output->data)[r] - expected;
        error += difference * difference;
        norm += expected * expected;
    }
    if (!(sqrt(error / norm) < 0.02)) {
        fprintf(stderr, "%s: relative error %g of the product, expected less than 0.02\n", name, sqrt(error / norm));
        exit(1);
    }
    free(decoded);
    free(packed);
    return result;
}

static int by_value(const void *a, const void *b) {
    double difference = *(const double *)a - *(const double *)b;
    return (difference > 0) - (difference < 0);
}

int main(int count, char **arguments) {
    static const struct {
        const char *name;
        enum ggml_type type;
    } types[] = {
        {"Q1_0", GGML_TYPE_Q1_0}, {"TQ1_0", GGML_TYPE_TQ1_0}, {"TQ2_0", GGML_TYPE_TQ2_0},
        {"Q3_K", GGML_TYPE_Q3_K}, {"Q4_0", GGML_TYPE_Q4_0},   {"F32", GGML_TYPE_F32},
    };
    enum { TYPES = sizeof types / sizeof *types };
    int repetitions = count > 1 ? atoi(arguments[1]) : 0;
    if (repetitions < 1 || count < 3) {
        fprintf(stderr, "usage: matvec REPETITIONS SIZE...\n");
        return 2;
    }
    ggml_cpu_init();
    struct ggml_threadpool_params parameters = ggml_threadpool_params_default(1);
    struct ggml_threadpool *pool = ggml_threadpool_new(&parameters);
    const char *separator = "[";
    for (int argument = 2; argument < count; argument++) {
        int size = atoi(arguments[argument]);
        if (size < 256 || size % 256 != 0) {
            fprintf(stderr, "found the size %s, expected a multiple of 256\n", arguments[argument]);
            return 2;
        }
        float *weights = allocate((size_t)size * size * sizeof(float)), *x = allocate(size * sizeof(float));
        srand(1);
        for (size_t i = 0; i < (size_t)size * size; i++) {
            weights[i] = (float)rand() / RAND_MAX - 0.5f;
        }
        for (int i = 0; i < size; i++) {
            x[i] = (float)rand() / RAND_MAX - 0.5f;
        }
        Case cases[TYPES];
        for (int i = 0; i < TYPES; i++) {
            cases[i] = prepare(types[i].name, types[i].type, size, weights, x, pool);
            cases[i].seconds = allocate(repetitions * sizeof(double));
        }
        for (int repetition = 0; repetition < repetitions; repetition++) {
            for (int i = 0; i < TYPES; i++) {
                // About a millisecond of calls, after one that is not timed.
                int calls = 0;
                ggml_graph_compute(cases[i].graph, &cases[i].plan);
                double start = now(), end = start;
                for (; end - start < 1e-3; calls++) {
                    ggml_graph_compute(cases[i].graph, &cases[i].plan);
                    end = now();
                }
                cases[i].seconds[repetition] = (end - start) / calls;
            }
        }
        for (int i = 0; i < TYPES; i++) {
            double *seconds = cases[i].seconds;
            qsort(seconds, repetitions, sizeof *seconds, by_value);
            const char *product = cases[i].type == GGML_TYPE_F32 ? "dense" : "int8";
            printf("%s{\"size\": %d, \"product\": \"%s\", \"codebook\": \"%s\", \"isa\": \"ggml %s\", \"bytes\": %zu, "
                   "\"median_seconds\": %g, \"min_seconds\": %g}",
                   separator, size, product, cases[i].name, ggml_version(), cases[i].bytes, seconds[repetitions / 2], seconds[0]);
            separator = ",\n";
        }
        free(weights);
        free(x);
    }
    printf("]\n");
    return 0;
}
