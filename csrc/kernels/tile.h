/* The register tile: the innermost product, on panels of packed operands (pack.h).
 *
 *   out[i,j] = (add ? out[i,j] : 0) + sum_k a[i,k] b[k,j] + (bias ? bias[j] : 0)     i < rows <= MR, j < cols <= NR
 *
 * Operands are packed in units: a real, or a pair of bfloat16 numbers whose k follow each other (bfloat16.h). Every
 * element is one chain of multiply-adds in order of k, started at zero, whatever its place in a tile and however many
 * rows and columns the tile has: who cuts a product into other slices of rows or columns gets the same bits. */
#pragma once
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

typedef real vreal __attribute__((vector_size(VECTOR_BYTES), may_alias));
typedef real vreal_unaligned __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(real)), may_alias));

#define ALWAYS_INLINE static inline __attribute__((always_inline))

ALWAYS_INLINE vreal vload(const real *x) { return *(const vreal_unaligned *)x; }
ALWAYS_INLINE void vstore(real *x, vreal v) { *(vreal_unaligned *)x = v; }

#ifdef LLMC_BFLOAT16
#include "kernels/bfloat16.h"
#else
#define PER_UNIT 1
typedef real unit;
ALWAYS_INLINE vreal multiply_add(vreal sum, unit a, vreal b) { return sum + a * b; }
ALWAYS_INLINE vreal operand_of(vreal x) { return x; }
#endif

#define KU 256             /* units of the longest chain */
#define KC (KU * PER_UNIT) /* its numbers */
#define UNITS(numbers) (((numbers) + PER_UNIT - 1) / PER_UNIT)
#define NC 512             /* columns of a packed block of B */
#define A_STRIDE (KU + 16) /* between packed rows; no power of two, or they would share a few cache sets */
#define A_PANEL (MR * A_STRIDE)
#define PANELS 4           /* of A, packed together: a line of a transposed matrix is no multiple of MR */

/* rows and transposed are constants at every call, so that the accumulators live in registers */
ALWAYS_INLINE void tile_rows(real *out, size_t ldo, const unit *a, bool transposed, const unit *b,
                             const real *bias, const int rows, int cols, int units, bool add) {
    const size_t row = transposed ? 1 : A_STRIDE, step = transposed ? MR : 1;
    vreal sum[MR][2] = {0};
    for (int i = 0; i < rows; i++) {
        __builtin_prefetch(out + i * ldo, 1);
        __builtin_prefetch(out + i * ldo + NR - 1, 1);
    }
    for (int k = 0; k < units; k++, a += step, b += NR) {
        const vreal b0 = vload((const real *)b), b1 = vload((const real *)b + WIDTH);
#pragma GCC unroll 16
        for (int i = 0; i < rows; i++) {
            sum[i][0] = multiply_add(sum[i][0], a[i * row], b0);
            sum[i][1] = multiply_add(sum[i][1], a[i * row], b1);
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

static void tile(real *out, size_t ldo, const unit *a, bool transposed, const unit *b, const real *bias, int rows,
                 int cols, int units, bool add) {
#define TILE_CASE(R)                                                                                                   \
    case R:                                                                                                            \
        if (transposed) tile_rows(out, ldo, a, true, b, bias, R, cols, units, add);                                    \
        else tile_rows(out, ldo, a, false, b, bias, R, cols, units, add);                                              \
        break;
    switch (rows) {
        TILE_CASE(1) TILE_CASE(2) TILE_CASE(3) TILE_CASE(4) TILE_CASE(5) TILE_CASE(6)
#if MR > 6
        TILE_CASE(7) TILE_CASE(8) TILE_CASE(9) TILE_CASE(10) TILE_CASE(11) TILE_CASE(12)
#endif
    }
#undef TILE_CASE
}
