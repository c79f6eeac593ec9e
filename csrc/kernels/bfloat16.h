/* Products of bfloat16 numbers with the processor's own instructions, AVX512_BF16: the unit of packed operands is a
 * pair of numbers whose k follow each other, the lower half the first. Sums are float. */
#pragma once
#include <immintrin.h>
#include "base/storage.h"

#define PER_UNIT 2
typedef uint32_t unit;

/* Reals as products take them. */
ALWAYS_INLINE vreal operand_of(vreal x) {
    return (vreal)_mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)x)), 16);
}

ALWAYS_INLINE vreal multiply_add(vreal sum, unit a, vreal b) {
    return (vreal)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32((int)a), (__m512bh)b);
}

/* out[i] = inp[i], rounded. */
static inline void round_pairs(uint16_t *restrict out, const real *restrict inp, size_t n) {
    size_t i = 0;
    for (; i + 32 <= n; i += 32)
        _mm512_storeu_si512(out + i,
                            (__m512i)_mm512_cvtne2ps_pbh(_mm512_loadu_ps(inp + i + 16), _mm512_loadu_ps(inp + i)));
    for (; i < n; i++) out[i] = bfloat16_round(inp[i]);
}
