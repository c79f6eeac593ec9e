/* comparison: rows are cut into tasks by shape alone; each writes what it finds in a place of its own. */
#include "runs/comparison.h"

#include "base/alloc.h"
#include "engine/engine.h"

#include <string.h>

#define NUMBERS_EACH ((size_t)1 << 16) /* of a task, about: well under a millisecond */
#define COLUMN_TASKS ((size_t)16)      /* at most, where columns are added up: each has sums of its own */

typedef struct {
    size_t odd, at;
    real top;
} Found;

typedef struct {
    Comparison *c;
    const Kernels *k;
    size_t rows_each;
    Found *found;         /* (tasks) */
    double *column_sums;  /* (tasks,3,C), zeroed; NULL: not wanted */
} Job;

static void compare_rows(void *context, size_t index, int slot) {
    (void)slot;
    Job *j = context;
    Comparison *c = j->c;
    const size_t base_row = c->columns * storage_bytes(c->base_storage);
    const size_t other_row = c->columns * storage_bytes(c->other_storage);
    double *columns = j->column_sums ? j->column_sums + index * 3 * c->columns : NULL;
    Found found = {0};
    for (size_t r = index * j->rows_each; r < c->rows && r < (index + 1) * j->rows_each; r++) {
        Compared row;
        j->k->compare(&row, columns, c->delta ? c->delta + r * c->columns : NULL,
                      (const char *)c->base + r * base_row, c->base_storage, (const char *)c->other + r * other_row,
                      c->other_storage, c->columns, c->least, c->is_delta);
        memcpy(c->sums + r * 6, row.sums, sizeof row.sums);
        c->changed[r] = (int64_t)row.changed;
        found.odd += row.odd;
        if (row.top > found.top) {
            found.top = row.top;
            found.at = r * c->columns + row.at;
        }
    }
    j->found[index] = found;
}

static void gather(const Job *j, size_t tasks) {
    Comparison *c = j->c;
    c->odd = c->at = 0;
    c->top = 0;
    for (size_t i = 0; i < tasks; i++) {
        const Found *found = &j->found[i];
        c->odd += found->odd;
        if (found->top > c->top) {
            c->top = found->top;
            c->at = found->at;
        }
    }
    if (!j->column_sums) return;
    memcpy(c->column_sums, j->column_sums, 3 * c->columns * sizeof *c->column_sums);
    for (size_t i = 1; i < tasks; i++)
        for (size_t n = 0; n < 3 * c->columns; n++) c->column_sums[n] += j->column_sums[i * 3 * c->columns + n];
}

bool comparison_run(Comparison *c, Error *e, Cancel *cancel) {
    Job j = {.c = c, .k = engine_kernels(PRECISION_FLOAT32)};
    j.rows_each = NUMBERS_EACH / (c->columns ? c->columns : 1);
    if (c->column_sums && j.rows_each * COLUMN_TASKS < c->rows) j.rows_each = (c->rows - 1) / COLUMN_TASKS + 1;
    if (j.rows_each == 0) j.rows_each = 1;
    size_t tasks = c->rows ? (c->rows - 1) / j.rows_each + 1 : 1;
    j.found = alloc_array(tasks, sizeof *j.found);
    if (c->column_sums) j.column_sums = alloc_array(tasks * 3, c->columns * sizeof *j.column_sums);
    bool fine = j.found && (!c->column_sums || j.column_sums);
    if (!fine) error_set(e, ERROR_MEMORY, "comparing %zu x %zu numbers: no memory for sums", c->rows, c->columns);
    if (fine && j.column_sums) memset(j.column_sums, 0, tasks * 3 * c->columns * sizeof *j.column_sums);
    if (fine && !pool_run(tasks, compare_rows, &j, pool_threads(), cancel)) {
        error_set(e, ERROR_CANCELLED, "interrupted");
        fine = false;
    }
    if (fine) gather(&j, tasks);
    alloc_free(j.found);
    alloc_free(j.column_sums);
    return fine;
}
