/* Tensor: a name, a shape, an address and one row stride. It never owns memory.
 *
 * A plan makes tensors; where their numbers lie is decided when the plan is laid out. Rows are contiguous. A view (a
 * third of a fused c_attn) is a tensor too: the columns [column, column + cols) of a larger one. */
#pragma once
#include "base/storage.h"

typedef enum {
    TENSOR_STEP,      /* written by a step; the plan finds its place */
    TENSOR_PARAMETER, /* a weight: the model owns it, the gradient arena its gradient */
    TENSOR_OUTSIDE,   /* a cache or an operand of the caller */
} TensorKind;

#define TENSOR_DIMS 4
#define TENSOR_MOST (SIZE_MAX >> 8) /* numbers: bytes and the sum of a few still fit in size_t */

typedef struct Tensor {
    const char *name; /* dotted path of the module that gave it, or NULL */
    TensorKind kind;
    int ndim, shape[TENSOR_DIMS];
    size_t rows, cols, stride; /* rows = product of all dimensions but the last; cols = the last */
    real *data;
    const Stored *narrow;      /* a weight that does not lie as reals: data is NULL, and it has no gradient */
    uint16_t *bfloat16;            /* of a tensor in bfloat16, instead of data */
    struct Tensor *grad;       /* NULL: nobody wants it */

    struct Tensor *parent; /* this is a view into that one */
    size_t column;

    bool viewed;     /* something is a view into this one */
    bool needs_grad; /* a trainable weight lies below it, or its gradient was asked for */
    bool kept;       /* shown by name: its place is not recycled */
    bool is_bfloat16;     /* lies in bfloat16: whoever reads it multiplies with it, and would round it anyway */

    /* The plan's own: where it lies and when it must be there. */
    struct Tensor *place;    /* shares the place of that one (itself when it has its own) */
    size_t offset;           /* reals, in the activation arena */
    int first, last;         /* times of the timeline */
    int producer;            /* the step that writes it, -1 when none does */
    int forward, back;       /* its last time in the forward pass; its first one in the backward pass */
    struct Tensor *recomputed; /* where its producer writes it anew for the backward pass; NULL: it is kept till then */

    /* The plan's own, of its gradient. */
    bool grad_written;       /* while the backward pass is planned */
    int written, read;       /* the last times at which it is */
    struct Tensor *sharer;   /* of a gradient that is a place: the first tensor whose gradient lies there */
    struct Tensor *next_sharer;
} Tensor;

static inline size_t tensor_count(const Tensor *t) { return t->rows * t->cols; }

/* What a tensor is, or is a view of. */
static inline Tensor *parent_of(Tensor *t) { return t->parent ? t->parent : t; }

/* The tensor whose place it shares. */
static inline Tensor *place_of(Tensor *t) {
    while (t->place != t) t = t->place;
    return t;
}

/* It, and what it is a view of, must be there at this time. */
static inline void live_at(Tensor *t, int time) {
    if (t->parent) live_at(t->parent, time);
    if (t->first < 0 || time < t->first) t->first = time;
    if (time > t->last) t->last = time;
}
