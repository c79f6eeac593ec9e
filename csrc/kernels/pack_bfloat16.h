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

/* 16 pairs across the stored rows (row, row + 1). */
ALWAYS_INLINE __m512i pairs_across(const Matrix *m, size_t row, size_t col, const Storage storage) {
    if (storage == STORED_BFLOAT16) {
        const uint16_t *low = (const uint16_t *)m->data + row * m->stride + col, *high = low + m->stride;
        return _mm512_or_si512(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)low)),
                               _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)high)), 16));
    }
    const __m512 low = (__m512)stored_vector(m, row, col, storage), high = (__m512)stored_vector(m, row + 1, col, storage);
    const __m512i interleave = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8,
                                                23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    return _mm512_permutexvar_epi16(interleave, (__m512i)_mm512_cvtne2ps_pbh(high, low));
}

/* The units of one k of PANELS full panels, which lie side by side in three vectors. */
ALWAYS_INLINE void store_panels(unit *panel, __m512i first, __m512i second, __m512i third) {
    _Static_assert(PANELS == 4 && MR == 12, "four panels fill three vectors");
    _mm512_storeu_si512(panel, first); /* a vector's end is overwritten by the next k's, or never read */
    _mm512_storeu_si512(panel + A_PANEL, _mm512_alignr_epi32(second, first, 12));
    _mm512_storeu_si512(panel + 2 * A_PANEL, _mm512_alignr_epi32(third, second, 8));
    _mm512_storeu_si512(panel + 3 * A_PANEL, _mm512_alignr_epi32(third, third, 4));
}

/* rows x K of A from (m, k) on, rows <= PANELS * MR, K <= KC. As it is: rows of A_STRIDE. Turned: MR by MR. */
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
        for (int d = 0; d < K; d += 2)
            if (rows == PANELS * MR && d + 1 < K)
                store_panels(panel + d / 2 * MR, pairs_across(A, k + d, m, storage),
                             pairs_across(A, k + d, m + WIDTH, storage), pairs_across(A, k + d, m + 2 * WIDTH, storage));
            else
                for (int i = 0; i < rows; i++)
                    panel[i / MR * A_PANEL + d / 2 * MR + i % MR] = pair_across(A, k + d, m + i, d + 1 < K, storage);
    }
}

/* K x cols of B from (k, n) on, K <= KC, cols <= NR, as rows of NR; columns past cols are zeros. */
ALWAYS_INLINE void pack_columns_of(unit *restrict panel, const Matrix *B, int k, int n, int K, int cols,
                                   const Storage storage) {
    if (!B->turned) {
        for (int d = 0; d < K; d += 2)
            if (cols == NR && d + 1 < K) {
                _mm512_storeu_si512(panel + d / 2 * NR, pairs_across(B, k + d, n, storage));
                _mm512_storeu_si512(panel + d / 2 * NR + WIDTH, pairs_across(B, k + d, n + WIDTH, storage));
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
                for (int i = 0; i < WIDTH; i++) {
                    prefetch_stored(B, n + j0 + i + NR, k + d); /* the same place in the next panel */
                    if (storage != STORED_BFLOAT16) prefetch_stored(B, n + j0 + i + NR, k + d + WIDTH);
                    rows[i] = pairs_along(B, n + j0 + i, k + d, storage);
                }
                transpose_rows(panel + d / 2 * NR + j0, NR, rows);
            }
            for (int d = full ? whole : 0; d < K; d += 2)
                for (int j = j0; j < j0 + WIDTH; j++)
                    panel[d / 2 * NR + j] = j < cols ? pair_along(B, n + j, k + d, d + 1 < K, storage) : 0;
        }
    }
}
