/* layout: finds every tensor a place in one block, so that no two that live at the same time overlap.
 *
 * Largest first, each at the lowest offset that is free during its whole life. What is cheap (norms, activations) are
 * written anew before the backward pass needs them instead of being kept; an output may take the place of an input
 * that nobody reads later. */
#include "plan/finish.h"

#include "base/arena.h"
#include "plan/packing.h"

#include <stdlib.h>

void plan_lives(Plan *p) {
    for (int i = 0; i < p->count; i++) {
        const Step *s = &p->steps[i];
        for (int k = 0; k < s->outs; k++) {
            live_at(s->out[k], i);
            if (s->out[k]->kept) live_at(s->out[k], 2 * p->count);
        }
        for (int k = 0; k < s->ins; k++)
            if (s->in[k]) live_at(s->in[k], i);
    }
}

/* --- writing anew ------------------------------------------------------------------------------------------------ */
/* What every tensor is read by: its last time in the forward pass and its first one in the backward pass. */
static void note_readers(Plan *p) {
    for (int i = 0; i < p->count; i++) {
        const Step *s = &p->steps[i];
        int time = 2 * p->count - 1 - i;
        for (int k = 0; k < s->outs; k++) {
            s->out[k]->forward = i;
            s->out[k]->back = s->differentiated && bit(s->op->saved_outputs, k) ? time : 2 * p->count;
        }
        for (int k = 0; k < s->ins; k++) {
            if (!s->in[k]) continue;
            Tensor *in = parent_of(s->in[k]);
            in->forward = i;
            if (s->differentiated && bit(s->op->saved_inputs, k)) in->back = time; /* later steps go back sooner */
        }
    }
}

/* The backward pass reads it, nobody is shown it or a part of it, and what it is made of is there as long. */
static bool can_be_recomputed(const Plan *p, const Step *s, const Tensor *t) {
    if (t->kind != TENSOR_STEP || t->parent || t->viewed || t->kept || t->last < p->count) return false;
    for (int k = 0; k < s->ins; k++) {
        if (!s->in[k] || s->in[k]->kind != TENSOR_STEP) continue;
        const Tensor *in = parent_of(s->in[k]);
        if (in->recomputed || in->last < t->last) return false;
    }
    return true;
}

/* Writes the outputs of a step that can be rebuilt anew from time `begin` on. The others are then written once more
 * where they are: what they hold must not have given way to anything. */
static void rebuild(Plan *p, Step *s, int begin) {
    for (int k = 0; k < s->outs; k++) {
        Tensor *t = s->out[k];
        if (!bit(s->op->recomputable, k) || !can_be_recomputed(p, s, t)) {
            live_at(t, begin);
            continue;
        }
        Tensor *recomputed = tensor_like(p, t);
        if (recomputed == &p->nowhere) return;
        recomputed->is_bfloat16 = t->is_bfloat16;
        recomputed->first = begin;
        recomputed->last = t->last;
        t->recomputed = recomputed;
        t->last = t->forward;
    }
    Step *before = &p->steps[2 * p->count - 1 - begin];
    s->next_recomputed = before->recomputed;
    before->recomputed = s;
}

void plan_recompute(Plan *p) {
    note_readers(p);
    for (int i = 0; i < p->count; i++) {
        Step *s = &p->steps[i];
        int begin = 2 * p->count;
        for (int k = 0; k < s->outs && s->op->recomputable; k++)
            if (bit(s->op->recomputable, k) && can_be_recomputed(p, s, s->out[k]) && s->out[k]->back < begin)
                begin = s->out[k]->back;
        if (begin < 2 * p->count) rebuild(p, s, begin);
    }
}

/* --- taking a place over ----------------------------------------------------------------------------------------- */
static void take_over(Plan *p) {
    for (int i = 0; i < p->count; i++) {
        const Step *s = &p->steps[i];
        if (!s->op->replaces || s->out[0]->parent) continue;
        for (int k = 0; k < s->ins; k++) {
            Tensor *in = s->in[k], *out = s->out[0];
            if (!in || !bit(s->op->replaces, k) || in->kind != TENSOR_STEP || in->parent || in->kept) continue;
            Tensor *place = in->place;
            if (in->last != i || place->last != i || tensor_count(in) != tensor_count(out)) continue;
            if (in->is_bfloat16 != out->is_bfloat16) continue;
            bool viewed = false; /* a view of the input may live longer than the input itself */
            for (int j = 0; j < s->ins; j++) viewed |= j != k && s->in[j] && s->in[j]->place == place;
            if (viewed) continue;
            out->place = place;
            if (out->last > place->last) place->last = out->last;
            break;
        }
    }
}

/* --- packing ----------------------------------------------------------------------------------------------------- */
typedef struct {
    size_t size;
    int first, last;
    Tensor *tensor;
} Parcel;

static size_t size_of(const Tensor *t) {
    size_t count = tensor_count(t);
    return arena_round(t->is_bfloat16 ? (count * sizeof(uint16_t) + sizeof(real) - 1) / sizeof(real) : count);
}

static bool placed(const Tensor *t) {
    return t->kind == TENSOR_STEP && !t->parent && t->place == t && t->last >= 0 && tensor_count(t) > 0;
}

static int larger_first(const void *a, const void *b) {
    const Parcel *m = a, *n = b;
    if (m->size != n->size) return m->size < n->size ? 1 : -1;
    if (m->first != n->first) return m->first - n->first;
    return m->last - n->last;
}

static void place(Plan *p, Packing *packing, const Parcel *parcel) {
    size_t offset = packing_lowest(packing, parcel->first, parcel->last, parcel->size);
    if (offset + parcel->size > p->size) p->size = offset + parcel->size;
    if (p->size > TENSOR_MOST) error_set(&p->error, ERROR_MEMORY, "no memory for more than %zu numbers", TENSOR_MOST);
    else packing_take(packing, parcel->first, parcel->last, offset, parcel->size);
    parcel->tensor->offset = offset;
}

void plan_place(Plan *p) {
    take_over(p);
    Parcel *parcels = plan_take(p, (size_t)p->tensor_count * sizeof *parcels);
    Packing *packing = packing_begin(p, 2 * p->count + 1, p->count);
    if (!parcels || !packing) return;
    int count = 0;
    for (int i = 0; i < p->tensor_count; i++) {
        Tensor *t = p->tensors[i];
        if (placed(t)) parcels[count++] = (Parcel){size_of(t), t->first, t->last, t};
    }
    qsort(parcels, (size_t)count, sizeof *parcels, larger_first);
    for (int i = 0; i < count && p->error.code == FINE; i++) place(p, packing, &parcels[i]);
}
