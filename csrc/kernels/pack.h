/* Packing: a few rows of A, or a few columns of B, copied into the order in which the register tile reads them.
 *
 * A matrix may be stored transposed: it is turned here, a register block at a time, and nowhere else. */
#pragma once
#include <string.h>
#include "kernels/tile.h"

/* rows x K of A, rows <= MR, K <= KC. As it is: rows of A_STRIDE. Stored transposed, (K, rows): MR by MR. */
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

/* All lanes of a vector: F(H, 0), F(H, 1), ... */
#define LANES_2(F, H, l) F(H, l), F(H, l + 1)
#define LANES_4(F, H, l) LANES_2(F, H, l), LANES_2(F, H, l + 2)
#define LANES_8(F, H, l) LANES_4(F, H, l), LANES_4(F, H, l + 4)
#define LANES_16(F, H, l) LANES_8(F, H, l), LANES_8(F, H, l + 8)
#ifdef LLMC_DOUBLE
typedef int64_t vlane __attribute__((vector_size(VECTOR_BYTES)));
#define LANE_BYTES 8
#else
typedef int32_t vlane __attribute__((vector_size(VECTOR_BYTES)));
#define LANE_BYTES 4
#endif
#if VECTOR_BYTES / LANE_BYTES == 16
#define EACH_LANE(F, H) LANES_16(F, H, 0)
#elif VECTOR_BYTES / LANE_BYTES == 8
#define EACH_LANE(F, H) LANES_8(F, H, 0)
#elif VECTOR_BYTES / LANE_BYTES == 4
#define EACH_LANE(F, H) LANES_4(F, H, 0)
#else
#define EACH_LANE(F, H) LANES_2(F, H, 0)
#endif
#ifdef __clang__
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (vlane){__VA_ARGS__})
#endif

/* Rows i and i + H of every 2H x 2H block swap the H x H blocks off its diagonal. */
#define UPPER(H, l) (((l) & (H)) ? (l) - (H) + WIDTH : (l))
#define LOWER(H, l) (((l) & (H)) ? (l) + WIDTH : (l) + (H))
#define SWAP_BLOCKS(H)                                                                                                 \
    if (H < WIDTH) {                                                                                                   \
        _Pragma("GCC unroll 16") for (int i = 0; i < WIDTH; i++) if (!(i & H)) {                                       \
            const vreal upper = rows[i], lower = rows[i + H];                                                          \
            rows[i] = SHUFFLE(upper, lower, EACH_LANE(UPPER, H));                                                      \
            rows[i + H] = SHUFFLE(upper, lower, EACH_LANE(LOWER, H));                                                  \
        }                                                                                                              \
    }

/* WIDTH rows of WIDTH become columns, in log2(WIDTH) rounds. */
ALWAYS_INLINE void transpose_block(real *out, size_t ldo, const real *inp, size_t ldi) {
    vreal rows[WIDTH];
#pragma GCC unroll 16
    for (int i = 0; i < WIDTH; i++) {
        __builtin_prefetch(inp + (i + NR) * ldi, 0, 2); /* the same place in the next panel */
        rows[i] = vload(inp + i * ldi);
    }
    SWAP_BLOCKS(1)
    SWAP_BLOCKS(2)
    SWAP_BLOCKS(4)
    SWAP_BLOCKS(8)
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
