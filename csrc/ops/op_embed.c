/* op_embed: token and position embeddings. */
#include "ops/ops.h"
#include "ops/slices.h"

#include <string.h>

typedef struct {
    EmbedBy by;
    int padding;
} Numbers;

typedef struct {
    const Step *s;
    Exec *x;
} Job;

static const int32_t *rows_wanted(const Step *s, const Exec *x) {
    return step_numbers(s, Numbers)->by == BY_IDS ? x->feed.ids : x->feed.positions;
}

static void forward_rows(void *context, size_t index, int slot) {
    (void)slot;
    const Job *j = context;
    const Tensor *out = j->s->out[0];
    size_t first = index * ROWS_EACH, end = slice_end(out->rows, ROWS_EACH, index);
    j->x->k->embedding_forward(out->data + first * out->cols, rows_wanted(j->s, j->x) + first, j->s->in[0]->data,
                               (int)(end - first), (int)out->cols);
}

static void forward(const Step *s, Exec *x) {
    Job job = {s, x};
    parallel(x, (size_t)slice_count(s->out[0]->rows, ROWS_EACH), forward_rows, &job);
}

/* Each task owns a slice of columns and adds the rows in order: the same bits at any thread count. */
static void backward_columns(void *context, size_t index, int slot) {
    (void)slot;
    const Job *j = context;
    const Tensor *weight = j->s->in[0], *dout = j->s->out[0]->grad;
    size_t first = index * COLUMNS_EACH, end = slice_end(weight->cols, COLUMNS_EACH, index);
    real *dweight = grad_of(j->s, 0) + first;
    if (!grad_adds(j->s, j->x, 0))
        for (size_t r = 0; r < weight->rows; r++) memset(dweight + r * weight->cols, 0, (end - first) * sizeof(real));
    j->x->k->embedding_backward(dweight, weight->cols, dout->data + first, dout->stride, rows_wanted(j->s, j->x),
                                (int)dout->rows, (int)(end - first), step_numbers(j->s, Numbers)->padding);
}

static void backward(const Step *s, Exec *x) {
    if (!grad_of(s, 0)) return;
    Job job = {s, x};
    parallel(x, (size_t)slice_count(s->in[0]->cols, COLUMNS_EACH), backward_columns, &job);
}

static const Op EMBED = {.name = "embed", .forward = forward, .backward = backward};

Tensor *embed(Plan *p, int rows, int C, EmbedBy by, int padding) {
    Tensor *weight = parameter(p, "weight", 2, (int[]){rows, C});
    Tensor *out = tensor_new(p, 3, (int[]){p->B, p->T, C});
    Numbers n = {by, padding};
    record(p, &EMBED, 1, TENSORS(weight), 1, TENSORS(out), &n, sizeof n);
    return out;
}
