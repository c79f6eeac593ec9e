/* op_observe: what a module did to its input, token by token, while both are at hand.
 *
 * Six sums in double, shown as float: over the common leading features c < min(I,O)
 *   0 sum x*y   1 sum x^2   2 sum y^2   3 sum (y-x)^2
 * and over all features
 *   4 sum (y - mean(x))^2   5 sum x^2 */
#include "ops/ops.h"
#include "ops/slices.h"

enum { X, Y };
enum { SUMS };

static void rows(void *context, size_t index, int slot) {
    (void)slot;
    const Work *w = context;
    const Tensor *x = w->s->in[X], *y = w->s->in[Y], *sums = w->s->out[SUMS];
    Slice r = slice_at(sums->rows, ROWS_EACH, index);
    w->x->k->observe(sums->data + r.first * OBSERVED, x->data + r.first * x->stride, x->stride,
                     y->data + r.first * y->stride, y->stride, (int)r.count, (int)x->cols, (int)y->cols);
}

static void forward(const Step *s, Exec *x) { parallel_slices(s, x, s->out[SUMS]->rows, ROWS_EACH, rows); }

static const Op OBSERVE = {.name = "observe", .forward = forward};

Tensor *observe(Plan *p, Tensor *x, Tensor *y) {
    if (x->rows != y->rows) return NULL;
    Tensor *sums = tensor_wide(p, x, OBSERVED);
    sums->kept = true;
    record(p, &OBSERVE, 2, TENSORS(x, y), 1, TENSORS(sums), NULL, 0);
    return sums;
}
