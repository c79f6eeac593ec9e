/* Parameters: declared one by one, then given their memory at once. */
#include "weights/parameters.h"

#include "base/alloc.h"
#include "engine/engine.h"

#include <stdio.h>
#include <string.h>

#define MOST (SIZE_MAX / 64) /* reals, so that bytes and their sums are far from wrapping */

Parameter *parameters_find(const Parameters *list, const char *name) {
    int at = names_find(&list->names, name);
    return at < 0 ? NULL : &list->items[at];
}

static bool is_tied_head(const Parameters *list, const char *name) {
    const size_t length = list->tied_head ? strlen(list->tied_head) : 0;
    return length && strncmp(name, list->tied_head, length) == 0 && strcmp(name + length, ".weight") == 0;
}

const Parameter *parameters_read_as(const Parameters *list, const char *name, Part *part) {
    const bool tied = is_tied_head(list, name);
    const Parameter *q = tied ? NULL : parameters_find(list, name);
    for (int i = 0; tied && !q && i < list->count; i++)
        if (list->items[i].part == PART_EMBED) q = &list->items[i];
    if (q) *part = tied ? PART_HEAD : q->part;
    return q;
}

const Parameter *parameters_linear(const Parameters *list, const char *module) {
    char name[400];
    if ((size_t)snprintf(name, sizeof name, "%s.weight", module) >= sizeof name) return NULL;
    const Parameter *q = parameters_find(list, name);
    return q && q->inputs ? q : NULL;
}

static bool make_room(Parameters *list) {
    if (list->count < list->room) return true;
    int room = list->room ? list->room * 2 : 64;
    Parameter *grown = alloc_grow(list->items, (size_t)room, sizeof *grown);
    if (!grown) return false;
    list->items = grown;
    list->room = room;
    return true;
}

/* Reals that take the place of a parameter's numbers, whole lines. */
static size_t reals_of_numbers(const Parameter *q) {
    const size_t each = sizeof(real) / storage_bytes(q->stored.storage);
    return arena_round((q->count + each - 1) / each);
}

void parameter_stored_shape(const Parameter *q, int *shape) {
    for (int i = 0; i < 2; i++) shape[i] = q->shape[q->stored.transposed ? 1 - i : i];
}

void parameter_scales(const Parameter *q, int *shape) {
    parameter_stored_shape(q, shape);
    shape[1] = (shape[1] - 1) / GROUP + 1;
}

static size_t reals_of(const Parameter *q) {
    if (q->stored.storage != STORED_INT8) return reals_of_numbers(q);
    int shape[2];
    parameter_scales(q, shape);
    const size_t bytes = (size_t)shape[0] * (size_t)shape[1] * sizeof(float);
    return reals_of_numbers(q) + arena_round((bytes + sizeof(real) - 1) / sizeof(real));
}

static bool append(Parameters *list, Parameter q, const char *name, Error *e) {
    q.offset = list->size;
    q.count = 1;
    for (int i = 0; i < q.ndim; i++)
        if (q.shape[i] < 1 || !size_mul(&q.count, q.count, (size_t)q.shape[i]) || q.count > MOST)
            error_set(e, ERROR_CONFIG, "%s: dimension %d of %d is %d", name, i, q.ndim, q.shape[i]);
    size_t size;
    if (!size_add(&size, list->size, reals_of(&q)) || size > MOST)
        error_set(e, ERROR_CONFIG, "%s: the parameters before and with it do not fit in memory's address range", name);
    if (parameters_find(list, name)) error_set(e, ERROR_CONFIG, "%s: there is such a parameter already", name);
    if (e->code != FINE) return false;
    q.name = alloc_array(strlen(name) + 1, 1);
    if (q.name) strcpy(q.name, name);
    if (!q.name || !make_room(list) || !names_add(&list->names, q.name, list->count)) {
        alloc_free(q.name);
        error_set(e, ERROR_MEMORY, "no memory for the list of parameters");
        return false;
    }
    list->size = size;
    list->items[list->count++] = q;
    return true;
}

bool parameters_add(Parameters *list, const Declaration *d, Storage storage, Error *e) {
    if (d->ndim < 1 || d->ndim > TENSOR_DIMS) {
        error_set(e, ERROR_CONFIG, "%s: a parameter of %d dimensions; 1 to %d are known", d->path, d->ndim,
                  TENSOR_DIMS);
        return false;
    }
    Parameter q = {.ndim = d->ndim,
                   .part = d->part,
                   .layer = d->layer,
                   .inputs = d->inputs,
                   .outputs = d->outputs,
                   .in_out = d->in_out,
                   .stored = {.storage = storage, .transposed = storage != STORED_REAL && d->in_out}};
    memcpy(q.shape, d->shape, (size_t)d->ndim * sizeof *d->shape);
    return append(list, q, d->path, e);
}

bool parameters_take(Parameters *list, Error *e) {
    list->arena = arena_new(list->size);
    if (!list->arena) {
        error_set(e, ERROR_MEMORY, "no memory for %d tensors of parameters (%.1f GB)", list->count,
                  (double)list->size * sizeof(real) / 1e9);
        return false;
    }
    for (int i = 0; i < list->count; i++) {
        Parameter *q = &list->items[i];
        q->arena = list->arena;
        q->stored.data = list->arena->data + q->offset;
        q->stored.stride = (size_t)q->shape[q->ndim - 1];
        if (!parameter_is_narrow(q)) continue;
        int shape[2];
        parameter_stored_shape(q, shape);
        q->stored.stride = (size_t)shape[1];
        if (q->stored.storage != STORED_INT8) continue;
        parameter_scales(q, shape);
        q->stored.scales = (float *)(void *)(list->arena->data + q->offset + reals_of_numbers(q));
        q->stored.scale_stride = (size_t)shape[1];
    }
    return true;
}

void parameters_free(Parameters *list) {
    for (int i = 0; i < list->count; i++) alloc_free(list->items[i].name);
    alloc_free(list->items);
    names_free(&list->names);
    arena_release(list->arena);
    memset(list, 0, sizeof *list);
}

void parameter_widen(const Parameter *q, real *out) {
    if (!parameter_is_narrow(q)) {
        memcpy(out, parameter_data(q), q->count * sizeof *out);
        return;
    }
    const bool transposed = q->stored.transposed;
    const Matrix weight = matrix_stored(&q->stored, transposed); /* as it lies */
    int lying[2];
    parameter_stored_shape(q, lying);
    for (int32_t row = 0; row < lying[0]; row++)
        for (int col = 0; col < lying[1]; col += GROUP) {
            const int count = lying[1] - col < GROUP ? lying[1] - col : GROUP;
            real group[GROUP];
            engine_kernels(PRECISION_FLOAT32)
                ->embedding_forward(group, &row, matrix_at(weight, 0, (size_t)col), 1, count);
            for (int i = 0; i < count; i++) {
                const size_t r = (size_t)row, c = (size_t)(col + i);
                out[transposed ? c * (size_t)lying[0] + r : r * (size_t)lying[1] + c] = group[i];
            }
        }
}
