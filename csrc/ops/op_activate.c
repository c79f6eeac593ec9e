/* op_activate: the non-linearity of a feed-forward branch, alone or gating another branch. */
#include "ops/ops.h"
#include "ops/slices.h"

const char *const activation_words[ACT_COUNT + 1] = {
    [ACT_LINEAR] = "linear", [ACT_GELU] = "gelu", [ACT_GELU_TANH] = "gelu_tanh", [ACT_GELU_QUICK] = "quick_gelu",
    [ACT_SILU] = "silu", [ACT_RELU] = "relu", [ACT_RELU2] = "relu2", [ACT_RELU6] = "relu6",
    [ACT_LEAKY_RELU] = "leaky_relu", [ACT_TANH] = "tanh", [ACT_SIGMOID] = "sigmoid", [ACT_MISH] = "mish",
    [ACT_GELU_10] = "gelu_10", [ACT_LAPLACE] = "laplace",
};

typedef struct {
    Activation act;
} Attributes;

enum { X, UP }; /* in: x, which is the gate where up is there */
enum { OUT };

static void forward_numbers(const Step *s, Exec *x, size_t first, size_t count, int slot) {
    Activation act = attributes_of(s, Attributes)->act;
    real *spare = scratch_of(x, slot), *out = write_to(s->out[OUT], first, spare);
    const real *in = s->in[X]->data + first;
    if (s->ins == 1) x->k->activation_forward(out, in, act, count);
    else x->k->gated_forward(out, in, s->in[UP]->data + first, act, count);
    write_back(s->out[OUT], first, count, spare, x);
}

static void forward_slice(void *context, size_t index, int slot) {
    const Work *w = context;
    Slice e = slice_at(tensor_count(w->s->in[X]), ELEMENTS_EACH, index);
    for (size_t i = 0; i < e.count; i += SPARE)
        forward_numbers(w->s, w->x, e.first + i, e.count - i < SPARE ? e.count - i : SPARE, slot);
}

static void backward_slice(void *context, size_t index, int slot) {
    (void)slot;
    const Work *w = context;
    const Step *s = w->s;
    Activation act = attributes_of(s, Attributes)->act;
    Slice e = slice_at(tensor_count(s->in[X]), ELEMENTS_EACH, index);
    real *dx = grad_of(s, X) + e.first;
    const real *dout = s->out[OUT]->grad->data + e.first, *x = s->in[X]->data + e.first;
    bool adds = grad_adds(s, w->x, X);
    if (s->ins == 1) w->x->k->activation_backward(dx, dout, x, act, e.count, adds);
    else w->x->k->gated_backward(dx, grad_of(s, UP) + e.first, dout, x, s->in[UP]->data + e.first, act, e.count, adds);
}

static void forward(const Step *s, Exec *x) {
    parallel_slices(s, x, tensor_count(s->in[X]), ELEMENTS_EACH, forward_slice);
}

static void backward(const Step *s, Exec *x) {
    parallel_slices(s, x, tensor_count(s->in[X]), ELEMENTS_EACH, backward_slice);
}

static size_t scratch(const Step *s, const Kernels *k) {
    (void)k;
    return s->out[OUT]->is_bfloat16 ? SPARE : 0;
}

static const Op ACTIVATE = {.name = "activate", .forward = forward, .backward = backward, .scratch = scratch,
                            .saved_inputs = 1 << X, .recomputable = 1 << OUT, .may_be_bfloat16 = 1 << OUT};
static const Op GATE = {.name = "gate", .forward = forward, .backward = backward, .scratch = scratch,
                        .saved_inputs = 1 << X | 1 << UP, .recomputable = 1 << OUT, .may_be_bfloat16 = 1 << OUT};

Tensor *activate(Plan *p, Tensor *x, Activation act) {
    Tensor *out = tensor_like(p, x);
    Attributes n = {act};
    record(p, &ACTIVATE, 1, TENSORS(x), 1, TENSORS(out), &n, sizeof n);
    return out;
}

Tensor *gate(Plan *p, Tensor *g, Tensor *up, Activation act) {
    if (tensor_count(g) != tensor_count(up))
        error_set(&p->error, ERROR_SHAPE, "%s: gate width %zu differs from up width %zu", p->path, g->cols, up->cols);
    share_need(TENSORS(g, up), 2);
    Tensor *out = tensor_like(p, g);
    Attributes n = {act};
    record(p, &GATE, 2, TENSORS(g, up), 1, TENSORS(out), &n, sizeof n);
    return out;
}
