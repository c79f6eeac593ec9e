/* op_softmax: over the last axis. */
#include "ops/ops.h"
#include "ops/slices.h"

enum { X };
enum { OUT };

static void forward_rows(void *context, size_t index, int slot) {
    (void)slot;
    const Work *w = context;
    const Tensor *in = w->s->in[X], *out = w->s->out[OUT];
    Slice r = slice_at(in->rows, ROWS_EACH, index);
    size_t at = r.first * in->cols;
    w->x->k->softmax_forward(out->data + at, in->data + at, (int)r.count, (int)in->cols);
}

static void backward_rows(void *context, size_t index, int slot) {
    (void)slot;
    const Work *w = context;
    const Tensor *in = w->s->in[X], *out = w->s->out[OUT];
    Slice r = slice_at(in->rows, ROWS_EACH, index);
    size_t at = r.first * in->cols;
    w->x->k->softmax_backward(grad_of(w->s, X) + at, out->grad->data + at, out->data + at, (int)r.count, (int)in->cols);
}

static void forward(const Step *s, Exec *x) { parallel_slices(s, x, s->in[X]->rows, ROWS_EACH, forward_rows); }
static void backward(const Step *s, Exec *x) { parallel_slices(s, x, s->in[X]->rows, ROWS_EACH, backward_rows); }

static const Op SOFTMAX = {.name = "softmax", .forward = forward, .backward = backward, .saved_outputs = 1 << OUT};

Tensor *softmax(Plan *p, Tensor *x) {
    Tensor *out = tensor_like(p, x);
    record(p, &SOFTMAX, 1, TENSORS(x), 1, TENSORS(out), NULL, 0);
    return out;
}
