/* engine: which table of kernels runs, and who does its products. */
#include "models/engine.h"

#include "base/cpu.h"
#include "kernels/blas.h"

#include <stdatomic.h>
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

/* A call in flight keeps the table it began with: choosing another one changes none. */
static Kernels with_blas[TABLES];
static _Atomic(const Kernels *) chosen;

const char *engine_offers(int i) {
    for (int t = 0; t < TABLES; t++)
        if (cpu_has(tables[t]->name) && i-- == 0) return tables[t]->name;
    return NULL;
}

/* Its number; -1: there is none. */
static int table_named(const char *isa) {
    for (int t = 0; t < TABLES; t++)
        if (cpu_has(tables[t]->name) && (!isa || strcmp(isa, tables[t]->name) == 0)) return t;
    return -1;
}

/* Own products are measured faster wherever a vector table fits (benchmarks/RESULTS.md); elsewhere OpenBLAS is. */
static bool blas_is_faster(const Kernels *k) { return strcmp(k->name, "portable") == 0; }

const char *engine_choose(const char *isa, const char *gemm, const char *blas) {
    int t = table_named(isa);
    if (t < 0) return "this processor or this build lacks that instruction set";
    bool asked = gemm && strcmp(gemm, "openblas") == 0;
    if (gemm && !asked && strcmp(gemm, "own") != 0) return "the products are done by 'own' or by 'openblas'";
    const char *problem = NULL;
    bool use = asked || (!gemm && blas && blas_is_faster(tables[t]));
    if (use) problem = blas ? blas_load(blas, NULL) : "this build carries no OpenBLAS";
    if (asked && problem) return problem;
    if (use && !problem) {
        if (!with_blas[t].name) {
            Kernels k = *tables[t];
            k.gemm = blas_gemm;
            with_blas[t] = k;
        }
        chosen = &with_blas[t];
    } else {
        chosen = tables[t];
    }
    return NULL;
}

const Kernels *engine_kernels(void) { return chosen; }
const char *engine_isa(void) { return chosen->name; }

static bool blas_runs(void) { return chosen->gemm == blas_gemm; }

const char *engine_openblas(void) { return blas_runs() ? blas_config() : ""; }
const char *engine_openblas_kernels(void) { return blas_runs() ? blas_corename() : ""; }

const char *engine_gemm(void) { return blas_runs() ? "openblas" : "own"; }
