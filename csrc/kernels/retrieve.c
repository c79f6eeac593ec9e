/* Retrieve: how much is read of each of M representations, N times
 *   softmax_offered   out[n,m] = exp(inp[n,m]) / sum of those that are offered, 0 for the others
 *   prune             out[n,m] = inp[n,m] / sum of those kept: the smallest set of the largest whose sum exceeds top_p,
 *                     of equal ones the first; 0 for the others
 *
 * out, inp, dout, dinp (N,M)   offered (M)   what is kept is a constant to prune's gradient */
#include <math.h>
#include "kernels/kernels.h"
#include "kernels/math.h"

static void softmax_offered(real *out, const real *inp, const bool *offered, int N, int M) {
    for (int n = 0; n < N; n++, out += M, inp += M) {
        real max = -(real)INFINITY, sum = 0;
        for (int m = 0; m < M; m++)
            if (offered[m] && inp[m] > max) max = inp[m];
        for (int m = 0; m < M; m++) sum += out[m] = offered[m] ? math_exp(inp[m] - max) : 0;
        for (int m = 0; m < M; m++) out[m] /= sum;
    }
}

static void softmax_offered_backward(real *dinp, const real *dout, const real *out, int N, int M, bool accumulate) {
    for (int n = 0; n < N; n++, dinp += M, dout += M, out += M) {
        real mean = 0;
        for (int m = 0; m < M; m++) mean += dout[m] * out[m];
        for (int m = 0; m < M; m++) dinp[m] = (accumulate ? dinp[m] : 0) + out[m] * (dout[m] - mean);
    }
}

/* The first of the largest that `out` does not hold yet; -1: it holds all. */
static int largest_left(const real *out, const real *inp, int M) {
    int found = -1;
    for (int m = 0; m < M; m++)
        if (out[m] < 0 && (found < 0 || inp[m] > inp[found])) found = m;
    return found;
}

static void prune(real *out, const real *inp, real top_p, int N, int M) {
    for (int n = 0; n < N; n++, out += M, inp += M) {
        real sum = 0;
        for (int m = 0; m < M; m++) out[m] = -1;
        for (int m; sum <= top_p && (m = largest_left(out, inp, M)) >= 0;) sum += out[m] = inp[m];
        for (int m = 0; m < M; m++) out[m] = out[m] < 0 ? 0 : out[m] / sum;
    }
}

static void prune_backward(real *dinp, const real *dout, const real *out, const real *inp, int N, int M,
                           bool accumulate) {
    for (int n = 0; n < N; n++, dinp += M, dout += M, out += M, inp += M) {
        real mean = 0, sum = 0;
        for (int m = 0; m < M; m++) {
            mean += dout[m] * out[m];
            sum += out[m] > 0 ? inp[m] : 0;
        }
        for (int m = 0; m < M; m++)
            dinp[m] = (accumulate ? dinp[m] : 0) + (out[m] > 0 ? (dout[m] - mean) / sum : 0);
    }
}
