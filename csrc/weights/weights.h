/* Weights: a model's parameters in the order a forward pass meets them, and the adapters beside them. */
#pragma once
#include "weights/adapter.h"

typedef struct {
    Parameters base;
    Storage storage;  /* of the base's matrices; narrower than reals, it never trains */
    Adapter **adapters;
    int adapter_count;
    Parameter **all;  /* the base's and the adapters', by index */
    int total;
    size_t trained;   /* reals of a gradient arena */
    int version;    /* counts structural changes: a Run or an optimizer made before one asks to be made anew */
} Weights;

/* Attributes the parameters once the base is declared. False: no memory. */
bool weights_begin(Weights *w, Error *e);
void weights_free(Weights *w);
Parameter *weights_find(const Weights *w, const char *name); /* of the base or an adapter; NULL: there is none */
size_t weights_count(const Weights *w);                      /* numbers of the base, padding not counted */
/* Is the structure still the one for which `what` was made ("run", "optimizer")? False: e asks for it to be made anew,
 * and says how. */
bool weights_unchanged(const Weights *w, int version, const char *what, const char *how, Error *e);

/* --- adapters: each of these is a structural change. While an adapter exists, the base is frozen ------------------ */
Adapter *weights_adapter(const Weights *w, const char *name); /* NULL: there is none */
/* False: see e; the weights are unchanged. The new adapter is neither active nor trainable. */
bool weights_add_adapter(Weights *w, const char *name, const LowRank *pairs, int pair_count, const char *const *copies,
                         int copy_count, Error *e);
bool weights_delete_adapter(Weights *w, const char *name, Error *e);
/* Which adapters the forward pass adds, and which get gradients; the others do neither. */
bool weights_set_adapters(Weights *w, const char *const *active, int active_count, const char *const *trainable,
                          int trainable_count, Error *e);
