/* Parameters: named weights in one arena, in the order they were declared. */
#pragma once
#include "base/arena.h"
#include "base/error.h"

typedef struct {
    char *name; /* Hugging Face's, dotted */
    int ndim, shape[2];
    size_t count, offset; /* reals; in the arena */
    Arena *arena;         /* borrowed from the list; NULL until it is taken */
    int index;            /* among all parameters of the model, its adapters' included */
    bool trainable;
    size_t slot;          /* of its gradient and its moments in their arenas, when it is trainable */
} Parameter;

typedef struct {
    Parameter *items;
    int count, room;
    Arena *arena;
    size_t size; /* reals of all, padding included */
} Parameters;

/* False: see e (no memory, an impossible size); the list is as before. */
bool parameters_add(Parameters *list, const char *name, int ndim, const int *shape, Error *e);
/* Takes the arena, zeroed. False: no memory. */
bool parameters_take(Parameters *list, Error *e);
void parameters_free(Parameters *list);
Parameter *parameters_find(const Parameters *list, const char *name); /* NULL: there is none */

static inline real *parameter_data(const Parameter *q) { return q->arena ? q->arena->data + q->offset : NULL; }
