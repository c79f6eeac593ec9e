/* op_attend: softmax attention of H query heads over G key/value heads, never forming the T x T pattern unless it was
 * asked for by name: attend, in one step, or pattern and mix, in two. */
#include "base/arena.h"
#include "ops/ops.h"
#include "ops/product.h"
#include "ops/slices.h"

#include <string.h>

#define QUERIES_EACH 192

enum { Q, K, V };         /* in: q (B,T,H*D), k and v (B,T,G*D), or caches of them */
enum { OUT, LOGSUMEXP };  /* out: out (B,T,H*D), logsumexp (B,H,T) */

typedef struct {
    const Step *s;
    Exec *x;
    int T, Tk, keys; /* keys: rows of k a batch row */
    Dropout dropout;
} Job;

/* Positions that the cache of this layer no longer holds. */
static int forgotten(const AttendAttributes *n, const Feed *f) { return n->cached ? f->first[n->layer] : 0; }

/* Rows of k a head: the positions of this call, or of the whole cache. */
static int keys_in(const Tensor *k, const AttendAttributes *n) { return k->shape[n->cached ? 2 : 1]; }

static Job job_of(const Step *s, Exec *x) {
    const AttendAttributes *n = attributes_of(s, AttendAttributes);
    int T = s->in[Q]->shape[1], keys = keys_in(s->in[K], n);
    const int Tk = n->cached ? feed_of(x)->past - forgotten(n, feed_of(x)) + T : keys;
    return (Job){s, x, T, Tk, keys, dropout_now(x, s->path, 1, n->dropout)};
}

static Attention attention_of(const Job *j, int b, int h) {
    const AttendAttributes *n = attributes_of(j->s, AttendAttributes);
    const Feed *f = feed_of(j->x);
    uint64_t head = (uint64_t)b * (uint64_t)n->H + (uint64_t)h;
    const uint8_t *mask = f->mask ? f->mask + (size_t)b * f->mask_stride + forgotten(n, f) : NULL;
    return (Attention){.T = j->T, .Tk = j->Tk, .D = n->D, .window = n->window, .causal = n->causal, .scale = n->scale,
                       .mask = mask, .dropout = j->dropout, .drop_base = head * (uint64_t)j->T * (uint64_t)j->Tk};
}

/* One head's rows of a (B,rows,heads*D) tensor. */
static Matrix head_of(const Tensor *t, int b, int rows, int head, int D) {
    return matrix_at(operand(t, false), (size_t)b * (size_t)rows, (size_t)head * (size_t)D);
}
static real *head_at(const Tensor *t, int b, int rows, int head, int D) {
    return t->data + (size_t)b * (size_t)rows * t->stride + (size_t)head * (size_t)D;
}

/* A key/value head's rows of k or v, which may be a cache. */
static Matrix shared_head_of(const Job *j, const Tensor *t, int b, int g) {
    const AttendAttributes *n = attributes_of(j->s, AttendAttributes);
    return n->cached ? head_of(t, b * n->G + g, j->keys, 0, n->D) : head_of(t, b, j->keys, g, n->D);
}

/* Which row of all heads' rows query t of a head is. */
static size_t head_row(const Job *j, int b, int h, int t) {
    const size_t heads = (size_t)attributes_of(j->s, AttendAttributes)->H;
    return ((size_t)b * heads + (size_t)h) * (size_t)j->T + (size_t)t;
}

/* The last queries see the most keys, and go first: the short tasks are left for the end. */
static void forward_block(void *context, size_t index, int slot) {
    const Job *j = context;
    const AttendAttributes *n = attributes_of(j->s, AttendAttributes);
    const Tensor *q = j->s->in[Q], *k = j->s->in[K], *v = j->s->in[V], *out = j->s->out[OUT];
    size_t blocks = (size_t)slice_count((size_t)j->T, QUERIES_EACH), heads = (size_t)(q->shape[0] * n->H);
    int block = (int)(blocks - 1 - index / heads), h = (int)(index % heads) % n->H, b = (int)(index % heads) / n->H;
    int g = h / (n->H / n->G), t0 = block * QUERIES_EACH;
    int t1 = (int)slice_end((size_t)j->T, QUERIES_EACH, (size_t)block);
    Attention a = attention_of(j, b, h);
    real *logsumexp = j->s->out[LOGSUMEXP]->data + ((size_t)b * (size_t)n->H + (size_t)h) * (size_t)j->T;
    size_t first = ((size_t)b * (size_t)j->T + (size_t)t0) * out->stride + (size_t)h * (size_t)n->D, D = (size_t)n->D;
    real *work = scratch_of(j->x, slot), *spare = work + j->x->k->attention_work(n->D);
    j->x->k->attention_forward(write_to(out, first, spare), out->is_bfloat16 ? D : out->stride, logsumexp,
                               head_of(q, b, j->T, h, n->D), shared_head_of(j, k, b, g), shared_head_of(j, v, b, g), &a,
                               t0, t1, work);
    for (size_t t = 0; out->is_bfloat16 && t < (size_t)(t1 - t0); t++)
        write_back(out, first + t * out->stride, D, spare + t * D, j->x);
}

static void forward(const Step *s, Exec *x) {
    Job job = job_of(s, x);
    size_t blocks = (size_t)slice_count((size_t)job.T, QUERIES_EACH);
    parallel(x, (size_t)(s->in[Q]->shape[0] * attributes_of(s, AttendAttributes)->H) * blocks, forward_block, &job);
}

#define KEYS_EACH 384  /* between two looks at Ctrl-C */
#define TASKS_ENOUGH 8 /* with fewer key/value heads than these, those who share one are cut into parts */

/* The first part of the query heads that read a key/value head adds into dk and dv one after another; every other part
 * has a dk and a dv of its own in the workspace, behind delta (B,H,T), to be added up in order. */
static int parts_of(const Step *s) {
    const AttendAttributes *n = attributes_of(s, AttendAttributes);
    int group = n->H / n->G, parts = slice_count(TASKS_ENOUGH, (size_t)(s->in[Q]->shape[0] * n->G));
    return parts < group ? parts : group;
}

static size_t delta_size(const Step *s) { return arena_round(tensor_count(s->out[LOGSUMEXP])); }
static size_t part_size(const Step *s) { return arena_round(tensor_count(s->in[K])); }

static size_t workspace(const Step *s, const Kernels *k) {
    (void)k;
    if (!s->differentiated) return 0;
    return delta_size(s) + 2 * (size_t)(parts_of(s) - 1) * part_size(s);
}

/* The gradient of the keys (input K) or values (input V) that a part adds to. */
static Tensor part_gradient(const Job *j, int input, int part) {
    Tensor t = *j->s->in[input]->grad;
    if (part == 0) return t;
    t.data = j->x->workspace + delta_size(j->s) + (size_t)(2 * (part - 1) + input - K) * part_size(j->s);
    t.stride = t.cols;
    return t;
}

/* Whether a part adds to dk or dv: a head before it in the part has written, or a step that came sooner. */
static bool part_adds(const Job *j, int input, int part, bool later) {
    return later || (part == 0 && grad_adds(j->s, j->x, input));
}

static void backward_keys(const Job *j, int b, int h, int s0, int part, bool later, int slot) {
    const Step *s = j->s;
    const AttendAttributes *n = attributes_of(s, AttendAttributes);
    const Tensor *q = s->in[Q], *k = s->in[K], *v = s->in[V], *out = s->out[OUT];
    const Tensor dk = part_gradient(j, K, part), dv = part_gradient(j, V, part);
    int g = h / (n->H / n->G), s1 = j->Tk - s0 < KEYS_EACH ? j->Tk : s0 + KEYS_EACH;
    Attention a = attention_of(j, b, h);
    size_t row = ((size_t)b * (size_t)n->H + (size_t)h) * (size_t)j->T;
    j->x->k->attention_backward(head_at(q->grad, b, j->T, h, n->D), q->grad->stride, head_at(&dk, b, j->keys, g, n->D),
                                dk.stride, head_at(&dv, b, j->keys, g, n->D), dv.stride,
                                head_at(out->grad, b, j->T, h, n->D), out->grad->stride, head_of(out, b, j->T, h, n->D),
                                j->x->workspace + row, s->out[LOGSUMEXP]->data + row, head_of(q, b, j->T, h, n->D),
                                head_of(k, b, j->keys, g, n->D), head_of(v, b, j->keys, g, n->D), &a, s0, s1,
                                part_adds(j, K, part, later), part_adds(j, V, part, later), scratch_of(j->x, slot));
}

static void backward_part(void *context, size_t index, int slot) {
    const Job *j = context;
    const AttendAttributes *n = attributes_of(j->s, AttendAttributes);
    int parts = parts_of(j->s), part = (int)index % parts, head = (int)index / parts, b = head / n->G;
    int group = n->H / n->G, first = head % n->G * group + group * part / parts;
    int last = head % n->G * group + group * (part + 1) / parts;
    for (int h = first; h < last; h++)
        for (int s = 0; s < j->Tk && pool_going(j->x->cancel, slot); s += KEYS_EACH)
            backward_keys(j, b, h, s, part, h > first, slot);
}

static void add_parts(void *context, size_t index, int slot) {
    (void)slot;
    const Job *j = context;
    Slice rows = slice_at(j->s->in[K]->rows, ROWS_EACH, index);
    for (int input = K; input <= V; input++) {
        const Tensor sum = part_gradient(j, input, 0);
        for (int part = 1; part < parts_of(j->s); part++) {
            const Tensor more = part_gradient(j, input, part);
            for (size_t r = rows.first; r < rows.first + rows.count; r++)
                j->x->k->accumulate(sum.data + r * sum.stride, more.data + r * more.stride, sum.cols);
        }
    }
}

static void backward(const Step *s, Exec *x) {
    Job job = job_of(s, x);
    size_t parts = (size_t)parts_of(s);
    parallel(x, (size_t)(s->in[Q]->shape[0] * attributes_of(s, AttendAttributes)->G) * parts, backward_part, &job);
    if (parts > 1) parallel(x, (size_t)slice_count(s->in[K]->rows, ROWS_EACH), add_parts, &job);
}

static double flops(const Step *s, int output) {
    const AttendAttributes *n = attributes_of(s, AttendAttributes);
    double T = s->in[Q]->shape[1], keys = keys_in(s->in[K], n), B = s->in[Q]->shape[0];
    double seen = n->causal && T == keys ? (keys + 1) / 2 : keys;
    if (n->window && seen > n->window) seen = n->window;
    return output == OUT ? 4.0 * B * n->H * n->D * T * seen : 0;
}

static size_t scratch(const Step *s, const Kernels *k) {
    int D = attributes_of(s, AttendAttributes)->D;
    return k->attention_work(D) + (s->out[OUT]->is_bfloat16 ? (size_t)QUERIES_EACH * (size_t)D : 0);
}

/* Backwards four products of the forward pass's two; the fifth, the scores computed again, is not nominal. */
static double gradient_flops(const Step *s, int input) {
    (void)input;
    return flops(s, OUT) * 2 / 3;
}

static const Op ATTEND = {.name = "attend", .forward = forward, .backward = backward, .flops = flops,
                          .scratch = scratch, .workspace = workspace, .gradient_flops = gradient_flops,
                          .saved_inputs = 1 << Q | 1 << K | 1 << V, .saved_outputs = 1 << OUT | 1 << LOGSUMEXP,
                          .multiplies = 1 << Q | 1 << K | 1 << V, .may_be_bfloat16 = 1 << OUT};

/* --- the pattern, (B,H,T,Tk): nothing flows back through it ------------------------------------------------------- */
enum { SUMS = V }; /* in: q, k, and logsumexp in the place of v */

static void pattern_head(void *context, size_t index, int slot) {
    const Job *j = context;
    const AttendAttributes *n = attributes_of(j->s, AttendAttributes);
    const Tensor *q = j->s->in[Q], *k = j->s->in[K];
    int b = (int)index / n->H, h = (int)index % n->H;
    Attention a = attention_of(j, b, h);
    j->x->k->attention_pattern(j->s->out[OUT]->data + index * (size_t)j->T * (size_t)j->keys, (size_t)j->keys,
                               j->s->in[SUMS]->data + index * (size_t)j->T, head_of(q, b, j->T, h, n->D),
                               shared_head_of(j, k, b, h / (n->H / n->G)), &a, scratch_of(j->x, slot));
}

static void pattern_forward(const Step *s, Exec *x) {
    Job job = job_of(s, x);
    parallel(x, (size_t)(s->in[Q]->shape[0] * attributes_of(s, AttendAttributes)->H), pattern_head, &job);
}

static size_t pattern_scratch(const Step *s, const Kernels *k) {
    return k->attention_work(attributes_of(s, AttendAttributes)->D);
}

static const Op PATTERN = {.name = "pattern", .forward = pattern_forward, .scratch = pattern_scratch,
                           .multiplies = 1 << Q | 1 << K};

static void check_heads(Plan *p, const Tensor *q, const Tensor *k, const Tensor *v, const AttendAttributes *n) {
    if (n->G < 1 || n->H % n->G)
        error_set(&p->error, ERROR_SHAPE, "%s: %d query heads do not share %d key/value heads evenly", p->path, n->H,
                  n->G);
    const size_t shared = (size_t)(n->cached ? 1 : n->G) * (size_t)n->D;
    if (q->cols != (size_t)n->H * (size_t)n->D || k->cols != shared || v->cols != shared)
        error_set(&p->error, ERROR_SHAPE, "%s: widths %zu, %zu, %zu of q, k, v are not %d and %d heads of %d", p->path,
                  q->cols, k->cols, v->cols, n->H, n->G, n->D);
}

Tensor *attend(Plan *p, Tensor *q, Tensor *k, Tensor *v, AttendAttributes n, Tensor **pattern) {
    int B = q->shape[0], T = q->shape[1];
    check_heads(p, q, k, v, &n);
    if (!p->training) n.dropout = 0;
    share_need(TENSORS(q, k, v), 3);
    Tensor *out = tensor_like(p, q), *logsumexp = tensor_new(p, 3, (int[]){B, n.H, T});
    record(p, &ATTEND, 3, TENSORS(q, k, v), 2, TENSORS(out, logsumexp), &n, sizeof n);
    if (pattern) {
        *pattern = tensor_new(p, 4, (int[]){B, n.H, T, keys_in(k, &n)});
        record(p, &PATTERN, 3, TENSORS(q, k, logsumexp), 1, TENSORS(*pattern), &n, sizeof n);
    }
    return out;
}

/* --- in two steps, with a pattern in between that may be written into: pattern, mix ------------------------------- */
/* pattern: in q, k. What its rows are divided by comes from the fused kernel, so it has the bits of a kept one. */
static void normed_pattern_head(void *context, size_t index, int slot) {
    const Job *j = context;
    const AttendAttributes *n = attributes_of(j->s, AttendAttributes);
    const Kernels *kernels = j->x->k;
    const int b = (int)index / n->H, h = (int)index % n->H;
    const Attention a = attention_of(j, b, h);
    const Matrix q = head_of(j->s->in[0], b, j->T, h, n->D), k = shared_head_of(j, j->s->in[1], b, h / (n->H / n->G));
    real *work = scratch_of(j->x, slot), *logsumexp = work + kernels->attention_work(n->D), *spare = logsumexp + j->T;
    for (int t = 0; t < j->T && pool_going(j->x->cancel, slot); t += QUERIES_EACH) {
        const int end = j->T - t < QUERIES_EACH ? j->T : t + QUERIES_EACH;
        kernels->attention_forward(spare, (size_t)n->D, logsumexp, q, k, k, &a, t, end, work);
    }
    real *pattern = j->s->out[0]->data + head_row(j, b, h, 0) * (size_t)j->keys;
    kernels->attention_pattern(pattern, (size_t)j->keys, logsumexp, q, k, &a, work);
}

static void normed_pattern_forward(const Step *s, Exec *x) {
    Job job = job_of(s, x);
    parallel(x, (size_t)(s->in[0]->shape[0] * attributes_of(s, AttendAttributes)->H), normed_pattern_head, &job);
}

static size_t normed_pattern_scratch(const Step *s, const Kernels *k) {
    const int D = attributes_of(s, AttendAttributes)->D;
    return k->attention_work(D) + (size_t)s->in[0]->shape[1] + (size_t)QUERIES_EACH * (size_t)D;
}

/* Two products with every number of the pattern. */
static double mix_flops(const Step *s, int output) {
    (void)output;
    return 2.0 * (double)tensor_count(s->in[0]) * attributes_of(s, AttendAttributes)->D;
}

static double pattern_flops(const Step *s, int output) {
    return 2.0 * (double)tensor_count(s->out[output]) * attributes_of(s, AttendAttributes)->D;
}

static const Op NORMED_PATTERN = {.name = "pattern", .forward = normed_pattern_forward, .flops = pattern_flops,
                                  .scratch = normed_pattern_scratch, .multiplies = 1 << Q | 1 << K};

enum {
    MIX_P,
    MIX_V,
    MIX_Q,
    MIX_K
}; /* mix: in pattern, v, and q, k, which get zeros: the pattern is what is written there */

#define MIX_KEYS 192

static Job mix_job(const Step *s, Exec *x) {
    const AttendAttributes *n = attributes_of(s, AttendAttributes);
    const int T = s->out[0]->shape[1], keys = s->in[MIX_P]->shape[3];
    const int Tk = n->cached ? feed_of(x)->past - forgotten(n, feed_of(x)) + T : keys;
    return (Job){s, x, T, Tk, keys, dropout_now(x, s->path, 1, n->dropout)};
}

/* Queries [t, t + rows) and keys [key, key + count) of a head's pattern, dropped as attend drops them, into `spare`. */
static Matrix dropped(const Job *j, int b, int h, int t, int rows, int key, int count, real *spare) {
    const size_t stride = (size_t)j->keys, width = (size_t)count, row = head_row(j, b, h, t);
    const real *p = j->s->in[MIX_P]->data + row * stride + key;
    if (j->dropout.rate == 0) return matrix_of(p, stride, false);
    for (size_t r = 0; r < (size_t)rows; r++) {
        const size_t first = (row + r) * (size_t)j->Tk + (size_t)key;
        j->x->k->dropout(spare + r * width, p + r * stride, j->dropout, first, width, false);
    }
    return matrix_of(spare, width, false);
}

/* Which queries of which head the index-th task takes. */
typedef struct {
    int b, h, t, rows;
} Queries;

static Queries queries_at(const Job *j, size_t index) {
    const int H = attributes_of(j->s, AttendAttributes)->H, blocks = slice_count((size_t)j->T, QUERIES_EACH);
    const int head = (int)index / blocks, t = (int)index % blocks * QUERIES_EACH, left = j->T - t;
    return (Queries){head / H, head % H, t, left < QUERIES_EACH ? left : QUERIES_EACH};
}

static void mix_queries(void *context, size_t index, int slot) {
    const Job *j = context;
    const AttendAttributes *n = attributes_of(j->s, AttendAttributes);
    const Queries i = queries_at(j, index);
    const Tensor *out = j->s->out[0];
    const Matrix v = shared_head_of(j, j->s->in[MIX_V], i.b, i.h / (n->H / n->G));
    real *work = scratch_of(j->x, slot), *mixed = head_at(out, i.b, j->T, i.h, n->D) + (size_t)i.t * out->stride;
    const Matrix p = dropped(j, i.b, i.h, i.t, i.rows, 0, j->Tk, work + j->x->k->gemm_work);
    j->x->k->gemm(mixed, out->stride, p, v, NULL, i.rows, n->D, j->Tk, false, work);
}

static size_t query_tasks(const Job *j) {
    return (size_t)j->s->out[0]->shape[0] * (size_t)attributes_of(j->s, AttendAttributes)->H *
           (size_t)slice_count((size_t)j->T, QUERIES_EACH);
}

static void mix_forward(const Step *s, Exec *x) {
    Job job = mix_job(s, x);
    parallel(x, query_tasks(&job), mix_queries, &job);
}

static void mix_dpattern(void *context, size_t index, int slot) {
    const Job *j = context;
    const AttendAttributes *n = attributes_of(j->s, AttendAttributes);
    const Queries i = queries_at(j, index);
    const Matrix dout = matrix_at(head_of(j->s->out[0]->grad, i.b, j->T, i.h, n->D), (size_t)i.t, 0);
    const Matrix v = shared_head_of(j, j->s->in[MIX_V], i.b, i.h / (n->H / n->G));
    const size_t keys = (size_t)j->keys, first = head_row(j, i.b, i.h, i.t) * keys; /* all of them: there is no past */
    real *dp = grad_of(j->s, MIX_P) + first;
    j->x->k->gemm(dp, keys, dout, matrix_transposed(v), NULL, i.rows, j->keys, n->D, false, scratch_of(j->x, slot));
    if (j->dropout.rate > 0) j->x->k->dropout(dp, dp, j->dropout, first, (size_t)i.rows * keys, false);
}

/* dv of some keys: the query heads that read them, one after another. */
static void mix_dvalues(void *context, size_t index, int slot) {
    const Job *j = context;
    const AttendAttributes *n = attributes_of(j->s, AttendAttributes);
    const int blocks = slice_count((size_t)j->Tk, MIX_KEYS), head = (int)index / blocks, group = n->H / n->G;
    const int b = head / n->G, g = head % n->G, key = (int)index % blocks * MIX_KEYS;
    const int count = j->Tk - key < MIX_KEYS ? j->Tk - key : MIX_KEYS;
    const Tensor *dv = j->s->in[MIX_V]->grad;
    real *work = scratch_of(j->x, slot), *spare = work + j->x->k->gemm_work;
    real *dv_key = head_at(dv, b, j->keys, g, n->D) + (size_t)key * dv->stride;
    bool adds = grad_adds(j->s, j->x, MIX_V);
    for (int h = g * group; h < (g + 1) * group; h++)
        for (int t = 0; t < j->T && pool_going(j->x->cancel, slot); t += QUERIES_EACH, adds = true) {
            const int rows = j->T - t < QUERIES_EACH ? j->T - t : QUERIES_EACH;
            const Matrix p = dropped(j, b, h, t, rows, key, count, spare);
            const Matrix dout = matrix_at(head_of(j->s->out[0]->grad, b, j->T, h, n->D), (size_t)t, 0);
            j->x->k->gemm(dv_key, dv->stride, matrix_transposed(p), dout, NULL, count, n->D, rows, adds, work);
        }
}

static void give_zeros(const Step *s, Exec *x, int input) {
    if (!grad_of(s, input) || grad_adds(s, x, input)) return;
    const Tensor *grad = s->in[input]->grad;
    for (size_t r = 0; r < grad->rows; r++) memset(grad->data + r * grad->stride, 0, grad->cols * sizeof(real));
}

static void mix_backward(const Step *s, Exec *x) {
    Job job = mix_job(s, x);
    const size_t heads = (size_t)s->out[0]->shape[0] * (size_t)attributes_of(s, AttendAttributes)->G;
    if (grad_of(s, MIX_P)) parallel(x, query_tasks(&job), mix_dpattern, &job);
    if (grad_of(s, MIX_V)) parallel(x, heads * (size_t)slice_count((size_t)job.Tk, MIX_KEYS), mix_dvalues, &job);
    give_zeros(s, x, MIX_Q);
    give_zeros(s, x, MIX_K);
}

static size_t mix_scratch(const Step *s, const Kernels *k) {
    const bool drops = attributes_of(s, AttendAttributes)->dropout > 0;
    return k->gemm_work + (drops ? (size_t)QUERIES_EACH * s->in[MIX_P]->cols : 0);
}

static double mix_gradient_flops(const Step *s, int input) {
    return input == MIX_P || input == MIX_V ? mix_flops(s, 0) : 0;
}

static const Op MIX = {.name = "mix",
                       .forward = mix_forward,
                       .backward = mix_backward,
                       .flops = mix_flops,
                       .gradient_flops = mix_gradient_flops,
                       .scratch = mix_scratch,
                       .saved_inputs = 1 << MIX_P | 1 << MIX_V,
                       .multiplies = 1 << MIX_V | 1 << MIX_Q | 1 << MIX_K};

Tensor *attention_pattern(Plan *p, Tensor *q, Tensor *k, AttendAttributes n) {
    check_heads(p, q, k, k, &n);
    Tensor *pattern = tensor_new(p, 4, (int[]){q->shape[0], n.H, q->shape[1], keys_in(k, &n)});
    n.dropout = 0;
    record(p, &NORMED_PATTERN, 2, TENSORS(q, k), 1, TENSORS(pattern), &n, sizeof n);
    return pattern;
}

Tensor *mix(Plan *p, Tensor *pattern, Tensor *v, Tensor *q, Tensor *k, AttendAttributes n) {
    check_heads(p, q, k, v, &n);
    if (!p->training) n.dropout = 0;
    Tensor *out = tensor_like(p, q);
    record(p, &MIX, 4, TENSORS(pattern, v, q, k), 1, TENSORS(out), &n, sizeof n);
    return out;
}
