/* op_route: every head's vector is a weighted sum of the heads' vectors that this layer and those before it offer. */
#include "ops/ops.h"
#include "base/arena.h"
#include "ops/slices.h"

#include <string.h>

typedef struct {
    int G, D;
} Attributes;

enum { WEIGHT, OFFERS }; /* in: (G, layers*G), and one offer a layer, NULL where it made none */
enum { OUT };

typedef struct {
    const Step *s;
    Exec *x;
    size_t each; /* rows of a task */
} Job;

/* The columns of an offer in a matrix as wide as the weight. */
static size_t columns_of(const Step *s, int input) {
    return (size_t)(input - OFFERS) * (size_t)attributes_of(s, Attributes)->G;
}

static void forward_rows(void *context, size_t index, int slot) {
    (void)slot;
    const Work *w = context;
    const Step *s = w->s;
    const Attributes *n = attributes_of(s, Attributes);
    const Tensor *weight = s->in[WEIGHT], *out = s->out[OUT];
    const Slice rows = slice_at(out->rows, ROWS_EACH, index);
    bool adds = false;
    for (int i = OFFERS; i < s->ins; i++) {
        const Tensor *in = s->in[i];
        if (!in) continue;
        w->x->k->route(out->data + rows.first * out->stride, out->stride, in->data + rows.first * in->stride,
                       in->stride, weight->data + columns_of(s, i), weight->stride, 1, (int)rows.count, n->G, n->D,
                       adds);
        adds = true;
    }
}

static void forward(const Step *s, Exec *x) { parallel_slices(s, x, s->out[OUT]->rows, ROWS_EACH, forward_rows); }

/* The weight's gradient is a sum over rows: every task sums its own rows into its part of the workspace, and the parts
 * are added in order afterwards. */
#define PARTS_MOST 64

static size_t rows_each(const Step *s) {
    const size_t each = (s->out[OUT]->rows + PARTS_MOST - 1) / PARTS_MOST;
    return each < 16 ? 16 : each;
}

static size_t part_size(const Step *s) { return arena_round(tensor_count(s->in[WEIGHT])); }

static void backward_offer(const Job *j, int input, Slice rows, real *dweight) {
    const Step *s = j->s;
    const Attributes *n = attributes_of(s, Attributes);
    const Tensor *weight = s->in[WEIGHT], *in = s->in[input], *dout = s->out[OUT]->grad;
    const real *dy = dout->data + rows.first * dout->stride;
    real *dinp = grad_of(s, input);
    if (dinp)
        j->x->k->route(dinp + rows.first * in->grad->stride, in->grad->stride, dy, dout->stride,
                       weight->data + columns_of(s, input), 1, weight->stride, (int)rows.count, n->G, n->D,
                       grad_adds(s, j->x, input));
    if (dweight)
        j->x->k->route_backward(dweight + columns_of(s, input), weight->cols, dy, dout->stride,
                                in->data + rows.first * in->stride, in->stride, (int)rows.count, n->G, n->D);
}

static void backward_rows(void *context, size_t index, int slot) {
    const Job *j = context;
    const Slice part = slice_at(j->s->out[OUT]->rows, j->each, index);
    real *dweight = grad_of(j->s, WEIGHT) ? j->x->workspace + index * part_size(j->s) : NULL;
    if (dweight) memset(dweight, 0, part_size(j->s) * sizeof(real));
    for (size_t row = 0; row < part.count && pool_going(j->x->cancel, slot); row += ROWS_EACH) {
        const size_t left = part.count - row;
        const Slice rows = {part.first + row, left < ROWS_EACH ? left : ROWS_EACH};
        for (int i = OFFERS; i < j->s->ins; i++)
            if (j->s->in[i]) backward_offer(j, i, rows, dweight);
    }
}

static void add_rows(void *context, size_t index, int slot) {
    (void)slot;
    const Job *j = context;
    const size_t cols = j->s->in[WEIGHT]->cols;
    real *grad = grad_of(j->s, WEIGHT) + index * cols;
    if (!grad_adds(j->s, j->x, WEIGHT)) memset(grad, 0, cols * sizeof(real));
    j->x->k->column_sums(grad, j->x->workspace + index * cols, part_size(j->s),
                         slice_count(j->s->out[OUT]->rows, j->each), (int)cols);
}

static void backward(const Step *s, Exec *x) {
    Job job = {s, x, rows_each(s)};
    parallel(x, (size_t)slice_count(s->out[OUT]->rows, job.each), backward_rows, &job);
    if (grad_of(s, WEIGHT)) parallel(x, s->in[WEIGHT]->rows, add_rows, &job);
}

static size_t workspace(const Step *s, const Kernels *k) {
    (void)k;
    if (!s->differentiated) return 0;
    return part_size(s) * (size_t)slice_count(s->out[OUT]->rows, rows_each(s));
}

static double offer_flops(const Step *s) {
    return 2.0 * (double)tensor_count(s->out[OUT]) * attributes_of(s, Attributes)->G;
}

static double flops(const Step *s, int output) {
    double all = 0;
    (void)output;
    for (int i = OFFERS; i < s->ins; i++) all += s->in[i] ? offer_flops(s) : 0;
    return all;
}

static double gradient_flops(const Step *s, int input) { return input == WEIGHT ? flops(s, OUT) : offer_flops(s); }

static const Op ROUTE = {.name = "route", .forward = forward, .backward = backward, .flops = flops,
                         .gradient_flops = gradient_flops, .workspace = workspace, .saved_inputs = FROM(WEIGHT),
                         .recomputable = 1 << OUT};

static void check_offer(Plan *p, const Tensor *offer, const Tensor *own, int layer) {
    if (!offer || (offer->cols == own->cols && offer->rows == own->rows)) return;
    error_set(&p->error, ERROR_SHAPE, "%s: layer %d offers %zu rows of %zu, this one %zu of %zu", p->path, layer,
              offer->rows, offer->cols, own->rows, own->cols);
}

Tensor *route(Plan *p, Tensor *weight, Tensor *const *offers, int layers, int G, int D) {
    Tensor *own = offers[layers - 1], *in[OFFERS + layers];
    for (int i = 0; i < layers; i++) check_offer(p, offers[i], own, i);
    if (own->cols != (size_t)G * (size_t)D)
        error_set(&p->error, ERROR_SHAPE, "%s: width %zu is not %d heads of %d", p->path, own->cols, G, D);
    in[WEIGHT] = weight;
    memcpy(in + OFFERS, offers, (size_t)layers * sizeof *in);
    Tensor *out = tensor_like(p, own);
    Attributes n = {G, D};
    record(p, &ROUTE, OFFERS + layers, in, 1, TENSORS(out), &n, sizeof n);
    return out;
}
