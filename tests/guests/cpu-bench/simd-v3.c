/* Compiled with -march=x86-64-v3. */
#define LANES 4
#include "matrix.h"
#include <errno.h>

uint64_t multiply_avx2(void)
{
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) {
        errno = ENOTSUP;
        fail("matrix-avx2, which needs a CPU with AVX2 and FMA (leave the row out with --only)");
    }
    multiply();
    return hash_product();
}
