/* Optimizer: AdamW in two passes over the gradients: the norm, then clip and update. Both work on ranges of chunks of
 * fixed size, so that their bits depend neither on the number of threads nor on who works on which range. */
#pragma once
#include "base/pool.h"
#include "weights/gradients.h"

typedef struct {
    double beta1, beta2, eps;
    double max_grad_norm; /* 0: no clipping */
} AdamwOptions;

/* Some numbers of one parameter. */
typedef struct {
    int parameter; /* by index */
    size_t first, count;
} ParameterChunk;

typedef struct {
    Weights *weights; /* borrowed */
    int version;
    Arena *m, *v;     /* moments of the trainable parameters, by slot */
    double *rate, *decay; /* of every parameter, by index, in the next update; zero until they are written */
    ParameterChunk *chunk;     /* of the trainable parameters, in their order */
    size_t chunks;
    double *partial;  /* one a chunk: its sum of squares */
    long step;        /* updates done */
} Optimizer;

bool optimizer_init(Optimizer *o, Weights *w, Error *e); /* false: see e */
void optimizer_free(Optimizer *o);
bool optimizer_is_current(const Optimizer *o, Error *e); /* false: the model's adapters have changed since */
/* May it step from these gradients? False: see e. */
bool optimizer_may_step(const Optimizer *o, const Gradients *g, Error *e);

/* Fills partial[first, last). */
void optimizer_squares(Optimizer *o, const Gradients *g, size_t first, size_t last);
/* The norm of all gradients, once partial[] is filled. */
double optimizer_norm(const Optimizer *o);
/* The next update of the chunks [first, last), clipped by the norm as torch does. The caller counts the step. */
void optimizer_update(Optimizer *o, const Gradients *g, const AdamwOptions *options, double norm, size_t first,
                      size_t last);

typedef enum { UPDATE_DONE, UPDATE_NOTHING, UPDATE_SKIPPED, UPDATE_REFUSED } UpdateResult;
/* All of it; then the gradients are cleared. *norm is the norm before clipping. Gradients of no target at all update
 * nothing, by weight decay neither. A norm that is not finite changes nothing: refused with words that name the first
 * bad tensor, or skipped (the gradients cleared). */
UpdateResult optimizer_step(Optimizer *o, Gradients *g, const AdamwOptions *options, bool skip_nonfinite, double *norm,
                            Error *e);
