/* gate: a call begins; everything that can fail does so here. */
#include "runs/recording.h"

#include <string.h>

static bool fits(const Run *r, const Pass *p, Error *e) {
    if (p->B < 1 || p->T < 1 || p->B > r->options.batch || p->T > r->options.length)
        error_set(e, ERROR_SHAPE, "ids of shape (%d, %d) do not fit a run of batch %d, length %d", p->B, p->T,
                  r->options.batch, r->options.length);
    else if (p->last < 0 || (p->last && p->losses))
        error_set(e, ERROR_CONFIG, "logits_to_keep is %d%s", p->last,
                  p->last < 0 ? "; it must be at least 0"
                              : ": the losses need the logits of all positions; leave it 0 with labels");
    return e->code == FINE;
}

/* --- the past ----------------------------------------------------------------------------------------------------- */
static bool make_room(Run *r, int T, Error *e) {
    int l;
    if (!cache_make_room(&r->cache, &r->model->spec, T, &l))
        error_set(e, ERROR_SHAPE, "%d more tokens do not fit a cache of %d positions that holds %d", T,
                  r->cache.layers[l].capacity, r->cache.held - r->cache.first[l]);
    return e->code == FINE;
}

/* --- the call's numbers ------------------------------------------------------------------------------------------- */
static bool copy(int32_t *to, const int32_t *from, size_t count, long least, long below, const char *what, Error *e) {
    memcpy(to, from, count * sizeof *to);
    for (size_t i = 0; i < count && e->code == FINE; i++)
        if (to[i] < least || to[i] >= below)
            error_set(e, ERROR_DATA, "%s: %d at index %zu is outside [%ld, %ld)", what, to[i], i, least, below);
    return e->code == FINE;
}

/* Behind those of the past. */
static void copy_mask(Run *r, const Call *c) {
    const size_t T = (size_t)c->pass.T;
    for (size_t b = 0; b < (size_t)c->pass.B; b++) {
        uint8_t *mask = r->mask + b * r->mask_stride + r->cache.held;
        if (c->mask) memcpy(mask, c->mask + b * T, T);
        else memset(mask, 1, T);
    }
}

static void copy_rotary(Run *r, const Call *c) {
    const size_t half = (size_t)r->model->spec.D / 2, count = (size_t)r->model->spec.rotaries;
    memcpy(r->inv_freq, c->inv_freq, count * half * sizeof *r->inv_freq);
    for (size_t i = 0; i < count; i++) r->rotary[i] = (Rotary){r->inv_freq + i * half, c->rope_factor[i]};
}

static size_t count_targets(const int32_t *targets, size_t N) {
    size_t count = 0;
    for (size_t i = 0; i < N; i++) count += targets[i] >= 0;
    return count;
}

static bool copy_numbers(Run *r, const Call *c, Error *e) {
    const Spec *s = &r->model->spec;
    const size_t N = (size_t)c->pass.B * (size_t)c->pass.T;
    const long positions = s->position == POSITION_LEARNED ? s->max_positions : INT32_MAX;
    if (!copy(r->ids, c->ids, N, 0, s->V, "input_ids", e)) return false;
    if (!copy(r->positions, c->positions, N, 0, positions, "position_ids", e)) return false;
    if (c->pass.losses && !copy(r->targets, c->targets, N, -1, s->V, "labels", e)) return false;
    if (s->position == POSITION_ROPE) copy_rotary(r, c);
    r->items = c->items;
    r->counted = c->pass.losses ? count_targets(r->targets, N) : 0;
    return true;
}

static void feed(Run *r, const Call *c) {
    r->exec.k = recording_kernels(r);
    r->exec.B = c->pass.B;
    r->exec.T = c->pass.T;
    r->exec.feed = &r->feed;
    r->feed = (Feed){.ids = r->ids,
                     .targets = c->pass.losses ? r->targets : NULL,
                     .positions = r->positions,
                     .mask = c->mask || r->any_masked ? r->mask : NULL,
                     .mask_stride = r->mask_stride,
                     .rotary = r->rotary,
                     .past = r->cache.held,
                     .first = r->cache.first,
                     .items = r->items,
                     .seed = r->options.seed,
                     .update = r->update,
                     .micro = r->micro};
    r->exec.losses_wanted = false;
    r->any_masked |= r->cache.count && c->mask;
}

bool run_begin(Run *r, const Call *c, Error *e) {
    if (!run_is_current(r, e) || !fits(r, &c->pass, e)) return false;
    r->state = RUN_BROKEN; /* from here on what the last call left is written over */
    r->until = NULL;
    if (!copy_numbers(r, c, e) || !make_room(r, c->pass.T, e)) return false;
    copy_mask(r, c);
    if (!recording_make(r, &c->pass, e)) return false;
    feed(r, c);
    if (c->pass.until) r->until = plan_module(&r->plan, c->pass.until);
    return true;
}
