/* Packing: a few rows of A, or a few columns of B, copied into the order in which the register tile reads them.
 *
 * A matrix may be stored the other way round, or in other numbers than the tile reads: it is turned, widened or rounded
 * here, a register block at a time, and nowhere else. */
#pragma once
#ifdef LLMC_BFLOAT16
#include "kernels/pack_bfloat16.h"
#else
#include "kernels/pack_real.h"
#endif

static void pack_rows(unit *panel, const Matrix *A, int m, int k, int rows, int K) {
    FOR_STORAGE(A->storage, pack_rows_of(panel, A, m, k, rows, K, storage))
}

static void pack_columns(unit *panel, const Matrix *B, int k, int n, int K, int cols) {
    FOR_STORAGE(B->storage, pack_columns_of(panel, B, k, n, K, cols, storage))
}
