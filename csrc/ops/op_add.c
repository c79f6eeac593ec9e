/* op_add: the residual addition. It may take the place of either operand, and passes its gradient on as it is. */
#include "ops/ops.h"
#include "ops/slices.h"

#include <string.h>

enum { A, B };
enum { OUT };

static void forward_slice(void *context, size_t index, int slot) {
    (void)slot;
    const Work *w = context;
    Slice e = slice_at(tensor_count(w->s->out[OUT]), ELEMENTS_EACH, index);
    real *out = w->s->out[OUT]->data + e.first;
    const real *a = w->s->in[A]->data + e.first, *b = w->s->in[B]->data + e.first;
    if (out == a) w->x->k->accumulate(out, b, e.count);
    else if (out == b) w->x->k->accumulate(out, a, e.count);
    else w->x->k->add(out, a, b, e.count);
}

static void backward_slice(void *context, size_t index, int slot) {
    (void)slot;
    const Work *w = context;
    Slice e = slice_at(tensor_count(w->s->out[OUT]), ELEMENTS_EACH, index);
    const real *dout = w->s->out[OUT]->grad->data + e.first;
    for (int i = A; i <= B; i++) {
        real *dinp = grad_of(w->s, i);
        if (!dinp) continue;
        if (grad_adds(w->s, w->x, i)) w->x->k->accumulate(dinp + e.first, dout, e.count);
        else memcpy(dinp + e.first, dout, e.count * sizeof(real));
    }
}

static void forward(const Step *s, Exec *x) {
    parallel_slices(s, x, tensor_count(s->out[OUT]), ELEMENTS_EACH, forward_slice);
}

static void backward(const Step *s, Exec *x) {
    if (!grad_of(s, A) && !grad_of(s, B)) return;
    parallel_slices(s, x, tensor_count(s->out[OUT]), ELEMENTS_EACH, backward_slice);
}

static const Op ADD = {.name = "add", .forward = forward, .backward = backward, .replaces = 1 << A | 1 << B,
                       .passes = 1 << A | 1 << B};

Tensor *add(Plan *p, Tensor *a, Tensor *b) {
    if (tensor_count(a) != tensor_count(b))
        error_set(&p->error, ERROR_SHAPE, "%s: widths %zu and %zu cannot be added", p->path, a->cols, b->cols);
    Tensor *out = tensor_like(p, a);
    record(p, &ADD, 2, TENSORS(a, b), 1, TENSORS(out), NULL, 0);
    return out;
}
