/* Packing: a few rows of A, or a few columns of B, copied into the order in which the register tile reads them.
 *
 * A matrix may be stored the other way round, or in other numbers than the tile reads: it is transposed, widened or
 * rounded here, a register block at a time, and nowhere else. */
#pragma once
#ifdef LLMC_BFLOAT16
#include "kernels/pack_bfloat16.h"
#else
#include "kernels/pack_real.h"
#endif

#define PREFETCHES (NC / NR) /* portions in which the next rows are brought near, one a tile */

/* The index-th portion of rows x K of A from (m, k) on, on its way to the second-level cache. */
static void prefetch_rows(const Matrix *A, int m, int k, int rows, int K, int index) {
    const size_t line = 64 / storage_bytes(A->storage);
    const int each = (KC + PREFETCHES - 1) / PREFETCHES, first = index * each;
    const int end = first + each < K ? first + each : K;
    if (A->transposed)
        for (int d = first; d < end; d++) {
            for (int i = 0; i < rows; i += line) prefetch_stored(A, k + d, m + i);
            if (rows > 0) prefetch_stored(A, k + d, m + rows - 1);
        }
    else
        for (int i = 0; i < rows; i++)
            for (int d = first; d < end; d += line) prefetch_stored(A, m + i, k + d);
}

static void pack_rows(unit *panel, const Matrix *A, int m, int k, int rows, int K) {
    FOR_STORAGE(A->storage, pack_rows_of(panel, A, m, k, rows, K, storage))
}

static void pack_columns(unit *panel, const Matrix *B, int k, int n, int K, int cols) {
    FOR_STORAGE(B->storage, pack_columns_of(panel, B, k, n, K, cols, storage))
}
