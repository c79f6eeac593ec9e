/* engine: which table of kernels runs, and who does its products. */
#include "kernels/engine.h"

#include "base/cpu.h"
#include "kernels/blas.h"

#include <string.h>

static const Kernels *const tables[] = {
#ifdef LLMC_HAVE_AVX512
    &kernels_avx512,
#endif
#ifdef LLMC_HAVE_AVX2
    &kernels_avx2,
#endif
    &kernels_portable,
};
#define TABLES ((int)(sizeof tables / sizeof *tables))

static struct {
    Kernels kernels;
    const char *gemm;
} engine;

const char *engine_offers(int i) {
    for (int t = 0; t < TABLES; t++)
        if (cpu_has(tables[t]->name) && i-- == 0) return tables[t]->name;
    return NULL;
}

static const Kernels *table_named(const char *isa) {
    for (int t = 0; t < TABLES; t++)
        if (cpu_has(tables[t]->name) && (!isa || strcmp(isa, tables[t]->name) == 0)) return tables[t];
    return NULL;
}

/* Own products are measured faster wherever a vector table fits (benchmarks/RESULTS.md); elsewhere OpenBLAS is. */
static bool blas_is_faster(const Kernels *k) { return strcmp(k->name, "portable") == 0; }

const char *engine_choose(const char *isa, const char *gemm, const char *blas) {
    const Kernels *table = table_named(isa);
    if (!table) return "this processor or this build lacks that instruction set";
    bool asked = gemm && strcmp(gemm, "openblas") == 0;
    if (gemm && !asked && strcmp(gemm, "own") != 0) return "the products are done by 'own' or by 'openblas'";
    const char *problem = NULL;
    bool use = asked || (!gemm && blas && blas_is_faster(table));
    if (use) problem = blas ? blas_load(blas, NULL) : "this build carries no OpenBLAS";
    if (asked && problem) return problem;
    engine.kernels = *table;
    engine.gemm = "own";
    if (use && !problem) {
        engine.kernels.gemm = blas_gemm;
        engine.gemm = "openblas";
    }
    return NULL;
}

const Kernels *engine_kernels(void) { return &engine.kernels; }
const char *engine_gemm(void) { return engine.gemm; }
