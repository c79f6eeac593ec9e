/* pieces: the ops alone, on the caller's arrays: a plan of one step. */
#pragma once
#include "ops/ops.h"

#define FUNCTIONAL_ARRAYS 4

/* An array of the caller and, where wanted, its gradient (same shape, written). */
typedef struct {
    int ndim, shape[TENSOR_DIMS];
    real *data, *grad; /* data NULL: absent */
} FunctionalArray;

typedef struct {
    const char *op; /* "embedding", "rmsnorm", "layernorm", "linear", "rope", "attention", "activation", "gate",
                       "softmax", "cross_entropy" */
    FunctionalArray in[FUNCTIONAL_ARRAYS];
    const real *dout;         /* NULL: forward */
    real *out;                /* forward: the result, of the shape the piece gives */
    size_t count;             /* numbers in out or dout */
    const int32_t *ids;       /* embedding: rows;  rope: positions;  cross_entropy: targets */
    const uint8_t *mask;      /* attention: (B,keys) */
    int B, T;                 /* the shape of the ids, positions or mask; of attention's queries */
    double number;            /* eps, theta, scale; cross_entropy: the targets that count */
    Activation act;
    int heads, groups, D, window;
    bool causal;
    bool bfloat16;            /* products round their operands */
    int repeats;              /* further replays, of the backward pass alone where there is one, each timed */
    double *seconds;          /* (repeats) */
} Functional;

/* False: see e. `out` and gradients are written only on success. */
bool functional_run(const Functional *piece, Error *e, Cancel *cancel);
