/* The bfloat16 products of peak.c: no vector extension spells this instruction. Part of a table with AVX512_BF16. */
#pragma once
#include <immintrin.h>

#define PEAK_BFLOAT16_FLOPS (2 * 32 * CHAINS) /* 32 products a chain and round */

static real peak_bfloat16(size_t rounds, real value) {
    const __m512bh operand = (__m512bh)_mm512_cvtne2ps_pbh(_mm512_set1_ps((float)value), _mm512_set1_ps((float)value));
    __m512 sum[CHAINS], total = _mm512_setzero_ps();
    for (int i = 0; i < CHAINS; i++) sum[i] = _mm512_set1_ps((float)i); /* equal chains would be computed once */
    for (size_t round = 0; round < rounds; round++) {
#pragma GCC unroll 16
        for (int i = 0; i < CHAINS; i++) sum[i] = _mm512_dpbf16_ps(sum[i], operand, operand);
    }
    for (int i = 0; i < CHAINS; i++) total = _mm512_add_ps(total, sum[i]);
    return (real)_mm512_reduce_add_ps(total);
}
