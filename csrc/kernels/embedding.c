/* Embedding
 *   out[n,:] = weight[ids[n],:]
 *   dweight[ids[n],:] += dout[n,:], in the order of n, where ids[n] != padding
 *
 * out, dout (N,C)   weight, dweight (V,C)   ids (N), each within [0, V): checked at the gate
 * backward: C may be a slice of columns, so that threads share the work without sharing a sum */
#include <string.h>
#include "base/real.h"

static void embedding_forward(real *out, const int32_t *ids, const real *weight, int N, int C) {
    for (int n = 0; n < N; n++)
        memcpy(out + (size_t)n * C, weight + (size_t)ids[n] * C, (size_t)C * sizeof(real));
}

static void embedding_backward(real *dweight, size_t ldw, const real *dout, size_t ldd, const int32_t *ids, int N,
                               int C, int32_t padding) {
    for (int n = 0; n < N; n++) {
        if (ids[n] == padding) continue;
        real *dweight_n = dweight + (size_t)ids[n] * ldw;
        const real *dout_n = dout + (size_t)n * ldd;
        #pragma omp simd
        for (int c = 0; c < C; c++) dweight_n[c] += dout_n[c];
    }
}
