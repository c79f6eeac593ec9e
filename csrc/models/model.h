/* Model: a Spec and its parameters, in one arena, in the order a forward pass meets them. */
#pragma once
#include "base/arena.h"
#include "base/error.h"
#include "blocks/spec.h"
#include "plan/plan.h"

typedef struct {
    char *name;  /* Hugging Face's, dotted */
    int ndim, shape[2];
    size_t count, offset; /* reals, in the arena; the gradient arena has the same layout */
    bool trainable;
} Parameter;

typedef struct {
    Spec spec;
    Parameter *parameters;
    int count, room;
    Arena *arena;
    size_t size;   /* reals of all parameters, padding included */
    int structure; /* counts structural changes: a Run or an optimizer made before one asks to be made anew */
} Model;

/* Declares the parameters by recording the model once, and takes their memory if `take` (a model without serves
 * forecasts alone). False: see e (no memory, sizes that do not fit); m is empty. */
bool model_init(Model *m, const Spec *spec, bool take, Error *e);
void model_free(Model *m);
/* -1: there is none. */
int model_find(const Model *m, const char *name);
size_t model_parameter_count(const Model *m); /* numbers, padding not counted */
