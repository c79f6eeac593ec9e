/* Model: parameters are declared by recording the model in a plan whose `parameter` writes down what is asked for. */
#include "models/model.h"

#include "models/network.h"

#include <string.h>

/* What is no matrix lies as reals, and so do routers and connections, few numbers that scale many. Of int8: a table of
 * rows that no product reads lies in bfloat16, for its rows are read as they are, with nothing to average their
 * rounding. */
static Storage storage_of(const Model *m, const Declaration *d) {
    if (d->ndim != 2 || d->part == PART_ROUTER || part_is_connection(d->part)) return STORED_REAL;
    const bool gathered = d->part == PART_POSITIONS || (d->part == PART_EMBED && !m->spec.tied);
    return m->weights.storage == STORED_INT8 && gathered ? STORED_BFLOAT16 : m->weights.storage;
}

static Tensor *declare(Plan *p, const Declaration *d) {
    Model *m = p->owner;
    Parameters *base = &m->weights.base;
    if (!parameters_find(base, d->path) && !parameters_add(base, d, storage_of(m, d), &p->error)) return &p->nowhere;
    return tensor_parameter(p, d->ndim, d->shape, NULL, NULL);
}

bool model_init(Model *m, const Spec *spec, Precision precision, Storage storage, bool take, Error *e) {
    *m = (Model){.precision = precision, .weights = {.storage = storage}};
    if (!spec_copy(&m->spec, spec)) {
        error_set(e, ERROR_MEMORY, "no memory for the architecture");
        return false;
    }
    if (spec->tied) m->weights.base.tied_head = m->spec.names[PART_HEAD];
    Plan plan = {.B = 1, .T = 1, .owner = m, .parameter = declare};
    plan_begin(&plan);
    network(&plan, &m->spec, &(Request){.losses = true});
    *e = plan.error;
    plan_free(&plan);
    bool fine = e->code == FINE && (!take || parameters_take(&m->weights.base, e));
    fine = fine && weights_begin(&m->weights, e);
    if (!fine) model_free(m);
    return fine;
}

void model_free(Model *m) {
    weights_free(&m->weights);
    spec_free(&m->spec);
    memset(m, 0, sizeof *m);
}
