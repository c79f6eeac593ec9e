/* Mixture: rows made of the same rows of several streams, for every head with weights of its own
 *   out[h,n,:]  = gain * sum_i factor[h,i,n] stream_i[n,:],   factor[h,i,n] = weights[n,h,i] rstd_i[n]
 *
 * With u_i[n,:] = sum_h factor[h,i,n] dout[h,n,:]:
 *   dstream_i[n,:] = gain * u_i[n,:] - stream_i[n,:] rstd_i[n]^3 / C sum_h weights[n,h,i] dfactor[h,i,n]
 *   dfactor[h,i,n] = sum_c dout[h,n,c] gain[c] stream_i[n,c]
 *   dweights[n,h,i] += dfactor[h,i,n] rstd_i[n]
 *   dgain[c] += sum_i,n stream_i[n,c] u_i[n,c]
 * the second term of dstream being the way through rstd = 1 / sqrt(mean_c(stream^2) + eps).
 *
 * out, dout (heads, N, C), ldo between heads   streams, dstreams (…,C)   rows [first, first + N) of the streams */
#include "kernels/lanes.h"

#define MIXED 4 /* heads that are made, or differentiated, from one reading of a stream */

/* factor[i * heads + h] of row n */
static void mixture_factors(real *factor, const Mixture *m, int heads, size_t n) {
    const real *weights = m->weights + n * m->row;
    for (int i = 0; i < m->count; i++) {
        const real r = m->rstds[i][n];
        for (int h = 0; h < heads; h++) factor[i * heads + h] = weights[(size_t)h * m->head + m->columns[i]] * r;
    }
}

/* Those of the last numbers of a row that fill no two vectors. */
static void mixture_rest(real *restrict out, const Mixture *m, const real *factor, int stride, size_t at, int rest) {
    memset(out, 0, rest * sizeof(real));
    for (int i = 0; i < m->count; i++) {
        const real f = factor[i * stride], *x = m->streams[i] + at;
        #pragma omp simd
        for (int c = 0; c < rest; c++) out[c] += f * x[c];
    }
}

/* The row that begins at number `at` of every stream; out, factor: of the first of `heads` heads. */
ALWAYS_INLINE void mixture_heads(real *out, size_t ldo, const Mixture *m, const real *factor, int stride, size_t at,
                                 int C, const int heads) {
    int c = 0;
    for (; c + 2 * WIDTH <= C; c += 2 * WIDTH) {
        vreal sum[MIXED][2] = {0};
        for (int i = 0; i < m->count; i++) {
            const real *x = m->streams[i] + at + c;
            const vreal a = vload(x), b = vload(x + WIDTH);
            for (int h = 0; h < heads; h++) {
                sum[h][0] += factor[i * stride + h] * a;
                sum[h][1] += factor[i * stride + h] * b;
            }
        }
        const vreal gain0 = vload(m->gain + c), gain1 = vload(m->gain + c + WIDTH);
        for (int h = 0; h < heads; h++) {
            vstore(out + h * ldo + c, sum[h][0] * gain0);
            vstore(out + h * ldo + c + WIDTH, sum[h][1] * gain1);
        }
    }
    for (int h = 0; h < heads && c < C; h++) {
        mixture_rest(out + h * ldo + c, m, factor + h, stride, at + c, C - c);
        for (int d = c; d < C; d++) out[h * ldo + d] *= m->gain[d];
    }
}

static void mixture(real *out, size_t ldo, const Mixture *m, int heads, int first, int N, int C, real *work) {
    for (int n = 0; n < N; n++, out += C) {
        const size_t at = (size_t)(first + n) * C;
        mixture_factors(work, m, heads, first + n);
        int h = 0;
        for (; h + MIXED <= heads; h += MIXED) mixture_heads(out + h * ldo, ldo, m, work + h, heads, at, C, MIXED);
        for (; h < heads; h++) mixture_heads(out + h * ldo, ldo, m, work + h, heads, at, C, 1);
    }
}

/* --- backwards ---------------------------------------------------------------------------------------------------- */
/* A row of one stream and of some heads; dfactor: one number a head, overwritten. */
ALWAYS_INLINE void mixture_row_back(real *restrict dx, bool add, real *restrict dgain, real *restrict dfactor,
                                    const real *dout, size_t ldo, const real *x, const real *gain, const real *factor,
                                    int C, const int heads) {
    vreal sum[MIXED] = {0};
    int c = 0;
    for (; c + WIDTH <= C; c += WIDTH) {
        const vreal a = vload(x + c), g = vload(gain + c), scaled = a * g;
        vreal u = {0};
        for (int h = 0; h < heads; h++) {
            const vreal d = vload(dout + h * ldo + c);
            u += factor[h] * d;
            sum[h] += d * scaled;
        }
        vstore(dgain + c, vload(dgain + c) + a * u);
        u *= g;
        if (add) u += vload(dx + c);
        vstore(dx + c, u);
    }
    for (int h = 0; h < heads; h++) dfactor[h] = lanes_total(sum[h]);
    for (; c < C; c++) {
        real u = 0;
        for (int h = 0; h < heads; h++) {
            u += factor[h] * dout[h * ldo + c];
            dfactor[h] += dout[h * ldo + c] * (x[c] * gain[c]);
        }
        dgain[c] += x[c] * u;
        dx[c] = (add ? dx[c] : 0) + gain[c] * u;
    }
}

/* Some heads, from `h` on, of row n of stream i. */
ALWAYS_INLINE void mixture_back(const MixtureGradients *d, const Mixture *m, const real *dout, size_t ldo,
                                const real *factor, size_t n, int i, int h, int C, real *spare, const int heads) {
    const real *x = m->streams[i] + n * C, r = m->rstds[i][n];
    real *dx = d->streams[i] ? d->streams[i] + n * C : spare, dfactor[MIXED], through = 0;
    mixture_row_back(dx, d->streams[i] && (d->adds[i] || h > 0), d->gain, dfactor, dout + h * ldo, ldo, x, m->gain,
                     factor, C, heads);
    for (int k = 0; k < heads; k++) {
        const size_t at = (size_t)(h + k) * m->head + m->columns[i];
        d->weights[n * d->row + at] += dfactor[k] * r;
        through += dfactor[k] * m->weights[n * m->row + at];
    }
    const real slope = through * r * r * r / C;
    if (!d->streams[i]) return;
    #pragma omp simd
    for (int c = 0; c < C; c++) dx[c] -= slope * x[c];
}

static void mixture_backward(const MixtureGradients *d, const real *dout, size_t ldo, const Mixture *m, int heads,
                             int first, int N, int C, real *work) {
    real *spare = work + (size_t)m->count * heads;
    for (int n = 0; n < N; n++, dout += C) {
        mixture_factors(work, m, heads, first + n);
        for (int i = 0; i < m->count; i++) {
            const real *factor = work + i * heads;
            int h = 0;
            for (; h + MIXED <= heads; h += MIXED)
                mixture_back(d, m, dout, ldo, factor + h, first + n, i, h, C, spare, MIXED);
            for (; h < heads; h++) mixture_back(d, m, dout, ldo, factor + h, first + n, i, h, C, spare, 1);
        }
    }
}
