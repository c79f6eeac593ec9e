/* Model: parameters are declared by recording the model in a plan whose `parameter` writes down what is asked for. */
#include "models/model.h"

#include "base/memory.h"
#include "models/decoder.h"

#include <string.h>

int model_find(const Model *m, const char *name) {
    for (int i = 0; i < m->count; i++)
        if (strcmp(m->parameters[i].name, name) == 0) return i;
    return -1;
}

static bool declare(Model *m, const char *path, int ndim, const int *shape, Error *e) {
    if (m->count == m->room) {
        int room = m->room ? m->room * 2 : 64;
        Parameter *grown = memory_grow(m->parameters, (size_t)room, sizeof *grown);
        if (!grown) {
            error_set(e, ERROR_MEMORY, "no memory for the list of parameters");
            return false;
        }
        m->parameters = grown;
        m->room = room;
    }
    Parameter q = {.ndim = ndim, .count = 1, .offset = m->size, .trainable = true};
    for (int i = 0; i < ndim; i++) {
        q.shape[i] = shape[i];
        if (shape[i] < 1 || !size_mul(&q.count, q.count, (size_t)shape[i]) || q.count > SIZE_MAX / 64)
            error_set(e, ERROR_CONFIG, "%s: dimension %d of %d is %d", path, i, ndim, shape[i]);
    }
    if (!size_add(&m->size, m->size, arena_round(q.count)) || m->size > SIZE_MAX / 64)
        error_set(e, ERROR_CONFIG, "%s: the parameters before and with it do not fit in memory's address range", path);
    q.name = memory_alloc(strlen(path) + 1, 1);
    if (!q.name) error_set(e, ERROR_MEMORY, "no memory for the list of parameters");
    if (e->code != FINE) {
        memory_free(q.name);
        return false;
    }
    strcpy(q.name, path);
    m->parameters[m->count++] = q;
    return true;
}

static Tensor *declare_parameter(Plan *p, const char *path, int ndim, const int *shape) {
    Model *m = p->owner;
    if (model_find(m, path) < 0 && !declare(m, path, ndim, shape, &p->error)) return &p->nowhere;
    return tensor_parameter(p, ndim, shape, NULL, NULL);
}

bool model_init(Model *m, const Spec *spec, bool take, Error *e) {
    *m = (Model){.spec = *spec};
    Plan plan = {.B = 1, .T = 1, .owner = m, .parameter = declare_parameter};
    plan_begin(&plan);
    decoder(&plan, &m->spec, &(Wanted){.losses = true});
    *e = plan.error;
    plan_free(&plan);
    if (e->code == FINE && take && !(m->arena = arena_new(m->size)))
        error_set(e, ERROR_MEMORY, "no memory for %zu parameters (%.1f GB)", model_parameter_count(m),
                  (double)m->size * sizeof(real) / 1e9);
    if (e->code != FINE) model_free(m);
    return e->code == FINE;
}

void model_free(Model *m) {
    for (int i = 0; i < m->count; i++) memory_free(m->parameters[i].name);
    memory_free(m->parameters);
    arena_release(m->arena);
    memset(m, 0, sizeof *m);
}

size_t model_parameter_count(const Model *m) {
    size_t sum = 0;
    for (int i = 0; i < m->count; i++) sum += m->parameters[i].count;
    return sum;
}
