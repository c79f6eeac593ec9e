/* recording: what a run asks of its plan for one pass: parameters, adapters, caches, names left out; then memory. */
#include "runs/recording.h"

#include "base/alloc.h"
#include "engine/engine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* One tensor a parameter and recording. Where nothing was taken yet, sizes are counted alone. */
static Tensor *tensor_of(Plan *p, const Parameter *q) {
    Run *r = p->owner;
    if (r->by_parameter[q->index]) return r->by_parameter[q->index];
    if (parameter_is_narrow(q)) return r->by_parameter[q->index] = tensor_narrow(p, q->ndim, q->shape, &q->stored);
    Tensor *grad = NULL;
    if (p->backward && q->trainable) {
        real *slot = r->gradients ? r->gradients->arena->data + q->grad_offset : NULL;
        grad = tensor_parameter(p, q->ndim, q->shape, slot, NULL);
    }
    return r->by_parameter[q->index] = tensor_parameter(p, q->ndim, q->shape, parameter_data(q), grad);
}

static Tensor *parameter_asked(Plan *p, const Declaration *d) {
    const Run *r = p->owner;
    const Parameter *q = parameters_find(&r->model->weights.base, d->path);
    const bool fits = q && q->ndim == d->ndim && memcmp(q->shape, d->shape, (size_t)d->ndim * sizeof *d->shape) == 0;
    const Parameter *copy = !fits ? NULL : d->part == q->part ? q->read : q->head_read;
    if (fits) return tensor_of(p, copy ? copy : q);
    error_set(&p->error, ERROR_NAME, "%s: the model has no such parameter of that shape", d->path);
    return &p->nowhere;
}

#define ADAPTER_SALT 100 /* an adapter's dropout differs from its module's own */

static Tensor *adapt(Plan *p, Tensor *x, Tensor *y) {
    const Run *r = p->owner;
    for (int i = 0; i < r->model->weights.adapter_count; i++) {
        const Adapter *a = r->model->weights.adapters[i];
        const int k = a->active ? adapter_pair(a, p->path) : -1;
        if (k < 0) continue;
        Tensor *read = dropout(p, x, a->pairs[k].dropout, ADAPTER_SALT + i);
        Tensor *A = tensor_of(p, adapter_A(a, k)), *B = tensor_of(p, adapter_B(a, k));
        y = low_rank(p, read, A, B, y, a->pairs[k].scale);
    }
    return y;
}

static bool head_is_adapted(const Model *m) {
    for (int i = 0; i < m->weights.adapter_count; i++)
        if (m->weights.adapters[i]->active && adapter_pair(m->weights.adapters[i], m->spec.names[PART_HEAD]) >= 0)
            return true;
    return false;
}

static void bring_cache(Run *r, int B, Request *w) {
    cache_bring(&r->cache, &r->model->spec, &r->plan, B);
    w->keys = r->cache.tensors;
    w->values = r->cache.tensors + r->cache.count;
}

/* Is `name` a block, or a branch of one that was recorded or left out? */
static bool may_be_skipped(const Plan *p, const char *const *names, const char *name) {
    const Module *m = plan_module(p, name);
    if (m) return part_is_skippable(m->part);
    char parent[320];
    const char *dot = strrchr(name, '.');
    if (!dot || (size_t)snprintf(parent, sizeof parent, "%.*s", (int)(dot - name), name) >= sizeof parent) return false;
    m = plan_module(p, parent);
    return m && m->part == PART_BLOCK &&
           (!strcmp(dot + 1, names[PART_ATTENTION]) || !strcmp(dot + 1, names[PART_FEED_FORWARD]));
}

/* Names that are left out must be blocks or branches that were found; a name to stop after must be a module. */
static void check_names(Run *r, const Pass *c) {
    Plan *p = &r->plan;
    const char *const *n = r->model->spec.names;
    for (int i = 0; i < c->skip_count && p->error.code == FINE; i++)
        if (!may_be_skipped(p, n, c->skip[i]))
            error_set(&p->error, ERROR_NAME,
                      "skip: '%.200s' is neither a block nor a branch of one (such as %s.%s.0 or %s.%s.0.%s)",
                      c->skip[i], n[PART_ROOT], n[PART_BLOCK], n[PART_ROOT], n[PART_BLOCK], n[PART_FEED_FORWARD]);
    if (c->until && p->error.code == FINE && !plan_module(p, c->until))
        error_set(&p->error, ERROR_NAME, "until: there is no module '%.200s' in this pass", c->until);
}

void recording_write(Run *r, const Pass *c) {
    Plan *p = &r->plan;
    p->B = c->B;
    p->T = c->T;
    p->backward = r->options.backward;
    p->training = r->options.dropout;
    p->keep_all = r->options.keep_all;
    p->keep = r->options.keep;
    p->keep_count = r->options.keep_count;
    p->skip = c->skip;
    p->skip_count = c->skip_count;
    p->until = c->until;
    p->bfloat16 = recording_kernels(r)->rounds;
    p->owner = r;
    p->parameter = parameter_asked;
    p->adapt = r->model->weights.adapter_count ? adapt : NULL;
    p->observe = r->options.observe ? observe : NULL;
    plan_begin(p);
    memset(r->by_parameter, 0, (size_t)r->model->weights.total * sizeof *r->by_parameter);
    bool logits = !c->losses || head_is_adapted(r->model);
    Request w = {.losses = c->losses, .logits = logits, .last = c->last};
    if (r->cache.count) bring_cache(r, c->B, &w);
    r->result = network(p, &r->model->spec, &w);
    plan_finish(p, recording_kernels(r));
    check_names(r, c);
}

const Kernels *recording_kernels(const Run *r) {
    return engine_kernels(r->options.float32 ? PRECISION_FLOAT32 : r->model->precision);
}

/* The text that tells one recording from another; release with alloc_free. NULL: no memory. */
static char *key_of(const Run *r, const Pass *c) {
    size_t room = 160 + (c->until ? strlen(c->until) : 0);
    for (int i = 0; i < c->skip_count; i++) room += strlen(c->skip[i]) + 1;
    char *key = alloc_array(room, 1);
    if (!key) return NULL;
    int at = snprintf(key, room, "%d %d %d %d %s|%s", c->B, c->T, c->losses, c->last,
                      recording_kernels(r)->name, c->until ? c->until : "");
    for (int i = 0; i < c->skip_count; i++) at += snprintf(key + at, room - (size_t)at, "|%s", c->skip[i]);
    return key;
}

/* --- memory ------------------------------------------------------------------------------------------------------- */
static bool replace(Arena **arena, size_t count, Error *e) {
    if (*arena && (*arena)->count >= count) return true;
    Arena *larger = arena_new(count);
    if (!larger) {
        error_set(e, ERROR_MEMORY, "no memory for %.2f GB of activations", (double)count * sizeof(real) / 1e9);
        return false;
    }
    arena_release(*arena);
    *arena = larger;
    return true;
}

static bool take_scratch(Run *r, Error *e) {
    r->slots = pool_threads();
    if (!replace(&r->scratch, r->plan.scratch * (size_t)r->slots + r->plan.workspace, e)) return false;
    r->exec.scratch = r->scratch->data;
    r->exec.scratch_stride = r->plan.scratch;
    r->exec.workspace = r->scratch->data + r->plan.scratch * (size_t)r->slots;
    r->exec.slots = r->slots;
    return true;
}

/* The plan is known by `key`, which it takes. */
static bool write_anew(Run *r, const Pass *c, char *key, Error *e) {
    alloc_free(r->recorded);
    r->recorded = NULL;
    recording_write(r, c);
    if (r->plan.error.code != FINE && e->code == FINE) *e = r->plan.error;
    if (e->code != FINE || !replace(&r->arena, r->plan.size, e)) {
        alloc_free(key);
        r->plan.finished = false;
        return false;
    }
    plan_bind(&r->plan, r->arena->data);
    r->recorded = key;
    return true;
}

bool recording_make(Run *r, const Pass *c, Error *e) {
    char *key = key_of(r, c);
    if (!key) {
        error_set(e, ERROR_MEMORY, "no memory to record the plan");
        return false;
    }
    const bool stands = r->recorded && r->plan.finished && strcmp(key, r->recorded) == 0;
    if (stands) alloc_free(key);
    else if (!write_anew(r, c, key, e)) return false;
    return take_scratch(r, e);
}
