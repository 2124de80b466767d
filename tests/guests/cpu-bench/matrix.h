/*
 * The product of two square matrices of doubles with vectors of LANES of them: included once for each width.
 * Two rows by four vectors are kept in registers; the sums are exact in no particular way, but the same everywhere,
 * because the order of the additions is written down here.
 */
#include "bench.h"
#include <stddef.h>

#define SIZE 96

extern double matrix_a[SIZE][SIZE], matrix_b[SIZE][SIZE], matrix_c[SIZE][SIZE];

uint64_t hash_product(void);

typedef double vector __attribute__((vector_size(8 * LANES)));

static inline vector all(double value)
{
    vector v;

    for (int i = 0; i < LANES; i++)
        v[i] = value;
    return v;
}

static void multiply(void)
{
    for (int i = 0; i < SIZE; i += 2)
        for (int j = 0; j < SIZE; j += 4 * LANES) {
            vector upper[4], lower[4];

            for (int n = 0; n < 4; n++)
                upper[n] = lower[n] = all(0);
            for (int k = 0; k < SIZE; k++) {
                const vector *b = (const vector *)&matrix_b[k][j];
                vector a0 = all(matrix_a[i][k]), a1 = all(matrix_a[i + 1][k]);

                for (int n = 0; n < 4; n++) {
                    upper[n] += a0 * b[n];
                    lower[n] += a1 * b[n];
                }
            }
            for (int n = 0; n < 4; n++) {
                ((vector *)&matrix_c[i][j])[n] = upper[n];
                ((vector *)&matrix_c[i + 1][j])[n] = lower[n];
            }
        }
}
