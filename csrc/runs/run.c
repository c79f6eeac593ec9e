/* Run: made, with the memory of its most demanding pass, and freed. */
#include "runs/run.h"

#include "base/alloc.h"
#include "runs/recording.h"

#include <limits.h>
#include <string.h>

Pass run_largest(const RunOptions *o) {
    return (Pass){.B = o->batch, .T = o->length, .losses = o->backward, .last = o->past ? 1 : 0};
}

static bool take_inputs(Run *r) {
    const RunOptions *o = &r->options;
    size_t N = (size_t)o->batch * (size_t)o->length;
    size_t width = (size_t)(o->past ? o->past : o->length);
    r->mask_stride = width;
    r->ids = alloc_array(N, sizeof *r->ids);
    r->targets = alloc_array(N, sizeof *r->targets);
    r->positions = alloc_array(N, sizeof *r->positions);
    r->mask = alloc_array((size_t)o->batch * width, 1);
    const Spec *s = &r->model->spec;
    r->inv_freq = alloc_array((size_t)s->rotaries * (size_t)(s->D / 2) + 1, sizeof *r->inv_freq);
    r->rotary = alloc_array((size_t)s->rotaries + 1, sizeof *r->rotary);
    return r->ids && r->targets && r->positions && r->mask && r->inv_freq && r->rotary;
}

static bool copy_keep(Run *r, const RunOptions *o) {
    r->keep = alloc_array((size_t)o->keep_count + 1, sizeof *r->keep);
    if (!r->keep) return false;
    for (int i = 0; i < o->keep_count; i++) {
        r->keep[i] = alloc_array(strlen(o->keep[i]) + 1, 1);
        if (!r->keep[i]) return false;
        strcpy(r->keep[i], o->keep[i]);
        r->options.keep_count = i + 1;
    }
    r->options.keep = (const char *const *)r->keep;
    return true;
}

static bool check_options(const Run *r, Error *e) {
    const RunOptions *o = &r->options;
    const int longest = o->length > o->past ? o->length : o->past;
    size_t N;
    if (o->batch < 1 || o->length < 1 || o->past < 0)
        error_set(e, ERROR_CONFIG, "a run of batch %d, length %d, past %d is empty", o->batch, o->length, o->past);
    else if (!size_mul(&N, (size_t)o->batch, (size_t)longest) || N > INT_MAX)
        error_set(e, ERROR_CONFIG, "a batch of %d rows of %d tokens is more than 2^31 tokens", o->batch, longest);
    else if (o->past && o->backward)
        error_set(e, ERROR_CONFIG, "a run with a past (of %d positions) gives no gradients: make it without one",
                  o->past);
    return e->code == FINE;
}

bool run_open(Run *r, Model *m, const RunOptions *o, Error *e) {
    *r = (Run){.model = m, .version = m->weights.version, .options = *o};
    r->options.keep_count = 0;
    if (!check_options(r, e)) return false;
    const bool is_bfloat16 = recording_kernels(r)->rounds;
    r->by_parameter = alloc_array((size_t)m->weights.total, sizeof *r->by_parameter);
    if (r->by_parameter && copy_keep(r, o) &&
        cache_open(&r->cache, &m->spec, o->batch, o->past, o->length, is_bfloat16, e))
        return true;
    error_set(e, ERROR_MEMORY, "no memory to record the plan");
    run_free(r);
    return false;
}

bool run_init(Run *r, Model *m, const RunOptions *o, Gradients *shared, Error *e) {
    if (!run_open(r, m, o, e)) return false;
    bool fine = cache_take(&r->cache);
    if (o->backward) r->gradients = shared ? gradients_retain(shared) : gradients_new(&m->weights);
    fine = fine && (r->gradients || !o->backward);
    Pass largest = run_largest(o);
    fine = fine && recording_make(r, &largest, e) && take_inputs(r);
    if (fine) return true;
    error_set(e, ERROR_MEMORY, "no memory for a run of %d rows of %d tokens", o->batch, o->length);
    run_free(r);
    return false;
}

void run_free(Run *r) {
    plan_free(&r->plan);
    for (int i = 0; r->keep && i < r->options.keep_count; i++) alloc_free(r->keep[i]);
    alloc_free(r->keep);
    alloc_free(r->recorded);
    alloc_free(r->by_parameter);
    alloc_free(r->ids);
    alloc_free(r->targets);
    alloc_free(r->positions);
    alloc_free(r->mask);
    alloc_free(r->inv_freq);
    alloc_free(r->rotary);
    arena_release(r->arena);
    arena_release(r->scratch);
    cache_free(&r->cache);
    gradients_release(r->gradients);
    memset(r, 0, sizeof *r);
}

bool run_is_current(const Run *r, Error *e) {
    return weights_unchanged(&r->model->weights, r->version, "run", "model.run(...)", e);
}
