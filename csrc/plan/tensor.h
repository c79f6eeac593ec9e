/* Tensor: a name, a shape, an address and one row stride. It never owns memory.
 *
 * A plan makes tensors; where their numbers lie is decided when the plan is laid out. Rows are contiguous. A view (a
 * third of a fused c_attn) is a tensor too: the columns [column, column + cols) of a whole one. */
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
    uint16_t *half;            /* of a halved tensor, instead of data: bfloat16 numbers */
    struct Tensor *grad;       /* NULL: nobody wants it */

    struct Tensor *whole; /* this is a view into that one */
    size_t column;

    bool needs_grad; /* a trainable weight lies below it, or its gradient was asked for */
    bool kept;       /* shown by name: its place is not recycled */
    bool halved;     /* lies in bfloat16: whoever reads it multiplies with it, and would round it anyway */

    /* The plan's own: where it lies and when it must be there. */
    struct Tensor *place;    /* shares the place of that one (itself when it has its own) */
    size_t offset;           /* reals, in the activation arena */
    int first, last;         /* moments of the timeline */
    int producer;            /* the step that writes it, -1 when none does */
    bool grad_written;       /* while the backward pass is planned */
    int written, read;       /* the last moments at which its gradient is */
    struct Tensor *again;    /* where its producer writes it anew for the backward pass; NULL: it is kept till then */
    struct Tensor *next_again; /* the next one to be written anew before the same step */
} Tensor;

static inline size_t tensor_count(const Tensor *t) { return t->rows * t->cols; }
