/* Op: what a kind of step does, and what the plan must know of it.
 *
 * Step: one op at work on named tensors, as many as it likes. Exec: what a replay hands to every step. */
#pragma once
#include "base/pool.h"
#include "plan/tensor.h"

struct Kernels; /* the plan hands the table on, and looks into it never */

/* How the backward pass of a step gives the gradient of one input. */
typedef enum {
    GRAD_NONE,    /* not wanted */
    GRAD_SET,     /* first writer: overwrite */
    GRAD_ADD,     /* a later writer */
    GRAD_HELD,    /* a parameter's first writer: adds when the gradients hold something already */
    GRAD_SHARED,  /* passed on by sharing the output gradient's place: nothing to do */
} GradMode;

/* Its arrays and numbers are the plan's, and stay where they are until the next recording. */
typedef struct Step {
    const struct Op *op;
    const char *path;    /* the module it was recorded in */
    Tensor **in, **out;  /* an input may be NULL */
    GradMode *grad;      /* one an input */
    int ins, outs;
    const void *numbers; /* the op's own, aligned to 16 bytes: see attributes_of */
    bool differentiated; /* the backward pass visits it */
    struct Step *
        recomputed; /* steps whose cheap outputs are written anew before its backward pass, linked by next_recomputed */
    struct Step *next_recomputed;
} Step;

typedef struct Exec {
    const struct Kernels *k;
    const void *feed;      /* what changes from call to call without a new recording; the ops know what it is */
    int B, T;
    real *scratch;         /* per slot: scratch + slot * scratch_stride */
    size_t scratch_stride;
    real *workspace;       /* shared by the threads of one step */
    int slots;
    Cancel *cancel;
    bool gradients_held;   /* the gradient arena already holds a sum */
    bool losses_wanted;    /* forward_backward: the backward pass of the loss writes the losses too */
} Exec;

/* A mask says something of every input or output: bit i of the i-th, the last bit of all that follow. */
typedef struct Op {
    const char *name;
    void (*forward)(const Step *s, Exec *x);
    void (*backward)(const Step *s, Exec *x); /* NULL: no gradient passes */
    double (*flops)(const Step *s, int output);         /* of out[output]; NULL: none worth counting */
    double (*gradient_flops)(const Step *s, int input); /* of the gradient of in[input]; where flops is */
    size_t (*scratch)(const Step *s, const struct Kernels *k);   /* reals a thread; NULL: none */
    size_t (*workspace)(const Step *s, const struct Kernels *k); /* reals a step; NULL: none */
    unsigned saved_inputs, saved_outputs; /* the backward pass reads in[i] / out[i] */
    unsigned replaces;                    /* out[0] may take the place of in[i] */
    unsigned passes;                      /* the gradient of in[i] is that of out[0] */
    unsigned recomputable;                       /* out[i] may be computed again instead of being kept */
    unsigned may_be_bfloat16;                      /* out[i] may be written in bfloat16 */
    unsigned multiplies;                  /* in[i] is read as an operand of products alone, also in bfloat16 */
    bool source;                          /* the backward pass starts here (a loss) */
} Op;

static inline bool bit(unsigned mask, int i) { return mask >> (i < 31 ? i : 31) & 1; }
#define FROM(i) (~0u << (i)) /* a mask: the i-th and all that follow */

/* Runs task(context, 0..count-1) on the pool. */
static inline void parallel(Exec *x, size_t count, PoolTask task, void *context) {
    pool_run(count, task, context, x->slots, x->cancel);
}
static inline real *scratch_of(const Exec *x, int slot) { return x->scratch + (size_t)slot * x->scratch_stride; }

/* Whether a step adds to the gradient of its input i, or overwrites it. */
static inline bool grad_adds(const Step *s, const Exec *x, int i) {
    return s->grad[i] == GRAD_ADD || (s->grad[i] == GRAD_HELD && x->gradients_held);
}
/* The gradient of input i that this step must write; NULL when there is nothing to write. */
static inline real *grad_of(const Step *s, int i) {
    return s->grad[i] == GRAD_NONE || s->grad[i] == GRAD_SHARED ? NULL : s->in[i]->grad->data;
}
/* For kernels that give several gradients or none: when one of these tensors needs its gradient, all get one. */
static inline void share_need(Tensor *const *tensors, int count) {
    bool needs = false;
    for (int i = 0; i < count; i++) needs |= tensors[i]->needs_grad;
    for (int i = 0; i < count; i++)
        for (Tensor *t = tensors[i]; t; t = t->parent) t->needs_grad |= needs && t->kind == TENSOR_STEP;
}

#define attributes_of(s, type) ((const type *)(s)->numbers)
