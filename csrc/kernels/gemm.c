/* gemm: the product of two matrices, each stored either way round and in any Storage.
 *
 *   out[m,n] = (accumulate ? out[m,n] : 0) + sum_k A[m,k] B[k,n] + (bias ? bias[n] : 0)
 *
 * out (M,N)   A (M,K)   B (K,N)   bias (N) or NULL   work GEMM_WORK reals
 *
 * A block of B, KC x NC, is packed so that it stays in the second-level cache; a few panels of A are packed
 * beside it and meet each of its own. Transposition and storage are matters of packing. An element is the sum, in
 * order, of chains of KC products: its bits do not depend on M, N, or its place, but that products of few rows
 * (few_rows.c, which table.c includes first) sum in another order. */
#include "kernels/kernels.h"
#include "kernels/pack.h"

#define GEMM_WORK (PANELS * A_PANEL + KU * NC)

static void gemm(real *out, size_t ldo, Matrix A, Matrix B, const real *bias, int M, int N, int K, bool accumulate,
                 real *work) {
    if (M == 0) return;
    if (M <= FEW_ROWS && are_read_in_place(&A, &B)) {
        gemm_few_rows(out, ldo, &A, &B, bias, M, N, K, accumulate, work);
        return;
    }
    unit *a = (unit *)work, *b = a + PANELS * A_PANEL;
    const int panels = A.turned ? PANELS : 1;
    const int width = M <= MR && B.turned ? NR : NC;
    for (int n = 0; n < N; n += width) {
        const int cols = smaller(width, N - n);
        for (int k = 0; k < K || k == 0; k += KC) {
            const int depth = smaller(KC, K - k);
            for (int j = 0; j < cols; j += NR) pack_columns(b + j * KU, &B, k, n + j, depth, smaller(NR, cols - j));
            for (int m = 0; m < M; m += MR) {
                const int ahead = m % (panels * MR), rows = smaller(MR, M - m);
                if (ahead == 0) pack_rows(a, &A, m, k, smaller(panels * MR, M - m), depth);
                const unit *panel = a + ahead / MR * A_PANEL;
                for (int j = 0; j < cols; j += NR) {
                    prefetch_rows(&A, m + panels * MR, k, smaller(MR, M - m - panels * MR), depth, j / NR);
                    tile(out + m * ldo + n + j, ldo, panel, A.turned, b + j * KU, bias && k == 0 ? bias + n + j : NULL,
                         rows, smaller(NR, cols - j), UNITS(depth), accumulate || k > 0);
                }
            }
        }
    }
}
