/* Parameters: named weights in one arena, in the order they were declared. */
#pragma once
#include "base/arena.h"
#include "base/error.h"
#include "base/names.h"
#include "base/storage.h"
#include "plan/plan.h"

typedef struct Parameter {
    char *name; /* Hugging Face's, dotted */
    int ndim, shape[TENSOR_DIMS];
    Part part;            /* of the module it belongs to */
    int layer;            /* -1: outside the blocks */
    int inputs, outputs;  /* of a linear's weight; 0: it is none */
    bool in_out;          /* its rows are inputs */
    size_t count, offset; /* numbers; where they lie in the arena, in reals */
    Arena *arena;         /* borrowed from the list; NULL until it is taken */
    Stored stored;
    int index;            /* among all parameters of the model, its adapters' included */
    const struct Parameter *read; /* what is read in its stead; NULL: itself */
    const struct Parameter *head_read; /* the same for a head that is tied to it */
    bool trainable;
    size_t grad_offset;          /* of its gradient and its moments in their arenas, when it is trainable */
} Parameter;

typedef struct {
    Parameter *items;
    int count, room;
    NameIndex names;
    Arena *arena;
    size_t size; /* reals of all, padding included */
    const char *tied_head; /* the module whose weight is the embedding's; NULL: none. Borrowed */
} Parameters;

/* 1 to TENSOR_DIMS dimensions. False: see e (no memory, an impossible shape, a name twice); the list is as before. */
bool parameters_add(Parameters *list, const Declaration *d, Storage storage, Error *e);
/* Takes the arena, zeroed. False: no memory. */
bool parameters_take(Parameters *list, Error *e);
void parameters_free(Parameters *list);
Parameter *parameters_find(const Parameters *list, const char *name); /* NULL: there is none */
/* The same, but that a tied head's weight is found too, the embedding's. *part: of the module that `name` lies in. */
const Parameter *parameters_read_as(const Parameters *list, const char *name, Part *part);
/* The weight of the linear `module`; NULL: it is no linear. */
const Parameter *parameters_linear(const Parameters *list, const char *module);

/* The shape of a matrix as it lies; of int8, that of its scales. */
void parameter_stored_shape(const Parameter *q, int *shape);
void parameter_scales(const Parameter *q, int *shape);
/* All numbers as reals, row by row. */
void parameter_widen(const Parameter *q, real *out);

static inline bool parameter_is_narrow(const Parameter *q) { return q->stored.storage != STORED_REAL; }
/* NULL: it is not taken yet, or does not lie as reals. */
static inline real *parameter_data(const Parameter *q) {
    return q->arena && !parameter_is_narrow(q) ? q->arena->data + q->offset : NULL;
}
