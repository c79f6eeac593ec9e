/* op_activate: the non-linearity of a feed-forward branch, alone or gating another branch. */
#include "ops/ops.h"
#include "ops/slices.h"

typedef struct {
    Activation act;
} Numbers;

typedef struct {
    const Step *s;
    Exec *x;
} Job;

static size_t tasks(const Step *s) { return (size_t)slice_count(tensor_count(s->in[0]), ELEMENTS_EACH); }

static void forward_slice(void *context, size_t index, int slot) {
    (void)slot;
    const Job *j = context;
    const Step *s = j->s;
    Activation act = step_numbers(s, Numbers)->act;
    size_t first = index * ELEMENTS_EACH, n = slice_end(tensor_count(s->in[0]), ELEMENTS_EACH, index) - first;
    real *out = s->out[0]->data + first;
    if (s->ins == 1) j->x->k->activation_forward(out, s->in[0]->data + first, act, n);
    else j->x->k->gated_forward(out, s->in[0]->data + first, s->in[1]->data + first, act, n);
}

static void backward_slice(void *context, size_t index, int slot) {
    (void)slot;
    const Job *j = context;
    const Step *s = j->s;
    Activation act = step_numbers(s, Numbers)->act;
    size_t first = index * ELEMENTS_EACH, n = slice_end(tensor_count(s->in[0]), ELEMENTS_EACH, index) - first;
    const real *dout = s->out[0]->grad->data + first;
    bool adds = grad_adds(s, j->x, 0);
    if (s->ins == 1)
        j->x->k->activation_backward(grad_of(s, 0) + first, dout, s->in[0]->data + first, act, n, adds);
    else
        j->x->k->gated_backward(grad_of(s, 0) + first, grad_of(s, 1) + first, dout, s->in[0]->data + first,
                                s->in[1]->data + first, act, n, adds);
}

static void forward(const Step *s, Exec *x) {
    Job job = {s, x};
    parallel(x, tasks(s), forward_slice, &job);
}

static void backward(const Step *s, Exec *x) {
    Job job = {s, x};
    parallel(x, tasks(s), backward_slice, &job);
}

static const Op ACTIVATE = {.name = "activate", .forward = forward, .backward = backward, .saved_inputs = 1,
                            .cheap = true};
static const Op GATE = {.name = "gate", .forward = forward, .backward = backward, .saved_inputs = 3, .cheap = true};

Tensor *activate(Plan *p, Tensor *x, Activation act) {
    Tensor *out = tensor_like(p, x);
    Numbers n = {act};
    record(p, &ACTIVATE, 1, TENSORS(x), 1, TENSORS(out), &n, sizeof n);
    return out;
}

Tensor *gate(Plan *p, Tensor *g, Tensor *up, Activation act) {
    if (tensor_count(g) != tensor_count(up))
        error_set(&p->error, ERROR_SHAPE, "%s: gate width %zu differs from up width %zu", p->path, g->cols, up->cols);
    share_need(TENSORS(g, up), 2);
    Tensor *out = tensor_like(p, g);
    Numbers n = {act};
    record(p, &GATE, 2, TENSORS(g, up), 1, TENSORS(out), &n, sizeof n);
    return out;
}
