/* Embedding
 *   out[n,:] = weight[ids[n],:], widened where it is stored narrower
 *   dweight[ids[n],:] += dout[n,:], in the order of n, where ids[n] != padding
 *
 * out, dout (N,C)   weight, dweight (V,C)   ids (N), each within [0, V): checked at the gate
 * backward: C may be a slice of columns, so that threads share the work without sharing a sum */
#include <string.h>
#include "kernels/stored.h"

ALWAYS_INLINE void widen_row(real *restrict out, const Matrix *m, size_t row, int C, const Storage storage) {
    int c = 0;
    for (; c + WIDTH <= C; c += WIDTH) vstore(out + c, stored_vector(m, row, c, storage));
    for (; c < C; c++) out[c] = stored_number(m, row, c, storage);
}

static void embedding_forward(real *out, const int32_t *ids, Matrix weight, int N, int C) {
    for (int n = 0; n < N; n++)
        FOR_STORAGE(weight.storage, widen_row(out + (size_t)n * C, &weight, ids[n], C, storage))
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
