/* op_lora: out = y + scale * (x A^T) B^T, a low-rank branch beside a linear. It takes the place of y. */
#include "ops/ops.h"
#include "ops/product.h"
#include "ops/slices.h"

#include <string.h>

typedef struct {
    real scale;
} Attributes;

enum { X, A, B, Y };   /* in: x (…,I), A (R,I), B (O,R), y (…,O) */
enum { OUT, HIDDEN };  /* out: out (…,O), hidden (…,R) = scale * x A^T */

typedef struct {
    const Step *s;
    Exec *x;
    real *scaled;
    Product products[3];
    int count; /* products */
} Job;

static void scale_slice(void *context, size_t index, int slot) {
    (void)slot;
    const Job *j = context;
    Slice e = slice_at(tensor_count(j->s->out[HIDDEN]), ELEMENTS_EACH, index);
    j->x->k->scale(j->scaled + e.first, j->scaled + e.first, attributes_of(j->s, Attributes)->scale, e.count);
}

static void scale_hidden(Job *j, real *hidden) {
    j->scaled = hidden;
    parallel(j->x, (size_t)slice_count(tensor_count(j->s->out[HIDDEN]), ELEMENTS_EACH), scale_slice, j);
}

static void copy_slice(void *context, size_t index, int slot) {
    (void)slot;
    const Work *w = context;
    Slice e = slice_at(tensor_count(w->s->out[OUT]), ELEMENTS_EACH, index);
    memcpy(w->s->out[OUT]->data + e.first, w->s->in[Y]->data + e.first, e.count * sizeof(real));
}

static void tile(void *context, size_t index, int slot) {
    const Job *j = context;
    int i = 0;
    while (index >= (size_t)j->products[i].tiles.count) index -= (size_t)j->products[i++].tiles.count;
    product_tile(&j->products[i], index, j->x, slot);
}

static void multiply_all(Job *j) {
    size_t tiles = 0;
    for (int i = 0; i < j->count; i++) tiles += (size_t)j->products[i].tiles.count;
    parallel(j->x, tiles, tile, j);
}

static void forward(const Step *s, Exec *x) {
    const Tensor *in = s->in[X], *a = s->in[A], *b = s->in[B], *out = s->out[OUT], *hidden = s->out[HIDDEN];
    int N = (int)in->rows, I = (int)in->cols, R = (int)hidden->cols, O = (int)out->cols;
    Job job = {.s = s, .x = x, .count = 1};
    if (out->data != s->in[Y]->data) parallel_slices(s, x, tensor_count(out), ELEMENTS_EACH, copy_slice);
    job.products[0] = product(hidden->data, hidden->stride, operand(in, false), operand(a, true), NULL, N, R, I,
                              false);
    multiply_all(&job);
    scale_hidden(&job, hidden->data);
    job.products[0] = product(out->data, out->stride, operand(hidden, false), operand(b, true), NULL, N, O, R,
                              true);
    multiply_all(&job);
}

static void pass_on(const Step *s, Exec *x) {
    real *dy = grad_of(s, Y);
    const Tensor *dout = s->out[OUT]->grad;
    if (!dy) return;
    if (grad_adds(s, x, Y)) x->k->accumulate(dy, dout->data, tensor_count(dout));
    else memcpy(dy, dout->data, tensor_count(dout) * sizeof(real));
}

static void backward(const Step *s, Exec *x) {
    const Tensor *in = s->in[X], *a = s->in[A], *b = s->in[B], *hidden = s->out[HIDDEN], *dout = s->out[OUT]->grad;
    int N = (int)in->rows, I = (int)in->cols, R = (int)hidden->cols, O = (int)dout->cols;
    real *dx = grad_of(s, X), *dA = grad_of(s, A), *dB = grad_of(s, B), *dhidden = x->workspace;
    Job job = {.s = s, .x = x, .count = 1};
    job.products[0] = product(dhidden, hidden->stride, operand(dout, false), operand(b, false), NULL, N, R, O,
                              false);
    multiply_all(&job);
    scale_hidden(&job, dhidden);
    job.count = 0;
    if (dx)
        job.products[job.count++] = product(dx, in->grad->stride, matrix_of(dhidden, hidden->stride, false),
                                            operand(a, false), NULL, N, I, R, grad_adds(s, x, X));
    if (dA)
        job.products[job.count++] = product(dA, a->stride, matrix_of(dhidden, hidden->stride, true),
                                            operand(in, false), NULL, R, I, N, grad_adds(s, x, A));
    if (dB)
        job.products[job.count++] = product(dB, b->stride, operand(dout, true), operand(hidden, false), NULL, O, R, N,
                                            grad_adds(s, x, B));
    multiply_all(&job);
    pass_on(s, x);
}

static double flops(const Step *s, int output) {
    if (output == HIDDEN) return 0;
    return 2.0 * (double)s->in[X]->rows * (double)s->out[HIDDEN]->cols * (double)(s->in[X]->cols + s->out[OUT]->cols);
}

static double gradient_flops(const Step *s, int input) { return input == A || input == B ? flops(s, OUT) : 0; }

static size_t scratch(const Step *s, const Kernels *k) {
    (void)s;
    return k->gemm_work;
}

static size_t workspace(const Step *s, const Kernels *k) {
    (void)k;
    return tensor_count(s->out[HIDDEN]);
}

static const Op LOW_RANK = {.name = "low_rank", .forward = forward, .backward = backward, .flops = flops,
                            .scratch = scratch, .workspace = workspace, .saved_inputs = 1 << X | 1 << A | 1 << B,
                            .multiplies = 1 << X,
                            .saved_outputs = 1 << HIDDEN, .replaces = 1 << Y, .passes = 1 << Y,
                            .gradient_flops = gradient_flops};

Tensor *low_rank(Plan *p, Tensor *x, Tensor *a, Tensor *b, Tensor *y, real scale) {
    if (a->cols != x->cols || b->rows != y->cols || a->rows != b->cols)
        error_set(&p->error, ERROR_SHAPE, "%s: A (%zu, %zu) and B (%zu, %zu) do not fit a linear from %zu to %zu",
                  p->path, a->rows, a->cols, b->rows, b->cols, x->cols, y->cols);
    Tensor *out = tensor_like(p, y), *hidden = tensor_wide(p, x, (int)a->rows);
    Attributes n = {scale};
    record(p, &LOW_RANK, 4, TENSORS(x, a, b, y), 2, TENSORS(out, hidden), &n, sizeof n);
    return out;
}
