/* LayerNorm
 *   out[n,c] = (inp[n,c] - mean[n]) * rstd[n] * weight[c] + bias[c]      weight NULL: times 1, plus 0
 *   mean[n]  = mean_c(inp[n,c])
 *   rstd[n]  = 1 / sqrt(mean_c((inp[n,c] - mean[n])^2) + eps)
 *
 * With x = (inp - mean) * rstd, the normalised row, and g = dout * weight, its gradient:
 *   dinp[n,c]   = rstd[n] * (g[n,c] - mean_c(g[n,c]) - x[n,c] * mean_c(g[n,c] * x[n,c]))
 *   dweight[c] += sum_n dout[n,c] * x[n,c]
 *   dbias[c]   += sum_n dout[n,c]
 *
 * out, inp, dout, dinp (N,C)   weight, bias, dweight, dbias (C)   mean, rstd (N), kept for the backward pass
 * out may be inp, dinp may be dout */
#include <math.h>
#include "kernels/lanes.h"

/* sum_c (x[c] - mean)^2: a pass of its own, for E[x^2] - E[x]^2 cancels */
static real row_deviation(const real *x, real mean, size_t n) {
    real lane[LANES] = {0};
    size_t whole = n - n % LANES;
    for (size_t i = 0; i < whole; i += LANES)
        for (size_t j = 0; j < LANES; j++) lane[j] += (x[i + j] - mean) * (x[i + j] - mean);
    for (size_t i = whole; i < n; i++) lane[i - whole] += (x[i] - mean) * (x[i] - mean);
    return lanes_sum(lane);
}

static void layernorm_forward(real *out, real *mean, real *rstd, const real *inp, const real *weight, const real *bias,
                              int N, int C, real eps) {
    for (int n = 0; n < N; n++) {
        const real *inp_n = inp + (size_t)n * C;
        real *out_n = out + (size_t)n * C;
        real m = row_sum(inp_n, C) / C;
        real r = 1 / (real)sqrt(row_deviation(inp_n, m, C) / C + eps);
        if (weight) {
            #pragma omp simd
            for (int c = 0; c < C; c++) out_n[c] = (inp_n[c] - m) * r * weight[c] + bias[c];
        } else {
            #pragma omp simd
            for (int c = 0; c < C; c++) out_n[c] = (inp_n[c] - m) * r;
        }
        mean[n] = m;
        rstd[n] = r;
    }
}

/* sum_c dout[c] weight[c] and sum_c dout[c] weight[c] (inp[c] - mean); weight[c] is 1 without `weighted` */
ALWAYS_INLINE void slopes(real *sum_g, real *sum_gx, const real *dout, const real *weight, const real *inp,
                          real mean, size_t n, const bool weighted) {
    real g[LANES] = {0}, gx[LANES] = {0};
    size_t whole = n - n % LANES;
    for (size_t i = 0; i < whole; i += LANES)
        for (size_t j = 0; j < LANES; j++) {
            real slope = weighted ? dout[i + j] * weight[i + j] : dout[i + j];
            g[j] += slope;
            gx[j] += slope * (inp[i + j] - mean);
        }
    for (size_t i = whole; i < n; i++) {
        real slope = weighted ? dout[i] * weight[i] : dout[i];
        g[i - whole] += slope;
        gx[i - whole] += slope * (inp[i] - mean);
    }
    *sum_g = lanes_sum(g);
    *sum_gx = lanes_sum(gx);
}

static void layernorm_slopes(real *sum_g, real *sum_gx, const real *dout, const real *weight, const real *inp,
                             real mean, size_t n) {
    if (weight) slopes(sum_g, sum_gx, dout, weight, inp, mean, n, true);
    else slopes(sum_g, sum_gx, dout, weight, inp, mean, n, false);
}

/* dinp = r (dout weight - mean_g - (inp - m) slope) */
ALWAYS_INLINE void give_dinp(real *dinp, const real *dout, const real *weight, const real *inp, real m, real r,
                             real mean_g, real slope, int C, bool accumulate, const bool weighted) {
    if (accumulate) {
        #pragma omp simd
        for (int c = 0; c < C; c++)
            dinp[c] += r * ((weighted ? dout[c] * weight[c] : dout[c]) - mean_g - (inp[c] - m) * slope);
    } else {
        #pragma omp simd
        for (int c = 0; c < C; c++)
            dinp[c] = r * ((weighted ? dout[c] * weight[c] : dout[c]) - mean_g - (inp[c] - m) * slope);
    }
}

static void layernorm_backward(real *dinp, real *dweight, real *dbias, const real *dout, const real *mean,
                               const real *rstd, const real *inp, const real *weight, int N, int C, bool accumulate) {
    for (int n = 0; n < N; n++) {
        const real *dout_n = dout + (size_t)n * C;
        const real *inp_n = inp + (size_t)n * C;
        real m = mean[n], r = rstd[n];
        if (dweight) {
            #pragma omp simd
            for (int c = 0; c < C; c++) dweight[c] += dout_n[c] * ((inp_n[c] - m) * r);
        }
        if (dbias) {
            #pragma omp simd
            for (int c = 0; c < C; c++) dbias[c] += dout_n[c];
        }
        if (!dinp) continue;
        real *dinp_n = dinp + (size_t)n * C;
        real sum_g, sum_gx;
        layernorm_slopes(&sum_g, &sum_gx, dout_n, weight, inp_n, m, C);
        real mean_g = sum_g / C, slope = sum_gx * r / C * r; /* mean_c(g x) rstd */
        if (weight) give_dinp(dinp_n, dout_n, weight, inp_n, m, r, mean_g, slope, C, accumulate, true);
        else give_dinp(dinp_n, dout_n, weight, inp_n, m, r, mean_g, slope, C, accumulate, false);
    }
}
