/* The register tile: the innermost product, and the packing that feeds it. gemm and attention are built on it.
 *
 *   out[i,j] = (add ? out[i,j] : 0) + sum_k a[i,k] b[k,j] + (bias ? bias[j] : 0)     i < rows <= MR, j < cols <= NR
 *
 * Every element is one chain of multiply-adds in order of k, started at zero, whatever its place in a tile and however
 * many rows and columns the tile has: who cuts a product into other slices of rows or columns gets the same bits. */
#pragma once
#include <string.h>
#include "base/real.h"

/* Two vectors of columns; as many rows as leave registers for the operands. */
#if defined __AVX512F__
#define VECTOR_BYTES 64
#define MR 12
#elif defined __AVX__
#define VECTOR_BYTES 32
#define MR 6
#else
#define VECTOR_BYTES 16
#define MR 6
#endif
#define WIDTH ((int)(VECTOR_BYTES / sizeof(real)))
#define NR (2 * WIDTH)

#define KC 256          /* the longest chain; longer sums are made of blocks of KC, added in order */
#define A_STRIDE (KC + 16) /* row stride of packed rows: not a power of two, or they would compete for the same cache sets */
#define A_PANEL (MR * A_STRIDE)
#define B_PANEL (KC * NR)

typedef real vreal __attribute__((vector_size(VECTOR_BYTES), may_alias));
typedef real vreal_unaligned __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(real)), may_alias));

#define ALWAYS_INLINE static inline __attribute__((always_inline))

ALWAYS_INLINE vreal vload(const real *x) {
    return *(const vreal_unaligned *)x;
}

ALWAYS_INLINE void vstore(real *x, vreal v) {
    *(vreal_unaligned *)x = v;
}

/* rows and transposed are constants at every call, so that the accumulators live in registers */
ALWAYS_INLINE void tile_rows(real *out, size_t ldo, const real *a, bool transposed, const real *b, size_t ldb,
                             const real *bias, const int rows, int cols, int K, bool add) {
    const size_t row = transposed ? 1 : A_STRIDE, step = transposed ? MR : 1;
    vreal sum[MR][2] = {0};
    for (int i = 0; i < rows; i++) {
        __builtin_prefetch(out + i * ldo, 1);
        __builtin_prefetch(out + i * ldo + NR - 1, 1);
    }
    for (int k = 0; k < K; k++, a += step, b += ldb) {
        const vreal b0 = vload(b), b1 = vload(b + WIDTH);
#pragma GCC unroll 16
        for (int i = 0; i < rows; i++) {
            sum[i][0] += a[i * row] * b0;
            sum[i][1] += a[i * row] * b1;
        }
    }
    if (cols == NR) {
        const vreal zero = {0};
        const vreal bias0 = bias ? vload(bias) : zero, bias1 = bias ? vload(bias + WIDTH) : zero;
#pragma GCC unroll 16
        for (int i = 0; i < rows; i++, out += ldo) {
            vstore(out, (sum[i][0] + bias0) + (add ? vload(out) : zero));
            vstore(out + WIDTH, (sum[i][1] + bias1) + (add ? vload(out + WIDTH) : zero));
        }
    } else {
        real edge[MR][NR];
#pragma GCC unroll 16
        for (int i = 0; i < rows; i++) {
            vstore(edge[i], sum[i][0]);
            vstore(edge[i] + WIDTH, sum[i][1]);
        }
        for (int i = 0; i < rows; i++, out += ldo)
            for (int j = 0; j < cols; j++) out[j] = (edge[i][j] + (bias ? bias[j] : 0)) + (add ? out[j] : 0);
    }
}

/* a: a panel of pack_rows; b: a panel of pack_columns (ldb = NR), or rows of a matrix where cols == NR */
static void tile(real *out, size_t ldo, const real *a, bool transposed, const real *b, size_t ldb, const real *bias,
                 int rows, int cols, int K, bool add) {
#define TILE_CASE(R)                                                                                                   \
    case R:                                                                                                            \
        if (transposed) tile_rows(out, ldo, a, true, b, ldb, bias, R, cols, K, add);                                   \
        else tile_rows(out, ldo, a, false, b, ldb, bias, R, cols, K, add);                                             \
        break;
    switch (rows) {
        TILE_CASE(1) TILE_CASE(2) TILE_CASE(3) TILE_CASE(4) TILE_CASE(5) TILE_CASE(6)
#if MR > 6
        TILE_CASE(7) TILE_CASE(8) TILE_CASE(9) TILE_CASE(10) TILE_CASE(11) TILE_CASE(12)
#endif
    }
#undef TILE_CASE
}

/* rows x K of A, K <= KC. As stored: rows of A_STRIDE. Stored (K, rows): the MR of one k side by side. */
static void pack_rows(real *restrict panel, const real *restrict A, size_t lda, bool transposed, int rows, int K) {
    if (!transposed) {
        for (int i = 0; i < rows; i++) memcpy(panel + i * A_STRIDE, A + i * lda, K * sizeof(real));
    } else if (rows == MR) {
        for (int k = 0; k < K; k++) memcpy(panel + k * MR, A + k * lda, MR * sizeof(real));
    } else {
        for (int k = 0; k < K; k++)
            for (int i = 0; i < rows; i++) panel[k * MR + i] = A[k * lda + i];
    }
}

/* WIDTH rows become WIDTH columns: log2(WIDTH) rounds, each swapping the off-diagonal halves of ever larger blocks. */
#ifdef LLMC_DOUBLE
typedef int64_t vlane __attribute__((vector_size(VECTOR_BYTES)));
#else
typedef int32_t vlane __attribute__((vector_size(VECTOR_BYTES)));
#endif

#define UPPER(H, l) (((l) & (H)) ? (l) - (H) + WIDTH : (l))
#define LOWER(H, l) (((l) & (H)) ? (l) + WIDTH : (l) + (H))
#define LANES_2(F, H, l) F(H, l), F(H, l + 1)
#define LANES_4(F, H, l) LANES_2(F, H, l), LANES_2(F, H, l + 2)
#define LANES_8(F, H, l) LANES_4(F, H, l), LANES_4(F, H, l + 4)
#define LANES_16(F, H, l) LANES_8(F, H, l), LANES_8(F, H, l + 8)
#if VECTOR_BYTES == 64 && !defined LLMC_DOUBLE
#define EACH_LANE LANES_16
#elif (VECTOR_BYTES == 64) || (VECTOR_BYTES == 32 && !defined LLMC_DOUBLE)
#define EACH_LANE LANES_8
#elif (VECTOR_BYTES == 32) || (VECTOR_BYTES == 16 && !defined LLMC_DOUBLE)
#define EACH_LANE LANES_4
#else
#define EACH_LANE LANES_2
#endif

#define SWAP_HALVES(H)                                                                                                 \
    if (H < WIDTH) {                                                                                                   \
        const vlane upper = {EACH_LANE(UPPER, H, 0)}, lower = {EACH_LANE(LOWER, H, 0)};                                \
        _Pragma("GCC unroll 16") for (int i = 0; i < WIDTH; i++) if (!(i & H)) {                                       \
            vreal top = rows[i], bottom = rows[i + H];                                                                 \
            rows[i] = __builtin_shuffle(top, bottom, upper);                                                           \
            rows[i + H] = __builtin_shuffle(top, bottom, lower);                                                       \
        }                                                                                                              \
    }

ALWAYS_INLINE void transpose_block(real *out, size_t ldo, const real *inp, size_t ldi) {
    vreal rows[WIDTH];
#pragma GCC unroll 16
    for (int i = 0; i < WIDTH; i++) {
        __builtin_prefetch(inp + (i + NR) * ldi, 0, 2); /* the same place in the next panel */
        rows[i] = vload(inp + i * ldi);
    }
    SWAP_HALVES(1)
    SWAP_HALVES(2)
    SWAP_HALVES(4)
    SWAP_HALVES(8)
#pragma GCC unroll 16
    for (int i = 0; i < WIDTH; i++) vstore(out + i * ldo, rows[i]);
}

/* K x cols of B, K <= KC, cols <= NR, as rows of NR; columns past cols are zeros. transposed: B is stored (cols, K). */
static void pack_columns(real *restrict panel, const real *restrict B, size_t ldb, bool transposed, int K, int cols) {
    if (!transposed && cols == NR) {
        for (int k = 0; k < K; k++) {
            vstore(panel + k * NR, vload(B + k * ldb));
            vstore(panel + k * NR + WIDTH, vload(B + k * ldb + WIDTH));
        }
    } else if (!transposed) {
        for (int k = 0; k < K; k++)
            for (int j = 0; j < NR; j++) panel[k * NR + j] = j < cols ? B[k * ldb + j] : 0;
    } else {
        const int whole = K - K % WIDTH;
        for (int j0 = 0; j0 < NR; j0 += WIDTH) {
            const bool full = j0 + WIDTH <= cols;
            if (full)
                for (int k = 0; k < whole; k += WIDTH)
                    transpose_block(panel + k * NR + j0, NR, B + j0 * ldb + k, ldb);
            for (int k = full ? whole : 0; k < K; k++)
                for (int j = j0; j < j0 + WIDTH; j++) panel[k * NR + j] = j < cols ? B[j * ldb + k] : 0;
        }
    }
}
