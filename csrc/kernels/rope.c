/* Rotary position embedding, the halves of a head paired (rotate-half)
 *   table[n] = { cos a_0 .. cos a_{D/2-1}, sin a_0 .. sin a_{D/2-1} } * factor,   a_i = positions[n] * inv_freq[i]
 *   out[i]       = x[i] cos_i - x[i+D/2] sin_i
 *   out[i+D/2]   = x[i+D/2] cos_i + x[i] sin_i          for every row n, head h and i < D/2
 *   dinp[i]      = dout[i] cos_i + dout[i+D/2] sin_i
 *   dinp[i+D/2]  = dout[i+D/2] cos_i - dout[i] sin_i
 *
 * inp, out, dout, dinp (N, heads, D)   table (N, D)   positions (N)   inv_freq (D/2)
 * out may be inp, dinp may be dout */
#include <math.h>
#include "base/real.h"

static void rope_table(real *table, const int32_t *positions, const real *inv_freq, real factor, int N, int D) {
    int half = D / 2;
    for (int n = 0; n < N; n++) {
        real *cos_n = table + (size_t)n * D, *sin_n = cos_n + half;
        for (int i = 0; i < half; i++) {
            real angle = (real)positions[n] * inv_freq[i];
            cos_n[i] = (real)cos((double)angle) * factor;
            sin_n[i] = (real)sin((double)angle) * factor;
        }
    }
}

static void rope_forward(real *out, const real *inp, const real *table, int N, int heads, int D) {
    int half = D / 2;
    for (int n = 0; n < N; n++) {
        const real *cos_n = table + (size_t)n * D, *sin_n = cos_n + half;
        for (int h = 0; h < heads; h++) {
            size_t at = ((size_t)n * heads + h) * D;
            const real *a = inp + at, *b = a + half;
            real *out_a = out + at, *out_b = out_a + half;
            #pragma omp simd
            for (int i = 0; i < half; i++) {
                real x = a[i], y = b[i];
                out_a[i] = x * cos_n[i] - y * sin_n[i];
                out_b[i] = y * cos_n[i] + x * sin_n[i];
            }
        }
    }
}

static void rope_backward(real *dinp, const real *dout, const real *table, int N, int heads, int D, bool accumulate) {
    int half = D / 2;
    for (int n = 0; n < N; n++) {
        const real *cos_n = table + (size_t)n * D, *sin_n = cos_n + half;
        for (int h = 0; h < heads; h++) {
            size_t at = ((size_t)n * heads + h) * D;
            const real *a = dout + at, *b = a + half;
            real *dinp_a = dinp + at, *dinp_b = dinp_a + half;
            if (accumulate) {
                #pragma omp simd
                for (int i = 0; i < half; i++) {
                    dinp_a[i] += a[i] * cos_n[i] + b[i] * sin_n[i];
                    dinp_b[i] += b[i] * cos_n[i] - a[i] * sin_n[i];
                }
            } else {
                #pragma omp simd
                for (int i = 0; i < half; i++) {
                    real x = a[i], y = b[i];
                    dinp_a[i] = x * cos_n[i] + y * sin_n[i];
                    dinp_b[i] = y * cos_n[i] - x * sin_n[i];
                }
            }
        }
    }
}
