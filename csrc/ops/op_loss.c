/* op_loss: the loss of every position against the call's targets.
 *
 * head_loss never forms the logits of all positions: a chunk of tokens at a time, logits are made, become losses,
 * overwritten by their gradient, and multiplied into dx and dweight while they are at hand. */
#include "ops/ops.h"
#include "ops/product.h"
#include "ops/slices.h"

typedef struct {
    const Step *s;
    Exec *x;
    real *logits;       /* the chunk's, (rows,V) */
    size_t first, rows; /* its positions */
    size_t V;
    Product products[2];
    int count[2];
    real scale;
} Job;

static real loss_scale(const Exec *x) { return feed_of(x)->items > 0 ? (real)(1 / feed_of(x)->items) : 0; }

enum { LOSSES }; /* out (B,T) */

/* --- from logits -------------------------------------------------------------------------------------------------- */
enum { LOGITS }; /* in (B,T,V) */

static void loss_rows(void *context, size_t index, int slot) {
    (void)slot;
    const Job *j = context;
    size_t first = index * ROWS_EACH, n = slice_end(j->rows, ROWS_EACH, index) - first;
    j->x->k->cross_entropy_forward(j->s->out[LOSSES]->data + j->first + first, j->logits + first * j->V,
                                   feed_of(j->x)->targets + j->first + first, (int)n, (int)j->V);
}

static void logits_forward(const Step *s, Exec *x) {
    const Tensor *logits = s->in[LOGITS];
    Job job = {.s = s, .x = x, .logits = logits->data, .rows = logits->rows, .V = logits->cols};
    parallel(x, (size_t)slice_count(job.rows, ROWS_EACH), loss_rows, &job);
}

/* Where the backward pass writes the losses of the rows from `first` on; NULL: they are not wanted. */
static real *losses_of(const Job *j, size_t first) {
    return j->x->losses_wanted ? j->s->out[LOSSES]->data + j->first + first : NULL;
}

static void gradient_rows(void *context, size_t index, int slot) {
    (void)slot;
    const Job *j = context;
    size_t first = index * ROWS_EACH, n = slice_end(j->rows, ROWS_EACH, index) - first;
    j->x->k->cross_entropy_backward(grad_of(j->s, LOGITS) + first * j->V, losses_of(j, first), j->logits + first * j->V,
                                    feed_of(j->x)->targets + first, (int)n, (int)j->V, j->scale,
                                    grad_adds(j->s, j->x, LOGITS));
}

static void logits_backward(const Step *s, Exec *x) {
    const Tensor *logits = s->in[LOGITS];
    Job job = {.s = s, .x = x, .logits = logits->data, .rows = logits->rows, .V = logits->cols, .scale = loss_scale(x)};
    parallel(x, (size_t)slice_count(job.rows, ROWS_EACH), gradient_rows, &job);
}

static const Op CROSS_ENTROPY = {.name = "cross_entropy", .forward = logits_forward, .backward = logits_backward,
                                 .saved_inputs = 1 << LOGITS, .source = true};

Tensor *cross_entropy(Plan *p, Tensor *logits) {
    Tensor *losses = tensor_new(p, 2, (int[]){logits->shape[0], logits->shape[1]});
    losses->kept = true;
    record(p, &CROSS_ENTROPY, 1, TENSORS(logits), 1, TENSORS(losses), NULL, 0);
    return losses;
}

/* --- from the last hidden state ----------------------------------------------------------------------------------- */
enum { X, WEIGHT }; /* in: x (B,T,C), the head's weight (V,C) */

#define CHUNK_BYTES ((size_t)64 << 20)

/* Tokens of a chunk: its logits stay near the caches, and the weight's gradient is not revisited too often. */
static size_t chunk_rows(const Step *s) {
    size_t rows = CHUNK_BYTES / (sizeof(float) * s->in[WEIGHT]->rows) / 64 * 64;
    if (rows < 64) rows = 64;
    if (rows > 1024) rows = 1024;
    return rows < s->in[X]->rows ? rows : s->in[X]->rows;
}

static void product_task(void *context, size_t index, int slot) {
    const Job *j = context;
    int which = index < (size_t)j->count[0] ? 0 : 1;
    product_tile(&j->products[which], which ? index - (size_t)j->count[0] : index, j->x, slot);
}

static void multiply_chunk(Job *j) {
    parallel(j->x, (size_t)(j->count[0] + j->count[1]), product_task, j);
}

static void chunk_logits(Job *j) {
    const Tensor *in = j->s->in[X], *weight = j->s->in[WEIGHT];
    j->products[0] = product(j->logits, j->V, matrix_at(operand(in, false), j->first, 0), operand(weight, true), NULL,
                             (int)j->rows, (int)j->V, (int)in->cols, false);
    j->count[0] = j->products[0].tiles.count;
    j->count[1] = 0;
    multiply_chunk(j);
}

static void chunk_gradient_rows(void *context, size_t index, int slot) {
    (void)slot;
    const Job *j = context;
    size_t first = index * ROWS_EACH, n = slice_end(j->rows, ROWS_EACH, index) - first;
    real *rows = j->logits + first * j->V;
    const int32_t *targets = feed_of(j->x)->targets + j->first + first;
    j->x->k->cross_entropy_backward(rows, losses_of(j, first), rows, targets, (int)n, (int)j->V, j->scale, false);
}

static void chunk_gradients(Job *j) {
    const Tensor *in = j->s->in[X], *weight = j->s->in[WEIGHT];
    real *dinp = grad_of(j->s, X), *dweight = grad_of(j->s, WEIGHT);
    int C = (int)in->cols, V = (int)j->V, rows = (int)j->rows;
    j->count[0] = j->count[1] = 0;
    if (dinp) {
        j->products[0] = product(dinp + j->first * in->cols, in->cols, matrix_of(j->logits, j->V, false),
                                 operand(weight, false), NULL, rows, C, V, grad_adds(j->s, j->x, X));
        j->count[0] = j->products[0].tiles.count;
    }
    if (dweight) {
        bool adds = j->first > 0 || grad_adds(j->s, j->x, WEIGHT);
        j->products[1] = product(dweight, weight->cols, matrix_of(j->logits, j->V, true),
                                 matrix_at(operand(in, false), j->first, 0), NULL, V, C, rows, adds);
        j->count[1] = j->products[1].tiles.count;
    }
    multiply_chunk(j);
}

static void head_chunks(const Step *s, Exec *x, bool gradients) {
    size_t N = s->in[X]->rows, each = chunk_rows(s);
    Job job = {.s = s, .x = x, .logits = x->workspace, .V = s->in[WEIGHT]->rows, .scale = loss_scale(x)};
    for (job.first = 0; job.first < N; job.first += each) {
        job.rows = N - job.first < each ? N - job.first : each;
        chunk_logits(&job);
        parallel(x, (size_t)slice_count(job.rows, ROWS_EACH), gradients ? chunk_gradient_rows : loss_rows, &job);
        if (gradients) chunk_gradients(&job);
    }
}

static void head_forward(const Step *s, Exec *x) { head_chunks(s, x, false); }
static void head_backward(const Step *s, Exec *x) { head_chunks(s, x, true); }

static double head_flops(const Step *s, int output) {
    (void)output;
    return 2.0 * (double)tensor_count(s->in[X]) * (double)s->in[WEIGHT]->rows;
}

static double head_gradient_flops(const Step *s, int input) {
    (void)input;
    return head_flops(s, LOSSES);
}

static size_t head_scratch(const Step *s, const Kernels *k) {
    (void)s;
    return k->gemm_work;
}

static size_t head_workspace(const Step *s, const Kernels *k) {
    (void)k;
    return chunk_rows(s) * s->in[WEIGHT]->rows;
}

static const Op HEAD_LOSS = {.name = "head_loss", .forward = head_forward, .backward = head_backward,
                             .flops = head_flops, .scratch = head_scratch, .workspace = head_workspace,
                             .gradient_flops = head_gradient_flops, .saved_inputs = 1 << X | 1 << WEIGHT,
                             .multiplies = 1 << X, .source = true};

Tensor *head_loss(Plan *p, Tensor *x, Tensor *weight) {
    Tensor *losses = tensor_new(p, 2, (int[]){x->shape[0], x->shape[1]});
    losses->kept = true;
    record(p, &HEAD_LOSS, 2, TENSORS(x, weight), 1, TENSORS(losses), NULL, 0);
    return losses;
}
