/* gemm: the product of two matrices, each stored either way round and in any Storage.
 *
 *   out[m,n] = (accumulate ? out[m,n] : 0) + sum_k A[m,k] B[k,n] + (bias ? bias[n] : 0)
 *
 * out (M,N)   A (M,K)   B (K,N)   bias (N) or NULL   work GEMM_WORK reals
 *
 * A block of B, KC x NC, is packed so that it stays in the second-level cache; a few panels of A are packed
 * beside it and meet each of its own. Transposition and storage are matters of packing. An element is the sum, in
 * order, of chains of KC products: its bits do not depend on M, N, or its place, but that products of few rows
 * (few_rows.c, which table.c includes first) sum in another order. Where many tiles share a B it is packed
 * beforehand, once. */
#include "kernels/kernels.h"
#include "kernels/pack.h"

_Static_assert(WHOLE_CHAINS % KC == 0, "who cuts along k cuts between chains");

#define GEMM_WORK (PANELS * A_PANEL + KU * NC)

/* A block of packed columns, `panel` units a panel, meets the rows of A from (0, k) on. */
static void multiply_rows(real *out, size_t ldo, const Matrix *A, int k, const unit *b, size_t panel, const real *bias,
                          int M, int cols, int depth, bool add, unit *a) {
    const int panels = A->transposed ? PANELS : 1;
    for (int m = 0; m < M; m += MR) {
        const int ahead = m % (panels * MR), rows = smaller(MR, M - m);
        if (ahead == 0) pack_rows(a, A, m, k, smaller(panels * MR, M - m), depth);
        for (int j = 0; j < cols; j += NR) {
            prefetch_rows(A, m + panels * MR, k, smaller(MR, M - m - panels * MR), depth, j / NR);
            tile(out + m * ldo + j, ldo, a + ahead / MR * A_PANEL, A->transposed, b + j / NR * panel,
                 bias ? bias + j : NULL, rows, smaller(NR, cols - j), UNITS(depth), add);
        }
    }
}

static void gemm(real *out, size_t ldo, Matrix A, Matrix B, const real *bias, int M, int N, int K, bool accumulate,
                 real *work) {
    if (M == 0) return;
    if (M <= FEW_ROWS && are_read_in_place(&A, &B)) {
        gemm_few_rows(out, ldo, &A, &B, bias, M, N, K, accumulate, work);
        return;
    }
    unit *a = (unit *)work, *b = a + PANELS * A_PANEL;
    const int width = M <= MR && B.transposed ? NR : NC;
    for (int n = 0; n < N; n += width) {
        const int cols = smaller(width, N - n);
        for (int k = 0; k < K || k == 0; k += KC) {
            const int depth = smaller(KC, K - k);
            for (int j = 0; j < cols; j += NR) pack_columns(b + j * KU, &B, k, n + j, depth, smaller(NR, cols - j));
            multiply_rows(out + n, ldo, &A, k, b, KU * NR, bias && k == 0 ? bias + n : NULL, M, cols, depth,
                          accumulate || k > 0, a);
        }
    }
}

/* --- B packed once: chain after chain, in each the panels of NR columns
 * ----------------------------------------------- */
static inline int whole_panels(int columns) { return (columns + NR - 1) / NR * NR; }

static size_t packed_size(int K, int N) { return (size_t)UNITS(K) * (size_t)whole_panels(N); }

static void pack(real *packed, Matrix B, int K, int N, int n, int cols) {
    for (int k = 0; k < K; k += KC) {
        const int depth = smaller(KC, K - k);
        unit *chain = (unit *)(void *)packed + (size_t)(k / PER_UNIT) * (size_t)whole_panels(N);
        for (int j = n; j < n + cols; j += NR)
            pack_columns(chain + (size_t)j * UNITS(depth), &B, k, j, depth, smaller(NR, N - j));
    }
}

static void gemm_packed(real *out, size_t ldo, Matrix A, Packed B, int k0, int n0, const real *bias, int M, int N,
                        int K, bool accumulate, real *work) {
    for (int n = 0; n < N; n += NC) {
        for (int k = 0; k < K || k == 0; k += KC) {
            const size_t units = UNITS(smaller(KC, B.K - k0 - k));
            const unit *chain =
                (const unit *)(const void *)B.units + (size_t)((k0 + k) / PER_UNIT) * (size_t)whole_panels(B.N);
            multiply_rows(out + n, ldo, &A, k, chain + (size_t)(n0 + n) * units, units * NR,
                          bias && k == 0 ? bias + n : NULL, M, smaller(NC, N - n), smaller(KC, K - k),
                          accumulate || k > 0, (unit *)work);
        }
    }
}
