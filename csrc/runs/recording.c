/* recording: what a run asks of its plan for one call: parameters, adapters, caches, names left out. */
#include "runs/recording.h"

#include "base/memory.h"
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
        real *slot = r->gradients ? r->gradients->arena->data + q->slot : NULL;
        grad = tensor_parameter(p, q->ndim, q->shape, slot, NULL);
    }
    return r->by_parameter[q->index] = tensor_parameter(p, q->ndim, q->shape, parameter_data(q), grad);
}

static Tensor *parameter_asked(Plan *p, const char *path, int ndim, const int *shape) {
    const Run *r = p->owner;
    const Parameter *q = parameters_find(&r->model->weights.base, path);
    bool fits = q && q->ndim == ndim && memcmp(q->shape, shape, (size_t)ndim * sizeof *shape) == 0;
    if (fits) return tensor_of(p, q->read ? q->read : q);
    error_set(&p->error, ERROR_NAME, "%s: the model has no such parameter of that shape", path);
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
        if (m->weights.adapters[i]->active && adapter_pair(m->weights.adapters[i], m->spec.names.head) >= 0) return true;
    return false;
}

static void bring_cache(Run *r, int B, Wanted *w) {
    cache_bring(&r->cache, &r->model->spec, &r->plan, B);
    w->keys = r->cache.tensors;
    w->values = r->cache.tensors + r->model->spec.L;
}

/* Is it a block, or a branch of one? */
static bool may_be_skipped(const Spec *s, const char *name) {
    const Names *n = &s->names;
    char block[160], attention[224], ffn[224];
    const int before = snprintf(block, sizeof block, "%s.%s.", n->root, n->layers);
    if (strncmp(name, block, (size_t)before) != 0) return false;
    const long l = strtol(name + before, NULL, 10);
    if (l < 0 || l >= s->L) return false;
    snprintf(block + before, sizeof block - (size_t)before, "%ld", l);
    snprintf(attention, sizeof attention, "%s.%s", block, n->attention);
    snprintf(ffn, sizeof ffn, "%s.%s", block, n->ffn);
    return !strcmp(name, block) || !strcmp(name, attention) || !strcmp(name, ffn);
}

/* Names that are left out must be blocks or branches that were found; a name to stop after must be a module. */
static void check_names(Run *r, const Call *c) {
    Plan *p = &r->plan;
    const Names *n = &r->model->spec.names;
    for (int i = 0; i < c->skip_count; i++) {
        if (!may_be_skipped(&r->model->spec, c->skip[i]))
            error_set(&p->error, ERROR_NAME, "skip: '%.200s' is neither a block nor a branch of one (such as %s.%s.0 or %s.%s.0.%s)",
                      c->skip[i], n->root, n->layers, n->root, n->layers, n->ffn);
    }
    if (c->until && p->error.code == FINE && !plan_module(p, c->until))
        error_set(&p->error, ERROR_NAME, "until: there is no module '%.200s' in this pass", c->until);
}

void record_call(Run *r, const Call *c) {
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
    p->cut = c->until;
    p->bfloat16 = recording_kernels(r)->rounds;
    p->owner = r;
    p->parameter = parameter_asked;
    p->adapt = r->model->weights.adapter_count ? adapt : NULL;
    p->observe = r->options.observe ? observe : NULL;
    plan_begin(p);
    memset(r->by_parameter, 0, (size_t)r->model->weights.total * sizeof *r->by_parameter);
    bool logits = !c->losses || head_is_adapted(r->model);
    Wanted w = {.losses = c->losses, .logits = logits, .last = c->last};
    if (r->cache.capacity) bring_cache(r, c->B, &w);
    r->given = network(p, &r->model->spec, &w);
    plan_finish(p, recording_kernels(r));
    check_names(r, c);
}

const Kernels *recording_kernels(const Run *r) {
    return engine_kernels(r->options.float32 ? PRECISION_FLOAT32 : r->model->precision);
}

/* The text that tells one recording from another. */
char *recording_key(const Run *r, const Call *c) {
    size_t room = 160 + (c->until ? strlen(c->until) : 0);
    for (int i = 0; i < c->skip_count; i++) room += strlen(c->skip[i]) + 1;
    char *key = memory_alloc(room, 1);
    if (!key) return NULL;
    int at = snprintf(key, room, "%d %d %d %d %s|%s", c->B, c->T, c->losses, c->last,
                      recording_kernels(r)->name, c->until ? c->until : "");
    for (int i = 0; i < c->skip_count; i++) at += snprintf(key + at, room - (size_t)at, "|%s", c->skip[i]);
    return key;
}

