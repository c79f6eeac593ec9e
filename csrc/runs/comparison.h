/* comparison: what two matrices differ in, row by row. */
#pragma once
#include "base/error.h"
#include "base/pool.h"
#include "base/real.h"
#include "base/storage.h"

#include <stddef.h>
#include <stdint.h>

typedef struct {
    const void *base, *other; /* (R,C); other is tuned, or the difference itself */
    Storage base_storage, other_storage; /* reals or bfloat16 */
    size_t rows, columns;
    bool is_delta;
    real least;               /* as of the kernel */
    double *sums;             /* (R,6) written: of base^2, tuned^2, d^2, base * tuned, d, spacing(base)^2 */
    int64_t *changed;         /* (R) written */
    double *column_sums;      /* (3,C) written: of base^2, tuned^2, d^2; NULL: not wanted */
    real *delta;              /* (R,C) written; NULL: not wanted */
    size_t odd;               /* found: NaNs and infinities of both */
    real top;                 /* found: the largest |d|, and its place, the first of several */
    size_t at;
} Comparison;

/* False: see e; what is written is then of no use. The order of every sum depends on the shape only. */
bool comparison_run(Comparison *c, Error *e, Cancel *cancel);
