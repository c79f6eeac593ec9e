/* Vectors of narrower numbers made reals, by the processor's own instructions where the compiler does not find them
 * from a conversion of vectors (GCC 12: it takes ten instructions for two, or one for each number). */
#pragma once
#include "base/storage.h"
#include "kernels/tile.h"

#if defined __AVX512F__ && !defined LLMC_DOUBLE
#include <immintrin.h>

ALWAYS_INLINE vreal widen_bfloat16(const uint16_t *x) {
    return (vreal)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)x)), 16);
}
ALWAYS_INLINE vreal widen_int8(const int8_t *x) {
    return (vreal)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)x)));
}

#elif defined __AVX2__ && !defined LLMC_DOUBLE
#include <immintrin.h>

ALWAYS_INLINE vreal widen_bfloat16(const uint16_t *x) {
    return (vreal)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)x)), 16);
}
ALWAYS_INLINE vreal widen_int8(const int8_t *x) {
    return (vreal)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)x)));
}

#else

ALWAYS_INLINE vreal widen_bfloat16(const uint16_t *x) {
    vreal wide;
    for (int i = 0; i < WIDTH; i++) wide[i] = bfloat16_widen(x[i]);
    return wide;
}
ALWAYS_INLINE vreal widen_int8(const int8_t *x) {
    vreal wide;
    for (int i = 0; i < WIDTH; i++) wide[i] = x[i];
    return wide;
}

#endif
