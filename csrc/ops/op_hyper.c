/* op_hyper: Hyper-Connections, before a branch (width) and behind it (depth). */
#include "ops/ops.h"
#include "base/arena.h"
#include "ops/slices.h"

#include <string.h>

typedef struct {
    int S, C;
    real eps;
} Attributes;

/* --- width -------------------------------------------------------------------------------------------------------- */
enum { X, STATIC_BETA, STATIC_ALPHA, ALPHA_FN, ALPHA_SCALE, BETA_FN, BETA_SCALE }; /* in; the last four when dynamic */
enum { READ, STREAMS, BETA, DYNAMIC, MEAN, RSTD };                                 /* out; likewise the last three */

static bool is_dynamic(const Step *s) { return s->ins > ALPHA_FN; }

/* The parameters as the kernels read them, and their gradients as they write them: fixed (S,K), scale (2), fn (K,C) in
 * one block, K = S + 2, whose last column (row) is beta's. */
static size_t scale_at(const Attributes *n) { return (size_t)n->S * (size_t)(n->S + 2); }
static size_t fn_at(const Attributes *n) { return arena_round(scale_at(n) + 2); }
static size_t block_size(const Step *s) {
    const Attributes *n = attributes_of(s, Attributes);
    return fn_at(n) + (is_dynamic(s) ? arena_round((size_t)(n->S + 2) * (size_t)n->C) : 0);
}

/* Where in a block the number (r, c) of a parameter stands: at + r*row + c*col. */
typedef struct {
    size_t at, row, col;
} Place;

static Place place_in(const Attributes *n, int input) {
    const size_t K = (size_t)n->S + 2, C = (size_t)n->C;
    switch (input) {
    case STATIC_BETA: return (Place){K - 1, 0, K};
    case STATIC_ALPHA: return (Place){0, K, 1};
    case ALPHA_FN: return (Place){fn_at(n), 1, C};
    case ALPHA_SCALE: return (Place){scale_at(n), 0, 0};
    case BETA_FN: return (Place){fn_at(n) + (K - 1) * C, 0, 1};
    default: return (Place){scale_at(n) + 1, 0, 0}; /* BETA_SCALE */
    }
}

static void read_block(const Step *s, real *block) {
    for (int i = STATIC_BETA; i < s->ins; i++) {
        const Tensor *t = s->in[i];
        const Place at = place_in(attributes_of(s, Attributes), i);
        for (size_t r = 0; r < t->rows; r++)
            for (size_t c = 0; c < t->cols; c++) block[at.at + r * at.row + c * at.col] = t->data[r * t->stride + c];
    }
}

static void write_gradients(const Step *s, const Exec *x, const real *block) {
    for (int i = STATIC_BETA; i < s->ins; i++) {
        const Tensor *t = s->in[i];
        const Place at = place_in(attributes_of(s, Attributes), i);
        real *grad = grad_of(s, i);
        const bool adds = grad_adds(s, x, i);
        for (size_t r = 0; grad && r < t->rows; r++, grad += t->cols)
            for (size_t c = 0; c < t->cols; c++)
                grad[c] = (adds ? grad[c] : 0) + block[at.at + r * at.row + c * at.col];
    }
}

/* Of a step that is not dynamic there is nothing more than the fixed weights. */
static const real *fn_of(const Step *s, const real *block) {
    return is_dynamic(s) ? block + fn_at(attributes_of(s, Attributes)) : NULL;
}
static const real *scale_of(const Step *s, const real *block) { return block + scale_at(attributes_of(s, Attributes)); }

/* The rows of an output from `first` on, or of its gradient; NULL: it has none. */
static real *rows_of(const Step *s, int output, size_t first) {
    return output < s->outs ? s->out[output]->data + first * s->out[output]->cols : NULL;
}
static const real *grad_rows(const Step *s, int output, size_t first) {
    const Tensor *grad = s->out[output]->grad;
    return grad ? grad->data + first * grad->cols : NULL;
}

static void width_rows(void *context, size_t index, int slot) {
    const Work *w = context;
    const Step *s = w->s;
    const Attributes *n = attributes_of(s, Attributes);
    const Slice r = slice_at(s->in[X]->rows, ROWS_EACH, index);
    const real *block = w->x->workspace;
    w->x->k->hyper_width_forward(rows_of(s, READ, r.first), rows_of(s, STREAMS, r.first), rows_of(s, BETA, r.first),
                                 rows_of(s, DYNAMIC, r.first), rows_of(s, MEAN, r.first), rows_of(s, RSTD, r.first),
                                 s->in[X]->data + r.first * s->in[X]->cols, fn_of(s, block), block, scale_of(s, block),
                                 (int)r.count, n->S, n->C, n->eps, scratch_of(w->x, slot));
}

static void width_forward(const Step *s, Exec *x) {
    read_block(s, x->workspace);
    parallel_slices(s, x, s->in[X]->rows, ROWS_EACH, width_rows);
}

/* The parameters' gradients are sums over rows: every task sums its own rows into its part of the workspace, behind the
 * parameters, and the parts are added in order afterwards. */
#define PARTS_MOST 64

typedef struct {
    const Step *s;
    Exec *x;
    size_t each; /* rows of a task */
    bool trains; /* some parameter does */
} Job;

static size_t rows_each(const Step *s) {
    const size_t each = (s->in[X]->rows + PARTS_MOST - 1) / PARTS_MOST;
    return each < 16 ? 16 : each;
}

static void back_rows(const Job *j, Slice r, real *part, real *work) {
    const Step *s = j->s;
    const Attributes *n = attributes_of(s, Attributes);
    const real *block = j->x->workspace;
    real *dinp = grad_of(s, X), *dfn = part && is_dynamic(s) ? part + fn_at(n) : NULL;
    j->x->k->hyper_width_backward(
        dinp ? dinp + r.first * s->in[X]->cols : NULL, dfn, part, dfn ? part + scale_at(n) : NULL,
        grad_rows(s, READ, r.first), grad_rows(s, STREAMS, r.first), grad_rows(s, BETA, r.first),
        rows_of(s, DYNAMIC, r.first), rows_of(s, MEAN, r.first), rows_of(s, RSTD, r.first),
        s->in[X]->data + r.first * s->in[X]->cols, fn_of(s, block), block, scale_of(s, block), (int)r.count, n->S, n->C,
        grad_adds(s, j->x, X), work);
}

static void width_back(void *context, size_t index, int slot) {
    const Job *j = context;
    const Slice all = slice_at(j->s->in[X]->rows, j->each, index);
    real *part = j->trains ? j->x->workspace + (1 + index) * block_size(j->s) : NULL;
    if (part) memset(part, 0, block_size(j->s) * sizeof(real));
    for (size_t row = 0; row < all.count && pool_going(j->x->cancel, slot); row += ROWS_EACH) {
        const size_t left = all.count - row;
        back_rows(j, (Slice){all.first + row, left < ROWS_EACH ? left : ROWS_EACH}, part, scratch_of(j->x, slot));
    }
}

/* Some columns of all parts, into the first. */
static void add_parts(void *context, size_t index, int slot) {
    (void)slot;
    const Job *j = context;
    const size_t size = block_size(j->s);
    const Slice c = slice_at(size, ELEMENTS_EACH / PARTS_MOST, index);
    real *first = j->x->workspace + size + c.first;
    j->x->k->column_sums(first, first + size, size, slice_count(j->s->in[X]->rows, j->each) - 1, (int)c.count);
}

static void width_backward(const Step *s, Exec *x) {
    Job job = {s, x, rows_each(s), false};
    for (int i = STATIC_BETA; i < s->ins; i++) job.trains |= grad_of(s, i) != NULL;
    read_block(s, x->workspace);
    parallel(x, (size_t)slice_count(s->in[X]->rows, job.each), width_back, &job);
    if (!job.trains) return;
    parallel(x, (size_t)slice_count(block_size(s), ELEMENTS_EACH / PARTS_MOST), add_parts, &job);
    write_gradients(s, x, x->workspace + block_size(s));
}

static size_t width_workspace(const Step *s, const Kernels *k) {
    (void)k;
    const size_t parts = s->differentiated ? (size_t)slice_count(s->in[X]->rows, rows_each(s)) : 0;
    return (1 + parts) * block_size(s);
}

static size_t width_scratch(const Step *s, const Kernels *k) {
    (void)k;
    const Attributes *n = attributes_of(s, Attributes);
    return hyper_work(n->S, n->C);
}

/* Of one number a stream, row and column. */
static double vector_flops(const Step *s) { return 2.0 * (double)tensor_count(s->in[X]); }

static double width_flops(const Step *s, int output) {
    const double S = attributes_of(s, Attributes)->S;
    return output == READ ? vector_flops(s) : output == STREAMS ? S * vector_flops(s)
         : output == DYNAMIC ? (S + 2) * vector_flops(s) : 0;
}

static double width_gradient_flops(const Step *s, int input) {
    const double S = attributes_of(s, Attributes)->S;
    switch (input) {
    case X: return (S + 1 + (is_dynamic(s) ? S + 2 : 0)) * vector_flops(s);
    case STATIC_ALPHA:
    case ALPHA_FN: return (S + 1) * vector_flops(s);
    case BETA_FN: return vector_flops(s);
    default: return 0;
    }
}

static const Op HYPER_WIDTH = {.name = "hyper_width", .forward = width_forward, .backward = width_backward,
                               .flops = width_flops, .gradient_flops = width_gradient_flops,
                               .scratch = width_scratch, .workspace = width_workspace, .saved_inputs = FROM(X),
                               .saved_outputs = FROM(DYNAMIC)};

Connection hyper_width(Plan *p, Tensor *streams, int S, bool dynamic, real eps) {
    const int C = (int)streams->cols / S;
    Tensor *in[] = {streams, parameter(p, "static_beta", 1, (int[]){S}), NULL, NULL, NULL, NULL, NULL};
    in[STATIC_ALPHA] = parameter(p, "static_alpha", 2, (int[]){S, S + 1});
    Tensor *out[] = {tensor_wide(p, streams, C), tensor_like(p, streams), tensor_wide(p, streams, S), NULL, NULL, NULL};
    if (dynamic) {
        in[ALPHA_FN] = parameter(p, "dynamic_alpha_fn", 2, (int[]){C, S + 1});
        in[ALPHA_SCALE] = parameter(p, "dynamic_alpha_scale", 1, (int[]){1});
        in[BETA_FN] = parameter(p, "dynamic_beta_fn", 1, (int[]){C});
        in[BETA_SCALE] = parameter(p, "dynamic_beta_scale", 1, (int[]){1});
        out[DYNAMIC] = tensor_wide(p, streams, S * (S + 2));
        out[MEAN] = tensor_wide(p, streams, S);
        out[RSTD] = tensor_wide(p, streams, S);
    }
    Attributes n = {S, C, eps};
    record(p, &HYPER_WIDTH, dynamic ? BETA_SCALE + 1 : ALPHA_FN, in, dynamic ? RSTD + 1 : DYNAMIC, out, &n, sizeof n);
    return (Connection){out[READ], out[STREAMS], out[BETA]};
}

/* --- depth -------------------------------------------------------------------------------------------------------- */
enum { DEPTH_STREAMS, DEPTH_Y, DEPTH_BETA }; /* in */
enum { DEPTH_OUT };

static void depth_rows(void *context, size_t index, int slot) {
    (void)slot;
    const Work *w = context;
    const Step *s = w->s;
    const Attributes *n = attributes_of(s, Attributes);
    const Tensor *streams = s->in[DEPTH_STREAMS], *y = s->in[DEPTH_Y], *beta = s->in[DEPTH_BETA];
    const Slice r = slice_at(y->rows, ROWS_EACH, index);
    w->x->k->hyper_depth_forward(s->out[DEPTH_OUT]->data + r.first * streams->cols,
                                 streams->data + r.first * streams->cols, y->data + r.first * y->cols,
                                 beta->data + r.first * beta->cols, (int)r.count, n->S, n->C);
}

static void pass_on(const Work *w, Slice r) {
    real *dstreams = grad_of(w->s, DEPTH_STREAMS);
    if (!dstreams) return;
    const size_t cols = w->s->out[DEPTH_OUT]->cols;
    const real *dout = w->s->out[DEPTH_OUT]->grad->data + r.first * cols;
    if (grad_adds(w->s, w->x, DEPTH_STREAMS)) w->x->k->accumulate(dstreams + r.first * cols, dout, r.count * cols);
    else memcpy(dstreams + r.first * cols, dout, r.count * cols * sizeof(real));
}

static void depth_back(void *context, size_t index, int slot) {
    (void)slot;
    const Work *w = context;
    const Step *s = w->s;
    const Attributes *n = attributes_of(s, Attributes);
    const Tensor *y = s->in[DEPTH_Y], *beta = s->in[DEPTH_BETA], *dout = s->out[DEPTH_OUT]->grad;
    const Slice r = slice_at(y->rows, ROWS_EACH, index);
    real *dy = grad_of(s, DEPTH_Y), *dbeta = grad_of(s, DEPTH_BETA);
    if (dy || dbeta)
        w->x->k->hyper_depth_backward(dy ? dy + r.first * y->cols : NULL, dbeta ? dbeta + r.first * beta->cols : NULL,
                                      dout->data + r.first * dout->cols, y->data + r.first * y->cols,
                                      beta->data + r.first * beta->cols, (int)r.count, n->S, n->C,
                                      grad_adds(s, w->x, DEPTH_Y));
    pass_on(w, r);
}

static void depth_forward(const Step *s, Exec *x) {
    parallel_slices(s, x, s->in[DEPTH_Y]->rows, ROWS_EACH, depth_rows);
}

static void depth_backward(const Step *s, Exec *x) {
    parallel_slices(s, x, s->in[DEPTH_Y]->rows, ROWS_EACH, depth_back);
}

static double depth_flops(const Step *s, int output) {
    (void)output;
    return 2.0 * (double)tensor_count(s->out[DEPTH_OUT]);
}

static double depth_gradient_flops(const Step *s, int input) {
    return input == DEPTH_STREAMS ? 0 : depth_flops(s, DEPTH_OUT);
}

static const Op HYPER_DEPTH = {.name = "hyper_depth", .forward = depth_forward, .backward = depth_backward,
                               .flops = depth_flops, .gradient_flops = depth_gradient_flops,
                               .saved_inputs = 1 << DEPTH_Y | 1 << DEPTH_BETA, .replaces = 1 << DEPTH_STREAMS,
                               .passes = 1 << DEPTH_STREAMS};

/* beta has one reader, this step, which writes its gradient. */
Tensor *hyper_depth(Plan *p, Tensor *streams, Tensor *y, Tensor *beta) {
    if (streams->cols != y->cols * beta->cols)
        error_set(&p->error, ERROR_SHAPE, "%s: %zu streams of %zu are not %zu numbers", p->path, beta->cols, y->cols,
                  streams->cols);
    Tensor *out = tensor_like(p, streams);
    Attributes n = {(int)beta->cols, (int)y->cols, 0};
    record(p, &HYPER_DEPTH, 3, TENSORS(streams, y, beta), 1, TENSORS(out), &n, sizeof n);
    return out;
}
