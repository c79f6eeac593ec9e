/* Parameters: declared one by one, then given their memory at once. */
#include "models/parameters.h"

#include "base/memory.h"

#include <string.h>

#define MOST (SIZE_MAX / 64) /* reals, so that bytes and their sums are far from wrapping */

Parameter *parameters_find(const Parameters *list, const char *name) {
    for (int i = 0; i < list->count; i++)
        if (strcmp(list->items[i].name, name) == 0) return &list->items[i];
    return NULL;
}

static bool make_room(Parameters *list) {
    if (list->count < list->room) return true;
    int room = list->room ? list->room * 2 : 64;
    Parameter *grown = memory_grow(list->items, (size_t)room, sizeof *grown);
    if (!grown) return false;
    list->items = grown;
    list->room = room;
    return true;
}

bool parameters_add(Parameters *list, const char *name, int ndim, const int *shape, Error *e) {
    Parameter q = {.ndim = ndim, .count = 1, .offset = list->size, .trainable = true};
    for (int i = 0; i < ndim; i++) {
        q.shape[i] = shape[i];
        if (shape[i] < 1 || !size_mul(&q.count, q.count, (size_t)shape[i]) || q.count > MOST)
            error_set(e, ERROR_CONFIG, "%s: dimension %d of %d is %d", name, i, ndim, shape[i]);
    }
    size_t size;
    if (!size_add(&size, list->size, arena_round(q.count)) || size > MOST)
        error_set(e, ERROR_CONFIG, "%s: the parameters before and with it do not fit in memory's address range", name);
    if (e->code != FINE) return false;
    q.name = memory_alloc(strlen(name) + 1, 1);
    if (!q.name || !make_room(list)) {
        memory_free(q.name);
        error_set(e, ERROR_MEMORY, "no memory for the list of parameters");
        return false;
    }
    strcpy(q.name, name);
    list->size = size;
    list->items[list->count++] = q;
    return true;
}

bool parameters_take(Parameters *list, Error *e) {
    list->arena = arena_new(list->size);
    if (!list->arena) {
        error_set(e, ERROR_MEMORY, "no memory for %d parameters (%.1f GB)", list->count,
                  (double)list->size * sizeof(real) / 1e9);
        return false;
    }
    for (int i = 0; i < list->count; i++) list->items[i].arena = list->arena;
    return true;
}

void parameters_free(Parameters *list) {
    for (int i = 0; i < list->count; i++) memory_free(list->items[i].name);
    memory_free(list->items);
    arena_release(list->arena);
    memset(list, 0, sizeof *list);
}
