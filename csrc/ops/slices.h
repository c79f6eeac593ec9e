/* slices: how ops cut their work. A cut depends on shapes alone, never on the number of threads. */
#pragma once
#include "kernels/kernels.h"
#include "plan/op.h"

static inline int slice_count(size_t n, size_t each) { return (int)((n + each - 1) / each); }
static inline size_t slice_end(size_t n, size_t each, size_t index) {
    size_t end = (index + 1) * each;
    return end < n ? end : n;
}

/* The index-th slice of n things, `each` of them at a time. */
typedef struct {
    size_t first, count;
} Slice;

static inline Slice slice_at(size_t n, size_t each, size_t index) {
    return (Slice){index * each, slice_end(n, each, index) - index * each};
}

/* What the tasks of most steps need to know. */
typedef struct {
    const Step *s;
    Exec *x;
} Work;

static inline void parallel_slices(const Step *s, Exec *x, size_t n, size_t each, PoolTask task) {
    Work work = {s, x};
    parallel(x, (size_t)slice_count(n, each), task, &work);
}

/* Where a task writes the numbers of a tensor from `first` on: in place, or, of one in bfloat16, in `spare` room from
 * which write_back takes them. */
static inline real *write_to(const Tensor *t, size_t first, real *spare) {
    return t->is_bfloat16 ? spare : t->data + first;
}
static inline void write_back(const Tensor *t, size_t first, size_t count, const real *spare, const Exec *x) {
    if (t->is_bfloat16) x->k->round(t->bfloat16 + first, spare, count);
}

/* What is written back at a time: it is rounded while the first-level cache has it. */
#define SPARE 2048 /* numbers */
static inline size_t spare_rows(const Tensor *t) { return t->cols < SPARE ? SPARE / t->cols : 1; }

#define ROWS_EACH 32          /* rows of a row-wise op */
#define ELEMENTS_EACH 16384   /* elements of an element-wise op */
#define COLUMNS_EACH 64       /* columns of a sum over rows */
