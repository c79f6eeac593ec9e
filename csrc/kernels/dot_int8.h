/* Dot products of a few rows with stored rows of int8, in whole numbers with the processor's own instructions,
 * AVX512_VNNI. A group of a row of A is taken as 16-bit numbers times a scale, LARGEST the one of most magnitude: finer
 * than bfloat16, but where one number outweighs its group by far. Products with int8 and the sum of four in a lane are
 * exact, also as a float. */
#pragma once
#include "kernels/lane_sum.h"
#include "kernels/stored.h"

#define LARGEST 32767
#define SMALLEST 1e-30f /* LARGEST times its inverse is a float */
_Static_assert(4 * 128 * LARGEST < 1 << 24, "every whole number up to there is a float");

/* A row of A, its numbers side by side: together with what is read they stay in the first-level cache. */
typedef struct {
    const int16_t *numbers;
    const float *scales; /* one for GROUP of them */
} Sixteen;

ALWAYS_INLINE Sixteen sixteen_at(const real *a, size_t lda, int m) {
    return (Sixteen){(const int16_t *)(const void *)(a + m * lda), a + m * lda + lda / 2};
}

/* GROUP reals as 16-bit numbers; the scale is not a number where one of them is not finite. */
ALWAYS_INLINE float group_sixteen(int16_t *to, const real *x) {
    __m512 part[GROUP / WIDTH], largest = _mm512_setzero_ps(), unreal = largest;
    for (int i = 0; i < GROUP / WIDTH; i++) {
        part[i] = _mm512_loadu_ps(x + i * WIDTH);
        largest = _mm512_max_ps(largest, _mm512_abs_ps(part[i]));
        unreal = _mm512_add_ps(unreal, _mm512_mul_ps(part[i], _mm512_setzero_ps()));
    }
    const float most = _mm512_reduce_max_ps(largest);
    const __m512 inverse = _mm512_set1_ps(most > SMALLEST ? LARGEST / most : 0);
    for (int i = 0; i < GROUP / WIDTH; i++) {
        const __m512i whole = _mm512_cvtps_epi32(_mm512_mul_ps(part[i], inverse));
        _mm256_storeu_si256((void *)(to + i * WIDTH), _mm512_cvtsepi32_epi16(whole));
    }
    return most / LARGEST + _mm512_reduce_add_ps(unreal);
}

/* A row of lda reals, a whole number of groups, in place: a number is written where one was read, or before. */
ALWAYS_INLINE void make_sixteen(real *row, size_t lda) {
    float scales[FEW_DEPTH / GROUP];
    for (size_t g = 0; g < lda / GROUP; g++)
        scales[g] = group_sixteen((int16_t *)(void *)row + g * GROUP, row + g * GROUP);
    memcpy(row + lda / 2, scales, lda / GROUP * sizeof(float));
}

/* Half a group of a stored row, `count` of its numbers there, zeros behind them. */
ALWAYS_INLINE __m512i half_group(const int8_t *at, int count) {
    return _mm512_cvtepi8_epi16(count >= GROUP / 2 ? _mm256_loadu_si256((const void *)at)
                                                   : _mm256_maskz_loadu_epi8(count > 0 ? (1u << count) - 1 : 0, at));
}

ALWAYS_INLINE void dot_int8_group(vreal *sum, const real *a, size_t lda, const Matrix *B, size_t n, int k, int count,
                                  const int M) {
    const int8_t *at = (const int8_t *)B->data + n * B->stride + k;
    const __m512i low = half_group(at, count), high = half_group(at + GROUP / 2, count - GROUP / 2);
    const vreal scale = (vreal)_mm512_set1_ps(*stored_scale(B, n, k));
#pragma GCC unroll 6
    for (int m = 0; m < M; m++) {
        const Sixteen row = sixteen_at(a, lda, m);
        const __m512i half = _mm512_dpwssd_epi32(_mm512_setzero_si512(), low, _mm512_loadu_si512(row.numbers + k));
        const __m512i whole = _mm512_dpwssd_epi32(half, high, _mm512_loadu_si512(row.numbers + k + GROUP / 2));
        sum[m] += (vreal)_mm512_cvtepi32_ps(whole) * row.scales[k / GROUP] * scale;
    }
}
