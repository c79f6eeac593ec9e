/* op_add: the residual addition. It may take the place of either operand, and passes its gradient on as it is. */
#include "ops/ops.h"
#include "ops/slices.h"

#include <string.h>

typedef struct {
    const Step *s;
    Exec *x;
} Job;

static size_t tasks(const Step *s) { return (size_t)slice_count(tensor_count(s->out[0]), ELEMENTS_EACH); }

static void forward_slice(void *context, size_t index, int slot) {
    (void)slot;
    const Job *j = context;
    size_t first = index * ELEMENTS_EACH, n = slice_end(tensor_count(j->s->out[0]), ELEMENTS_EACH, index) - first;
    real *out = j->s->out[0]->data + first;
    const real *a = j->s->in[0]->data + first, *b = j->s->in[1]->data + first;
    if (out == a) j->x->k->accumulate(out, b, n);
    else if (out == b) j->x->k->accumulate(out, a, n);
    else j->x->k->add(out, a, b, n);
}

static void backward_slice(void *context, size_t index, int slot) {
    (void)slot;
    const Job *j = context;
    size_t first = index * ELEMENTS_EACH, n = slice_end(tensor_count(j->s->out[0]), ELEMENTS_EACH, index) - first;
    const real *dout = j->s->out[0]->grad->data + first;
    for (int i = 0; i < 2; i++) {
        real *dinp = grad_of(j->s, i);
        if (!dinp) continue;
        if (grad_adds(j->s, j->x, i)) j->x->k->accumulate(dinp + first, dout, n);
        else memcpy(dinp + first, dout, n * sizeof(real));
    }
}

static void forward(const Step *s, Exec *x) {
    Job job = {s, x};
    parallel(x, tasks(s), forward_slice, &job);
}

static void backward(const Step *s, Exec *x) {
    Job job = {s, x};
    if (grad_of(s, 0) || grad_of(s, 1)) parallel(x, tasks(s), backward_slice, &job);
}

static const Op ADD = {.name = "add", .forward = forward, .backward = backward, .replaces = 3, .passes = 3};

Tensor *add(Plan *p, Tensor *a, Tensor *b) {
    if (tensor_count(a) != tensor_count(b))
        error_set(&p->error, ERROR_SHAPE, "%s: widths %zu and %zu cannot be added", p->path, a->cols, b->cols);
    Tensor *out = tensor_like(p, a);
    record(p, &ADD, 2, TENSORS(a, b), 1, TENSORS(out), NULL, 0);
    return out;
}
