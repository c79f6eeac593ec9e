/* Dot products of a few rows with stored rows, in reals. */
#pragma once
#include "kernels/fold.h"
#include "kernels/stored.h"

/* M rows of A with `abreast` stored rows of B, k whole vectors. */
ALWAYS_INLINE void dot_rows(vreal (*sum)[FEW_ROWS], const real *a, size_t lda, const Matrix *B, size_t n, int K,
                            const int M, const int abreast, const Storage storage) {
    for (int g = 0; g < K; g += GROUP) {
        const int depth = smaller(GROUP, K - g);
        vreal part[4][FEW_ROWS] = {0};
        for (int i = 0; i < abreast; i++)
            for (int d = 0; d < GROUP; d += FETCH / (int)storage_bytes(storage)) prefetch_stored(B, n + abreast + i, g + d);
        for (int d = g; d < g + depth; d += WIDTH)
#pragma GCC unroll 4
            for (int i = 0; i < abreast; i++) {
                const vreal b = unscaled_vector(B, n + i, d, storage);
#pragma GCC unroll 6
                for (int m = 0; m < M; m++) part[i][m] += vload(a + m * lda + d) * b;
            }
#pragma GCC unroll 4
        for (int i = 0; i < abreast; i++) {
            const real scale = storage == STORED_INT8 ? *stored_scale(B, n + i, g) : 1;
#pragma GCC unroll 6
            for (int m = 0; m < M; m++) sum[i][m] += part[i][m] * scale;
        }
    }
}

ALWAYS_INLINE void dot_some(real *out, size_t ldo, const real *a, size_t lda, const Matrix *B, const real *bias, int n,
                            int K, bool add, const int M, const int abreast, const Storage storage) {
    const int whole = K - K % WIDTH;
    vreal sum[4][FEW_ROWS] = {0};
    dot_rows(sum, a, lda, B, n, whole, M, abreast, storage);
#pragma GCC unroll 4
    for (int i = 0; i < abreast; i++) {
        const real scale = storage == STORED_INT8 && whole < K ? *stored_scale(B, n + i, whole) : 1;
#pragma GCC unroll 6
        for (int m = 0; m < M; m++) {
            real rest = 0, *o = out + m * ldo + n + i;
            for (int d = whole; d < K; d++) rest += a[m * lda + d] * unscaled_number(B, n + i, d, storage);
            *o = (lanes_total(sum[i][m]) + rest * scale + (bias ? bias[n + i] : 0)) + (add ? *o : 0);
        }
    }
}

/* Rows of B abreast: as many streams as leave registers for the sums. */
ALWAYS_INLINE void dots(real *out, size_t ldo, const real *a, size_t lda, const Matrix B, const real *bias, int N, int K,
                        bool add, const int M, const Storage storage) {
    const int abreast = M == 1 ? 4 : M <= 3 ? 2 : 1;
    int n = 0;
    for (; n + abreast <= N; n += abreast) dot_some(out, ldo, a, lda, &B, bias, n, K, add, M, abreast, storage);
    for (; n < N; n++) dot_some(out, ldo, a, lda, &B, bias, n, K, add, M, 1, storage);
}

/* Rows are read as they are. */
static inline void make_dotted(real *a, size_t lda, int M, int K, Storage storage) {
    (void)a, (void)lda, (void)M, (void)K, (void)storage;
}
