/* Packing in reals: narrower numbers are widened. */
#pragma once
#include "kernels/stored.h"
#include "kernels/transpose.h"

/* rows x K of A from (m, k) on, rows <= PANELS * MR, K <= KC. As it is: rows of A_STRIDE. Turned: MR by MR. */
ALWAYS_INLINE void pack_rows_of(unit *restrict panel, const Matrix *A, int m, int k, int rows, int K,
                                const Storage storage) {
    if (!A->transposed && storage == STORED_REAL) {
        for (int i = 0; i < rows; i++)
            memcpy(panel + i * A_STRIDE, (const real *)A->data + (m + i) * A->stride + k, K * sizeof(real));
    } else if (!A->transposed) {
        for (int i = 0; i < rows; i++) {
            int d = 0;
            for (; d + WIDTH <= K; d += WIDTH)
                vstore(panel + i * A_STRIDE + d, stored_vector(A, m + i, k + d, storage));
            for (; d < K; d++) panel[i * A_STRIDE + d] = stored_number(A, m + i, k + d, storage);
        }
    } else if (rows == PANELS * MR) {
        for (int d = 0; d < K; d++)
            for (int p = 0; p < PANELS; p++)
                for (int i = 0; i < MR; i++)
                    panel[p * A_PANEL + d * MR + i] = stored_number(A, k + d, m + p * MR + i, storage);
    } else {
        for (; rows >= MR; rows -= MR, m += MR, panel += A_PANEL)
            for (int d = 0; d < K; d++)
                for (int i = 0; i < MR; i++) panel[d * MR + i] = stored_number(A, k + d, m + i, storage);
        for (int d = 0; d < K; d++)
            for (int i = 0; i < rows; i++) panel[d * MR + i] = stored_number(A, k + d, m + i, storage);
    }
}

/* K x cols of B from (k, n) on, K <= KC, cols <= NR, as rows of NR; columns past cols are zeros. */
ALWAYS_INLINE void pack_columns_of(unit *restrict panel, const Matrix *B, int k, int n, int K, int cols,
                                   const Storage storage) {
    if (!B->transposed && cols == NR) {
        for (int d = 0; d < K; d++) {
            vstore(panel + d * NR, stored_vector(B, k + d, n, storage));
            vstore(panel + d * NR + WIDTH, stored_vector(B, k + d, n + WIDTH, storage));
        }
    } else if (!B->transposed) {
        for (int d = 0; d < K; d++)
            for (int j = 0; j < NR; j++) panel[d * NR + j] = j < cols ? stored_number(B, k + d, n + j, storage) : 0;
    } else {
        const int whole = K - K % WIDTH;
        for (int j0 = 0; j0 < NR; j0 += WIDTH) {
            const bool full = j0 + WIDTH <= cols;
            for (int d = 0; d < whole && full; d += WIDTH) {
                vreal rows[WIDTH];
#pragma GCC unroll 16
                for (int i = 0; i < WIDTH; i++) {
                    prefetch_stored(B, n + j0 + i + NR, k + d); /* the same place in the next panel */
                    rows[i] = stored_vector(B, n + j0 + i, k + d, storage);
                }
                transpose_rows(panel + d * NR + j0, NR, rows);
            }
            for (int d = full ? whole : 0; d < K; d++)
                for (int j = j0; j < j0 + WIDTH; j++)
                    panel[d * NR + j] = j < cols ? stored_number(B, n + j, k + d, storage) : 0;
        }
    }
}
