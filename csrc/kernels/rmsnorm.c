/* RMSNorm
 *   out[n,c] = inp[n,c] * rstd[n] * weight[c]
 *   rstd[n]  = 1 / sqrt(mean_c(inp[n,c]^2) + eps)
 *
 * With x = inp * rstd, the normalised row:
 *   dinp[n,c]   = rstd[n] * (dout[n,c] * weight[c] - x[n,c] * mean_c(dout[n,c] * weight[c] * x[n,c]))
 *   dweight[c] += sum_n dout[n,c] * x[n,c]
 *
 * out, inp, dout, dinp (N,C)   weight, dweight (C)   rstd (N), kept for the backward pass
 * out may be inp, dinp may be dout */
#include <math.h>
#include "kernels/lanes.h"

static inline real rms_reciprocal(const real *inp, int C, real eps) {
    return 1 / (real)sqrt(row_dot(inp, inp, C) / C + eps);
}

static void rms_statistic(real *rstd, const real *inp, int N, int C, real eps) {
    for (int n = 0; n < N; n++) rstd[n] = rms_reciprocal(inp + (size_t)n * C, C, eps);
}

static void rmsnorm_forward(real *out, real *rstd, const real *inp, const real *weight, int N, int C, real eps) {
    for (int n = 0; n < N; n++) {
        const real *inp_n = inp + (size_t)n * C;
        real *out_n = out + (size_t)n * C;
        real r = rms_reciprocal(inp_n, C, eps);
        #pragma omp simd
        for (int c = 0; c < C; c++) out_n[c] = inp_n[c] * r * weight[c];
        rstd[n] = r;
    }
}

static void rmsnorm_backward(real *dinp, real *dweight, const real *dout, const real *rstd, const real *inp,
                             const real *weight, int N, int C, bool accumulate) {
    for (int n = 0; n < N; n++) {
        const real *dout_n = dout + (size_t)n * C;
        const real *inp_n = inp + (size_t)n * C;
        real r = rstd[n];
        if (dweight) {
            #pragma omp simd
            for (int c = 0; c < C; c++) dweight[c] += dout_n[c] * (inp_n[c] * r);
        }
        if (!dinp) continue;
        real *dinp_n = dinp + (size_t)n * C;
        real slope = row_dot3(dout_n, weight, inp_n, C) * r / C * r; /* mean_c(dout weight x) rstd */
        if (accumulate) {
            #pragma omp simd
            for (int c = 0; c < C; c++) dinp_n[c] += r * (dout_n[c] * weight[c] - inp_n[c] * slope);
        } else {
            #pragma omp simd
            for (int c = 0; c < C; c++) dinp_n[c] = r * (dout_n[c] * weight[c] - inp_n[c] * slope);
        }
    }
}
