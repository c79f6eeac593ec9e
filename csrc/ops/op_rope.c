/* op_rope: rotary position embedding. The table is made once a call and read by every layer. */
#include "ops/ops.h"
#include "ops/slices.h"

typedef struct {
    int heads, D;
} Numbers;

typedef struct {
    const Step *s;
    Exec *x;
} Job;

/* The rows of a task. */
typedef struct {
    size_t first;
    int count;
} Rows;

static Rows rows_of(const Tensor *t, size_t index) {
    size_t first = index * ROWS_EACH;
    return (Rows){first, (int)(slice_end(t->rows, ROWS_EACH, index) - first)};
}

static size_t tasks(const Tensor *t) { return (size_t)slice_count(t->rows, ROWS_EACH); }

static void table_rows(void *context, size_t index, int slot) {
    (void)slot;
    const Job *j = context;
    const Numbers *n = step_numbers(j->s, Numbers);
    const Tensor *table = j->s->out[0];
    const Feed *f = &j->x->feed;
    Rows r = rows_of(table, index);
    j->x->k->rope_table(table->data + r.first * table->cols, f->positions + r.first, f->inv_freq, f->rope_factor,
                        r.count, n->D);
}

static void table_forward(const Step *s, Exec *x) {
    Job job = {s, x};
    parallel(x, tasks(s->out[0]), table_rows, &job);
}

static void forward_rows(void *context, size_t index, int slot) {
    (void)slot;
    const Job *j = context;
    const Numbers *n = step_numbers(j->s, Numbers);
    const Tensor *in = j->s->in[0], *table = j->s->in[1], *out = j->s->out[0];
    Rows r = rows_of(in, index);
    j->x->k->rope_forward(out->data + r.first * out->cols, in->data + r.first * in->cols,
                          table->data + r.first * table->cols, r.count, n->heads, n->D);
}

static void forward(const Step *s, Exec *x) {
    Job job = {s, x};
    parallel(x, tasks(s->in[0]), forward_rows, &job);
}

static void backward_rows(void *context, size_t index, int slot) {
    (void)slot;
    const Job *j = context;
    const Numbers *n = step_numbers(j->s, Numbers);
    const Tensor *in = j->s->in[0], *table = j->s->in[1], *dout = j->s->out[0]->grad;
    Rows r = rows_of(in, index);
    j->x->k->rope_backward(grad_of(j->s, 0) + r.first * in->cols, dout->data + r.first * dout->cols,
                           table->data + r.first * table->cols, r.count, n->heads, n->D, grad_adds(j->s, j->x, 0));
}

static void backward(const Step *s, Exec *x) {
    Job job = {s, x};
    if (grad_of(s, 0)) parallel(x, tasks(s->in[0]), backward_rows, &job);
}

static const Op ROPE_TABLE = {.name = "rope_table", .forward = table_forward};
static const Op ROPE = {.name = "rope", .forward = forward, .backward = backward, .saved_inputs = 2};

Tensor *rope_table(Plan *p, int D) {
    Tensor *table = tensor_new(p, 3, (int[]){p->B, p->T, D});
    Numbers n = {1, D};
    record(p, &ROPE_TABLE, 0, NULL, 1, TENSORS(table), &n, sizeof n);
    return table;
}

Tensor *rope(Plan *p, Tensor *x, Tensor *table, int heads, int D) {
    if (x->cols != (size_t)heads * (size_t)D)
        error_set(&p->error, ERROR_SHAPE, "%s: width %zu is not %d heads of %d", p->path, x->cols, heads, D);
    Tensor *out = tensor_like(p, x);
    Numbers n = {heads, D};
    record(p, &ROPE, 2, TENSORS(x, table), 1, TENSORS(out), &n, sizeof n);
    return out;
}
