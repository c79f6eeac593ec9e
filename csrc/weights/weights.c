/* Weights: the list of all parameters, who trains, and what happens when adapters come and go. */
#include "weights/weights.h"

#include "base/alloc.h"

#include <string.h>

Parameter *weights_find(const Weights *w, const char *name) {
    Parameter *q = parameters_find(&w->base, name);
    for (int i = 0; i < w->adapter_count && !q; i++) q = parameters_find(&w->adapters[i]->parameters, name);
    return q;
}

/* Room for the list of all parameters and `more`. False: no memory. */
static bool make_room(Weights *w, int more) {
    int total = w->base.count + more;
    for (int i = 0; i < w->adapter_count; i++) total += w->adapters[i]->parameters.count;
    Parameter **all = alloc_grow(w->all, (size_t)total + 1, sizeof *all);
    if (all) w->all = all;
    return all != NULL;
}

/* Copies in the last active adapter that has one are read in a parameter's stead. */
static void choose_read(Weights *w) {
    for (int i = 0; i < w->base.count; i++) w->base.items[i].read = w->base.items[i].head_read = NULL;
    for (int i = 0; i < w->adapter_count; i++) {
        const Adapter *a = w->adapters[i];
        for (int k = 0; a->active && k < a->copy_count; k++) {
            Parameter *q = &w->base.items[a->copied[k]], *copy = adapter_copy(a, k);
            *(copy->part == q->part ? &q->read : &q->head_read) = copy;
        }
    }
}

/* Attributes all parameters, and gives the trainable ones their slots. */
static void number(Weights *w) {
    Parameter **all = w->all;
    int at = 0;
    for (int i = 0; i < w->base.count; i++) {
        w->base.items[i].trainable = w->adapter_count == 0 && w->storage == STORED_REAL;
        all[at++] = &w->base.items[i];
    }
    for (int i = 0; i < w->adapter_count; i++)
        for (int k = 0; k < w->adapters[i]->parameters.count; k++) {
            w->adapters[i]->parameters.items[k].trainable = w->adapters[i]->trainable;
            all[at++] = &w->adapters[i]->parameters.items[k];
        }
    w->total = at;
    w->trained = 0;
    for (int i = 0; i < at; i++) {
        all[i]->index = i;
        all[i]->grad_offset = w->trained;
        if (all[i]->trainable) w->trained += arena_round(all[i]->count);
    }
}

bool weights_begin(Weights *w, Error *e) {
    if (!make_room(w, 0)) {
        error_set(e, ERROR_MEMORY, "no memory for the list of parameters");
        return false;
    }
    number(w);
    return true;
}

void weights_free(Weights *w) {
    for (int i = 0; i < w->adapter_count; i++) adapter_free(w->adapters[i]);
    alloc_free(w->adapters);
    alloc_free(w->all);
    parameters_free(&w->base);
    memset(w, 0, sizeof *w);
}

size_t weights_count(const Weights *w) {
    size_t sum = 0;
    for (int i = 0; i < w->base.count; i++) sum += w->base.items[i].count;
    return sum;
}

bool weights_unchanged(const Weights *w, int version, const char *what, const char *how, Error *e) {
    if (version != w->version)
        error_set(e, ERROR_STATE,
                  "the model's vocabulary or adapters changed since this %s was made: make it anew with %s", what, how);
    return e->code == FINE;
}

/* --- adapters ----------------------------------------------------------------------------------------------------- */
Adapter *weights_adapter(const Weights *w, const char *name) {
    for (int i = 0; i < w->adapter_count; i++)
        if (strcmp(w->adapters[i]->name, name) == 0) return w->adapters[i];
    return NULL;
}

static bool changed(Weights *w) {
    number(w);
    choose_read(w);
    w->version++;
    return true;
}

bool weights_add_adapter(Weights *w, const char *name, const LowRank *pairs, int pair_count, const char *const *copies,
                       int copy_count, Error *e) {
    if (weights_adapter(w, name)) {
        error_set(e, ERROR_CONFIG, "there is an adapter '%.100s' already", name);
        return false;
    }
    Adapter *a = adapter_new(&w->base, name, pairs, pair_count, copies, copy_count, e);
    if (!a) return false;
    Adapter **grown = alloc_grow(w->adapters, (size_t)w->adapter_count + 1, sizeof *grown);
    if (grown) w->adapters = grown;
    if (!grown || !make_room(w, a->parameters.count)) {
        adapter_free(a);
        error_set(e, ERROR_MEMORY, "no memory for the adapter");
        return false;
    }
    grown[w->adapter_count++] = a;
    return changed(w);
}

bool weights_delete_adapter(Weights *w, const char *name, Error *e) {
    Adapter *a = weights_adapter(w, name);
    if (!a) {
        error_set(e, ERROR_NAME, "there is no adapter '%.100s'", name);
        return false;
    }
    int at = 0;
    while (w->adapters[at] != a) at++;
    memmove(&w->adapters[at], &w->adapters[at + 1], (size_t)(w->adapter_count - at - 1) * sizeof *w->adapters);
    w->adapter_count--;
    adapter_free(a);
    return changed(w);
}

static bool named(const char *const *names, int count, const char *name) {
    for (int i = 0; i < count; i++)
        if (strcmp(names[i], name) == 0) return true;
    return false;
}

static bool all_exist(const Weights *w, const char *const *names, int count, Error *e) {
    for (int i = 0; i < count; i++)
        if (!weights_adapter(w, names[i])) error_set(e, ERROR_NAME, "there is no adapter '%.100s'", names[i]);
    return e->code == FINE;
}

bool weights_set_adapters(Weights *w, const char *const *active, int active_count, const char *const *trainable,
                        int trainable_count, Error *e) {
    if (!all_exist(w, active, active_count, e) || !all_exist(w, trainable, trainable_count, e)) return false;
    for (int i = 0; i < w->adapter_count; i++) {
        Adapter *a = w->adapters[i];
        a->active = named(active, active_count, a->name);
        a->trainable = named(trainable, trainable_count, a->name);
    }
    return changed(w);
}
