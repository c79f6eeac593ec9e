/* gemm: the product of two matrices, each stored either way round and in any Storage.
 *
 *   out[m,n] = (accumulate ? out[m,n] : 0) + sum_k A[m,k] B[k,n] + (bias ? bias[n] : 0)
 *
 * out (M,N)   A (M,K)   B (K,N)   bias (N) or NULL   work GEMM_WORK reals
 *
 * A block of B, KC x NC, is packed so that it stays in the second-level cache; a few panels of A are packed
 * beside it and meet each of its own. Transposition and storage are matters of packing. An element is the sum, in
 * order, of chains of KC products: its bits do not depend on M, N, or its place. */
#include "kernels/kernels.h"
#include "kernels/pack.h"

#define FEW_ROWS 6         /* up to here, packing B costs more than it gains, unless B must be turned */
#define FEW_ROWS_SUMS 3840 /* their sums stay in the first-level cache; no power of two, or B's rows would evict them */
#define GEMM_WORK (PANELS * A_PANEL + KU * NC)

static inline int smaller(int a, int b) { return a < b ? a : b; }

/* sum[j] += sum_d a[d] b[d,j], in order of d */
ALWAYS_INLINE void add_rows(real *restrict sum, const real *restrict a, size_t step, const real *restrict b, size_t ldb,
                            const int depth, int cols) {
    for (int j = 0; j < cols; j++) {
        real s = sum[j];
#pragma GCC unroll 4
        for (int d = 0; d < depth; d++) s += a[d * step] * b[d * ldb + j];
        sum[j] = s;
    }
}

/* Few rows of A, B not turned: every row of B is read once, where it lies, and added into the sums. */
static void gemm_few_rows(real *out, size_t ldo, const Matrix *A, const Matrix *B, const real *bias, int M, int N, int K,
                          bool accumulate, real *sums) {
    const size_t lda = A->stride, ldb = B->stride, row = A->turned ? 1 : lda, step = A->turned ? lda : 1;
    const real *a = A->data, *b = B->data;
    const int width = FEW_ROWS_SUMS / M / NR * NR;
    for (int n = 0; n < N; n += width) {
        const int cols = smaller(width, N - n);
        for (int k = 0; k < K || k == 0; k += KC) {
            const int depth = smaller(KC, K - k);
            memset(sums, 0, (size_t)M * width * sizeof(real));
            int d = 0;
            for (; d + 4 <= depth; d += 4)
                for (int m = 0; m < M; m++)
                    add_rows(sums + m * width, a + m * row + (k + d) * step, step, b + (k + d) * ldb + n, ldb, 4, cols);
            for (; d < depth; d++)
                for (int m = 0; m < M; m++)
                    add_rows(sums + m * width, a + m * row + (k + d) * step, step, b + (k + d) * ldb + n, ldb, 1, cols);
            for (int m = 0; m < M; m++) {
                real *o = out + m * ldo + n;
                const real *sum = sums + m * width;
                const bool add = accumulate || k > 0;
                for (int j = 0; j < cols; j++) o[j] = (sum[j] + (bias && k == 0 ? bias[n + j] : 0)) + (add ? o[j] : 0);
            }
        }
    }
}

static void gemm(real *out, size_t ldo, Matrix A, Matrix B, const real *bias, int M, int N, int K, bool accumulate,
                 real *work) {
    if (M == 0) return;
    if (PER_UNIT == 1 && M <= FEW_ROWS && !B.turned && A.storage == STORED_REAL && B.storage == STORED_REAL) {
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
