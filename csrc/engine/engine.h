/* engine: the kernels in use, chosen once for the processor. With the pool, this is all the process-wide state. */
#pragma once
#include "kernels/kernels.h"

/* How products are computed: their operands as they are, or rounded to bfloat16. Sums are float32 either way. */
typedef enum { PRECISION_FLOAT32, PRECISION_BFLOAT16 } Precision;

/* Chooses an instruction set: `isa` is one of engine_offers(), or NULL for the best one. `blas` is the path of an
 * OpenBLAS or NULL; it does the float32 products where it is the faster engine, or where `gemm` says so ("own",
 * "openblas", NULL: the faster). Returns NULL, or what is wrong, in words. */
const char *engine_choose(const char *isa, const char *gemm, const char *blas);

/* The float32 kernels stand in for bfloat16 ones that the instruction set lacks. */
const Kernels *engine_kernels(Precision precision);
bool engine_has_bfloat16(void);
const char *engine_isa(void);
const char *engine_gemm(void);        /* of float32 products: "own" or "openblas" */
const char *engine_openblas(void);    /* what the OpenBLAS in use says of itself; "" without */
const char *engine_openblas_kernels(void);
const char *engine_offers(int i);     /* the i-th instruction set of this build that the processor has; NULL: no more */
