/* Hyper-Connections (Zhu et al., 2024): a branch reads a mixture of S streams, which mix among each other meanwhile
 *   weight[n,i,k]  = fixed[i,k] + scale[k > S] * dynamic[n,i,k]          k < K = S + 2; fixed alone without fn
 *   dynamic[n,i,k] = tanh(sum_c fn[k,c] norm(inp[n,i,:])[c])             norm: LayerNorm without weights
 *   read[n,:]      = sum_i weight[n,i,0] inp[n,i,:]
 *   streams[n,j,:] = sum_i weight[n,i,1+j] inp[n,i,:]
 *   beta[n,i]      = weight[n,i,S+1]
 * and what it gives is added to each of them, so much as it says
 *   out[n,j,:]     = streams[n,j,:] + beta[n,j] y[n,:]
 *
 * With dweight, whose columns are dread . inp, dstreams . inp and dbeta, and x the normed streams:
 *   dinp[n,i,:]   = weight[n,i,0] dread[n,:] + sum_j weight[n,i,1+j] dstreams[n,j,:]
 *                   + what the norm's gradient makes of sum_k slope[i,k] fn[k,:]
 *   slope[i,k]    = dweight[i,k] scale[k > S] (1 - dynamic[n,i,k]^2)
 *   dfixed[i,k]   += dweight[i,k]     dscale[k > S] += dweight[i,k] dynamic[n,i,k]
 *   dfn[k,:]      += sum_i slope[i,k] x[i,:]
 *
 * inp, streams, out (N,S,C)   read, y (N,C)   beta (N,S)   fn (K,C)   fixed (S,K)   scale (2)
 * dynamic (N,S,K)   mean, rstd (N,S), kept for the backward pass   The last column of weight is beta's. */
#include <string.h>
#include "kernels/kernels.h"
#include "kernels/math.h"

/* out[o,:] = sum_i weight[o*row + i*col] inp[i,:]; vectors of C */
static void mix(real *out, const real *inp, const real *weight, size_t row, size_t col, int outs, int ins, int C,
                bool accumulate) {
    int o = 0;
    for (; o + ROUTED <= outs; o += ROUTED)
        route_heads(out + (size_t)o * C, inp, weight + (size_t)o * row, row, col, ROUTED, ins, C, accumulate);
    for (; o < outs; o++)
        route_heads(out + (size_t)o * C, inp, weight + (size_t)o * row, row, col, 1, ins, C, accumulate);
}

/* out[r] = rows[r,:] . x; vectors of C */
static void products(real *out, const real *rows, const real *x, int count, int C) {
    memset(out, 0, (size_t)count * sizeof *out);
    int r = 0;
    for (; r + ROUTED <= count; r += ROUTED) route_column(out + r, 1, rows + (size_t)r * C, 0, x, 0, 1, ROUTED, C);
    for (; r < count; r++) route_column(out + r, 1, rows + (size_t)r * C, 0, x, 0, 1, 1, C);
}

/* Without dynamic: fixed alone. */
static void connect(real *weight, const real *fixed, const real *scale, const real *dynamic, int S) {
    const int K = S + 2;
    for (int i = 0; i < S; i++)
        for (int k = 0; k < K; k++)
            weight[i * K + k] = fixed[i * K + k] + (dynamic ? scale[k > S] * dynamic[i * K + k] : 0);
}

static void hyper_width_forward(real *read, real *streams, real *beta, real *dynamic, real *mean, real *rstd,
                                const real *inp, const real *fn, const real *fixed, const real *scale, int N, int S,
                                int C, real eps, real *work) {
    const int K = S + 2;
    const size_t all = (size_t)S * C;
    real *normed = work, *weight = normed + all;
    for (int n = 0; n < N; n++, inp += all, read += C, streams += all, beta += S) {
        real *own = fn ? dynamic + (size_t)n * S * K : NULL;
        if (fn) layernorm_forward(normed, mean + (size_t)n * S, rstd + (size_t)n * S, inp, NULL, NULL, S, C, eps);
        for (int i = 0; fn && i < S; i++) products(own + i * K, fn, normed + (size_t)i * C, K, C);
        for (int i = 0; fn && i < S * K; i++) own[i] = math_tanh(own[i]);
        connect(weight, fixed, scale, own, S);
        mix(read, inp, weight, 0, K, 1, S, C, false);
        mix(streams, inp, weight + 1, 1, K, S, S, C, false);
        for (int i = 0; i < S; i++) beta[i] = weight[i * K + S + 1];
    }
}

/* Of one row; a gradient that is NULL is zero. */
static void weight_gradient(real *dweight, const real *dread, const real *dstreams, const real *dbeta, const real *inp,
                            int S, int C) {
    const int K = S + 2;
    memset(dweight, 0, (size_t)S * K * sizeof *dweight);
    for (int i = 0; i < S; i++, inp += C, dweight += K) {
        if (dread) products(dweight, dread, inp, 1, C);
        if (dstreams) products(dweight + 1, dstreams, inp, S, C);
        if (dbeta) dweight[S + 1] = dbeta[i];
    }
}

/* What passes through the mixtures. */
static void mixture_gradient(real *dinp, const real *dread, const real *dstreams, const real *weight, int S, int C,
                             bool accumulate) {
    const int K = S + 2;
    if (!dread && !dstreams && !accumulate) memset(dinp, 0, (size_t)S * C * sizeof *dinp);
    if (dstreams) mix(dinp, dstreams, weight + 1, K, 1, S, S, C, accumulate);
    if (dread) mix(dinp, dread, weight, K, 0, S, 1, C, accumulate || dstreams);
}

/* Of the dynamic part: dweight becomes its slope. */
static void slope_gradient(real *dscale, real *dweight, const real *dynamic, const real *scale, int S) {
    const int K = S + 2;
    for (int i = 0; i < S; i++)
        for (int k = 0; k < K; k++, dweight++, dynamic++) {
            if (dscale) dscale[k > S] += *dweight * *dynamic;
            *dweight *= scale[k > S] * (1 - *dynamic * *dynamic);
        }
}

static void normed_again(real *normed, const real *inp, const real *mean, const real *rstd, int S, int C) {
    for (int i = 0; i < S; i++, normed += C, inp += C) {
        const real m = mean[i], r = rstd[i];
        #pragma omp simd
        for (int c = 0; c < C; c++) normed[c] = (inp[c] - m) * r;
    }
}

static void hyper_width_backward(real *dinp, real *dfn, real *dfixed, real *dscale, const real *dread,
                                 const real *dstreams, const real *dbeta, const real *dynamic, const real *mean,
                                 const real *rstd, const real *inp, const real *fn, const real *fixed,
                                 const real *scale, int N, int S, int C, bool accumulate, real *work) {
    const int K = S + 2;
    const size_t all = (size_t)S * C, each = (size_t)S * K;
    real *normed = work, *dnormed = normed + all, *weight = dnormed + all, *dweight = weight + each;
    for (size_t n = 0; n < (size_t)N; n++) {
        const real *x = inp + n * all, *own = fn ? dynamic + n * each : NULL;
        const real *read = dread ? dread + n * C : NULL, *go_on = dstreams ? dstreams + n * all : NULL;
        real *dx = dinp ? dinp + n * all : NULL;
        connect(weight, fixed, scale, own, S);
        weight_gradient(dweight, read, go_on, dbeta ? dbeta + n * S : NULL, x, S, C);
        if (dx) mixture_gradient(dx, read, go_on, weight, S, C, accumulate);
        for (size_t i = 0; dfixed && i < each; i++) dfixed[i] += dweight[i];
        if (!fn) continue;
        slope_gradient(dscale, dweight, own, scale, S);
        if (dfn) normed_again(normed, x, mean + n * S, rstd + n * S, S, C);
        if (dfn) mix(dfn, normed, dweight, 1, K, K, S, C, true);
        if (!dx) continue;
        mix(dnormed, fn, dweight, K, 1, S, K, C, false);
        layernorm_backward(dx, NULL, NULL, dnormed, mean + n * S, rstd + n * S, x, NULL, S, C, true);
    }
}

static void hyper_depth_forward(real *out, const real *streams, const real *y, const real *beta, int N, int S, int C) {
    const size_t all = (size_t)S * C;
    for (int n = 0; n < N; n++, out += all, streams += all, y += C, beta += S) {
        if (out != streams) memcpy(out, streams, all * sizeof *out);
        mix(out, y, beta, 1, 0, S, 1, C, true);
    }
}

static void hyper_depth_backward(real *dy, real *dbeta, const real *dout, const real *y, const real *beta, int N, int S,
                                 int C, bool accumulate) {
    for (int n = 0; n < N; n++, dout += (size_t)S * C, y += C, beta += S) {
        if (dy) mix(dy + (size_t)n * C, dout, beta, 0, 1, 1, S, C, accumulate);
        if (dbeta) products(dbeta + (size_t)n * S, dout, y, S, C);
    }
}
