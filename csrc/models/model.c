/* Model: parameters are declared by recording the model in a plan whose `parameter` writes down what is asked for. */
#include "models/model.h"

#include "models/network.h"

#include <stdio.h>
#include <string.h>

/* Is `path` the weight of the submodule `name` of the root? */
static bool is_weight_of(const Names *n, const char *name, const char *path) {
    char full[200];
    return name && snprintf(full, sizeof full, "%s.%s.weight", n->root, name) && strcmp(full, path) == 0;
}

/* What is no matrix lies as reals. Of int8: a table of rows that no product reads lies in bfloat16, for its rows are read as they
 * are, with nothing to average their rounding. */
static Storage storage_of(const Model *m, const char *path, int ndim) {
    const Names *n = &m->spec.names;
    if (ndim != 2) return STORED_REAL;
    bool gathered = (is_weight_of(n, n->embed, path) && !m->spec.tied) || is_weight_of(n, n->positions, path);
    return m->weights.storage == STORED_INT8 && gathered ? STORED_BFLOAT16 : m->weights.storage;
}

static bool declare(Model *m, const char *path, int ndim, const int *shape, Error *e) {
    const Storage storage = storage_of(m, path, ndim);
    if (storage == STORED_REAL) return parameters_add(&m->weights.base, path, ndim, shape, e);
    const Names *n = &m->spec.names;
    const bool table = is_weight_of(n, n->embed, path) || is_weight_of(n, n->positions, path) ||
                       strncmp(path, n->head, strlen(n->head)) == 0;
    return parameters_add_narrow(&m->weights.base, path, shape, storage, m->spec.in_out && !table, e);
}

static void note_linear(const Model *m, Parameter *q) {
    const Names *n = &m->spec.names;
    const bool table = is_weight_of(n, n->embed, q->name) || is_weight_of(n, n->positions, q->name);
    if (q->ndim != 2 || table) return;
    const bool in_out = m->spec.in_out && strncmp(q->name, n->head, strlen(n->head)) != 0;
    q->inputs = q->shape[in_out ? 0 : 1];
    q->outputs = q->shape[in_out ? 1 : 0];
}

static Tensor *declare_parameter(Plan *p, const char *path, int ndim, const int *shape) {
    Model *m = p->owner;
    Parameters *base = &m->weights.base;
    if (!parameters_find(base, path)) {
        if (!declare(m, path, ndim, shape, &p->error)) return &p->nowhere;
        note_linear(m, &base->items[base->count - 1]);
    }
    return tensor_parameter(p, ndim, shape, NULL, NULL);
}

bool model_init(Model *m, const Spec *spec, Precision precision, Storage storage, bool take, Error *e) {
    *m = (Model){.spec = *spec, .precision = precision, .weights = {.storage = storage}};
    Plan plan = {.B = 1, .T = 1, .owner = m, .parameter = declare_parameter};
    plan_begin(&plan);
    network(&plan, &m->spec, &(Wanted){.losses = true});
    *e = plan.error;
    plan_free(&plan);
    bool fine = e->code == FINE && (!take || parameters_take(&m->weights.base, e));
    fine = fine && weights_begin(&m->weights, e);
    if (!fine) model_free(m);
    return fine;
}

void model_free(Model *m) {
    weights_free(&m->weights);
    memset(m, 0, sizeof *m);
}
