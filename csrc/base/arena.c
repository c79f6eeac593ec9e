/* Arena: a counted block of reals. */
#include "base/arena.h"

#include "base/alloc.h"

Arena *arena_new(size_t count) {
    size_t bytes;
    if (!size_mul(&bytes, count, sizeof(real))) return NULL;
    Arena *a = alloc_array(1, sizeof *a);
    if (!a) return NULL;
    a->data = alloc_map(bytes);
    if (!a->data) {
        alloc_free(a);
        return NULL;
    }
    a->count = count;
    atomic_init(&a->references, 1);
    return a;
}

Arena *arena_retain(Arena *a) {
    if (a) atomic_fetch_add(&a->references, 1);
    return a;
}

void arena_release(Arena *a) {
    if (!a || atomic_fetch_sub(&a->references, 1) != 1) return;
    alloc_unmap(a->data, a->count * sizeof(real));
    alloc_free(a);
}
