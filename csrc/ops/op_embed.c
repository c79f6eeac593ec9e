/* op_embed: token and position embeddings. */
#include "ops/ops.h"
#include "ops/product.h"
#include "ops/slices.h"

#include <string.h>

typedef struct {
    EmbedBy by;
    int padding;
} Attributes;

enum { WEIGHT };
enum { OUT };

static const int32_t *rows_wanted(const Step *s, const Exec *x) {
    const Feed *f = feed_of(x);
    return attributes_of(s, Attributes)->by == BY_IDS ? f->ids : f->positions;
}

static void forward_rows(void *context, size_t index, int slot) {
    (void)slot;
    const Work *w = context;
    const Tensor *out = w->s->out[OUT];
    Slice r = slice_at(out->rows, ROWS_EACH, index);
    w->x->k->embedding_forward(out->data + r.first * out->cols, rows_wanted(w->s, w->x) + r.first,
                               operand(w->s->in[WEIGHT], false), (int)r.count, (int)out->cols);
}

static void forward(const Step *s, Exec *x) {
    parallel_slices(s, x, s->out[OUT]->rows, ROWS_EACH, forward_rows);
}

/* Each task owns a slice of columns and adds the rows in order: the same bits at any thread count. */
static void backward_columns(void *context, size_t index, int slot) {
    (void)slot;
    const Work *w = context;
    const Tensor *weight = w->s->in[WEIGHT], *dout = w->s->out[OUT]->grad;
    Slice c = slice_at(weight->cols, COLUMNS_EACH, index);
    real *dweight = grad_of(w->s, WEIGHT) + c.first;
    if (!grad_adds(w->s, w->x, WEIGHT))
        for (size_t r = 0; r < weight->rows; r++) memset(dweight + r * weight->cols, 0, c.count * sizeof(real));
    w->x->k->embedding_backward(dweight, weight->cols, dout->data + c.first, dout->stride, rows_wanted(w->s, w->x),
                                (int)dout->rows, (int)c.count, attributes_of(w->s, Attributes)->padding);
}

static void backward(const Step *s, Exec *x) {
    parallel_slices(s, x, s->in[WEIGHT]->cols, COLUMNS_EACH, backward_columns);
}

static const Op EMBED = {.name = "embed", .forward = forward, .backward = backward};

Tensor *embed(Plan *p, int rows, int C, EmbedBy by, int padding) {
    Tensor *weight = parameter(p, "weight", 2, (int[]){rows, C});
    Tensor *out = tensor_new(p, 3, (int[]){p->B, p->T, C});
    Attributes n = {by, padding};
    record(p, &EMBED, 1, TENSORS(weight), 1, TENSORS(out), &n, sizeof n);
    return out;
}
