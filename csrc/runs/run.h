/* Run: a budget of at most `batch` rows and `length` tokens, with the memory a pass of that size takes.
 *
 * A call is begun (its numbers copied and checked, its plan recorded again when it differs from the last one; this can
 * fail, with words) and then replayed (this cannot fail; it can be cancelled). Generation is the same recording with a
 * past. */
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

/* What is recorded for a call: calls that agree in it replay one recording. */
typedef struct {
    int B, T;
    bool losses;             /* against the call's targets */
    int last;                /* logits of the last positions alone; 0: all */
    const char *const *skip; /* blocks and branches left out */
    int skip_count;
    const char *until;       /* stop after this module; NULL: go to the end */
} Pass;

/* One call. The caller's arrays are read while the call begins, and not afterwards. */
typedef struct {
    Pass pass;
    const int32_t *ids, *positions; /* (B,T) */
    const int32_t *targets;         /* (B,T), shifted already, -1: ignored; NULL where the pass has no losses */
    const uint8_t *mask;            /* (B,T), 0: padding; NULL: none */
    const real *inv_freq;           /* (rotaries,D/2); NULL where nothing is rotated */
    const real *rope_factor;        /* (rotaries) */
    double items;                   /* divides the summed loss */
} Call;

/* Where a run stands with its last call. */
typedef enum {
    RUN_EMPTY,          /* there was none */
    RUN_BROKEN,         /* it did not come to its end: refused, interrupted, or still at work */
    RUN_STOPPED,        /* after the module of `until` */
    RUN_FORWARD,        /* it is complete */
    RUN_DIFFERENTIABLE, /* it is complete, and may be gone back through, once */
    RUN_BACKWARD,       /* it was gone back through */
} RunState;

typedef struct {
    Model *model; /* borrowed: whoever owns the run keeps it alive */
    int version;
    RunOptions options;
    char **keep;
    Plan plan;
    char *recorded; /* what the plan was recorded for */
    Tensor **by_parameter; /* this recording's tensor of every parameter */
    Result result;
    Gradients *gradients;
    Arena *arena, *scratch;
    Cache cache;
    int slots;
    int32_t *ids, *targets, *positions; /* the call's numbers, the run's own copy */
    uint8_t *mask;       /* (batch, length), or of all positions with a past; stride: mask_stride */
    size_t mask_stride;
    bool any_masked;     /* with a past: some slot is padding */
    real *inv_freq;      /* (rotaries,D/2) */
    Rotary *rotary;      /* what rotary tables are made of, as the ops read it */
    Feed feed;
    double items;
    size_t counted;      /* targets that are not ignored */
    uint64_t update, micro; /* keys of the next dropout: the optimizer step, the micro-batch */
    Exec exec;
    RunState state;
    const Module *until; /* where the pass stops; NULL: at its end */
    double loss;
} Run;

/* What a recording needs: all but the memory of a pass. False: see e; r is empty. */
bool run_open(Run *r, Model *m, const RunOptions *o, Error *e);
/* The most demanding pass of a run: its losses where it goes back, else its logits. */
Pass run_largest(const RunOptions *o);
bool run_init(Run *r, Model *m, const RunOptions *o, Gradients *shared, Error *e);
void run_free(Run *r);
/* Has the model the structure that the run was made for? False: see e. */
bool run_is_current(const Run *r, Error *e);

/* gate.c   everything that can fail: does the call fit, are its ids, positions and targets such as the model has (they
 * are copied first and checked afterwards: another thread may be writing into the arrays), is there room in the cache
 * (old positions beyond a window go); then the pass is recorded and bound. False: see e. */
bool run_begin(Run *r, const Call *c, Error *e);

/* passes.c   False: cancelled. */
bool run_forward(Run *r, Cancel *cancel);  /* of a call that has begun, to its end or the module of `until` */
bool run_resume(Run *r, Cancel *cancel);   /* of one that has stopped, to its end */
bool run_backward(Run *r, Cancel *cancel); /* of one that is differentiable */
/* Of a call that has begun: forwards up to its losses, then back, which forms them on its way. */
bool run_forward_backward(Run *r, Cancel *cancel);
/* Back to the first n positions of the past. False: see e. */
bool run_trim(Run *r, int n, Error *e);

/* shown.c   what may be shown of the last call. False: see e; what lies there is older, or was never written. */
bool run_shows_something(const Run *r, Error *e);                          /* there is a pass, complete or stopped */
bool run_shows_all(const Run *r, Error *e);                                /* it is complete */
bool run_shows(const Run *r, const Tensor *t, const char *name, Error *e); /* a tensor of module `name` */
bool run_shows_gradient(const Run *r, const Module *m, Error *e);          /* of the output of a module that is kept */
/* The gradient of a parameter, cleared first when nothing is held; NULL: it has none. */
real *run_parameter_gradient(Run *r, const Parameter *q);
Arena *run_gradient_arena(Run *r); /* the same of all of them */
/* The likeliest token of a row of the logits, which a pass formed; NOT_FINITE: one of them is infinite or NaN. */
size_t run_likeliest(const Run *r, size_t row);
