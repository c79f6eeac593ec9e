/* Optimizer: AdamW in two passes over the gradients: the norm, then clip and update. */
#pragma once
#include "base/pool.h"
#include "weights/gradients.h"

typedef struct {
    double lr, beta1, beta2, eps, weight_decay;
    double max_grad_norm; /* 0: no clipping */
} AdamwOptions;

typedef struct {
    Weights *weights; /* borrowed */
    int structure;
    Arena *m, *v;     /* moments of the trainable parameters, by slot */
    bool *decays;     /* one a parameter */
    double *partial;  /* one a chunk: the fixed tree of the norm */
    size_t chunks;
    long step;        /* updates done */
} Optimizer;

/* decay_all: weight decay on everything; else on matrices and embeddings alone. */
bool optimizer_init(Optimizer *o, Weights *w, bool decay_all, Error *e);
void optimizer_free(Optimizer *o);

typedef enum { UPDATE_DONE, UPDATE_SKIPPED, UPDATE_REFUSED } UpdateResult;
/* Clips as torch does, updates, clears the gradients. *norm is the norm before clipping. A norm that is not finite
 * changes nothing: refused with words that name the first bad tensor, or skipped (the gradients cleared). */
UpdateResult optimizer_step(Optimizer *o, Gradients *g, const AdamwOptions *options, bool skip_nonfinite, double *norm,
                            Error *e);
