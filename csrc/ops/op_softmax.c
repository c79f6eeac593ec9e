/* op_softmax: over the last axis. */
#include "ops/ops.h"
#include "ops/slices.h"

typedef struct {
    const Step *s;
    Exec *x;
} Job;

static void rows(void *context, size_t index, int slot) {
    (void)slot;
    const Job *j = context;
    const Tensor *in = j->s->in[0], *out = j->s->out[0];
    size_t first = index * ROWS_EACH, n = slice_end(in->rows, ROWS_EACH, index) - first, at = first * in->cols;
    j->x->k->softmax_forward(out->data + at, in->data + at, (int)n, (int)in->cols);
}

static void backward_rows(void *context, size_t index, int slot) {
    (void)slot;
    const Job *j = context;
    const Tensor *in = j->s->in[0], *out = j->s->out[0];
    size_t first = index * ROWS_EACH, n = slice_end(in->rows, ROWS_EACH, index) - first, at = first * in->cols;
    j->x->k->softmax_backward(grad_of(j->s, 0) + at, out->grad->data + at, out->data + at, (int)n, (int)in->cols);
}

static void forward(const Step *s, Exec *x) {
    Job job = {s, x};
    parallel(x, (size_t)slice_count(s->in[0]->rows, ROWS_EACH), rows, &job);
}

static void backward(const Step *s, Exec *x) {
    Job job = {s, x};
    parallel(x, (size_t)slice_count(s->in[0]->rows, ROWS_EACH), backward_rows, &job);
}

static const Op SOFTMAX = {.name = "softmax", .forward = forward, .backward = backward, .saved_outputs = 1};

Tensor *softmax(Plan *p, Tensor *x) {
    Tensor *out = tensor_like(p, x);
    record(p, &SOFTMAX, 1, TENSORS(x), 1, TENSORS(out), NULL, 0);
    return out;
}
