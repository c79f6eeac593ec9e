/* engine: which table of kernels runs, and who does its products. */
#include "engine/engine.h"

#include "base/cpu.h"
#include "kernels/blas.h"

#include <stdatomic.h>
#include <string.h>

typedef struct {
    const char *name;
    const Kernels *float32, *bfloat16; /* bfloat16 NULL: has no such products */
} InstructionSet;

#ifdef LLMC_DOUBLE
#define FLOAT_ALONE(table) NULL
#else
#define FLOAT_ALONE(table) (table)
#endif

/* The best one first. */
static const InstructionSet sets[] = {
#ifdef LLMC_HAVE_AVX512_BF16
    {"avx512_bf16", &kernels_avx512, FLOAT_ALONE(&kernels_avx512_bf16)},
#endif
#ifdef LLMC_HAVE_AVX512
    {"avx512", &kernels_avx512, NULL},
#endif
#ifdef LLMC_HAVE_AVX2
    {"avx2", &kernels_avx2, NULL},
#endif
    {"portable", &kernels_portable, NULL},
};
#define SETS ((int)(sizeof sets / sizeof *sets))

/* A call in flight keeps the kernels it began with: choosing others changes none. */
static Kernels with_blas[SETS];
static _Atomic(const InstructionSet *) chosen;
static _Atomic(const Kernels *) chosen_float32;

const char *engine_offers(int i) {
    for (int t = 0; t < SETS; t++)
        if (cpu_has(sets[t].name) && i-- == 0) return sets[t].name;
    return NULL;
}

/* Its number; -1: there is none. */
static int set_named(const char *isa) {
    for (int t = 0; t < SETS; t++)
        if (cpu_has(sets[t].name) && (!isa || strcmp(isa, sets[t].name) == 0)) return t;
    return -1;
}

/* Own products are measured faster wherever a vector table fits (benchmarks/RESULTS.md); elsewhere OpenBLAS is. */
static bool blas_is_faster(const InstructionSet *s) { return strcmp(s->name, "portable") == 0; }

const char *engine_choose(const char *isa, const char *gemm, const char *blas) {
    int t = set_named(isa);
    if (t < 0) return "this processor or this build lacks that instruction set";
    bool asked = gemm && strcmp(gemm, "openblas") == 0;
    if (gemm && !asked && strcmp(gemm, "own") != 0) return "the products are done by 'own' or by 'openblas'";
    const char *problem = NULL;
    bool use = asked || (!gemm && blas && blas_is_faster(&sets[t]));
    if (use) problem = blas ? blas_load(blas, NULL) : "this build carries no OpenBLAS";
    if (asked && problem) return problem;
    chosen = &sets[t];
    if (use && !problem) {
        if (!with_blas[t].name) {
            Kernels k = *sets[t].float32;
            k.gemm = blas_gemm;
            k.packed_size = blas_packed_size;
            with_blas[t] = k;
        }
        chosen_float32 = &with_blas[t];
    } else {
        chosen_float32 = sets[t].float32;
    }
    return NULL;
}

bool engine_has_bfloat16(void) { return chosen->bfloat16 != NULL; }

const Kernels *engine_kernels(Precision precision) {
    return precision == PRECISION_BFLOAT16 && engine_has_bfloat16() ? chosen->bfloat16 : chosen_float32;
}

const char *engine_isa(void) { return chosen->name; }

static bool blas_runs(void) { return chosen_float32->gemm == blas_gemm; }

const char *engine_openblas(void) { return blas_runs() ? blas_config() : ""; }
const char *engine_openblas_kernels(void) { return blas_runs() ? blas_corename() : ""; }

const char *engine_gemm(void) { return blas_runs() ? "openblas" : "own"; }
