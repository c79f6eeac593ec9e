/* Model: a Spec, its parameters in the order a forward pass meets them, and the adapters beside them. */
#pragma once
#include "blocks/spec.h"
#include "models/adapter.h"
#include "models/engine.h"

typedef struct Model {
    Spec spec;
    Precision precision; /* of its products */
    Storage storage;     /* of its matrices */
    Parameters base;
    Adapter **adapters;
    int adapter_count;
    Parameter **all;  /* the base's and the adapters', by index */
    int total;
    size_t trained;   /* reals of a gradient arena */
    int structure;    /* counts structural changes: a Run or an optimizer made before one asks to be made anew */
} Model;

/* Declares the parameters by recording the model once, and takes their memory if `take` (a model without serves
 * forecasts alone). False: see e (no memory, sizes that do not fit); m is empty. */
bool model_init(Model *m, const Spec *spec, Precision precision, Storage storage, bool take, Error *e);
void model_free(Model *m);
Parameter *model_find(const Model *m, const char *name); /* of the base or an adapter; NULL: there is none */
size_t model_parameter_count(const Model *m);            /* numbers of the base, padding not counted */
/* Is `module` a linear? Then its inputs and outputs. The head counts unless it is tied. */
bool model_linear(const Model *m, const char *module, int *in, int *out);

/* --- adapters: each of these is a structural change. While an adapter exists, the base is frozen ------------------- */
Adapter *model_adapter(const Model *m, const char *name); /* NULL: there is none */
/* False: see e; the model is unchanged. The new adapter is neither active nor trainable. */
bool model_add_adapter(Model *m, const char *name, const LowRank *pairs, int pair_count, const char *const *copies,
                       int copy_count, Error *e);
bool model_delete_adapter(Model *m, const char *name, Error *e);
/* Which adapters the forward pass adds, and which get gradients; the others do neither. */
bool model_set_adapters(Model *m, const char *const *active, int active_count, const char *const *trainable,
                        int trainable_count, Error *e);
