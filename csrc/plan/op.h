/* Op: what a kind of step does, and what the plan must know of it.
 *
 * Step: one op at work on named tensors. Exec: what a replay hands to every step. */
#pragma once
#include "base/pool.h"
#include "plan/tensor.h"

struct Kernels; /* the plan hands the table on, and looks into it never */

#define STEP_INPUTS 7
#define STEP_OUTPUTS 3

/* How the backward pass of a step gives the gradient of one input. */
typedef enum {
    GRAD_NONE,    /* not wanted */
    GRAD_SET,     /* first writer: overwrite */
    GRAD_ADD,     /* a later writer */
    GRAD_HELD,    /* a parameter's first writer: adds when the gradients hold something already */
    GRAD_SHARED,  /* passed on by sharing the output gradient's place: nothing to do */
} GradMode;

typedef struct Step {
    const struct Op *op;
    const char *path; /* the module it was recorded in */
    Tensor *in[STEP_INPUTS], *out[STEP_OUTPUTS];
    int ins, outs;
    GradMode grad[STEP_INPUTS];
    bool differentiated;                 /* the backward pass visits it */
    Tensor *again;                       /* written anew before its backward pass; linked by next_again */
    _Alignas(16) unsigned char numbers[112]; /* the op's own, copied in at recording */
} Step;

/* What changes from call to call without a new recording. */
typedef struct {
    const int32_t *ids;        /* (B,T) */
    const int32_t *targets;    /* (B,T), already shifted; negative: ignored. NULL: no loss */
    const int32_t *positions;  /* (B,T) */
    const uint8_t *mask;       /* (B,keys), row stride mask_stride; NULL: everything may be seen */
    size_t mask_stride;
    const real *inv_freq;      /* (rotary/2) */
    real rope_factor;
    int past;                  /* keys already in the cache */
    double items;              /* divides the summed loss */
    uint64_t seed, update, micro; /* of dropout: the run's seed, the optimizer step, the micro-batch */
} Feed;

typedef struct Exec {
    const struct Kernels *k;
    Feed feed;
    int B, T;
    real *scratch;         /* per slot: scratch + slot * scratch_stride */
    size_t scratch_stride;
    real *workspace;       /* shared by the threads of one step */
    int slots;
    Cancel *cancel;
    bool gradients_held;   /* the gradient arena already holds a sum */
    bool losses_wanted;    /* forward_backward: the backward pass of the loss writes the losses too */
} Exec;

typedef struct Op {
    const char *name;
    void (*forward)(const Step *s, Exec *x);
    void (*backward)(const Step *s, Exec *x); /* NULL: no gradient passes */
    double (*flops)(const Step *s, int output);         /* of out[output]; NULL: none worth counting */
    double (*gradient_flops)(const Step *s, int input); /* of the gradient of in[input]; where flops is */
    size_t (*scratch)(const Step *s, const struct Kernels *k);   /* reals a thread; NULL: none */
    size_t (*workspace)(const Step *s, const struct Kernels *k); /* reals a step; NULL: none */
    unsigned saved_inputs, saved_outputs; /* bit i: the backward pass reads in[i] / out[i] */
    unsigned replaces;                    /* bit i: out[0] may take the place of in[i] */
    unsigned passes;                      /* bit i: the gradient of in[i] is that of out[0] */
    bool cheap;                           /* out[0] may be computed again instead of being kept */
    unsigned halves;                      /* bit i: out[i] may be written in bfloat16 */
    unsigned multiplies;                  /* bit i: in[i] is read as an operand of products alone, also in bfloat16 */
    bool source;                          /* the backward pass starts here (a loss) */
} Op;

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
        for (Tensor *t = tensors[i]; t; t = t->whole) t->needs_grad |= needs && t->kind == TENSOR_STEP;
}

#define step_numbers(s, type) ((const type *)(const void *)(s)->numbers)
