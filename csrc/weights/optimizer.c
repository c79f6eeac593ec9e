/* Optimizer: the update is cut into chunks of fixed size, so its bits do not depend on the number of threads. */
#include "weights/optimizer.h"

#include "base/memory.h"
#include "engine/engine.h"

#include <math.h>
#include <string.h>

#define CHUNK 65536

static size_t chunks_of(const Parameter *q) { return q->trainable ? (q->count + CHUNK - 1) / CHUNK : 0; }

bool optimizer_init(Optimizer *o, Weights *w, bool decay_all, Error *e) {
    *o = (Optimizer){.weights = w, .structure = w->structure};
    for (int i = 0; i < w->total; i++) o->chunks += chunks_of(w->all[i]);
    if (!o->chunks) {
        if (w->adapter_count)
            error_set(e, ERROR_CONFIG, "nothing is trainable: no active adapter is (set_adapter makes one so)");
        else
            error_set(e, ERROR_CONFIG, "weights stored as %s are not trained: load with dtype='float32', or add an adapter",
                      w->storage == STORED_INT8 ? "int8" : "bfloat16");
        return false;
    }
    o->decays = memory_alloc((size_t)w->total, sizeof *o->decays);
    o->partial = memory_alloc(o->chunks, sizeof *o->partial);
    o->m = arena_new(w->trained);
    o->v = arena_new(w->trained);
    if (!o->decays || !o->partial || !o->m || !o->v) {
        error_set(e, ERROR_MEMORY, "no memory for the moments (%.1f GB)", 2.0 * (double)w->trained * sizeof(real) / 1e9);
        optimizer_free(o);
        return false;
    }
    for (int i = 0; i < w->total; i++) o->decays[i] = decay_all || w->all[i]->ndim > 1;
    return true;
}

void optimizer_free(Optimizer *o) {
    memory_free(o->decays);
    memory_free(o->partial);
    arena_release(o->m);
    arena_release(o->v);
    memset(o, 0, sizeof *o);
}

typedef struct {
    Optimizer *o;
    const Gradients *g;
    AdamwStep step;
    double decay;
} Job;

/* The numbers of one chunk. */
typedef struct {
    const Parameter *q;
    size_t first, count;
} Chunk;

static Chunk chunk_at(const Optimizer *o, size_t index) {
    for (int i = 0; i < o->weights->total; i++) {
        const Parameter *q = o->weights->all[i];
        size_t chunks = chunks_of(q);
        if (index >= chunks) {
            index -= chunks;
            continue;
        }
        size_t first = index * CHUNK, left = q->count - first;
        return (Chunk){q, first, left < CHUNK ? left : CHUNK};
    }
    return (Chunk){0};
}

static void square_chunk(void *context, size_t index, int slot) {
    (void)slot;
    const Job *j = context;
    Chunk c = chunk_at(j->o, index);
    j->o->partial[index] = engine_kernels(PRECISION_FLOAT32)->sum_squares(j->g->arena->data + c.q->slot + c.first, c.count);
}

static void update_chunk(void *context, size_t index, int slot) {
    (void)slot;
    const Job *j = context;
    Optimizer *o = j->o;
    Chunk c = chunk_at(o, index);
    size_t at = c.q->slot + c.first;
    AdamwStep s = j->step;
    s.weight_decay = o->decays[c.q->index] ? j->decay : 0;
    engine_kernels(PRECISION_FLOAT32)->adamw(parameter_data(c.q) + c.first, o->m->data + at, o->v->data + at, j->g->arena->data + at,
                            c.count, &s);
}

/* The first parameter with a gradient that is not finite; NULL: each is, though their squares overflow. */
static const Parameter *first_bad(const Optimizer *o, const Gradients *g) {
    for (int i = 0; i < o->weights->total; i++) {
        const Parameter *q = o->weights->all[i];
        if (q->trainable && !engine_kernels(PRECISION_FLOAT32)->all_finite(g->arena->data + q->slot, q->count)) return q;
    }
    return NULL;
}

UpdateResult optimizer_step(Optimizer *o, Gradients *g, const AdamwOptions *options, bool skip_nonfinite, double *norm,
                            Error *e) {
    Job job = {.o = o, .g = g};
    pool_run(o->chunks, square_chunk, &job, POOL_MOST, NULL);
    double sum = 0;
    for (size_t i = 0; i < o->chunks; i++) sum += o->partial[i];
    *norm = sqrt(sum);
    if (!isfinite(*norm)) {
        const Parameter *bad = first_bad(o, g);
        error_set(e, ERROR_NONFINITE, "step %ld: the gradient norm is %s; first bad tensor: %s; nothing was changed",
                  o->step + 1, isnan(*norm) ? "nan" : "inf", bad ? bad->name : "none (their squares overflow)");
        if (skip_nonfinite) gradients_clear(g);
        return skip_nonfinite ? UPDATE_SKIPPED : UPDATE_REFUSED;
    }
    o->step++;
    double clip = options->max_grad_norm > 0 ? options->max_grad_norm / (*norm + 1e-6) : 1;
    job.decay = options->weight_decay;
    job.step = (AdamwStep){.lr = options->lr, .beta1 = options->beta1, .beta2 = options->beta2, .eps = options->eps,
                           .bias_correction1 = 1 - pow(options->beta1, (double)o->step),
                           .bias_correction2 = 1 - pow(options->beta2, (double)o->step),
                           .grad_scale = clip < 1 ? clip : 1};
    pool_run(o->chunks, update_chunk, &job, POOL_MOST, NULL);
    gradients_clear(g);
    return UPDATE_DONE;
}
