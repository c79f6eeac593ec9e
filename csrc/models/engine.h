/* engine: the kernels in use, chosen once for the processor. With the pool, this is all the process-wide state. */
#pragma once
#include "kernels/kernels.h"

/* Chooses a table: `isa` is one of engine_offers(), or NULL for the best one. `blas` is the path of an OpenBLAS or
 * NULL; it does the products where it is the faster engine, or where `gemm` says so ("own", "openblas", NULL: the
 * faster). Returns NULL, or what is wrong, in words. */
const char *engine_choose(const char *isa, const char *gemm, const char *blas);

const Kernels *engine_kernels(void);
const char *engine_isa(void);
const char *engine_gemm(void);        /* "own" or "openblas" */
const char *engine_openblas(void);    /* what the OpenBLAS in use says of itself; "" without */
const char *engine_openblas_kernels(void);
const char *engine_offers(int i);     /* the i-th instruction set of this build that the processor has; NULL: no more */
