/* Vectors: a matrix product with those of SSE2, and with those of AVX2 and FMA from the other file. */
#define LANES 2
#include "matrix.h"
#include <string.h>

double matrix_a[SIZE][SIZE] __attribute__((aligned(64)));
double matrix_b[SIZE][SIZE] __attribute__((aligned(64)));
double matrix_c[SIZE][SIZE] __attribute__((aligned(64)));

void setup_matrices(void)
{
    uint64_t seed = 6;

    for (int i = 0; i < SIZE; i++)
        for (int j = 0; j < SIZE; j++) {
            matrix_a[i][j] = (double)(int64_t)next_random(&seed) / 4e18;
            matrix_b[i][j] = (double)(int64_t)next_random(&seed) / 4e18;
        }
}

uint64_t hash_product(void)
{
    uint64_t hash = HASH_START;

    for (int i = 0; i < SIZE; i++) {
        uint64_t word;

        memcpy(&word, &matrix_c[i][(i * 7) % SIZE], sizeof word);
        hash = mix(hash, word);
    }
    return hash;
}

static uint64_t multiply_sse2(void)
{
    multiply();
    return hash_product();
}

const struct row simd_rows[] = {
    {"matrix-sse2", setup_matrices, multiply_sse2, NULL, SIZE * SIZE * SIZE},
    {"matrix-avx2", setup_matrices, multiply_avx2, NULL, SIZE * SIZE * SIZE},
    {NULL, NULL, NULL, NULL, 0},
};
