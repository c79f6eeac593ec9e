/* op_norm: LayerNorm and RMSNorm over the last axis. */
#include "ops/ops.h"
#include "base/arena.h"
#include "ops/slices.h"

#include <string.h>

typedef struct {
    real eps;
    bool layer; /* LayerNorm, with a bias and a mean; else RMSNorm */
} Attributes;

enum { X, WEIGHT, BIAS };   /* in; bias of a LayerNorm alone; a bare one has X alone */
enum { OUT, RSTD, MEAN };   /* out; mean of a LayerNorm alone */

typedef struct {
    const Step *s;
    Exec *x;
    size_t each; /* rows of a task */
} Job;

/* NULL: it has none. */
static const real *weight_of(const Step *s, int input) { return s->ins > input ? s->in[input]->data : NULL; }

static void norm_rows(const Step *s, const Exec *x, size_t first, size_t count, real *spare) {
    const Attributes *n = attributes_of(s, Attributes);
    const Tensor *in = s->in[X], *out = s->out[OUT];
    const int N = (int)count, C = (int)in->cols;
    real *y = write_to(out, first * out->cols, spare);
    const real *read = in->data + first * in->cols;
    if (n->layer)
        x->k->layernorm_forward(y, s->out[MEAN]->data + first, s->out[RSTD]->data + first, read, weight_of(s, WEIGHT),
                                weight_of(s, BIAS), N, C, n->eps);
    else
        x->k->rmsnorm_forward(y, s->out[RSTD]->data + first, read, s->in[WEIGHT]->data, N, C, n->eps);
    write_back(out, first * out->cols, count * out->cols, spare, x);
}

static void forward_rows(void *context, size_t index, int slot) {
    const Work *w = context;
    const Slice rows = slice_at(w->s->in[X]->rows, ROWS_EACH, index);
    for (size_t i = 0, each = spare_rows(w->s->out[OUT]); i < rows.count; i += each)
        norm_rows(w->s, w->x, rows.first + i, rows.count - i < each ? rows.count - i : each, scratch_of(w->x, slot));
}

static void forward(const Step *s, Exec *x) {
    parallel_slices(s, x, s->in[X]->rows, ROWS_EACH, forward_rows);
}

/* The weights' gradients are sums over rows: every task sums its own rows into its part of the workspace, and the
 * parts are added in order afterwards. */
#define PARTS_MOST 64

static size_t rows_each(const Step *s) {
    size_t each = (s->in[X]->rows + PARTS_MOST - 1) / PARTS_MOST;
    return each < 16 ? 16 : each;
}

static size_t part_size(const Step *s) { return 2 * arena_round(s->in[X]->cols); }

static void backward_rows(void *context, size_t index, int slot) {
    (void)slot;
    const Job *j = context;
    const Step *s = j->s;
    const Tensor *in = s->in[X], *dout = s->out[OUT]->grad;
    size_t first = index * j->each, end = slice_end(in->rows, j->each, index);
    int N = (int)(end - first), C = (int)in->cols;
    real *dinp = grad_of(s, X);
    if (dinp) dinp += first * in->cols;
    real *dweight = s->ins > WEIGHT && grad_of(s, WEIGHT) ? j->x->workspace + index * part_size(s) : NULL;
    real *dbias = s->ins > BIAS && grad_of(s, BIAS) ? j->x->workspace + index * part_size(s) + part_size(s) / 2 : NULL;
    if (dweight || dbias) memset(j->x->workspace + index * part_size(s), 0, part_size(s) * sizeof(real));
    const real *dy = dout->data + first * dout->cols, *x = in->data + first * in->cols;
    if (attributes_of(s, Attributes)->layer)
        j->x->k->layernorm_backward(dinp, dweight, dbias, dy, s->out[MEAN]->data + first, s->out[RSTD]->data + first, x,
                                    weight_of(s, WEIGHT), N, C, grad_adds(s, j->x, X));
    else
        j->x->k->rmsnorm_backward(dinp, dweight, dy, s->out[RSTD]->data + first, x, s->in[WEIGHT]->data, N, C,
                                  grad_adds(s, j->x, X));
}

static void add_parts(const Job *j, int input, size_t offset) {
    real *grad = grad_of(j->s, input);
    if (!grad) return;
    size_t C = j->s->in[X]->cols;
    if (!grad_adds(j->s, j->x, input)) memset(grad, 0, C * sizeof(real));
    int parts = slice_count(j->s->in[X]->rows, j->each);
    j->x->k->column_sums(grad, j->x->workspace + offset, part_size(j->s), parts, (int)C);
}

static void add_weights(void *context, size_t index, int slot) {
    (void)slot;
    const Job *j = context;
    add_parts(j, index == 0 ? WEIGHT : BIAS, index == 0 ? 0 : part_size(j->s) / 2);
}

static void backward(const Step *s, Exec *x) {
    Job job = {s, x, rows_each(s)};
    parallel(x, (size_t)slice_count(s->in[X]->rows, job.each), backward_rows, &job);
    if (s->ins > WEIGHT) parallel(x, (size_t)(s->ins - WEIGHT), add_weights, &job);
}

static size_t workspace(const Step *s, const Kernels *k) {
    (void)k;
    return part_size(s) * (size_t)slice_count(s->in[X]->rows, rows_each(s));
}

static size_t scratch(const Step *s, const Kernels *k) {
    (void)k;
    return s->out[OUT]->is_bfloat16 ? spare_rows(s->out[OUT]) * s->out[OUT]->cols : 0;
}

static const Op LAYERNORM = {.name = "layernorm", .forward = forward, .backward = backward, .scratch = scratch,
                             .workspace = workspace, .saved_inputs = 1 << X | 1 << WEIGHT,
                             .saved_outputs = 1 << RSTD | 1 << MEAN, .recomputable = 1 << OUT,
                             .may_be_bfloat16 = 1 << OUT};
static const Op RMSNORM = {.name = "rmsnorm", .forward = forward, .backward = backward, .scratch = scratch,
                           .workspace = workspace, .saved_inputs = 1 << X | 1 << WEIGHT,
                           .saved_outputs = 1 << RSTD, .recomputable = 1 << OUT, .may_be_bfloat16 = 1 << OUT};

static Tensor *statistic(Plan *p, const Tensor *x) { return tensor_new(p, 1, (int[]){(int)x->rows}); }

Tensor *layernorm(Plan *p, Tensor *x, real eps) {
    int C = (int)x->cols;
    Tensor *weight = parameter(p, "weight", 1, (int[]){C}), *bias = parameter(p, "bias", 1, (int[]){C});
    Tensor *out = tensor_like(p, x), *rstd = statistic(p, x), *mean = statistic(p, x);
    Attributes n = {eps, true};
    record(p, &LAYERNORM, 3, TENSORS(x, weight, bias), 3, TENSORS(out, rstd, mean), &n, sizeof n);
    return out;
}

Tensor *bare_layernorm(Plan *p, Tensor *x, real eps) {
    Tensor *out = tensor_like(p, x), *rstd = statistic(p, x), *mean = statistic(p, x);
    Attributes n = {eps, true};
    record(p, &LAYERNORM, 1, TENSORS(x), 3, TENSORS(out, rstd, mean), &n, sizeof n);
    return out;
}

Tensor *rmsnorm(Plan *p, Tensor *x, real eps) {
    Tensor *weight = parameter(p, "weight", 1, (int[]){(int)x->cols});
    Tensor *out = tensor_like(p, x), *rstd = statistic(p, x);
    Attributes n = {eps, false};
    record(p, &RMSNORM, 2, TENSORS(x, weight), 2, TENSORS(out, rstd), &n, sizeof n);
    return out;
}

static void statistic_rows(void *context, size_t index, int slot) {
    (void)slot;
    const Work *w = context;
    const Tensor *in = w->s->in[X];
    const Slice rows = slice_at(in->rows, ROWS_EACH, index);
    w->x->k->rms_statistic(w->s->out[OUT]->data + rows.first, in->data + rows.first * in->cols, (int)rows.count,
                           (int)in->cols, attributes_of(w->s, Attributes)->eps);
}

static void statistic_forward(const Step *s, Exec *x) {
    parallel_slices(s, x, s->in[X]->rows, ROWS_EACH, statistic_rows);
}

static const Op STATISTIC = {.name = "statistic", .forward = statistic_forward};

Tensor *reciprocal_rms(Plan *p, Tensor *x, real eps) {
    Tensor *out = statistic(p, x);
    Attributes n = {eps, false};
    record(p, &STATISTIC, 1, &x, 1, &out, &n, sizeof n);
    return out;
}
