/* Model: parameters are declared by recording the model in a plan whose `parameter` writes down what is asked for. */
#include "models/model.h"

#include "base/memory.h"
#include "models/decoder.h"

#include <stdio.h>
#include <string.h>

Parameter *model_find(const Model *m, const char *name) {
    for (int i = 0; i < m->total; i++)
        if (strcmp(m->all[i]->name, name) == 0) return m->all[i];
    return NULL;
}

/* Room for the list of all parameters and `more`. False: no memory. */
static bool make_room(Model *m, int more) {
    int total = m->base.count + more;
    for (int i = 0; i < m->adapter_count; i++) total += m->adapters[i]->parameters.count;
    Parameter **all = memory_grow(m->all, (size_t)total + 1, sizeof *all);
    if (all) m->all = all;
    return all != NULL;
}

/* Numbers all parameters, and gives the trainable ones their slots. */
static void number(Model *m) {
    Parameter **all = m->all;
    int at = 0;
    for (int i = 0; i < m->base.count; i++) {
        m->base.items[i].trainable = m->adapter_count == 0 && m->storage == STORED_REAL;
        all[at++] = &m->base.items[i];
    }
    for (int i = 0; i < m->adapter_count; i++)
        for (int k = 0; k < m->adapters[i]->parameters.count; k++) {
            m->adapters[i]->parameters.items[k].trainable = m->adapters[i]->trainable;
            all[at++] = &m->adapters[i]->parameters.items[k];
        }
    m->total = at;
    m->trained = 0;
    for (int i = 0; i < at; i++) {
        all[i]->index = i;
        all[i]->slot = m->trained;
        if (all[i]->trainable) m->trained += arena_round(all[i]->count);
    }
}

/* Is `path` the weight of the submodule `name` of the root? */
static bool is_weight_of(const Names *n, const char *name, const char *path) {
    char full[200];
    return name && snprintf(full, sizeof full, "%s.%s.weight", n->root, name) && strcmp(full, path) == 0;
}

/* Vectors lie as reals. Of int8: a table of rows that no product reads lies in bfloat16, for its rows are read as they
 * are, with nothing to average their rounding. */
static Storage storage_of(const Model *m, const char *path, int ndim) {
    const Names *n = &m->spec.names;
    if (ndim < 2) return STORED_REAL;
    bool gathered = (is_weight_of(n, n->embed, path) && !m->spec.tied) || is_weight_of(n, n->positions, path);
    return m->storage == STORED_INT8 && gathered ? STORED_BFLOAT16 : m->storage;
}

static bool declare(Model *m, const char *path, int ndim, const int *shape, Error *e) {
    const Storage storage = storage_of(m, path, ndim);
    if (storage == STORED_REAL) return parameters_add(&m->base, path, ndim, shape, e);
    const Names *n = &m->spec.names;
    const bool table = is_weight_of(n, n->embed, path) || is_weight_of(n, n->positions, path) ||
                       strncmp(path, n->head, strlen(n->head)) == 0;
    return parameters_add_narrow(&m->base, path, shape, storage, m->spec.in_out && !table, e);
}

static Tensor *declare_parameter(Plan *p, const char *path, int ndim, const int *shape) {
    Model *m = p->owner;
    if (!parameters_find(&m->base, path) && !declare(m, path, ndim, shape, &p->error)) return &p->nowhere;
    return tensor_parameter(p, ndim, shape, NULL, NULL);
}

bool model_init(Model *m, const Spec *spec, Precision precision, Storage storage, bool take, Error *e) {
    *m = (Model){.spec = *spec, .precision = precision, .storage = storage};
    Plan plan = {.B = 1, .T = 1, .owner = m, .parameter = declare_parameter};
    plan_begin(&plan);
    decoder(&plan, &m->spec, &(Wanted){.losses = true});
    *e = plan.error;
    plan_free(&plan);
    bool fine = e->code == FINE && (!take || parameters_take(&m->base, e));
    if (fine && !make_room(m, 0)) {
        error_set(e, ERROR_MEMORY, "no memory for the list of parameters");
        fine = false;
    }
    if (fine) number(m);
    else model_free(m);
    return fine;
}

void model_free(Model *m) {
    for (int i = 0; i < m->adapter_count; i++) adapter_free(m->adapters[i]);
    memory_free(m->adapters);
    memory_free(m->all);
    parameters_free(&m->base);
    memset(m, 0, sizeof *m);
}

size_t model_parameter_count(const Model *m) {
    size_t sum = 0;
    for (int i = 0; i < m->base.count; i++) sum += m->base.items[i].count;
    return sum;
}

bool model_linear(const Model *m, const char *module, int *in, int *out) {
    const Names *n = &m->spec.names;
    char name[400], embed[200], positions[200];
    snprintf(name, sizeof name, "%s.weight", module);
    snprintf(embed, sizeof embed, "%s.%s", n->root, n->embed);
    snprintf(positions, sizeof positions, "%s.%s", n->root, n->positions ? n->positions : "");
    const Parameter *q = parameters_find(&m->base, name);
    if (!q || q->ndim != 2 || !strcmp(module, embed) || !strcmp(module, positions)) return false;
    bool in_out = m->spec.in_out && strcmp(module, n->head) != 0;
    *in = q->shape[in_out ? 0 : 1];
    *out = q->shape[in_out ? 1 : 0];
    return true;
}

/* --- adapters ----------------------------------------------------------------------------------------------------- */
Adapter *model_adapter(const Model *m, const char *name) {
    for (int i = 0; i < m->adapter_count; i++)
        if (strcmp(m->adapters[i]->name, name) == 0) return m->adapters[i];
    return NULL;
}

static bool changed(Model *m) {
    number(m);
    m->structure++;
    return true;
}

bool model_add_adapter(Model *m, const char *name, const LowRank *pairs, int pair_count, const char *const *copies,
                       int copy_count, Error *e) {
    if (model_adapter(m, name)) {
        error_set(e, ERROR_CONFIG, "there is an adapter '%.100s' already", name);
        return false;
    }
    Adapter *a = adapter_new(m, name, pairs, pair_count, copies, copy_count, e);
    if (!a) return false;
    Adapter **grown = memory_grow(m->adapters, (size_t)m->adapter_count + 1, sizeof *grown);
    if (grown) m->adapters = grown;
    if (!grown || !make_room(m, a->parameters.count)) {
        adapter_free(a);
        error_set(e, ERROR_MEMORY, "no memory for the adapter");
        return false;
    }
    grown[m->adapter_count++] = a;
    return changed(m);
}

bool model_delete_adapter(Model *m, const char *name, Error *e) {
    Adapter *a = model_adapter(m, name);
    if (!a) {
        error_set(e, ERROR_NAME, "there is no adapter '%.100s'", name);
        return false;
    }
    int at = 0;
    while (m->adapters[at] != a) at++;
    memmove(&m->adapters[at], &m->adapters[at + 1], (size_t)(m->adapter_count - at - 1) * sizeof *m->adapters);
    m->adapter_count--;
    adapter_free(a);
    return changed(m);
}

static bool named(const char *const *names, int count, const char *name) {
    for (int i = 0; i < count; i++)
        if (strcmp(names[i], name) == 0) return true;
    return false;
}

static bool all_exist(const Model *m, const char *const *names, int count, Error *e) {
    for (int i = 0; i < count; i++)
        if (!model_adapter(m, names[i])) error_set(e, ERROR_NAME, "there is no adapter '%.100s'", names[i]);
    return e->code == FINE;
}

bool model_set_adapters(Model *m, const char *const *active, int active_count, const char *const *trainable,
                        int trainable_count, Error *e) {
    if (!all_exist(m, active, active_count, e) || !all_exist(m, trainable, trainable_count, e)) return false;
    for (int i = 0; i < m->adapter_count; i++) {
        Adapter *a = m->adapters[i];
        a->active = named(active, active_count, a->name);
        a->trainable = named(trainable, trainable_count, a->name);
    }
    return changed(m);
}
