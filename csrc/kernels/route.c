/* Route: heads made of heads, the same sums in every row
 *   out[n,g,:] = sum_c weight[g,c] inp[n,c,:]
 *
 * Its gradient of inp is a route by the transposed weights, and
 *   dweight[g,c] += sum_{n,d} dout[n,g,d] inp[n,c,d]
 *
 * out, inp, dout (N, G*D) with row strides   weight, dweight (G,G) with strides: a part of a wider matrix */
#include "kernels/lanes.h"

#define ROUTED 4 /* heads that are made, or differentiated, from one reading of inp */

/* Those of the last numbers of a head that fill no vector. */
static void route_rest(real *restrict out, const real *restrict inp, const real *weight, size_t col, int G, int D,
                       int rest, bool accumulate) {
    if (!accumulate) memset(out, 0, rest * sizeof(real));
    for (int c = 0; c < G; c++) {
        const real w = weight[(size_t)c * col], *inp_c = inp + (size_t)c * D;
        #pragma omp simd
        for (int d = 0; d < rest; d++) out[d] += w * inp_c[d];
    }
}

ALWAYS_INLINE void route_heads(real *out, const real *inp, const real *weight, size_t row, size_t col, const int heads,
                               int G, int D, bool accumulate) {
    int d = 0;
    for (; d + (int)WIDTH <= D; d += WIDTH) {
        vreal sum[ROUTED];
        for (int g = 0; g < heads; g++) sum[g] = accumulate ? vload(out + g * D + d) : (vreal){0};
        for (int c = 0; c < G; c++) {
            const vreal x = vload(inp + (size_t)c * D + d);
            for (int g = 0; g < heads; g++) sum[g] += weight[(size_t)g * row + (size_t)c * col] * x;
        }
        for (int g = 0; g < heads; g++) vstore(out + g * D + d, sum[g]);
    }
    for (int g = 0; g < heads && d < D; g++)
        route_rest(out + g * D + d, inp + d, weight + (size_t)g * row, col, G, D, D - d, accumulate);
}

static void route(real *out, size_t ldo, const real *inp, size_t ldi, const real *weight, size_t row, size_t col, int N,
                  int G, int D, bool accumulate) {
    for (int n = 0; n < N; n++, out += ldo, inp += ldi) {
        int g = 0;
        for (; g + ROUTED <= G; g += ROUTED)
            route_heads(out + (size_t)g * D, inp, weight + (size_t)g * row, row, col, ROUTED, G, D, accumulate);
        for (; g < G; g++)
            route_heads(out + (size_t)g * D, inp, weight + (size_t)g * row, row, col, 1, G, D, accumulate);
    }
}

/* Some rows of one column of dweight. */
ALWAYS_INLINE void route_column(real *dweight, size_t row, const real *dout, size_t ldd, const real *inp, size_t ldi,
                                int N, const int heads, int D) {
    vreal sum[ROUTED] = {0};
    real rest[ROUTED] = {0};
    for (int n = 0; n < N; n++, dout += ldd, inp += ldi) {
        int d = 0;
        for (; d + (int)WIDTH <= D; d += WIDTH) {
            const vreal x = vload(inp + d);
            for (int g = 0; g < heads; g++) sum[g] += vload(dout + g * D + d) * x;
        }
        for (; d < D; d++)
            for (int g = 0; g < heads; g++) rest[g] += dout[g * D + d] * inp[d];
    }
    for (int g = 0; g < heads; g++) dweight[(size_t)g * row] += lanes_total(sum[g]) + rest[g];
}

static void route_backward(real *dweight, size_t row, const real *dout, size_t ldd, const real *inp, size_t ldi, int N,
                           int G, int D) {
    for (int c = 0; c < G; c++, dweight++, inp += D) {
        int g = 0;
        for (; g + ROUTED <= G; g += ROUTED)
            route_column(dweight + (size_t)g * row, row, dout + (size_t)g * D, ldd, inp, ldi, N, ROUTED, D);
        for (; g < G; g++)
            route_column(dweight + (size_t)g * row, row, dout + (size_t)g * D, ldd, inp, ldi, N, 1, D);
    }
}
