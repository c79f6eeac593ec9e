/* op_rope: rotary position embedding. The table is made once a call and read by every layer. */
#include "ops/ops.h"
#include "ops/slices.h"

typedef struct {
    int heads, D;
} Attributes;

enum { X, TABLE };
enum { OUT };

typedef struct {
    int D, which;
} TableNumbers;

static void table_rows(void *context, size_t index, int slot) {
    (void)slot;
    const Work *w = context;
    const Tensor *table = w->s->out[OUT];
    const TableNumbers *n = attributes_of(w->s, TableNumbers);
    const Feed *f = feed_of(w->x);
    const Rotary *rotary = &f->rotary[n->which];
    Slice r = slice_at(table->rows, ROWS_EACH, index);
    w->x->k->rope_table(table->data + r.first * table->cols, f->positions + r.first, rotary->inv_freq,
                        rotary->factor, (int)r.count, n->D);
}

static void rotate_rows(const Step *s, const Exec *x, size_t row, size_t count, real *spare) {
    const Attributes *n = attributes_of(s, Attributes);
    const Tensor *in = s->in[X], *table = s->in[TABLE], *out = s->out[OUT];
    const size_t first = row * out->cols;
    x->k->rope_forward(write_to(out, first, spare), in->data + first, table->data + row * table->cols, (int)count,
                       n->heads, n->D);
    write_back(out, first, count * out->cols, spare, x);
}

static void forward_rows(void *context, size_t index, int slot) {
    const Work *w = context;
    const Slice rows = slice_at(w->s->in[X]->rows, ROWS_EACH, index);
    for (size_t i = 0, each = spare_rows(w->s->out[OUT]); i < rows.count; i += each)
        rotate_rows(w->s, w->x, rows.first + i, rows.count - i < each ? rows.count - i : each, scratch_of(w->x, slot));
}

static void backward_rows(void *context, size_t index, int slot) {
    (void)slot;
    const Work *w = context;
    const Attributes *n = attributes_of(w->s, Attributes);
    const Tensor *in = w->s->in[X], *table = w->s->in[TABLE], *dout = w->s->out[OUT]->grad;
    Slice r = slice_at(in->rows, ROWS_EACH, index);
    w->x->k->rope_backward(grad_of(w->s, X) + r.first * in->cols, dout->data + r.first * dout->cols,
                           table->data + r.first * table->cols, (int)r.count, n->heads, n->D, grad_adds(w->s, w->x, X));
}

static void table_forward(const Step *s, Exec *x) { parallel_slices(s, x, s->out[OUT]->rows, ROWS_EACH, table_rows); }
static void forward(const Step *s, Exec *x) { parallel_slices(s, x, s->in[X]->rows, ROWS_EACH, forward_rows); }
static void backward(const Step *s, Exec *x) { parallel_slices(s, x, s->in[X]->rows, ROWS_EACH, backward_rows); }

static const Op ROPE_TABLE = {.name = "rope_table", .forward = table_forward};
static size_t scratch(const Step *s, const Kernels *k) {
    (void)k;
    return s->out[OUT]->is_bfloat16 ? spare_rows(s->out[OUT]) * s->out[OUT]->cols : 0;
}

static const Op ROPE = {.name = "rope", .forward = forward, .backward = backward, .scratch = scratch,
                        .saved_inputs = 1 << TABLE, .may_be_bfloat16 = 1 << OUT};

Tensor *rope_table(Plan *p, int D, int which) {
    Tensor *table = tensor_new(p, 3, (int[]){p->B, p->T, D});
    TableNumbers n = {D, which};
    record(p, &ROPE_TABLE, 0, NULL, 1, TENSORS(table), &n, sizeof n);
    return table;
}

Tensor *rope(Plan *p, Tensor *x, Tensor *table, int heads, int D) {
    if (x->cols != (size_t)heads * (size_t)D)
        error_set(&p->error, ERROR_SHAPE, "%s: width %zu is not %d heads of %d", p->path, x->cols, heads, D);
    Tensor *out = tensor_like(p, x);
    Attributes n = {heads, D};
    record(p, &ROPE, 2, TENSORS(x, table), 1, TENSORS(out), &n, sizeof n);
    return out;
}
