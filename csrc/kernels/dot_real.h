/* Dot products of a few rows with stored rows, in reals. */
#pragma once
#include "kernels/stored.h"

/* M rows of A with `count` numbers of a stored row of B, from k on; the sums of a group come first, then they are
 * added. */
ALWAYS_INLINE void dot_group(vreal *sum, const real *a, size_t lda, const Matrix *B, size_t n, int k, int count,
                             const int M, const Storage storage) {
    const real scale = storage == STORED_INT8 ? *stored_scale(B, n, k) : 1;
    vreal part[FEW_ROWS] = {0};
    int d = k;
    for (; d + WIDTH <= k + count; d += WIDTH) {
        const vreal b = unscaled_vector(B, n, d, storage);
#pragma GCC unroll 6
        for (int m = 0; m < M; m++) part[m] += vload(a + m * lda + d) * b;
    }
    for (; d < k + count; d++)
        for (int m = 0; m < M; m++) part[m][0] += a[m * lda + d] * unscaled_number(B, n, d, storage);
#pragma GCC unroll 6
    for (int m = 0; m < M; m++) sum[m] += part[m] * scale;
}

/* Rows are read as they are. */
static inline void make_dotted(real *a, size_t lda, int M, int K, Storage storage) {
    (void)a, (void)lda, (void)M, (void)K, (void)storage;
}
