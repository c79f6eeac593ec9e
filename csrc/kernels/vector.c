/* Vectors of n elements
 *   add          out = a + b
 *   accumulate   out = out + inp
 *   scale        out = inp * factor
 *   dropout      out = inp * [uniform(key, first + i) >= rate] / (1 - rate), forwards and backwards alike
 *   column_sums  out[c] = out[c] + sum_n inp[n,c]
 *
 * out may be any input, but not in column_sums: out (C), inp (N,C) with row stride ld */
#include "base/rng.h"
#include "kernels/kernels.h"

static void add(real *out, const real *a, const real *b, size_t n) {
    #pragma omp simd
    for (size_t i = 0; i < n; i++) out[i] = a[i] + b[i];
}

static void accumulate(real *out, const real *inp, size_t n) {
    #pragma omp simd
    for (size_t i = 0; i < n; i++) out[i] += inp[i];
}

static void scale(real *out, const real *inp, real factor, size_t n) {
    #pragma omp simd
    for (size_t i = 0; i < n; i++) out[i] = inp[i] * factor;
}

static void dropout(real *out, const real *inp, Dropout d, uint64_t first, size_t n, bool accumulate) {
    real factor = 1 / (1 - d.rate);
    if (accumulate) {
        #pragma omp simd
        for (size_t i = 0; i < n; i++) out[i] += rng_uniform(d.key, first + i) >= d.rate ? inp[i] * factor : 0;
    } else {
        #pragma omp simd
        for (size_t i = 0; i < n; i++) out[i] = rng_uniform(d.key, first + i) >= d.rate ? inp[i] * factor : 0;
    }
}

static void round_numbers(uint16_t *restrict out, const real *restrict inp, size_t n) {
#ifdef LLMC_BFLOAT16
    round_pairs(out, inp, n);
#else
    for (size_t i = 0; i < n; i++) out[i] = bfloat16_round((float)inp[i]);
#endif
}

/* Four rows at a time: out is read and written once for the four. */
static void column_sums(real *restrict out, const real *restrict inp, size_t ld, int N, int C) {
    int n = 0;
    for (; n + 4 <= N; n += 4) {
        const real *a = inp + (size_t)n * ld, *b = a + ld, *c = b + ld, *d = c + ld;
        for (int i = 0; i < C; i++) out[i] += (a[i] + b[i]) + (c[i] + d[i]);
    }
    for (; n < N; n++) {
        const real *a = inp + (size_t)n * ld;
        for (int i = 0; i < C; i++) out[i] += a[i];
    }
}
