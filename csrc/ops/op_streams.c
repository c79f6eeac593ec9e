/* op_streams: several streams from one, and one from several; each is the other's gradient. */
#include "ops/ops.h"
#include "ops/slices.h"

#include <string.h>

enum { X };
enum { OUT };

/* Every stream of `streams` (count,S,C) takes the row of x. */
static void copy_rows(const Exec *e, real *streams, const real *x, size_t count, size_t S, size_t C, bool adds) {
    for (size_t n = 0; n < count; n++, x += C)
        for (size_t i = 0; i < S; i++, streams += C) {
            if (adds) e->k->accumulate(streams, x, C);
            else memcpy(streams, x, C * sizeof(real));
        }
}

/* x takes the sum of the streams. */
static void sum_rows(const Exec *e, real *x, const real *streams, size_t count, size_t S, size_t C, bool adds) {
    for (size_t n = 0; n < count; n++, x += C)
        for (size_t i = 0; i < S; i++, streams += C) {
            if (adds || i > 0) e->k->accumulate(x, streams, C);
            else memcpy(x, streams, C * sizeof(real));
        }
}

static void spread_rows(void *context, size_t index, int slot) {
    (void)slot;
    const Work *w = context;
    const Tensor *x = w->s->in[X], *out = w->s->out[OUT];
    const Slice r = slice_at(x->rows, ROWS_EACH, index);
    copy_rows(w->x, out->data + r.first * out->cols, x->data + r.first * x->cols, r.count, out->cols / x->cols, x->cols,
              false);
}

static void spread_back(void *context, size_t index, int slot) {
    (void)slot;
    const Work *w = context;
    const Tensor *x = w->s->in[X], *out = w->s->out[OUT];
    const Slice r = slice_at(x->rows, ROWS_EACH, index);
    sum_rows(w->x, grad_of(w->s, X) + r.first * x->cols, out->grad->data + r.first * out->cols, r.count,
             out->cols / x->cols, x->cols, grad_adds(w->s, w->x, X));
}

static void gather_rows(void *context, size_t index, int slot) {
    (void)slot;
    const Work *w = context;
    const Tensor *x = w->s->in[X], *out = w->s->out[OUT];
    const Slice r = slice_at(x->rows, ROWS_EACH, index);
    sum_rows(w->x, out->data + r.first * out->cols, x->data + r.first * x->cols, r.count, x->cols / out->cols,
             out->cols, false);
}

static void gather_back(void *context, size_t index, int slot) {
    (void)slot;
    const Work *w = context;
    const Tensor *x = w->s->in[X], *out = w->s->out[OUT];
    const Slice r = slice_at(x->rows, ROWS_EACH, index);
    copy_rows(w->x, grad_of(w->s, X) + r.first * x->cols, out->grad->data + r.first * out->cols, r.count,
              x->cols / out->cols, out->cols, grad_adds(w->s, w->x, X));
}

static void spread_forward(const Step *s, Exec *x) { parallel_slices(s, x, s->in[X]->rows, ROWS_EACH, spread_rows); }
static void spread_backward(const Step *s, Exec *x) { parallel_slices(s, x, s->in[X]->rows, ROWS_EACH, spread_back); }
static void gather_forward(const Step *s, Exec *x) { parallel_slices(s, x, s->in[X]->rows, ROWS_EACH, gather_rows); }
static void gather_backward(const Step *s, Exec *x) { parallel_slices(s, x, s->in[X]->rows, ROWS_EACH, gather_back); }

static const Op SPREAD = {.name = "spread", .forward = spread_forward, .backward = spread_backward};
static const Op GATHER = {.name = "gather", .forward = gather_forward, .backward = gather_backward};

Tensor *spread(Plan *p, Tensor *x, int S) {
    if (S == 1) return x;
    Tensor *out = tensor_wide(p, x, S * (int)x->cols);
    record(p, &SPREAD, 1, TENSORS(x), 1, TENSORS(out), NULL, 0);
    return out;
}

Tensor *gather(Plan *p, Tensor *streams, int S) {
    if (S == 1) return streams;
    Tensor *out = tensor_wide(p, streams, (int)streams->cols / S);
    record(p, &GATHER, 1, TENSORS(streams), 1, TENSORS(out), NULL, 0);
    return out;
}
