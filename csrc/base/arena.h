/* Arena: one zeroed block of reals, never resized, only replaced. Whoever looks into it holds a reference, so an old
 * view is stale but never dangling. */
#pragma once
#include "base/real.h"
#include <stdatomic.h>

typedef struct {
    real *data;
    size_t count; /* reals */
    atomic_int references;
} Arena;

Arena *arena_new(size_t count); /* one reference; NULL when there is no memory */
Arena *arena_retain(Arena *a);
void arena_release(Arena *a);   /* NULL is fine */

/* Rounds a count of reals up to whole 64-byte lines. */
static inline size_t arena_round(size_t count) {
    const size_t line = 64 / sizeof(real);
    return (count + line - 1) / line * line;
}
