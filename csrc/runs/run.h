/* Run: a budget of at most `batch` rows and `length` tokens, with the memory a pass of that size takes.
 *
 * A call is prepared (recorded again when its shape differs from the last one; this can fail, with words) and then
 * replayed (this cannot fail; it can be cancelled). Generation is the same recording with a past. */
#pragma once
#include "runs/cache.h"
#include "models/model.h"
#include "models/network.h"
#include "weights/gradients.h"

typedef struct {
    int batch, length;
    bool backward, dropout, keep_all;
    bool observe;            /* measure every module's work (op_observe) */
    bool float32;            /* products in float32, whatever the model's precision */
    const char *const *keep; /* globs; copied */
    int keep_count;
    int past;                /* positions a generation may reach; 0: no past */
    uint64_t seed;
} RunOptions;

/* One call. The run's own arrays ids, targets, positions, mask hold the numbers: fill them first. */
typedef struct {
    int B, T;
    bool losses, masked;
    int last;                /* logits of the last positions alone; 0: all */
    const char *const *skip;
    int skip_count;
    const char *until;       /* stop after this module; NULL: go to the end */
} Call;

typedef struct {
    Model *model; /* borrowed: whoever owns the run keeps it alive */
    int structure;
    RunOptions options;
    char **keep;
    Plan plan;
    char *recorded; /* what the plan was recorded for */
    Tensor **by_parameter; /* this recording's tensor of every parameter */
    Given given;
    Gradients *gradients;
    Arena *arena, *scratch;
    Cache cache;
    int past; /* positions in the cache */
    int slots;
    int32_t *ids, *targets, *positions;
    uint8_t *mask;       /* (batch, length), or (batch, capacity) with a past; stride: mask_stride */
    size_t mask_stride;
    bool any_masked;     /* with a past: some slot is padding */
    real *inv_freq;
    real rope_factor;
    Rotary rotary;       /* the two, as the ops read them */
    Feed feed;
    double items;
    uint64_t update, micro;
    Exec exec;
    int reached;         /* steps done of the current pass; -1: none */
    bool differentiable; /* a forward with losses is complete, and not yet gone back through */
    double loss;
} Run;

/* What a recording needs: all but the memory of a pass. False: see e; r is empty. */
bool run_open(Run *r, Model *m, const RunOptions *o, Error *e);
/* The most demanding call of a run: its losses where it goes back, else its logits. */
Call run_largest(const RunOptions *o);
bool run_init(Run *r, Model *m, const RunOptions *o, Gradients *shared, Error *e);
void run_free(Run *r);

/* The gate, everything that can fail, in two halves. First: does the call fit, is there room in the cache (old
 * positions beyond a window go)? Then the inputs are copied in (masks behind those of the past), and
 * second: record, bind, take scratch. */
bool run_make_room(Run *r, const Call *c, Error *e);
bool run_prepare(Run *r, const Call *c, Error *e);
/* Steps up to the module of `until`, or all. False: cancelled. */
bool run_forward(Run *r, const char *until, Cancel *cancel);
bool run_backward(Run *r, Cancel *cancel);
/* The forward pass of a prepared call up to its losses, then the backward pass, which forms them on its way. */
bool run_forward_backward(Run *r, Cancel *cancel);
/* The likeliest token of a row of the logits, which a forward pass formed; NOT_FINITE: one of them is infinite or NaN. */
size_t run_likeliest(const Run *r, size_t row);
void run_rewind(Run *r); /* forgets the past */

/* The gradient of a parameter, cleared first when nothing is held; NULL: it has none. */
real *run_parameter_gradient(Run *r, const Parameter *q);
