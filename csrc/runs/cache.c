/* Cache: how large, where it lies, what it forgets. */
#include "runs/cache.h"

#include "base/memory.h"

#include <string.h>

/* A window's cache holds the window and the new tokens; its oldest positions go when its end is reached, every so often. */
#define WINDOW_SLACK 256

static int capacity_of(const Spec *s, int past, int length) {
    const long slack = length > WINDOW_SLACK ? length : WINDOW_SLACK;
    const int window = spec_window(s);
    return past && window && window + slack < past ? (int)(window + slack) : past;
}

static size_t bytes_each(const Cache *c) { return c->halved ? storage_bytes(STORED_BFLOAT16) : sizeof(real); }

/* Numbers of one layer's keys, or values; false: too many to count. */
static bool numbers(const Cache *c, const Spec *s, size_t *count) {
    size_t positions;
    return size_mul(&positions, (size_t)c->batch, (size_t)c->capacity) &&
           size_mul(count, positions, (size_t)s->G * (size_t)s->D) && *count <= TENSOR_MOST;
}

Cache cache_of(const Spec *s, int batch, int past, int length, bool halved) {
    Cache c = {.batch = batch, .capacity = capacity_of(s, past, length), .halved = halved};
    size_t count;
    if (numbers(&c, s, &count)) c.each = arena_round((count * bytes_each(&c) + sizeof(real) - 1) / sizeof(real));
    return c;
}

bool cache_reals(const Cache *c, const Spec *s, size_t *reals) {
    size_t count;
    return numbers(c, s, &count) && size_mul(reals, 2 * (size_t)s->L, c->each) && *reals <= TENSOR_MOST;
}

bool cache_open(Cache *c, const Spec *s) {
    c->tensors = memory_alloc(2 * (size_t)s->L, sizeof *c->tensors);
    return c->tensors != NULL;
}

bool cache_take(Cache *c, const Spec *s) {
    size_t reals;
    return !c->capacity || (cache_reals(c, s, &reals) && (c->arena = arena_new(reals)) != NULL);
}

void cache_free(Cache *c) {
    arena_release(c->arena);
    memory_free(c->tensors);
}

void cache_bring(Cache *c, const Spec *s, Plan *p, int B) {
    for (int i = 0; i < 2 * s->L; i++) {
        real *data = c->arena ? c->arena->data + (size_t)i * c->each : NULL;
        const int shape[] = {B, s->G, c->capacity, s->D};
        c->tensors[i] = c->halved ? tensor_outside_halved(p, 4, shape, (uint16_t *)data) : tensor_outside(p, 4, shape, data);
    }
}

void cache_forget(Cache *c, const Spec *s, int goes, int stays) {
    const size_t position = (size_t)s->D * bytes_each(c), head = (size_t)c->capacity * position;
    for (int i = 0; i < 2 * s->L; i++) {
        char *at = (char *)(c->arena->data + (size_t)i * c->each);
        for (size_t h = 0; h < (size_t)c->batch * (size_t)s->G; h++, at += head)
            memmove(at, at + (size_t)goes * position, (size_t)stays * position);
    }
}
