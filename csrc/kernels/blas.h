/* blas: an OpenBLAS opened while the program runs, as another engine for Kernels.gemm. */
#pragma once
#include "kernels/kernels.h"

/* Opens the library at `path` for products of one thread each, made by many threads at once. `coretype` forces its
 * kernels (an OPENBLAS_CORETYPE); NULL picks those with AVX-512 where the processor has it and the user has not chosen.
 * Returns NULL, or what is wrong, in words that live until the calling thread's next call. After a failure nothing is
 * open; one library a process: a second path is refused. Not for two threads at once. */
const char *blas_load(const char *path, const char *coretype);

const char *blas_config(void);   /* version and build options; "" before blas_load */
const char *blas_corename(void); /* the kernels it chose */

/* Kernels.gemm. Operands that are not reals are left to the portable kernels. */
void blas_gemm(real *out, size_t ldo, Matrix A, Matrix B, const real *bias, int M, int N, int K, bool accumulate,
               real *work);
/* Kernels.packed_size: OpenBLAS packs for itself. */
size_t blas_packed_size(int K, int N);
