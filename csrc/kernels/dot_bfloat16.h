/* Dot products of a few rows with stored rows, in pairs of bfloat16 numbers. One stored row is read after another: a
 * processor foresees nothing as well as a single long stream. */
#pragma once
#include "kernels/fold.h"
#include "kernels/pack_bfloat16.h"

#define FETCH_AHEAD 8192 /* bytes of int8 between what is read and what is fetched: widening leaves no time to foresee */

/* The bytes of 0 .. 127 as bfloat16 numbers: int8 has no other magnitudes. */
#define EXPONENT(m) (((m) > 1) + ((m) > 3) + ((m) > 7) + ((m) > 15) + ((m) > 31) + ((m) > 63))
#define HALF_BITS(m) ((m) > 0 ? (127 + EXPONENT(m)) << 7 | ((m) << (7 - EXPONENT(m)) & 127) : 0)
#define HALF_BYTE(shift, m) (uint8_t)(HALF_BITS(m) >> (shift))
#define HALF_BYTES(shift)                                                                                              \
    {LANES_16(HALF_BYTE, shift, 0),  LANES_16(HALF_BYTE, shift, 16), LANES_16(HALF_BYTE, shift, 32),                   \
     LANES_16(HALF_BYTE, shift, 48), LANES_16(HALF_BYTE, shift, 64), LANES_16(HALF_BYTE, shift, 80),                   \
     LANES_16(HALF_BYTE, shift, 96), LANES_16(HALF_BYTE, shift, 112)}
static const uint8_t LOWER_BYTES[128] = HALF_BYTES(0), UPPER_BYTES[128] = HALF_BYTES(8);

ALWAYS_INLINE __m512i looked_up(const uint8_t *bytes, __m512i which) {
    return _mm512_permutex2var_epi8(_mm512_loadu_si512(bytes), which, _mm512_loadu_si512(bytes + 64));
}

/* 64 int8 numbers as pairs, exactly: of every sixteen the first eight, then the others. */
ALWAYS_INLINE void pairs_of_int8(__m512i *pairs, __m512i numbers) {
    const __m512i magnitudes = _mm512_abs_epi8(numbers), sign = _mm512_set1_epi8(-128);
    const __m512i lower = looked_up(LOWER_BYTES, magnitudes), upper = looked_up(UPPER_BYTES, magnitudes);
    const __m512i signed_upper = _mm512_or_si512(upper, _mm512_and_si512(numbers, sign));
    pairs[0] = _mm512_unpacklo_epi8(lower, signed_upper);
    pairs[1] = _mm512_unpackhi_epi8(lower, signed_upper);
}

/* Two vectors in the order in which pairs_of_int8 gives them. */
ALWAYS_INLINE void order_as_int8(__m512i *pairs) {
    const __m512i first = _mm512_set_epi64(13, 12, 9, 8, 5, 4, 1, 0);
    const __m512i second = _mm512_set_epi64(15, 14, 11, 10, 7, 6, 3, 2);
    const __m512i low = pairs[0], high = pairs[1];
    pairs[0] = _mm512_permutex2var_epi64(low, first, high);
    pairs[1] = _mm512_permutex2var_epi64(low, second, high);
}

/* A group of a stored row of which `count` numbers are there, zeros behind them, without scales. */
ALWAYS_INLINE void group_pairs(__m512i *pairs, const Matrix *m, size_t row, size_t col, int count,
                               const Storage storage) {
    if (storage == STORED_INT8) {
        const int8_t *at = (const int8_t *)m->data + row * m->stride + col;
        if (count >= GROUP) pairs_of_int8(pairs, _mm512_loadu_si512(at));
        else pairs_of_int8(pairs, _mm512_maskz_loadu_epi8((1ull << count) - 1, at));
    } else {
        pairs[0] = (__m512i)pairs_along(m, row, col, count, storage);
        pairs[1] = (__m512i)pairs_along(m, row, col + GROUP / 2, count - GROUP / 2, storage);
    }
}

ALWAYS_INLINE void dot_group(vreal *sum, const unit *a, size_t lda, const Matrix *B, size_t n, int k, int count,
                             const int M, const Storage storage) {
    __m512i b[2];
    group_pairs(b, B, n, k, count, storage);
    const vreal scale = (vreal){0} + (storage == STORED_INT8 ? *stored_scale(B, n, k) : 1);
#pragma GCC unroll 6
    for (int m = 0; m < M; m++) {
        const unit *at = a + m * lda + k / PER_UNIT;
        const __m512bh a0 = (__m512bh)_mm512_loadu_si512(at), a1 = (__m512bh)_mm512_loadu_si512(at + WIDTH);
        const __m512 half = _mm512_dpbf16_ps(_mm512_setzero_ps(), a0, (__m512bh)b[0]);
        sum[m] += (vreal)_mm512_dpbf16_ps(half, a1, (__m512bh)b[1]) * scale;
    }
}

/* a: rows as make_dotted left them. */
ALWAYS_INLINE void dots(real *out, size_t ldo, const real *a, size_t lda, const Matrix B, const real *bias, int N, int K,
                        bool add, const int M, const Storage storage) {
    const unit *pairs = (const unit *)a;
    const size_t ahead = 1 + FETCH_AHEAD / ((size_t)K + 1);
    for (int n = 0; n < N; n++) {
        vreal sum[FEW_ROWS] = {0};
        int k = 0;
        for (; k + GROUP <= K; k += GROUP) {
            if (storage == STORED_INT8) prefetch_stored(&B, n + ahead, k);
            dot_group(sum, pairs, lda / PER_UNIT, &B, n, k, GROUP, M, storage);
        }
        if (k < K) dot_group(sum, pairs, lda / PER_UNIT, &B, n, k, K - k, M, storage);
#pragma GCC unroll 6
        for (int m = 0; m < M; m++) {
            real *o = out + m * ldo + n;
            *o = (lanes_total(sum[m]) + (bias ? bias[n] : 0)) + (add ? *o : 0);
        }
    }
}

/* M rows of K reals, lda a whole number of groups, become rows of pairs, in place, with zeros up to a whole group. */
static void make_dotted(real *a, size_t lda, int M, int K, Storage storage) {
    for (int m = 0; m < M; m++) {
        const Matrix row = matrix_of(a + m * lda, lda, false);
        unit *to = (unit *)a + m * lda / PER_UNIT;
        for (int k = 0; k < K; k += GROUP) {
            __m512i pairs[2];
            group_pairs(pairs, &row, 0, k, smaller(GROUP, K - k), STORED_REAL);
            if (storage == STORED_INT8) order_as_int8(pairs);
            memcpy(to + k / PER_UNIT, pairs, sizeof pairs);
        }
    }
}
