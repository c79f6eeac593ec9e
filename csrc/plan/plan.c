/* Plan: recording. What a recording implies is decided in differentiate.c, choose_bfloat16.c and layout.c; replay.c
 * replays it. */
#include "plan/plan.h"

#include "base/alloc.h"

#include <fnmatch.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

/* Tensors, texts and what steps hold lie in chunks that never move. Recordings of a plan are alike: where one took
 * several chunks, the next gets one as large, which all later ones fill again. */
#define CHUNK 32768
#define ALIGNED 16
struct Chunk {
    struct Chunk *next;
    size_t used, room;
    _Alignas(ALIGNED) char bytes[];
};

static void fail_memory(Plan *p) { error_set(&p->error, ERROR_MEMORY, "no memory to record the plan"); }

static void free_chunks(Plan *p) {
    while (p->chunks) {
        struct Chunk *next = p->chunks->next;
        alloc_free(p->chunks);
        p->chunks = next;
    }
}

static void empty_chunks(Plan *p) {
    size_t used = 0;
    for (const struct Chunk *c = p->chunks; c; c = c->next) used += c->used;
    if (used > p->most_used) p->most_used = used;
    if (p->chunks && p->chunks->next) free_chunks(p);
    if (p->chunks) p->chunks->used = 0;
}

void *plan_take(Plan *p, size_t bytes) {
    bytes = (bytes + ALIGNED - 1) / ALIGNED * ALIGNED;
    struct Chunk *c = p->chunks;
    if (!c || c->room - c->used < bytes) {
        size_t room = c || p->most_used < CHUNK ? CHUNK : p->most_used;
        if (room < bytes) room = bytes;
        c = alloc_array(1, sizeof *c + room);
        if (!c) {
            fail_memory(p);
            return NULL;
        }
        c->room = room;
        c->next = p->chunks;
        p->chunks = c;
    }
    void *block = c->bytes + c->used;
    c->used += bytes;
    return block;
}

static void *take_copy(Plan *p, const void *source, size_t bytes) {
    void *copy = plan_take(p, bytes);
    return copy && bytes ? memcpy(copy, source, bytes) : copy;
}

/* Room for one more element in a growing array; false when there is no memory. */
static bool make_room(Plan *p, void *array, int count, int *room, size_t size) {
    if (count < *room) return true;
    int more = *room ? *room * 2 : 64;
    void *old, *grown;
    memcpy(&old, array, sizeof old);
    grown = alloc_grow(old, (size_t)more, size);
    if (!grown) {
        fail_memory(p);
        return false;
    }
    memcpy(array, &grown, sizeof grown);
    *room = more;
    return true;
}

void plan_begin(Plan *p) {
    empty_chunks(p);
    p->error = (Error){0};
    p->count = p->module_count = p->tensor_count = p->depth = 0;
    p->path[0] = '\0';
    names_forget(&p->module_names);
    names_forget(&p->skip_names);
    for (int i = 0; i < p->skip_count; i++)
        if (!names_add(&p->skip_names, p->skip[i], i)) fail_memory(p);
    p->size = p->scratch = p->workspace = 0;
    p->finished = false;
    p->nowhere = (Tensor){.ndim = 3, .shape = {1, 1, 1}, .rows = 1, .cols = 1, .stride = 1, .producer = -1};
    p->nowhere.place = &p->nowhere;
}

void plan_free(Plan *p) {
    free_chunks(p);
    alloc_free(p->steps);
    alloc_free(p->modules);
    alloc_free(p->tensors);
    names_free(&p->module_names);
    names_free(&p->skip_names);
    memset(p, 0, sizeof *p);
}

/* --- tensors ----------------------------------------------------------------------------------------------------- */
static Tensor *make(Plan *p, TensorKind kind, int ndim, const int *shape) {
    if (ndim < 1 || ndim > TENSOR_DIMS)
        error_set(&p->error, ERROR_SHAPE, "%s: a tensor of %d dimensions; 1 to %d are known", p->path, ndim,
                  TENSOR_DIMS);
    if (p->error.code != FINE) return &p->nowhere;
    Tensor *t = plan_take(p, sizeof *t);
    if (!t || !make_room(p, &p->tensors, p->tensor_count, &p->tensor_room, sizeof *p->tensors)) return &p->nowhere;
    *t = (Tensor){.kind = kind, .ndim = ndim, .rows = 1, .producer = -1, .first = -1, .last = -1,
                   .written = -1, .read = -1};
    t->place = t;
    for (int i = 0; i < ndim; i++) {
        t->shape[i] = shape[i];
        size_t *into = i == ndim - 1 ? &t->cols : &t->rows;
        size_t before = i == ndim - 1 ? 1 : t->rows;
        if (shape[i] < 0 || !size_mul(into, before, (size_t)shape[i])) {
            error_set(&p->error, ERROR_SHAPE, "%s: dimension %d is %d", p->path, i, shape[i]);
            return &p->nowhere;
        }
    }
    size_t count;
    if (t->rows > INT_MAX || !size_mul(&count, t->rows, t->cols) || count > TENSOR_MOST) {
        error_set(&p->error, ERROR_MEMORY, "%s: no memory for %zu rows of %zu numbers", p->path, t->rows, t->cols);
        return &p->nowhere;
    }
    t->stride = t->cols;
    p->tensors[p->tensor_count++] = t;
    return t;
}

Tensor *tensor_new(Plan *p, int ndim, const int *shape) { return make(p, TENSOR_STEP, ndim, shape); }

Tensor *tensor_like(Plan *p, const Tensor *t) { return make(p, TENSOR_STEP, t->ndim, t->shape); }

Tensor *tensor_wide(Plan *p, const Tensor *t, int cols) {
    int shape[TENSOR_DIMS];
    memcpy(shape, t->shape, sizeof shape);
    shape[t->ndim - 1] = cols;
    return make(p, TENSOR_STEP, t->ndim, shape);
}

Tensor *tensor_view(Plan *p, Tensor *parent, int column, int cols) {
    Tensor *v = tensor_wide(p, parent, cols);
    if (v == &p->nowhere) return v;
    if (column < 0 || parent->parent || (size_t)column + v->cols > parent->cols) {
        error_set(&p->error, ERROR_SHAPE, "%s: columns %d to %d cannot be a view into a %s of %zu", p->path, column,
                  column + cols, parent->parent ? "view" : "tensor", parent->cols);
        return &p->nowhere;
    }
    v->kind = parent->kind;
    v->parent = parent;
    parent->viewed = true;
    v->column = (size_t)column;
    v->stride = parent->stride;
    v->needs_grad = parent->needs_grad;
    v->producer = parent->producer;
    return v;
}

Tensor *tensor_outside(Plan *p, int ndim, const int *shape, real *data) {
    Tensor *t = make(p, TENSOR_OUTSIDE, ndim, shape);
    if (t != &p->nowhere) t->data = data;
    return t;
}

Tensor *tensor_outside_bfloat16(Plan *p, int ndim, const int *shape, uint16_t *half) {
    Tensor *t = tensor_outside(p, ndim, shape, NULL);
    if (t == &p->nowhere) return t;
    t->bfloat16 = half;
    t->is_bfloat16 = true;
    return t;
}

Tensor *tensor_parameter(Plan *p, int ndim, const int *shape, real *data, Tensor *grad) {
    Tensor *t = make(p, TENSOR_PARAMETER, ndim, shape);
    if (t == &p->nowhere) return t;
    t->data = data;
    t->grad = grad;
    t->needs_grad = grad != NULL;
    return t;
}

Tensor *tensor_narrow(Plan *p, int ndim, const int *shape, const Stored *narrow) {
    Tensor *t = tensor_parameter(p, ndim, shape, NULL, NULL);
    if (t != &p->nowhere) t->narrow = narrow;
    return t;
}

/* The innermost module being recorded. */
static Open within(const Plan *p) { return p->depth ? p->open[p->depth - 1] : (Open){.layer = -1}; }

static Tensor *declare(Plan *p, const char *leaf, Declaration d) {
    if (p->error.code != FINE) return &p->nowhere;
    char path[320];
    snprintf(path, sizeof path, "%s%s%s", p->path, p->path[0] ? "." : "", leaf);
    d.path = path;
    d.layer = within(p).layer;
    return p->parameter(p, &d);
}

Tensor *parameter(Plan *p, const char *leaf, int ndim, const int *shape) {
    return declare(p, leaf, (Declaration){.part = within(p).part, .ndim = ndim, .shape = shape});
}

Tensor *parameter_weight(Plan *p, Part part, const char *leaf, int inputs, int outputs, bool in_out) {
    const int shape[] = {in_out ? inputs : outputs, in_out ? outputs : inputs};
    return declare(p, leaf, (Declaration){.part = part, .ndim = 2, .shape = shape, .inputs = inputs, .outputs = outputs,
                                    .in_out = in_out});
}

Tensor *parameter_bias(Plan *p, Part part, const char *leaf, int outputs) {
    return declare(p, leaf, (Declaration){.part = part, .ndim = 1, .shape = &outputs});
}

/* --- steps ------------------------------------------------------------------------------------------------------- */
static const char *keep_text(Plan *p, const char *text) { return take_copy(p, text, strlen(text) + 1); }

#define OPERANDS_MOST 8192 /* of one step; so many fit on the stack of an op */
#define NUMBERS_MOST 4096  /* bytes */

static void check_step(Plan *p, const Op *op, int ins, int outs, size_t size) {
    if (ins < 0 || ins > OPERANDS_MOST || outs < 1 || outs > OPERANDS_MOST)
        error_set(&p->error, ERROR_SHAPE, "%s: a step '%s' from %d tensors to %d; up to %d, to at least one", p->path,
                  op->name, ins, outs, OPERANDS_MOST);
    if (size > NUMBERS_MOST)
        error_set(&p->error, ERROR_SHAPE, "%s: %zu bytes of numbers of a step '%s'; up to %d", p->path, size, op->name,
                  NUMBERS_MOST);
}

void record(Plan *p, const Op *op, int ins, Tensor *const *in, int outs, Tensor *const *out, const void *numbers,
            size_t size) {
    check_step(p, op, ins, outs, size);
    if (p->error.code != FINE || !make_room(p, &p->steps, p->count, &p->room, sizeof *p->steps)) return;
    Step s = {.op = op, .path = keep_text(p, p->path), .ins = ins, .outs = outs,
              .in = take_copy(p, in, (size_t)ins * sizeof *in), .out = take_copy(p, out, (size_t)outs * sizeof *out),
              .grad = plan_take(p, (size_t)ins * sizeof *s.grad), .numbers = take_copy(p, numbers, size)};
    if (p->error.code != FINE) return;
    bool needs = false;
    for (int i = 0; i < ins; i++) {
        s.grad[i] = GRAD_NONE;
        needs |= in[i] && in[i]->needs_grad;
    }
    for (int i = 0; i < outs; i++) {
        out[i]->producer = p->count;
        out[i]->needs_grad |= needs && op->backward;
    }
    p->steps[p->count++] = s;
}

static void open_module(Plan *p, Part part, int layer, const char *name) {
    const size_t length = strlen(p->path);
    if (p->depth == (int)(sizeof p->open / sizeof *p->open)) {
        error_set(&p->error, ERROR_CONFIG, "%s: modules nested too deep", p->path);
        return;
    }
    p->open[p->depth++] = (Open){.first = p->count, .length = length, .part = part, .layer = layer};
    const int more = snprintf(p->path + length, sizeof p->path - length, "%s%s", length ? "." : "", name);
    if ((size_t)more >= sizeof p->path - length) error_set(&p->error, ERROR_CONFIG, "%s: a path too long", p->path);
}

void enter(Plan *p, Part part, const char *name) { open_module(p, part, within(p).layer, name); }

void enter_block(Plan *p, const char *name, int layer) {
    char numbered[160];
    snprintf(numbered, sizeof numbered, "%s.%d", name, layer);
    open_module(p, PART_BLOCK, layer, numbered);
}

static bool matches(const char *const *globs, int count, const char *name) {
    for (int i = 0; i < count; i++)
        if (fnmatch(globs[i], name, 0) == 0) return true;
    return false;
}

static void keep(Plan *p, Tensor *t, bool gradient) {
    if (!t || t == &p->nowhere) return;
    t->kept = true;
    if (t->parent) t->parent->kept = true;
    t->needs_grad |= gradient && t->kind == TENSOR_STEP;
}

void give(Plan *p, Tensor *output) {
    if (output != &p->nowhere && !output->name) output->name = keep_text(p, p->path);
}

void leave_container(Plan *p) {
    if (p->depth > 0) p->path[p->open[--p->depth].length] = '\0';
}

void leave(Plan *p, Tensor *input, Tensor *output) {
    if (p->depth == 0) return;
    const char *name = keep_text(p, p->path);
    p->depth--;
    if (name && make_room(p, &p->modules, p->module_count, &p->module_room, sizeof *p->modules)) {
        if (!names_add(&p->module_names, name, p->module_count)) fail_memory(p);
        Module *m = &p->modules[p->module_count++];
        const Open *o = &p->open[p->depth];
        *m = (Module){.name = name, .part = o->part, .layer = o->layer, .input = input, .output = output,
                      .first = o->first, .last = p->count};
        if (p->observe && input && output) m->observed = p->observe(p, input, output);
        if (output && !output->name) output->name = name;
        bool cut = p->until && strcmp(p->until, name) == 0;
        if (cut || p->keep_all || matches(p->keep, p->keep_count, name)) {
            keep(p, input, false);
            keep(p, output, p->backward);
        }
    }
    p->path[p->open[p->depth].length] = '\0';
}

void joins(Plan *p, Tensor *stream) {
    Module *m = p->module_count ? &p->modules[p->module_count - 1] : NULL;
    if (p->observe && m && m->output) m->against_stream = p->observe(p, stream, m->output);
}

static bool full_name(const Plan *p, const char *name, char *full, size_t room) {
    return (size_t)snprintf(full, room, "%s%s%s", p->path, p->path[0] ? "." : "", name) < room;
}

bool skipped(const Plan *p, const char *name) {
    char full[320];
    return p->skip_count && full_name(p, name, full, sizeof full) && names_find(&p->skip_names, full) >= 0;
}

bool stops_after(const Plan *p, const char *name) {
    char full[320];
    return p->until && full_name(p, name, full, sizeof full) && strcmp(p->until, full) == 0;
}

bool kept(const Plan *p, const char *name) {
    char full[320];
    return full_name(p, name, full, sizeof full) && (p->keep_all || matches(p->keep, p->keep_count, full));
}

bool kept_by_name(const Plan *p, const char *name) {
    char full[320];
    if (!full_name(p, name, full, sizeof full)) return false;
    for (int i = 0; i < p->keep_count; i++) {
        size_t length = strlen(p->keep[i]), tail = strlen(name);
        if (length >= tail && strcmp(p->keep[i] + length - tail, name) == 0 && fnmatch(p->keep[i], full, 0) == 0)
            return true;
    }
    return false;
}

const Module *plan_module(const Plan *p, const char *name) {
    int at = names_find(&p->module_names, name);
    return at < 0 ? NULL : &p->modules[at];
}

double plan_flops(const Plan *p, bool backward) {
    double flops = 0;
    for (int i = 0; i < p->count; i++) {
        const Step *s = &p->steps[i];
        if (!s->op->flops) continue;
        for (int k = 0; k < s->outs; k++) flops += s->op->flops(s, k);
        if (backward && s->differentiated)
            for (int k = 0; k < s->ins; k++)
                if (s->grad[k] != GRAD_NONE) flops += s->op->gradient_flops(s, k);
    }
    return flops;
}
