/* Dot products of a few rows with stored rows, in pairs of bfloat16 numbers. */
#pragma once
#include "kernels/dot_int8.h"
#include "kernels/pack_bfloat16.h"

/* A group of a stored row of which `count` numbers are there, zeros behind them. */
ALWAYS_INLINE void group_pairs(__m512i *pairs, const Matrix *m, size_t row, size_t col, int count,
                               const Storage storage) {
    pairs[0] = (__m512i)pairs_along(m, row, col, count, storage);
    pairs[1] = (__m512i)pairs_along(m, row, col + GROUP / 2, count - GROUP / 2, storage);
}

/* lda: of the rows as they were reals. */
ALWAYS_INLINE void dot_pairs_group(vreal *sum, const unit *a, size_t lda, const Matrix *B, size_t n, int k, int count,
                                   const int M, const Storage storage) {
    __m512i b[2];
    group_pairs(b, B, n, k, count, storage);
#pragma GCC unroll 6
    for (int m = 0; m < M; m++) {
        const unit *at = a + (m * lda + k) / PER_UNIT;
        const __m512bh a0 = (__m512bh)_mm512_loadu_si512(at), a1 = (__m512bh)_mm512_loadu_si512(at + WIDTH);
        const __m512 half = _mm512_dpbf16_ps(_mm512_setzero_ps(), a0, (__m512bh)b[0]);
        sum[m] += (vreal)_mm512_dpbf16_ps(half, a1, (__m512bh)b[1]);
    }
}

ALWAYS_INLINE void dot_group(vreal *sum, const real *a, size_t lda, const Matrix *B, size_t n, int k, int count,
                             const int M, const Storage storage) {
    if (storage == STORED_INT8) dot_int8_group(sum, a, lda, B, n, k, count, M);
    else dot_pairs_group(sum, (const unit *)a, lda, B, n, k, count, M, storage);
}

ALWAYS_INLINE void make_pairs(unit *to, const real *row, size_t lda) {
    const Matrix numbers = matrix_of(row, lda, false);
    for (size_t k = 0; k < lda; k += GROUP) {
        __m512i pairs[2];
        group_pairs(pairs, &numbers, 0, k, GROUP, STORED_REAL);
        memcpy(to + k / PER_UNIT, pairs, sizeof pairs);
    }
}

/* M rows of K reals become what dot_group reads, in place, with zeros up to lda, a whole number of groups. */
static void make_dotted(real *a, size_t lda, int M, int K, Storage storage) {
    for (int m = 0; m < M; m++) {
        real *row = a + m * lda;
        memset(row + K, 0, (lda - (size_t)K) * sizeof(real));
        if (storage == STORED_INT8) make_sixteen(row, lda);
        else make_pairs((unit *)a + m * lda / PER_UNIT, row, lda);
    }
}
