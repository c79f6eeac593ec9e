/* Softmax and cross entropy of rows
 *   softmax(x)[v] = exp(x[v] - max) / sum_v exp(x[v] - max)
 *   losses[n]     = logsumexp(logits[n,:]) - logits[n,targets[n]], 0 where targets[n] < 0
 *   dlogits[n,v]  = (softmax(logits[n,:])[v] - [v == targets[n]]) * scale, 0 where targets[n] < 0
 *   dinp[n,v]     = out[n,v] * (dout[n,v] - sum_v dout[n,v] out[n,v])                 of out = softmax(inp)
 *
 * logits, dlogits, inp, out, dinp, dout (N,V)   losses, targets (N)
 * dlogits may be logits, out may be inp, dinp may be dout or out
 * A logit of -inf has probability 0. A row of nothing but -inf, or with +inf or NaN, is no distribution: NaN. */
#include "kernels/lanes.h"
#include "kernels/math.h"

/* sum_v exp(x[v] - max) */
static real row_sum_exp(const real *x, real max, size_t n) {
    real lane[LANES] = {0};
    size_t whole = n - n % LANES;
    for (size_t i = 0; i < whole; i += LANES)
        for (size_t j = 0; j < LANES; j++) lane[j] += math_weight(x[i + j] - max);
    for (size_t i = whole; i < n; i++) lane[i - whole] += math_weight(x[i] - max);
    return lanes_sum(lane);
}

/* out[v] = exp(x[v] - max); returns their sum */
static real row_exp(real *out, const real *x, real max, size_t n) {
    real lane[LANES] = {0};
    size_t whole = n - n % LANES;
    for (size_t i = 0; i < whole; i += LANES) {
        #pragma omp simd
        for (size_t j = 0; j < LANES; j++) {
            out[i + j] = math_weight(x[i + j] - max);
            lane[j] += out[i + j];
        }
    }
    for (size_t i = whole; i < n; i++) lane[i - whole] += out[i] = math_weight(x[i] - max);
    return lanes_sum(lane);
}

static void cross_entropy_forward(real *losses, const real *logits, const int32_t *targets, int N, int V) {
    for (int n = 0; n < N; n++) {
        const real *logits_n = logits + (size_t)n * V;
        losses[n] = 0;
        if (targets[n] < 0) continue;
        real max = row_max(logits_n, V);
        losses[n] = math_log(row_sum_exp(logits_n, max, V)) - (logits_n[targets[n]] - max);
    }
}

static void cross_entropy_backward(real *dlogits, real *losses, const real *logits, const int32_t *targets, int N,
                                   int V, real scale, bool accumulate) {
    for (int n = 0; n < N; n++) {
        const real *logits_n = logits + (size_t)n * V;
        real *dlogits_n = dlogits + (size_t)n * V;
        if (targets[n] < 0) {
            if (losses) losses[n] = 0;
            for (int v = 0; v < V && !accumulate; v++) dlogits_n[v] = 0;
            continue;
        }
        const real max = row_max(logits_n, V), likely = logits_n[targets[n]] - max;
        const real sum = accumulate ? row_sum_exp(logits_n, max, V) : row_exp(dlogits_n, logits_n, max, V);
        const real factor = scale / sum;
        if (losses) losses[n] = math_log(sum) - likely;
        if (accumulate) {
            #pragma omp simd
            for (int v = 0; v < V; v++) dlogits_n[v] += math_weight(logits_n[v] - max) * factor;
        } else {
            #pragma omp simd
            for (int v = 0; v < V; v++) dlogits_n[v] *= factor;
        }
        dlogits_n[targets[n]] -= scale;
    }
}

static void softmax_forward(real *out, const real *inp, int N, int V) {
    for (int n = 0; n < N; n++) {
        const real *inp_n = inp + (size_t)n * V;
        real *out_n = out + (size_t)n * V;
        real factor = 1 / row_exp(out_n, inp_n, row_max(inp_n, V), V);
        #pragma omp simd
        for (int v = 0; v < V; v++) out_n[v] *= factor;
    }
}

static void softmax_backward(real *dinp, const real *dout, const real *out, int N, int V) {
    for (int n = 0; n < N; n++) {
        const real *dout_n = dout + (size_t)n * V, *out_n = out + (size_t)n * V;
        real *dinp_n = dinp + (size_t)n * V;
        real mean = row_dot(dout_n, out_n, V);
        #pragma omp simd
        for (int v = 0; v < V; v++) dinp_n[v] = out_n[v] * (dout_n[v] - mean);
    }
}
