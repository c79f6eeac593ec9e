/* Cache: how large, where it lies, what it forgets. */
#include "runs/cache.h"

#include "base/alloc.h"

#include <string.h>

/* A window's cache holds the window and the new tokens; its oldest positions go when its end is reached, every so
 * often. */
#define WINDOW_SLACK 256

static int capacity_of(int window, int past, int length) {
    const long slack = length > WINDOW_SLACK ? length : WINDOW_SLACK;
    return window && window + slack < past ? (int)(window + slack) : past;
}

static size_t bytes_each(const Cache *c) { return c->is_bfloat16 ? storage_bytes(STORED_BFLOAT16) : sizeof(real); }

/* False: too many to count. */
static bool measure(Cache *c, const Spec *s, LayerCache *layer) {
    size_t positions, count;
    if (!size_mul(&positions, (size_t)c->batch, (size_t)layer->capacity) ||
        !size_mul(&count, positions, (size_t)s->G * (size_t)s->D) || count > TENSOR_MOST)
        return false;
    layer->each = arena_round((count * bytes_each(c) + sizeof(real) - 1) / sizeof(real));
    layer->offset = c->size;
    c->size += 2 * layer->each;
    return c->size <= TENSOR_MOST;
}

bool cache_open(Cache *c, const Spec *s, int batch, int past, int length, bool is_bfloat16, Error *e) {
    *c = (Cache){.batch = batch, .is_bfloat16 = is_bfloat16, .count = past ? s->L : 0};
    if (!past) return true;
    c->tensors = alloc_array(2 * (size_t)s->L, sizeof *c->tensors);
    c->layers = alloc_array((size_t)s->L, sizeof *c->layers);
    c->first = alloc_array((size_t)s->L, sizeof *c->first);
    if (!c->tensors || !c->layers || !c->first) error_set(e, ERROR_MEMORY, "no memory to record the plan");
    for (int l = 0; e->code == FINE && l < s->L; l++) {
        const int window = s->layers[l].window;
        c->layers[l] = (LayerCache){.window = window, .capacity = capacity_of(window, past, length)};
        if (!measure(c, s, &c->layers[l]))
            error_set(e, ERROR_MEMORY, "no memory for a cache of %d rows of %d positions", batch,
                      c->layers[l].capacity);
    }
    return e->code == FINE;
}

bool cache_take(Cache *c) { return !c->count || (c->arena = arena_new(c->size)) != NULL; }

void cache_free(Cache *c) {
    arena_release(c->arena);
    alloc_free(c->tensors);
    alloc_free(c->layers);
    alloc_free(c->first);
}

static Tensor *bring(const Cache *c, const Spec *s, Plan *p, int B, int l, size_t offset) {
    real *data = c->arena ? c->arena->data + offset : NULL;
    const int shape[] = {B, s->G, c->layers[l].capacity, s->D};
    return c->is_bfloat16 ? tensor_outside_bfloat16(p, 4, shape, (uint16_t *)data) : tensor_outside(p, 4, shape, data);
}

void cache_bring(Cache *c, const Spec *s, Plan *p, int B) {
    for (int l = 0; l < c->count; l++) {
        const LayerCache *layer = &c->layers[l];
        c->tensors[l] = bring(c, s, p, B, l, layer->offset);
        c->tensors[c->count + l] = bring(c, s, p, B, l, layer->offset + layer->each);
    }
}

/* Positions up to `first` go; those behind them become the first ones. */
static void forget(Cache *c, const Spec *s, int l, int first) {
    const LayerCache *layer = &c->layers[l];
    const size_t position = (size_t)s->D * bytes_each(c), head = (size_t)layer->capacity * position;
    const size_t goes = (size_t)(first - c->first[l]) * position, stays = (size_t)(c->held - first) * position;
    for (int k = 0; k < 2; k++) {
        char *at = (char *)(c->arena->data + layer->offset + (size_t)k * layer->each);
        for (size_t h = 0; h < (size_t)c->batch * (size_t)s->G; h++, at += head) memmove(at, at + goes, stays);
    }
    c->first[l] = first;
}

bool cache_make_room(Cache *c, const Spec *s, int T, int *full) {
    for (int l = 0; l < c->count; l++) {
        const LayerCache *layer = &c->layers[l];
        const int seen = c->held - layer->window + 1; /* the first position that the next one sees */
        const bool fits = c->held - c->first[l] + T <= layer->capacity;
        if (!fits && layer->window && seen > c->first[l]) forget(c, s, l, seen);
        *full = l;
        if (c->held - c->first[l] + T > layer->capacity) return false;
    }
    return true;
}

bool cache_trim(Cache *c, int n) {
    for (int l = 0; l < c->count && n; l++)
        if (c->first[l] > 0 && (!c->layers[l].window || c->first[l] > n - c->layers[l].window + 1)) return false;
    for (int l = 0; l < c->count && !n; l++) c->first[l] = 0;
    c->held = n;
    return true;
}
