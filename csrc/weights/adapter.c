/* Adapter: made for a model, checked against it. */
#include "weights/adapter.h"

#include "base/alloc.h"

#include <stdio.h>
#include <string.h>

static char *text(const char *source) {
    char *copy = alloc_array(strlen(source) + 1, 1);
    return copy ? strcpy(copy, source) : NULL;
}

/* A parameter of the adapter that stands beside the base's q, as `part` reads it. */
static bool add(Adapter *a, const char *name, const Parameter *q, Part part, int ndim, const int *shape, Error *e) {
    const Declaration d = {.path = name, .part = part, .layer = q->layer, .ndim = ndim, .shape = shape};
    return parameters_add(&a->parameters, &d, STORED_REAL, e);
}

static bool add_pair(Adapter *a, const Parameters *base, const LowRank *pair, Error *e) {
    char name[400];
    const Parameter *weight = parameters_linear(base, pair->module);
    if (!weight) {
        error_set(e, ERROR_NAME, "'%.200s' is not a linear of this model", pair->module);
        return false;
    }
    if (pair->rank < 1) {
        error_set(e, ERROR_CONFIG, "%.200s: rank %d; it must be at least 1", pair->module, pair->rank);
        return false;
    }
    snprintf(name, sizeof name, "%s.lora_A.%s.weight", pair->module, a->name);
    if (!add(a, name, weight, weight->part, 2, (int[]){pair->rank, weight->inputs}, e)) return false;
    snprintf(name, sizeof name, "%s.lora_B.%s.weight", pair->module, a->name);
    if (!add(a, name, weight, weight->part, 2, (int[]){weight->outputs, pair->rank}, e)) return false;
    LowRank *own = &a->pairs[a->pair_count];
    *own = *pair;
    own->module = text(pair->module);
    own->part = weight->part;
    if (own->module && names_add(&a->modules, own->module, a->pair_count++)) return true;
    error_set(e, ERROR_MEMORY, "no memory for the adapter");
    return false;
}

static bool add_copy(Adapter *a, const Parameters *base, const char *source, Error *e) {
    Part part;
    const Parameter *q = parameters_read_as(base, source, &part);
    char name[400];
    if (!q) {
        error_set(e, ERROR_NAME, "'%.200s' is not a parameter of this model", source);
        return false;
    }
    const char *leaf = strrchr(source, '.');
    int module = leaf ? (int)(leaf - source) : 0;
    snprintf(name, sizeof name, "%.*s.lora_copy.%s%s", module, source, a->name, leaf ? leaf : "");
    if (!add(a, name, q, part, q->ndim, q->shape, e)) return false;
    a->copied[a->copy_count++] = q->index;
    return true;
}

Adapter *adapter_new(const Parameters *base, const char *name, const LowRank *pairs, int pair_count,
                     const char *const *copies, int copy_count, Error *e) {
    Adapter *a = alloc_array(1, sizeof *a);
    bool fine = a && (a->name = text(name)) && (a->pairs = alloc_array((size_t)pair_count + 1, sizeof *a->pairs)) &&
                (a->copied = alloc_array((size_t)copy_count + 1, sizeof *a->copied));
    if (!fine) error_set(e, ERROR_MEMORY, "no memory for the adapter");
    for (int i = 0; fine && i < pair_count; i++) fine = add_pair(a, base, &pairs[i], e);
    for (int i = 0; fine && i < copy_count; i++) fine = add_copy(a, base, copies[i], e);
    fine = fine && parameters_take(&a->parameters, e);
    for (int i = 0; fine && i < copy_count; i++)
        parameter_widen(&base->items[a->copied[i]], parameter_data(adapter_copy(a, i)));
    if (fine) return a;
    adapter_free(a);
    return NULL;
}

void adapter_free(Adapter *a) {
    if (!a) return;
    for (int i = 0; i < a->pair_count; i++) alloc_free((char *)a->pairs[i].module);
    alloc_free(a->pairs);
    names_free(&a->modules);
    alloc_free(a->copied);
    parameters_free(&a->parameters);
    alloc_free(a->name);
    alloc_free(a);
}
