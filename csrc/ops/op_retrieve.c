/* op_retrieve: how much every head reads of every representation: a softmax over those that are offered, of which the
 * likeliest may be kept alone. */
#include "ops/ops.h"
#include "ops/slices.h"

#include <string.h>

/* in, out: rows of whole groups of `layers` numbers, one group a head. */
enum { X };
enum { OUT };

typedef struct {
    int layers;
    bool offered[]; /* one a layer */
} Offered;

typedef struct {
    int layers;
    real top_p;
} Pruned;

static Slice rows_at(const Step *s, size_t index) { return slice_at(s->in[X]->rows, ROWS_EACH, index); }
static int groups_in(const Step *s, Slice rows, int layers) {
    return (int)(rows.count * s->in[X]->cols / (size_t)layers);
}

static void softmax_rows(void *context, size_t index, int slot) {
    (void)slot;
    const Work *w = context;
    const Offered *n = w->s->numbers;
    const Slice rows = rows_at(w->s, index);
    const size_t at = rows.first * w->s->in[X]->cols;
    w->x->k->softmax_offered(w->s->out[OUT]->data + at, w->s->in[X]->data + at, n->offered,
                             groups_in(w->s, rows, n->layers), n->layers);
}

static void softmax_rows_back(void *context, size_t index, int slot) {
    (void)slot;
    const Work *w = context;
    const Offered *n = w->s->numbers;
    const Tensor *out = w->s->out[OUT];
    const Slice rows = rows_at(w->s, index);
    const size_t at = rows.first * out->cols;
    w->x->k->softmax_offered_backward(grad_of(w->s, X) + at, out->grad->data + at, out->data + at,
                                      groups_in(w->s, rows, n->layers), n->layers, grad_adds(w->s, w->x, X));
}

static void softmax_forward(const Step *s, Exec *x) { parallel_slices(s, x, s->in[X]->rows, ROWS_EACH, softmax_rows); }
static void softmax_backward(const Step *s, Exec *x) {
    parallel_slices(s, x, s->in[X]->rows, ROWS_EACH, softmax_rows_back);
}

static void prune_rows(void *context, size_t index, int slot) {
    (void)slot;
    const Work *w = context;
    const Pruned *n = attributes_of(w->s, Pruned);
    const Slice rows = rows_at(w->s, index);
    const size_t at = rows.first * w->s->in[X]->cols;
    w->x->k->prune(w->s->out[OUT]->data + at, w->s->in[X]->data + at, n->top_p, groups_in(w->s, rows, n->layers),
                   n->layers);
}

static void prune_rows_back(void *context, size_t index, int slot) {
    (void)slot;
    const Work *w = context;
    const Pruned *n = attributes_of(w->s, Pruned);
    const Tensor *in = w->s->in[X], *out = w->s->out[OUT];
    const Slice rows = rows_at(w->s, index);
    const size_t at = rows.first * in->cols;
    w->x->k->prune_backward(grad_of(w->s, X) + at, out->grad->data + at, out->data + at, in->data + at,
                            groups_in(w->s, rows, n->layers), n->layers, grad_adds(w->s, w->x, X));
}

static void prune_forward(const Step *s, Exec *x) { parallel_slices(s, x, s->in[X]->rows, ROWS_EACH, prune_rows); }
static void prune_backward(const Step *s, Exec *x) {
    parallel_slices(s, x, s->in[X]->rows, ROWS_EACH, prune_rows_back);
}

static const Op SOFTMAX_OFFERED = {.name = "softmax_offered", .forward = softmax_forward, .backward = softmax_backward,
                                   .saved_outputs = 1 << OUT, .replaces = 1 << X};
static const Op PRUNE = {.name = "prune", .forward = prune_forward, .backward = prune_backward,
                         .saved_inputs = 1 << X, .saved_outputs = 1 << OUT};

Tensor *softmax_offered(Plan *p, Tensor *logits, Tensor *const *offers, int layers) {
    const size_t size = sizeof(Offered) + (size_t)layers * sizeof(bool);
    Offered *n = plan_take(p, size);
    if (!n) return &p->nowhere;
    n->layers = layers;
    for (int l = 0; l < layers; l++) n->offered[l] = offers[l] != NULL;
    Tensor *out = tensor_like(p, logits);
    record(p, &SOFTMAX_OFFERED, 1, &logits, 1, &out, n, size);
    return out;
}

Tensor *prune(Plan *p, Tensor *weights, int layers, real top_p) {
    Tensor *out = tensor_like(p, weights);
    const Pruned n = {layers, top_p};
    record(p, &PRUNE, 1, &weights, 1, &out, &n, sizeof n);
    return out;
}
