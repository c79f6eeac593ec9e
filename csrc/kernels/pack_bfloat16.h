/* Packing in pairs of bfloat16 numbers: reals are rounded to the nearest, an odd last number is paired with a zero, and
 * past the edge of the matrix nothing is read. */
#pragma once
#include "kernels/stored.h"
#include "kernels/transpose.h"

/* A mask of the first `count` lanes of a vector. */
ALWAYS_INLINE uint32_t first_lanes(int count) { return count >= 32 ? ~0u : count > 0 ? (1u << count) - 1 : 0; }

/* Up to 16 numbers of a stored row, zeros behind them. */
ALWAYS_INLINE __m512 floats(const Matrix *m, size_t row, size_t col, int count, const Storage storage) {
    if (count >= WIDTH) return (__m512)stored_vector(m, row, col, storage);
    if (storage == STORED_REAL)
        return _mm512_maskz_loadu_ps((__mmask16)first_lanes(count), (const real *)m->data + row * m->stride + col);
    vreal numbers = {0};
    for (int i = 0; i < count; i++) numbers[i] = stored_number(m, row, col + i, storage);
    return (__m512)numbers;
}

/* Up to 32 numbers along a stored row, in pairs. */
ALWAYS_INLINE vreal pairs_along(const Matrix *m, size_t row, size_t col, int count, const Storage storage) {
    if (storage == STORED_BFLOAT16) {
        const uint16_t *at = (const uint16_t *)m->data + row * m->stride + col;
        return (vreal)(count >= 2 * WIDTH ? _mm512_loadu_si512(at) : _mm512_maskz_loadu_epi16(first_lanes(count), at));
    }
    const __m512 low = floats(m, row, col, count, storage), high = floats(m, row, col + WIDTH, count - WIDTH, storage);
    return (vreal)_mm512_cvtne2ps_pbh(high, low);
}

/* Up to 16 bfloat16 numbers of a stored row, each in the lower half of a lane. */
ALWAYS_INLINE __m512i halves(const Matrix *m, size_t row, size_t col, int count) {
    const uint16_t *at = (const uint16_t *)m->data + row * m->stride + col;
    return _mm512_cvtepu16_epi32(count >= WIDTH ? _mm256_loadu_si256((const void *)at)
                                                : _mm256_maskz_loadu_epi16((__mmask16)first_lanes(count), at));
}

/* Up to 16 pairs across two stored rows; the second of a pair is zero where `both` is false. */
ALWAYS_INLINE __m512i pairs_across(const Matrix *m, size_t row, size_t col, bool both, int count,
                                   const Storage storage) {
    if (storage == STORED_BFLOAT16)
        return _mm512_or_si512(halves(m, row, col, count),
                               _mm512_slli_epi32(halves(m, row + both, col, both ? count : 0), 16));
    const __m512 low = floats(m, row, col, count, storage),
                 high = floats(m, row + both, col, both ? count : 0, storage);
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
    if (!A->transposed) {
        for (int i = 0; i < rows; i++) {
            real *row = (real *)(panel + i * A_STRIDE); /* with room for a whole last vector */
            int d = 0;
            for (; d + 2 * WIDTH <= K; d += 2 * WIDTH)
                vstore(row + d / 2, pairs_along(A, m + i, k + d, 2 * WIDTH, storage));
            if (d < K) vstore(row + d / 2, pairs_along(A, m + i, k + d, K - d, storage));
        }
    } else if (rows == PANELS * MR) {
        for (int d = 0; d < K; d += 2)
            store_panels(panel + d / 2 * MR, pairs_across(A, k + d, m, d + 1 < K, WIDTH, storage),
                         pairs_across(A, k + d, m + WIDTH, d + 1 < K, WIDTH, storage),
                         pairs_across(A, k + d, m + 2 * WIDTH, d + 1 < K, WIDTH, storage));
    } else {
        for (int i = 0; i < rows; i += MR)
            for (int d = 0; d < K; d += 2)
                _mm512_storeu_si512(panel + i * A_STRIDE + d / 2 * MR,
                                    pairs_across(A, k + d, m + i, d + 1 < K, rows - i < MR ? rows - i : MR, storage));
    }
}

/* 16 columns of a transposed B, of which `cols` are there: its stored rows, made columns. */
ALWAYS_INLINE void turn_columns(unit *restrict panel, const Matrix *B, int k, int n, int K, int cols,
                                const Storage storage) {
    for (int d = 0; d < K; d += 2 * WIDTH) {
        vreal rows[WIDTH];
        if (cols >= WIDTH && d + 2 * WIDTH <= K) {
#pragma GCC unroll 16
            for (int i = 0; i < WIDTH; i++) {
                prefetch_stored(B, n + i + NR, k + d); /* the same place in the next panel */
                if (storage != STORED_BFLOAT16) prefetch_stored(B, n + i + NR, k + d + WIDTH);
                rows[i] = pairs_along(B, n + i, k + d, 2 * WIDTH, storage);
            }
            transpose_rows(panel + d / 2 * NR, NR, rows);
        } else {
            unit transposed[WIDTH * WIDTH];
            for (int i = 0; i < WIDTH; i++)
                rows[i] = i < cols ? pairs_along(B, n + i, k + d, K - d, storage) : (vreal){0};
            transpose_rows(transposed, WIDTH, rows);
            for (int i = 0; i < WIDTH && d / 2 + i < UNITS(K); i++)
                memcpy(panel + (d / 2 + i) * NR, transposed + i * WIDTH, WIDTH * sizeof(unit));
        }
    }
}

/* K x cols of B from (k, n) on, K <= KC, cols <= NR, as rows of NR; columns past cols are zeros. */
ALWAYS_INLINE void pack_columns_of(unit *restrict panel, const Matrix *B, int k, int n, int K, int cols,
                                   const Storage storage) {
    if (B->transposed) {
        turn_columns(panel, B, k, n, K, cols, storage);
        turn_columns(panel + WIDTH, B, k, n + WIDTH, K, cols - WIDTH, storage);
    } else {
        for (int d = 0; d < K; d += 2)
            for (int j = 0; j < NR; j += WIDTH)
                _mm512_storeu_si512(panel + d / 2 * NR + j,
                                    pairs_across(B, k + d, n + j, d + 1 < K, cols - j, storage));
    }
}
