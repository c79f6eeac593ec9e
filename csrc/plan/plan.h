/* Plan: a model as a list of steps, recorded once for the shape at hand, replayed forwards, and read from the end for
 * the backward pass.
 *
 * Life: plan_begin -> recording functions (tensor_new, record, enter, leave) -> plan_finish (decides gradients, places,
 * what is computed again) -> plan_bind -> plan_forward / plan_backward any number of times -> plan_begin again.
 *
 * Recording can fail, and says so in the plan's sticky error; a failed plan hands out `nowhere`, so recording
 * functions need not look. Replays cannot fail; they can be cancelled.
 *
 * The timeline: time s is step s forwards, time 2S-1-s is step s backwards, time 2S is after everything. */
#pragma once
#include "base/error.h"
#include "base/names.h"
#include "plan/op.h"
#include "plan/part.h"

typedef struct {
    const char *name;
    Part part;
    int layer;              /* -1: outside the blocks */
    Tensor *input, *output; /* input NULL: the module reads ids */
    int first, last;        /* its steps: [first, last) */
    Tensor *observed;       /* what it did to its input; NULL: not observed */
    Tensor *against_stream; /* for a branch: its output against the stream it joins */
} Module;

/* A weight that a step needs, as the owner of the parameters is asked for it. */
typedef struct {
    const char *path;    /* dotted, its leaf included */
    Part part;           /* of the module that it belongs to */
    int layer;           /* -1: outside the blocks */
    int ndim;
    const int *shape;
    int inputs, outputs; /* of a linear's weight; 0: it is none */
    bool in_out;         /* its rows are inputs */
} Declaration;

/* A module that is being recorded. */
typedef struct {
    int first;     /* its first step */
    size_t length; /* of the path before it */
    Part part;
    int layer;
} Open;

typedef struct Plan {
    Error error;
    Step *steps;
    int count, room;
    Module *modules;
    int module_count, module_room;
    NameIndex module_names, skip_names;
    Tensor **tensors;
    int tensor_count, tensor_room;
    struct Chunk *chunks;    /* where tensors, texts and what steps hold lie, the one in use first */
    size_t most_used;        /* bytes of them, in any recording */
    char path[256];          /* the module being recorded */
    Open open[32];
    int depth;
    Tensor nowhere;

    /* What was asked for. */
    int B, T;
    bool backward;           /* gradients are wanted */
    bool training;           /* dropout happens */
    bool bfloat16;           /* products round their operands */
    bool keep_all;
    const char *const *keep; /* globs over module paths */
    int keep_count;
    const char *const *skip; /* module paths left out */
    int skip_count;
    const char *until;         /* the output of this module is a leaf: the user writes into it */
    void *owner;             /* whoever answers what follows (a run) */
    Tensor *(*parameter)(struct Plan *p, const Declaration *d); /* one tensor a path and recording */
    Tensor *(*adapt)(struct Plan *p, Tensor *x, Tensor *y); /* what adapters make of a linear's output; NULL: nothing */
    Tensor *(*observe)(struct Plan *p, Tensor *x, Tensor *y); /* measures a module's work; NULL: nobody looks */

    /* What plan_finish decided. */
    size_t size;             /* reals of activations and their gradients */
    real *base;              /* where they are bound */
    size_t scratch, workspace;

    bool finished;
} Plan;

void plan_begin(Plan *p); /* forgets the recording, keeps its memory */
void plan_free(Plan *p);

/* --- recording --------------------------------------------------------------------------------------------------- */
Tensor *tensor_new(Plan *p, int ndim, const int *shape);
Tensor *tensor_like(Plan *p, const Tensor *t);
Tensor *tensor_wide(Plan *p, const Tensor *t, int cols);              /* t's shape, another last dimension */
Tensor *tensor_view(Plan *p, Tensor *parent, int column, int cols);
Tensor *tensor_outside(Plan *p, int ndim, const int *shape, real *data);
Tensor *tensor_outside_bfloat16(Plan *p, int ndim, const int *shape, uint16_t *half);
/* The parameter `leaf` ("weight", "bias") of the module being recorded. */
Tensor *parameter(Plan *p, const char *leaf, int ndim, const int *shape);
/* Those of a linear, which `leaf` leads to from the module being recorded: (outputs, inputs), or as the file says
 * (inputs, outputs); (outputs). */
Tensor *parameter_weight(Plan *p, Part part, const char *leaf, int inputs, int outputs, bool in_out);
Tensor *parameter_bias(Plan *p, Part part, const char *leaf, int outputs);
Tensor *tensor_parameter(Plan *p, int ndim, const int *shape, real *data, Tensor *grad); /* grad NULL: frozen */
Tensor *tensor_narrow(Plan *p, int ndim, const int *shape, const Stored *narrow); /* a frozen one, not of reals */

/* Appends a step, which copies the lists and `numbers` (size bytes), the op's own. Outputs need a gradient when an
 * input does. */
void record(Plan *p, const Op *op, int ins, Tensor *const *in, int outs, Tensor *const *out, const void *numbers,
            size_t size);
static inline Tensor *adapted(Plan *p, Tensor *x, Tensor *y) { return p->adapt ? p->adapt(p, x, y) : y; }
#define TENSORS(...) (Tensor *[]){__VA_ARGS__}

/* Modules: enter(p, PART_ATTENTION, "self_attn") ... leave(p, x, y) builds dotted paths and the module table. */
void enter(Plan *p, Part part, const char *name);
void enter_block(Plan *p, const char *name, int layer); /* the block `name`.`layer` */
void leave(Plan *p, Tensor *input, Tensor *output);
void leave_container(Plan *p); /* of modules, which is none itself: no hook point */
void give(Plan *p, Tensor *output); /* what a step recorded elsewhere writes for the module being recorded */
/* The branch just left joins `stream`: observes its output against it. */
void joins(Plan *p, Tensor *stream);
bool skipped(const Plan *p, const char *name); /* is the submodule `name` of the module being recorded left out? */
/* Did the caller ask for the submodule `name` in so many words? (keep_all does not mean the costly ones.) */
bool kept_by_name(const Plan *p, const char *name);
/* Is the output of the submodule `name` the cut? */
bool stops_after(const Plan *p, const char *name);
/* Is the submodule `name` to be kept? */
bool kept(const Plan *p, const char *name);

/* Memory that lasts until the next recording; NULL when there is none, which the plan's error says. */
void *plan_take(Plan *p, size_t bytes);

/* --- finishing and running --------------------------------------------------------------------------------------- */
bool plan_finish(Plan *p, const struct Kernels *k); /* false: see p->error */
void plan_bind(Plan *p, real *base);
/* Steps [from, to) forwards. False: cancelled. */
bool plan_forward(Plan *p, Exec *x, int from, int to);
bool plan_backward(Plan *p, Exec *x);

const Module *plan_module(const Plan *p, const char *name); /* NULL: not recorded */
double plan_flops(const Plan *p, bool backward);
