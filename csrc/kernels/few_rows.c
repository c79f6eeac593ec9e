/* Products of few rows: every number of B is read once, where it lies and in the order in which it lies, as fast as
 * memory gives it; to pack it would cost more than the product.
 *
 *   out[m,n] = (accumulate ? out[m,n] : 0) + sum_k A[m,k] B[k,n] + (bias ? bias[n] : 0)     M <= FEW_ROWS
 *
 * In the table of bfloat16 products reals are rounded as packing rounds them. Int8 numbers are exact: the products of a
 * group are summed, then scaled. */
#include "kernels/kernels.h"
#include "kernels/stored.h"
#include "kernels/transpose.h"

#define FEW_DEPTH 8192 /* k at a time, of which A is copied where it does not lie as it is read */
#define FEW_CHAIN 256  /* k at a time where columns are summed: the same order as packed products in float32 */
#define FETCH 64       /* bytes that come from memory together */
#define FEW_SUMS 3840  /* sums of columns stay in the first-level cache; no power of two, or rows would evict them */

static inline int smaller(int a, int b) { return a < b ? a : b; }

/* A number as the product takes it, int8 without its scale. */
ALWAYS_INLINE vreal factors(const Matrix *B, size_t row, size_t col, const Storage storage) {
    const vreal x = unscaled_vector(B, row, col, storage);
    return storage == STORED_REAL ? operand_of(x) : x;
}
ALWAYS_INLINE real factor(const Matrix *B, size_t row, size_t col, const Storage storage) {
    const real x = unscaled_number(B, row, col, storage);
    return storage == STORED_REAL ? operand_of((vreal){x})[0] : x;
}

/* --- B turned: its stored rows run along k -------------------------------------------------------------------------- */
#define ACROSS(H, l) ((l) ^ (H))
#define FOLD(H)                                                                                                        \
    if (H < WIDTH) v += SHUFFLE(v, v, EACH_LANE(ACROSS, H));

ALWAYS_INLINE real lanes_total(vreal v) {
    FOLD(8)
    FOLD(4)
    FOLD(2)
    FOLD(1)
    return v[0];
}

/* M rows of A with `abreast` stored rows of B, k whole vectors. */
ALWAYS_INLINE void dot_rows(vreal (*sum)[FEW_ROWS], const real *a, size_t lda, const Matrix *B, size_t n, int K,
                            const int M, const int abreast, const Storage storage) {
    for (int g = 0; g < K; g += GROUP) {
        const int depth = smaller(GROUP, K - g);
        vreal part[4][FEW_ROWS] = {0};
        for (int i = 0; i < abreast; i++)
            for (int d = 0; d < GROUP; d += FETCH / (int)storage_bytes(storage)) prefetch_stored(B, n + abreast + i, g + d);
        for (int d = g; d < g + depth; d += WIDTH)
#pragma GCC unroll 4
            for (int i = 0; i < abreast; i++) {
                const vreal b = factors(B, n + i, d, storage);
#pragma GCC unroll 6
                for (int m = 0; m < M; m++) part[i][m] += vload(a + m * lda + d) * b;
            }
#pragma GCC unroll 4
        for (int i = 0; i < abreast; i++) {
            const real scale = storage == STORED_INT8 ? *stored_scale(B, n + i, g) : 1;
#pragma GCC unroll 6
            for (int m = 0; m < M; m++) sum[i][m] += part[i][m] * scale;
        }
    }
}

ALWAYS_INLINE void dot_some(real *out, size_t ldo, const real *a, size_t lda, const Matrix *B, const real *bias, int n,
                            int K, bool add, const int M, const int abreast, const Storage storage) {
    const int whole = K - K % WIDTH;
    vreal sum[4][FEW_ROWS] = {0};
    dot_rows(sum, a, lda, B, n, whole, M, abreast, storage);
#pragma GCC unroll 4
    for (int i = 0; i < abreast; i++) {
        const real scale = storage == STORED_INT8 && whole < K ? *stored_scale(B, n + i, whole) : 1;
#pragma GCC unroll 6
        for (int m = 0; m < M; m++) {
            real rest = 0, *o = out + m * ldo + n + i;
            for (int d = whole; d < K; d++) rest += a[m * lda + d] * factor(B, n + i, d, storage);
            *o = (lanes_total(sum[i][m]) + rest * scale + (bias ? bias[n + i] : 0)) + (add ? *o : 0);
        }
    }
}

/* Rows of B abreast: as many streams as leave registers for the sums. */
ALWAYS_INLINE void dots(real *out, size_t ldo, const real *a, size_t lda, const Matrix *B, const real *bias, int N, int K,
                        bool add, const int M, const Storage storage) {
    const int abreast = M == 1 ? 4 : M <= 3 ? 2 : 1;
    int n = 0;
    for (; n + abreast <= N; n += abreast) dot_some(out, ldo, a, lda, B, bias, n, K, add, M, abreast, storage);
    for (; n < N; n++) dot_some(out, ldo, a, lda, B, bias, n, K, add, M, 1, storage);
}

/* --- B as it is: its stored rows run along n ------------------------------------------------------------------------ */
/* sum[m,j] += sum_d a[m,k+d] B[k+d,n+j], in order of d */
ALWAYS_INLINE void add_rows(real *restrict sum, size_t lds, const real *restrict a, size_t lda, const Matrix *B, size_t k,
                            size_t n, int cols, const int M, const int depth, const Storage storage) {
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

ALWAYS_INLINE void sums(real *out, size_t ldo, const real *a, size_t lda, const Matrix *B, const real *bias, int N, int K,
                        bool add, real *sum, const int M, const Storage storage) {
    const int chain = storage == STORED_INT8 ? GROUP : FEW_CHAIN, width = FEW_SUMS / M;
    for (int n = 0; n < N; n += width) {
        const int cols = smaller(width, N - n);
        for (int k = 0; k < K || k == 0; k += chain) {
            const int depth = smaller(chain, K - k);
            memset(sum, 0, (size_t)M * width * sizeof(real));
            int d = 0;
            for (; d + 8 <= depth; d += 8) add_rows(sum, width, a, lda, B, k + d, n, cols, M, 8, storage);
            for (; d < depth; d++) add_rows(sum, width, a, lda, B, k + d, n, cols, M, 1, storage);
            for (int m = 0; m < M; m++) {
                real *o = out + m * ldo + n;
                const real *s = sum + m * width;
                const float *scales = storage == STORED_INT8 ? stored_scale(B, k, n) : NULL;
                for (int j = 0; j < cols; j++)
                    o[j] = (s[j] * (scales ? (real)scales[j] : 1) + (bias && k == 0 ? bias[n + j] : 0)) +
                           (add || k > 0 ? o[j] : 0);
            }
        }
    }
}

/* --- either ------------------------------------------------------------------------------------------------------- */
/* A column of the scales belongs to a stored row, or to a stored column: not to each of its numbers. */
static bool are_read_in_place(const Matrix *A, const Matrix *B) {
    return A->storage != STORED_INT8 && (B->storage != STORED_INT8 || B->turned != B->inputs_first);
}

static bool lies_as_read(const Matrix *A) { return PER_UNIT == 1 && !A->turned && A->storage == STORED_REAL; }

/* A from k on as rows, rounded where the table rounds. */
ALWAYS_INLINE void copy_rows(real *a, const Matrix *A, int k, int M, int K, const Storage storage) {
    for (int m = 0; m < M; m++, a += K) {
        int d = 0;
        for (; !A->turned && d + WIDTH <= K; d += WIDTH) vstore(a + d, factors(A, m, k + d, storage));
        for (; d < K; d++) a[d] = A->turned ? factor(A, k + d, m, storage) : factor(A, m, k + d, storage);
    }
}

static void few_rows_of(real *out, size_t ldo, const real *a, size_t lda, const Matrix *B, const real *bias, int M, int N,
                        int K, bool add, real *sum) {
#define FEW_CASE(R)                                                                                                    \
    case R:                                                                                                            \
        if (B->turned) FOR_STORAGE(B->storage, dots(out, ldo, a, lda, B, bias, N, K, add, R, storage))                 \
        else FOR_STORAGE(B->storage, sums(out, ldo, a, lda, B, bias, N, K, add, sum, R, storage))                      \
        break;
    switch (M) { FEW_CASE(1) FEW_CASE(2) FEW_CASE(3) FEW_CASE(4) FEW_CASE(5) FEW_CASE(6) }
#undef FEW_CASE
}

static void gemm_few_rows(real *out, size_t ldo, const Matrix *A, const Matrix *B, const real *bias, int M, int N, int K,
                          bool accumulate, real *work) {
    real *sum = work, *a = work + FEW_SUMS;
    for (int k = 0; k < K || k == 0; k += FEW_DEPTH) {
        const int depth = smaller(FEW_DEPTH, K - k);
        const Matrix part = matrix_at(*B, k, 0);
        const bool direct = lies_as_read(A);
        if (!direct) FOR_STORAGE(A->storage, copy_rows(a, A, k, M, depth, storage))
        few_rows_of(out, ldo, direct ? (const real *)A->data + k : a, direct ? A->stride : (size_t)depth, &part,
                    k == 0 ? bias : NULL, M, N, depth, accumulate || k > 0, sum);
    }
}
