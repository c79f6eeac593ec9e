/* cache: keys and values of the past, a layer each: (B,G,capacity,D), head by head, so that attention reads on and
 * on; in bfloat16 where products would round them anyway. A layer with a window keeps what its window sees, the
 * others all. */
#pragma once
#include "base/arena.h"
#include "blocks/spec.h"
#include "plan/plan.h"

/* What one layer holds: positions [first, held) of the cache's. */
typedef struct {
    int window;          /* 0: all that came before is seen */
    int capacity;        /* positions there is room for */
    size_t each, offset; /* reals of its keys, or values; where in the arena the keys begin, the values behind them */
} LayerCache;

typedef struct {
    int batch, count;    /* rows; layers. No layers: there is no past */
    int held;            /* positions that were read */
    bool is_bfloat16;
    LayerCache *layers;
    int32_t *first;      /* a layer: the first position that it still holds */
    size_t size;         /* reals of all */
    Arena *arena;        /* NULL: sizes alone */
    Tensor **tensors;    /* 2L, of the present recording: keys, values */
} Cache;

/* A cache for `batch` rows that reach `past` positions (0: none), at most `length` more a call; sizes and the room
 * for the tensors of a recording. False: see e. */
bool cache_open(Cache *c, const Spec *s, int batch, int past, int length, bool is_bfloat16, Error *e);
/* The memory of keys and values. False: there is none. */
bool cache_take(Cache *c);
void cache_free(Cache *c);

/* Makes the tensors of a recording of B rows. */
void cache_bring(Cache *c, const Spec *s, Plan *p, int B);
/* Layers that T more positions do not fit forget the oldest, beyond their windows. False, with a layer's number: it has
 * no room. */
bool cache_make_room(Cache *c, const Spec *s, int T, int *full);
/* Back to the first n positions. False, nothing changed: a layer has forgotten what the next position would see. */
bool cache_trim(Cache *c, int n);
