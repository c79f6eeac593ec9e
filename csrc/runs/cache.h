/* cache: keys and values of the past, of every layer: (B,G,capacity,D), head by head, so that attention reads on and on; in
 * bfloat16 where products would round them anyway. */
#pragma once
#include "base/arena.h"
#include "blocks/spec.h"
#include "plan/plan.h"

typedef struct {
    int batch, capacity; /* capacity 0: there is no past */
    bool halved;
    size_t each;         /* reals that one layer's keys, or values, take */
    Arena *arena;        /* NULL: sizes alone */
    Tensor **tensors;    /* 2L, of the present recording: keys, values */
} Cache;

/* A cache for `batch` rows that reach `past` positions, at most `length` more a call; it takes no memory yet. */
Cache cache_of(const Spec *s, int batch, int past, int length, bool halved);
/* False: too many to count. */
bool cache_reals(const Cache *c, const Spec *s, size_t *reals);
/* Room for the tensors of a recording, and the memory of the keys and values. False: no memory. */
bool cache_open(Cache *c, const Spec *s);
bool cache_take(Cache *c, const Spec *s);
void cache_free(Cache *c);

/* Makes the tensors of a recording of B rows. */
void cache_bring(Cache *c, const Spec *s, Plan *p, int B);
/* The oldest positions go; the `stays` behind them become the first ones. */
void cache_forget(Cache *c, const Spec *s, int goes, int stays);
