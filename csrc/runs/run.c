/* Run: prepares (records, takes memory) and replays. */
#include "runs/run.h"

#include "base/memory.h"
#include "engine/engine.h"
#include "runs/recording.h"

#include <limits.h>
#include <string.h>

/* --- memory ------------------------------------------------------------------------------------------------------- */
static bool replace(Arena **arena, size_t count, Error *e) {
    if (*arena && (*arena)->count >= count) return true;
    Arena *larger = arena_new(count);
    if (!larger) {
        error_set(e, ERROR_MEMORY, "no memory for %.2f GB of activations", (double)count * sizeof(real) / 1e9);
        return false;
    }
    arena_release(*arena);
    *arena = larger;
    return true;
}

static bool take_scratch(Run *r, Error *e) {
    r->slots = pool_threads();
    if (!replace(&r->scratch, r->plan.scratch * (size_t)r->slots + r->plan.workspace, e)) return false;
    r->exec.scratch = r->scratch->data;
    r->exec.scratch_stride = r->plan.scratch;
    r->exec.workspace = r->scratch->data + r->plan.scratch * (size_t)r->slots;
    r->exec.slots = r->slots;
    return true;
}

static bool fail(Error *e, const Error *why) {
    if (e->code == FINE) *e = *why;
    return false;
}

static bool record_and_bind(Run *r, const Call *c, Error *e) {
    char *key = recording_key(r, c);
    if (!key) {
        error_set(e, ERROR_MEMORY, "no memory to record the plan");
        return false;
    }
    if (r->recorded && r->plan.finished && strcmp(key, r->recorded) == 0) {
        memory_free(key);
        return true;
    }
    memory_free(r->recorded);
    r->recorded = NULL;
    record_call(r, c);
    if (r->plan.error.code != FINE || !replace(&r->arena, r->plan.size, e)) {
        memory_free(key);
        r->plan.finished = false;
        return fail(e, &r->plan.error);
    }
    plan_bind(&r->plan, r->arena->data);
    r->recorded = key;
    return true;
}

Call run_largest(const RunOptions *o) {
    return (Call){.B = o->batch, .T = o->length, .losses = o->backward, .last = o->past ? 1 : 0};
}

static bool take_inputs(Run *r) {
    const RunOptions *o = &r->options;
    size_t N = (size_t)o->batch * (size_t)o->length;
    size_t width = r->cache.capacity ? (size_t)r->cache.capacity : (size_t)o->length;
    r->mask_stride = width;
    r->ids = memory_alloc(N, sizeof *r->ids);
    r->targets = memory_alloc(N, sizeof *r->targets);
    r->positions = memory_alloc(N, sizeof *r->positions);
    r->mask = memory_alloc((size_t)o->batch * width, 1);
    r->inv_freq = memory_alloc((size_t)r->model->spec.D, sizeof *r->inv_freq);
    return r->ids && r->targets && r->positions && r->mask && r->inv_freq;
}

static bool copy_keep(Run *r, const RunOptions *o) {
    r->keep = memory_alloc((size_t)o->keep_count + 1, sizeof *r->keep);
    if (!r->keep) return false;
    for (int i = 0; i < o->keep_count; i++) {
        r->keep[i] = memory_alloc(strlen(o->keep[i]) + 1, 1);
        if (!r->keep[i]) return false;
        strcpy(r->keep[i], o->keep[i]);
        r->options.keep_count = i + 1;
    }
    r->options.keep = (const char *const *)r->keep;
    return true;
}

static bool check_options(const Run *r, Error *e) {
    const RunOptions *o = &r->options;
    size_t N;
    if (o->batch < 1 || o->length < 1 || o->past < 0)
        error_set(e, ERROR_CONFIG, "a run of batch %d, length %d, past %d is empty", o->batch, o->length, o->past);
    else if (!size_mul(&N, (size_t)o->batch, (size_t)(o->length > r->cache.capacity ? o->length : r->cache.capacity)) || N > INT_MAX)
        error_set(e, ERROR_CONFIG, "a batch of %d rows of %d tokens is more than 2^31 tokens", o->batch,
                  o->length > r->cache.capacity ? o->length : r->cache.capacity);
    else if (o->past && o->backward)
        error_set(e, ERROR_CONFIG, "a run with a past (of %d positions) gives no gradients: make it without one", o->past);
    return e->code == FINE;
}

bool run_open(Run *r, Model *m, const RunOptions *o, Error *e) {
    *r = (Run){.model = m, .structure = m->weights.structure, .options = *o, .reached = -1};
    r->cache = cache_of(&m->spec, o->batch, o->past, o->length, recording_kernels(r)->rounds);
    r->options.keep_count = 0;
    if (!check_options(r, e)) return false;
    r->by_parameter = memory_alloc((size_t)m->weights.total, sizeof *r->by_parameter);
    if (r->by_parameter && copy_keep(r, o) && cache_open(&r->cache, &m->spec)) return true;
    error_set(e, ERROR_MEMORY, "no memory to record the plan");
    run_free(r);
    return false;
}

bool run_init(Run *r, Model *m, const RunOptions *o, Gradients *shared, Error *e) {
    if (!run_open(r, m, o, e)) return false;
    bool fine = cache_take(&r->cache, &m->spec);
    if (fine && o->backward) fine = (r->gradients = shared ? gradients_retain(shared) : gradients_new(&m->weights)) != NULL;
    Call c = run_largest(o);
    fine = fine && record_and_bind(r, &c, e) && take_scratch(r, e) && take_inputs(r);
    if (fine) return true;
    error_set(e, ERROR_MEMORY, "no memory for a run of %d rows of %d tokens", o->batch, o->length);
    run_free(r);
    return false;
}

void run_free(Run *r) {
    plan_free(&r->plan);
    for (int i = 0; r->keep && i < r->options.keep_count; i++) memory_free(r->keep[i]);
    memory_free(r->keep);
    memory_free(r->recorded);
    memory_free(r->by_parameter);
    memory_free(r->ids);
    memory_free(r->targets);
    memory_free(r->positions);
    memory_free(r->mask);
    memory_free(r->inv_freq);
    arena_release(r->arena);
    arena_release(r->scratch);
    cache_free(&r->cache);
    gradients_release(r->gradients);
    memset(r, 0, sizeof *r);
}

/* --- the cache ---------------------------------------------------------------------------------------------------- */
/* Forgets the oldest positions so that T more fit; a window no longer sees them. */
static void compact(Run *r, int T) {
    const Spec *s = &r->model->spec;
    int stays = s->window - 1 < r->past ? s->window - 1 : r->past, goes = r->past - stays;
    if (!s->window || r->past + T <= r->cache.capacity || goes <= 0) return;
    cache_forget(&r->cache, s, goes, stays);
    for (int b = 0; b < r->options.batch; b++) {
        uint8_t *mask = r->mask + (size_t)b * r->mask_stride;
        memmove(mask, mask + goes, (size_t)stays);
    }
    r->past = stays;
}

void run_rewind(Run *r) {
    r->past = 0;
    r->any_masked = false;
}

/* --- calls -------------------------------------------------------------------------------------------------------- */
bool run_make_room(Run *r, const Call *c, Error *e) {
    if (r->structure != r->model->weights.structure) {
        error_set(e, ERROR_STATE, "the model's adapters changed since this run was made: make it anew with model.run(...)");
        return false;
    }
    if (c->B < 1 || c->T < 1 || c->B > r->options.batch || c->T > r->options.length) {
        error_set(e, ERROR_SHAPE, "ids of shape (%d, %d) do not fit a run of batch %d, length %d", c->B, c->T,
                  r->options.batch, r->options.length);
        return false;
    }
    if (c->last < 0 || (c->last && c->losses)) {
        error_set(e, ERROR_CONFIG, "logits_to_keep is %d%s", c->last,
                  c->last < 0 ? "; it must be at least 0" : ": the losses need the logits of all positions; leave it 0 with labels");
        return false;
    }
    r->reached = -1;
    r->differentiable = false;
    if (r->cache.capacity) {
        compact(r, c->T);
        if (r->past + c->T > r->cache.capacity) {
            error_set(e, ERROR_SHAPE, "%d more tokens do not fit a cache of %d positions that holds %d", c->T, r->cache.capacity,
                      r->past);
            return false;
        }
    }
    return true;
}

bool run_prepare(Run *r, const Call *c, Error *e) {
    if (!record_and_bind(r, c, e) || !take_scratch(r, e)) return false;
    r->exec.k = recording_kernels(r);
    r->exec.B = c->B;
    r->exec.T = c->T;
    r->exec.feed = &r->feed;
    r->rotary = (Rotary){r->inv_freq, r->rope_factor};
    r->feed = (Feed){.ids = r->ids, .targets = c->losses ? r->targets : NULL, .positions = r->positions,
                     .mask = c->masked || r->any_masked ? r->mask : NULL, .mask_stride = r->mask_stride,
                     .rotary = &r->rotary, .past = r->past, .items = r->items, .seed = r->options.seed,
                     .update = r->update, .micro = r->micro};
    r->any_masked |= r->cache.capacity && c->masked;
    r->exec.losses_wanted = false;
    r->reached = 0;
    return true;
}

static void sum_losses(Run *r) {
    const Tensor *losses = r->given.losses;
    if (!losses) return;
    double sum = r->exec.k->sum(losses->data, tensor_count(losses));
    r->loss = r->items > 0 ? sum / r->items : 0;
}

bool run_forward(Run *r, const char *until, Cancel *cancel) {
    r->exec.cancel = cancel;
    const Module *m = until ? plan_module(&r->plan, until) : NULL;
    int to = m ? m->last : r->plan.count;
    if (!plan_forward(&r->plan, &r->exec, r->reached, to)) {
        r->reached = -1;
        return false;
    }
    r->reached = to;
    if (to < r->plan.count) return true;
    if (r->cache.capacity) r->past += r->exec.T;
    sum_losses(r);
    r->differentiable = r->given.losses && r->options.backward;
    return true;
}

size_t run_likeliest(const Run *r, size_t row) {
    const Tensor *logits = r->given.logits;
    return r->exec.k->likeliest(logits->data + row * logits->stride, logits->cols);
}

/* Parameters that this pass did not reach have a gradient of zero, and must show it. */
static void clear_unreached(Run *r) {
    for (int i = 0; i < r->model->weights.total; i++) {
        const Tensor *t = r->by_parameter[i];
        const Parameter *q = r->model->weights.all[i];
        if (!q->trainable || (t && t->grad_written)) continue;
        memset(r->gradients->arena->data + q->slot, 0, q->count * sizeof(real));
    }
}

bool run_backward(Run *r, Cancel *cancel) {
    Gradients *g = r->gradients;
    r->exec.cancel = cancel;
    r->exec.gradients_held = g->held;
    r->differentiable = false;
    g->interrupted = true;
    if (!plan_backward(&r->plan, &r->exec)) return false;
    if (!g->held) clear_unreached(r);
    g->held = true;
    g->interrupted = false;
    r->micro++; /* the next pass drops others */
    return true;
}

bool run_forward_backward(Run *r, Cancel *cancel) {
    r->exec.cancel = cancel;
    r->exec.losses_wanted = true;
    int loss = r->plan.count - 1; /* the losses are recorded last */
    bool going = plan_forward(&r->plan, &r->exec, 0, loss);
    going = going && run_backward(r, cancel);
    r->exec.losses_wanted = false;
    r->reached = going ? r->plan.count : -1;
    if (going) sum_losses(r);
    return going;
}

real *run_parameter_gradient(Run *r, const Parameter *q) {
    if (!r->gradients || !q->trainable) return NULL;
    real *grad = r->gradients->arena->data + q->slot;
    if (!r->gradients->held) memset(grad, 0, q->count * sizeof(real));
    return grad;
}
