/* Optimizer: the update is cut into chunks of fixed size, and works on ranges of them. */
#include "weights/optimizer.h"

#include "base/alloc.h"
#include "engine/engine.h"

#include <math.h>
#include <string.h>

#define CHUNK 65536

static size_t chunks_of(const Parameter *q) { return q->trainable ? (q->count + CHUNK - 1) / CHUNK : 0; }

static void list_chunks(Optimizer *o) {
    ParameterChunk *next = o->chunk;
    for (int i = 0; i < o->weights->total; i++) {
        const Parameter *q = o->weights->all[i];
        for (size_t k = 0; k < chunks_of(q); k++) {
            const size_t first = k * CHUNK, left = q->count - first;
            *next++ = (ParameterChunk){i, first, left < CHUNK ? left : CHUNK};
        }
    }
}

bool optimizer_init(Optimizer *o, Weights *w, Error *e) {
    *o = (Optimizer){.weights = w, .version = w->version};
    for (int i = 0; i < w->total; i++) o->chunks += chunks_of(w->all[i]);
    if (!o->chunks) {
        if (w->adapter_count)
            error_set(e, ERROR_CONFIG, "nothing is trainable: no active adapter is (set_adapter makes one so)");
        else
            error_set(e, ERROR_CONFIG,
                      "weights stored as %s are not trained: load with dtype='float32', or add an adapter",
                      w->storage == STORED_INT8 ? "int8" : "bfloat16");
        return false;
    }
    o->rate = alloc_array((size_t)w->total, sizeof *o->rate);
    o->decay = alloc_array((size_t)w->total, sizeof *o->decay);
    o->chunk = alloc_array(o->chunks, sizeof *o->chunk);
    o->partial = alloc_array(o->chunks, sizeof *o->partial);
    o->m = arena_new(w->trained);
    o->v = arena_new(w->trained);
    if (!o->rate || !o->decay || !o->chunk || !o->partial || !o->m || !o->v) {
        error_set(e, ERROR_MEMORY, "no memory for the moments (%.1f GB)",
                  2.0 * (double)w->trained * sizeof(real) / 1e9);
        optimizer_free(o);
        return false;
    }
    list_chunks(o);
    return true;
}

void optimizer_free(Optimizer *o) {
    alloc_free(o->rate);
    alloc_free(o->decay);
    alloc_free(o->chunk);
    alloc_free(o->partial);
    arena_release(o->m);
    arena_release(o->v);
    memset(o, 0, sizeof *o);
}

bool optimizer_is_current(const Optimizer *o, Error *e) {
    return weights_unchanged(o->weights, o->version, "optimizer", "llmc.AdamW(model)", e);
}

bool optimizer_may_step(const Optimizer *o, const Gradients *g, Error *e) {
    if (optimizer_is_current(o, e) && gradients_take_more(g, e) && g->state == GRADIENTS_NONE)
        error_set(e, ERROR_STATE, "there are no gradients: call run.backward() before optimizer.step(run)");
    return e->code == FINE;
}

/* --- ranges ------------------------------------------------------------------------------------------------------- */
typedef struct {
    Optimizer *o;
    const Gradients *g;
    size_t first; /* of the range */
    AdamwStep step;
} Job;

static void square_chunk(void *context, size_t index, int slot) {
    (void)slot;
    const Job *j = context;
    const ParameterChunk *c = &j->o->chunk[j->first + index];
    const real *grad = j->g->arena->data + j->o->weights->all[c->parameter]->grad_offset + c->first;
    j->o->partial[j->first + index] = engine_kernels(PRECISION_FLOAT32)->sum_squares(grad, c->count);
}

void optimizer_squares(Optimizer *o, const Gradients *g, size_t first, size_t last) {
    Job job = {.o = o, .g = g, .first = first};
    pool_run(last - first, square_chunk, &job, POOL_MOST, NULL);
}

double optimizer_norm(const Optimizer *o) {
    double sum = 0;
    for (size_t i = 0; i < o->chunks; i++) sum += o->partial[i];
    return sqrt(sum);
}

static void update_chunk(void *context, size_t index, int slot) {
    (void)slot;
    const Job *j = context;
    const Optimizer *o = j->o;
    const ParameterChunk *c = &o->chunk[j->first + index];
    const Parameter *q = o->weights->all[c->parameter];
    const size_t at = q->grad_offset + c->first;
    AdamwStep s = j->step;
    s.lr = o->rate[c->parameter];
    s.weight_decay = o->decay[c->parameter];
    engine_kernels(PRECISION_FLOAT32)->adamw(parameter_data(q) + c->first, o->m->data + at, o->v->data + at,
                                             j->g->arena->data + at, c->count, &s);
}

void optimizer_update(Optimizer *o, const Gradients *g, const AdamwOptions *options, double norm, size_t first,
                      size_t last) {
    const double step = (double)(o->step + 1), most = options->max_grad_norm;
    const double clip = most > 0 ? most / (norm + 1e-6) : 1;
    Job job = {.o = o, .g = g, .first = first,
               .step = {.beta1 = options->beta1, .beta2 = options->beta2, .eps = options->eps,
                        .bias_correction1 = 1 - pow(options->beta1, step),
                        .bias_correction2 = 1 - pow(options->beta2, step), .grad_scale = clip < 1 ? clip : 1}};
    pool_run(last - first, update_chunk, &job, POOL_MOST, NULL);
}

/* --- a step ------------------------------------------------------------------------------------------------------- */
/* The first parameter with a gradient that is not finite; NULL: each is, though their squares overflow. */
static const Parameter *first_bad(const Optimizer *o, const Gradients *g) {
    for (int i = 0; i < o->weights->total; i++) {
        const Parameter *q = o->weights->all[i];
        const real *grad = g->arena->data + q->grad_offset;
        if (q->trainable && !engine_kernels(PRECISION_FLOAT32)->all_finite(grad, q->count)) return q;
    }
    return NULL;
}

UpdateResult optimizer_step(Optimizer *o, Gradients *g, const AdamwOptions *options, bool skip_nonfinite, double *norm,
                            Error *e) {
    *norm = 0;
    if (!g->targets) {
        gradients_clear(g);
        return UPDATE_NOTHING;
    }
    optimizer_squares(o, g, 0, o->chunks);
    *norm = optimizer_norm(o);
    if (!isfinite(*norm)) {
        const Parameter *bad = first_bad(o, g);
        error_set(e, ERROR_NONFINITE, "step %ld: the gradient norm is %s; first bad tensor: %s; nothing was changed",
                  o->step + 1, isnan(*norm) ? "nan" : "inf", bad ? bad->name : "none (their squares overflow)");
        if (skip_nonfinite) gradients_clear(g);
        return skip_nonfinite ? UPDATE_SKIPPED : UPDATE_REFUSED;
    }
    optimizer_update(o, g, options, *norm, 0, o->chunks);
    o->step++;
    gradients_clear(g);
    return UPDATE_DONE;
}
