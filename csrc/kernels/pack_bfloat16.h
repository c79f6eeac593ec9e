/* Packing in pairs of bfloat16 numbers: reals are rounded to the nearest, an odd last number is paired with a zero. */
#pragma once
#include "kernels/stored.h"
#include "kernels/transpose.h"

ALWAYS_INLINE uint32_t stored_half(const Matrix *m, size_t row, size_t col, const Storage storage) {
    if (storage == STORED_BFLOAT16) return ((const uint16_t *)m->data)[row * m->stride + col];
    return bfloat16_round(stored_number(m, row, col, storage));
}

/* The pair of columns (col, col + 1) of a stored row; the pair of rows (row, row + 1) of a stored column. */
ALWAYS_INLINE unit pair_along(const Matrix *m, size_t row, size_t col, bool both, const Storage storage) {
    return stored_half(m, row, col, storage) | (both ? stored_half(m, row, col + 1, storage) << 16 : 0);
}

ALWAYS_INLINE unit pair_across(const Matrix *m, size_t row, size_t col, bool both, const Storage storage) {
    return stored_half(m, row, col, storage) | (both ? stored_half(m, row + 1, col, storage) << 16 : 0);
}

/* 16 pairs along a stored row. */
ALWAYS_INLINE vreal pairs_along(const Matrix *m, size_t row, size_t col, const Storage storage) {
    if (storage == STORED_BFLOAT16)
        return (vreal)_mm512_loadu_si512((const uint16_t *)m->data + row * m->stride + col);
    const vreal low = stored_vector(m, row, col, storage), high = stored_vector(m, row, col + WIDTH, storage);
    return (vreal)_mm512_cvtne2ps_pbh((__m512)high, (__m512)low);
}

/* Up to 16 numbers of a stored row, those of the mask, each in the lower half of a lane. */
ALWAYS_INLINE __m512i halves(const Matrix *m, size_t row, size_t col, __mmask16 mask, const Storage storage) {
    const size_t i = row * m->stride + col;
    if (storage == STORED_BFLOAT16)
        return _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, (const uint16_t *)m->data + i));
    const __m512 numbers = storage == STORED_REAL ? _mm512_maskz_loadu_ps(mask, (const real *)m->data + i)
                                                  : (__m512)stored_vector(m, row, col, storage);
    return _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(numbers));
}

/* Up to 16 pairs across the stored rows (row, row + 1). */
ALWAYS_INLINE vreal pairs_across(const Matrix *m, size_t row, size_t col, __mmask16 mask, const Storage storage) {
    const __m512i low = halves(m, row, col, mask, storage), high = halves(m, row + 1, col, mask, storage);
    return (vreal)_mm512_or_si512(low, _mm512_slli_epi32(high, 16));
}

#define ALL_LANES ((__mmask16)0xffff)

/* rows x K of A from (m, k) on, rows <= MR, K <= KC. As it is: rows of A_STRIDE. Turned: MR by MR. */
ALWAYS_INLINE void pack_rows_of(unit *restrict panel, const Matrix *A, int m, int k, int rows, int K,
                                const Storage storage) {
    if (!A->turned) {
        for (int i = 0; i < rows; i++) {
            unit *row = panel + i * A_STRIDE;
            int d = 0;
            for (; d + 2 * WIDTH <= K; d += 2 * WIDTH)
                vstore((real *)(row + d / 2), pairs_along(A, m + i, k + d, storage));
            for (; d < K; d += 2) row[d / 2] = pair_along(A, m + i, k + d, d + 1 < K, storage);
        }
    } else {
        const __mmask16 mask = (__mmask16)((1u << rows) - 1);
        for (int d = 0; d < K; d += 2)
            if (d + 1 < K && storage != STORED_INT8) /* the vector's end is overwritten by the next, or never read */
                vstore((real *)(panel + d / 2 * MR), pairs_across(A, k + d, m, mask, storage));
            else
                for (int i = 0; i < rows; i++)
                    panel[d / 2 * MR + i] = pair_across(A, k + d, m + i, d + 1 < K, storage);
    }
}

/* K x cols of B from (k, n) on, K <= KC, cols <= NR, as rows of NR; columns past cols are zeros. */
ALWAYS_INLINE void pack_columns_of(unit *restrict panel, const Matrix *B, int k, int n, int K, int cols,
                                   const Storage storage) {
    if (!B->turned) {
        for (int d = 0; d < K; d += 2)
            if (cols == NR && d + 1 < K) {
                vstore((real *)(panel + d / 2 * NR), pairs_across(B, k + d, n, ALL_LANES, storage));
                vstore((real *)(panel + d / 2 * NR) + WIDTH, pairs_across(B, k + d, n + WIDTH, ALL_LANES, storage));
            } else {
                for (int j = 0; j < NR; j++)
                    panel[d / 2 * NR + j] = j < cols ? pair_across(B, k + d, n + j, d + 1 < K, storage) : 0;
            }
    } else {
        const int whole = K - K % (2 * WIDTH);
        for (int j0 = 0; j0 < NR; j0 += WIDTH) {
            const bool full = j0 + WIDTH <= cols;
            for (int d = 0; d < whole && full; d += 2 * WIDTH) {
                vreal rows[WIDTH];
#pragma GCC unroll 16
                for (int i = 0; i < WIDTH; i++) rows[i] = pairs_along(B, n + j0 + i, k + d, storage);
                transpose_rows(panel + d / 2 * NR + j0, NR, rows);
            }
            for (int d = full ? whole : 0; d < K; d += 2)
                for (int j = j0; j < j0 + WIDTH; j++)
                    panel[d / 2 * NR + j] = j < cols ? pair_along(B, n + j, k + d, d + 1 < K, storage) : 0;
        }
    }
}
