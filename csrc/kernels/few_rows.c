/* Products of few rows: every number of B is read once, where it lies and in the order in which it lies, as fast as
 * memory gives it; to pack it would cost more than the product.
 *
 *   out[m,n] = (accumulate ? out[m,n] : 0) + sum_k A[m,k] B[k,n] + (bias ? bias[n] : 0)     M <= FEW_ROWS
 *
 * A transposed B, whose stored rows run along k, is met by the dot products of dot_real.h, or of dot_bfloat16.h and
 * dot_int8.h. In the table of bfloat16 products reals are rounded as packing rounds them. Int8 numbers are exact: the
 * products of a group are summed, then scaled. */
#include "kernels/lane_sum.h"
#include "kernels/kernels.h"
#include "kernels/stored.h"

#define FEW_DEPTH 8192 /* k at a time, of which A is copied where it does not lie as it is read */
#define FEW_CHAIN KU   /* k at a time where columns are summed: the same order as packed products in float32 */
#define FEW_SUMS 3840  /* sums of columns stay in the first-level cache; no power of two, or rows would evict them */

#ifdef LLMC_BFLOAT16
#include "kernels/dot_bfloat16.h"
#else
#include "kernels/dot_real.h"
#endif

/* A number as the product takes it, int8 without its scale. */
ALWAYS_INLINE vreal factors(const Matrix *B, size_t row, size_t col, const Storage storage) {
    const vreal x = unscaled_vector(B, row, col, storage);
    return storage == STORED_REAL ? operand_of(x) : x;
}
ALWAYS_INLINE real factor(const Matrix *B, size_t row, size_t col, const Storage storage) {
    const real x = unscaled_number(B, row, col, storage);
    return storage == STORED_REAL ? operand_of((vreal){x})[0] : x;
}

/* --- a transposed B: its stored rows run along k
 * -------------------------------------------------------------------------- */
#define ABREAST 4                    /* stored rows at most */
#define FAR_APART ((size_t)64 << 10) /* bytes between them at least */

/* Stored row n of B and every `apart` on, `abreast` of them; a: rows as make_dotted left them. */
ALWAYS_INLINE void dot_rows(real *out, size_t ldo, const real *a, size_t lda, const Matrix *B, const real *bias,
                            size_t n, size_t apart, int K, bool add, const int M, const int abreast,
                            const Storage storage) {
    vreal sum[ABREAST][FEW_ROWS] = {0};
    int k = 0;
    for (; k + GROUP <= K; k += GROUP)
#pragma GCC unroll 4
        for (int i = 0; i < abreast; i++) dot_group(sum[i], a, lda, B, n + i * apart, k, GROUP, M, storage);
    if (k < K)
#pragma GCC unroll 4
        for (int i = 0; i < abreast; i++) dot_group(sum[i], a, lda, B, n + i * apart, k, K - k, M, storage);
#pragma GCC unroll 4
    for (int i = 0; i < abreast; i++)
#pragma GCC unroll 6
        for (int m = 0; m < M; m++) {
            const size_t row = n + i * apart;
            real *o = out + m * ldo + row;
            *o = (lanes_total(sum[i][m]) + (bias ? bias[row] : 0)) + (add ? *o : 0);
        }
}

/* Stored rows abreast, as many as leave registers for the sums, where they lie far apart: a processor foresees a few
 * long streams better than one, but none that are soon over, and what a program fetches ahead only disturbs it. */
ALWAYS_INLINE void dots(real *out, size_t ldo, const real *a, size_t lda, const Matrix B, const real *bias, int N,
                        int K, bool add, const int M, const Storage storage) {
    const int abreast = M == 1 ? ABREAST : M <= 3 ? 2 : 1;
    const size_t stream = (size_t)(N / abreast) * B.stride * storage_bytes(storage);
    const int apart = stream < FAR_APART ? 0 : N / abreast;
    for (int n = 0; n < apart; n++) dot_rows(out, ldo, a, lda, &B, bias, n, apart, K, add, M, abreast, storage);
    for (int n = apart * abreast; n < N; n++) dot_rows(out, ldo, a, lda, &B, bias, n, 0, K, add, M, 1, storage);
}

/* --- B as it is: its stored rows run along n
 * ------------------------------------------------------------------------ */
/* sum[m,j] += sum_d a[m,k+d] B[k+d,n+j], in order of d */
ALWAYS_INLINE void add_rows(real *restrict sum, size_t lds, const real *restrict a, size_t lda, const Matrix *B,
                            size_t k, size_t n, int cols, const int M, const int depth, const Storage storage) {
    const int lines = depth * WIDTH * (int)storage_bytes(storage) / FETCH; /* of `depth` rows, a vector */
    int j = 0;
    for (; j + WIDTH <= cols; j += WIDTH) {
        vreal b[8];
        for (int i = 0; i < lines; i++) prefetch_stored(B, k + depth + (j / WIDTH * lines + i) % depth, n + j);
#pragma GCC unroll 8
        for (int d = 0; d < depth; d++) b[d] = factors(B, k + d, n + j, storage);
#pragma GCC unroll 6
        for (int m = 0; m < M; m++) {
            vreal s = vload(sum + m * lds + j);
#pragma GCC unroll 8
            for (int d = 0; d < depth; d++) s += a[m * lda + k + d] * b[d];
            vstore(sum + m * lds + j, s);
        }
    }
    for (; j < cols; j++)
        for (int m = 0; m < M; m++)
            for (int d = 0; d < depth; d++) sum[m * lds + j] += a[m * lda + k + d] * factor(B, k + d, n + j, storage);
}

ALWAYS_INLINE void sums(real *out, size_t ldo, const real *a, size_t lda, const Matrix *B, const real *bias, int N,
                        int K, bool add, real *sum, const int M, const Storage storage) {
    const int width = FEW_SUMS / M;
    for (int n = 0; n < N; n += width) {
        const int cols = smaller(width, N - n);
        for (int k = 0; k < K || k == 0; k += FEW_CHAIN) {
            const int depth = smaller(FEW_CHAIN, K - k);
            for (int m = 0; m < M; m++) memset(sum + m * width, 0, cols * sizeof(real));
            int d = 0;
            for (; d + 8 <= depth; d += 8) add_rows(sum, width, a, lda, B, k + d, n, cols, M, 8, storage);
            for (; d < depth; d++) add_rows(sum, width, a, lda, B, k + d, n, cols, M, 1, storage);
            for (int m = 0; m < M; m++) {
                real *o = out + m * ldo + n;
                const real *s = sum + m * width;
                for (int j = 0; j < cols; j++)
                    o[j] = (s[j] + (bias && k == 0 ? bias[n + j] : 0)) + (add || k > 0 ? o[j] : 0);
            }
        }
    }
}

/* --- either ------------------------------------------------------------------------------------------------------- */
/* Of int8 a scale belongs to neighbours along k. */
static bool are_read_in_place(const Matrix *A, const Matrix *B) {
    return A->storage != STORED_INT8 && (B->storage != STORED_INT8 || B->transposed);
}

static bool lies_as_read(const Matrix *A) { return PER_UNIT == 1 && !A->transposed && A->storage == STORED_REAL; }

/* A from k on as rows, rounded where the table rounds. */
ALWAYS_INLINE void copy_rows(real *a, size_t lda, const Matrix *A, int k, int M, int K, const Storage storage) {
    for (int m = 0; m < M; m++, a += lda) {
        int d = 0;
        for (; !A->transposed && d + WIDTH <= K; d += WIDTH) vstore(a + d, factors(A, m, k + d, storage));
        for (; d < K; d++) a[d] = A->transposed ? factor(A, k + d, m, storage) : factor(A, m, k + d, storage);
    }
}

static void few_rows_of(real *out, size_t ldo, const real *a, size_t lda, const Matrix *B, const real *bias, int M,
                        int N, int K, bool add, real *sum) {
#define FEW_CASE(R)                                                                                                    \
    case R:                                                                                                            \
        if (B->transposed) FOR_STORAGE(B->storage, dots(out, ldo, a, lda, *B, bias, N, K, add, R, storage))            \
        else if (B->storage == STORED_REAL) sums(out, ldo, a, lda, B, bias, N, K, add, sum, R, STORED_REAL);           \
        else sums(out, ldo, a, lda, B, bias, N, K, add, sum, R, STORED_BFLOAT16);                                      \
        break;
    switch (M) { FEW_CASE(1) FEW_CASE(2) FEW_CASE(3) FEW_CASE(4) FEW_CASE(5) FEW_CASE(6) }
#undef FEW_CASE
}

static void gemm_few_rows(real *out, size_t ldo, const Matrix *A, const Matrix *B, const real *bias, int M, int N,
                          int K, bool accumulate, real *work) {
    real *sum = work, *copy = work + FEW_SUMS;
    const bool direct = lies_as_read(A);
    for (int k = 0; k < K || k == 0; k += FEW_DEPTH) {
        const int depth = smaller(FEW_DEPTH, K - k);
        const Matrix part = matrix_at(*B, k, 0);
        const real *a = direct ? (const real *)A->data + k : copy;
        const size_t lda = direct ? A->stride : (size_t)(depth + GROUP - 1) / GROUP * GROUP;
        if (!direct) FOR_STORAGE(A->storage, copy_rows(copy, lda, A, k, M, depth, storage))
        if (B->transposed) make_dotted(copy, lda, M, depth, B->storage);
        few_rows_of(out, ldo, a, lda, &part, k == 0 ? bias : NULL, M, N, depth, accumulate || k > 0, sum);
    }
}
