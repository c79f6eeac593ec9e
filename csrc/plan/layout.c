/* layout: finds every tensor a place in one block, so that no two that live at the same moment overlap.
 *
 * Largest first, each at the lowest offset that is free during its whole life. Cheap outputs (norms, activations) are
 * written anew before the backward pass needs them instead of being kept; an output may take the place of an input
 * that nobody reads later. */
#include "plan/finish.h"

#include "base/arena.h"
#include "base/memory.h"

#include <stdlib.h>

void plan_lives(Plan *p) {
    for (int i = 0; i < p->count; i++) {
        const Step *s = &p->steps[i];
        for (int k = 0; k < s->outs; k++) live_at(s->out[k], i);
        for (int k = 0; k < s->ins; k++)
            if (s->in[k]) live_at(s->in[k], i);
    }
    for (int i = 0; i < p->tensor_count; i++)
        if (p->tensors[i]->kept && p->tensors[i]->producer >= 0) live_at(p->tensors[i], 2 * p->count);
}

/* --- writing anew ------------------------------------------------------------------------------------------------ */
/* What every tensor is read by: its last moment in the forward pass and its first one in the backward pass. */
static void note_readers(Plan *p) {
    for (int i = 0; i < p->count; i++) {
        const Step *s = &p->steps[i];
        int moment = 2 * p->count - 1 - i;
        for (int k = 0; k < s->outs; k++) {
            s->out[k]->forward = i;
            s->out[k]->back = s->differentiated && bit(s->op->saved_outputs, k) ? moment : 2 * p->count;
        }
        for (int k = 0; k < s->ins; k++) {
            if (!s->in[k]) continue;
            Tensor *in = whole_of(s->in[k]);
            in->forward = i;
            if (s->differentiated && bit(s->op->saved_inputs, k)) in->back = moment; /* later steps go back sooner */
        }
    }
}

/* The backward pass reads it, nobody is shown it or a part of it, and what it is made of is there as long. */
static bool can_be_rebuilt(const Plan *p, const Step *s, const Tensor *t) {
    if (t->kind != TENSOR_STEP || t->whole || t->viewed || t->kept || t->last < p->count) return false;
    for (int k = 0; k < s->ins; k++) {
        if (!s->in[k] || s->in[k]->kind != TENSOR_STEP) continue;
        const Tensor *in = whole_of(s->in[k]);
        if (in->again || in->last < t->last) return false;
    }
    return true;
}

/* Writes the outputs of a step that can be rebuilt anew from moment `begin` on. The others are then written once more
 * where they are: what they hold must not have given way to anything. */
static void rebuild(Plan *p, Step *s, int begin) {
    for (int k = 0; k < s->outs; k++) {
        Tensor *t = s->out[k];
        if (!bit(s->op->cheap, k) || !can_be_rebuilt(p, s, t)) {
            live_at(t, begin);
            continue;
        }
        Tensor *again = tensor_like(p, t);
        if (again == &p->nowhere) return;
        again->halved = t->halved;
        again->first = begin;
        again->last = t->last;
        t->again = again;
        t->last = t->forward;
    }
    Step *before = &p->steps[2 * p->count - 1 - begin];
    s->next_again = before->again;
    before->again = s;
}

void plan_rebuild(Plan *p) {
    note_readers(p);
    for (int i = 0; i < p->count; i++) {
        Step *s = &p->steps[i];
        int begin = 2 * p->count;
        for (int k = 0; k < s->outs && s->op->cheap; k++)
            if (bit(s->op->cheap, k) && can_be_rebuilt(p, s, s->out[k]) && s->out[k]->back < begin) begin = s->out[k]->back;
        if (begin < 2 * p->count) rebuild(p, s, begin);
    }
}

/* --- taking a place over ----------------------------------------------------------------------------------------- */
static void take_over(Plan *p) {
    for (int i = 0; i < p->count; i++) {
        const Step *s = &p->steps[i];
        if (!s->op->replaces || s->out[0]->whole) continue;
        for (int k = 0; k < s->ins; k++) {
            Tensor *in = s->in[k], *out = s->out[0];
            if (!in || !bit(s->op->replaces, k) || in->kind != TENSOR_STEP || in->whole || in->kept) continue;
            Tensor *place = in->place;
            if (in->last != i || place->last != i || tensor_count(in) != tensor_count(out)) continue;
            if (in->halved != out->halved) continue;
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
static size_t size_of(const Tensor *t) {
    size_t count = tensor_count(t);
    return arena_round(t->halved ? (count * sizeof(uint16_t) + sizeof(real) - 1) / sizeof(real) : count);
}

static bool placed(const Tensor *t) {
    return t->kind == TENSOR_STEP && !t->whole && t->place == t && t->last >= 0;
}

static int larger_first(const void *a, const void *b) {
    const Tensor *s = *(Tensor *const *)a, *t = *(Tensor *const *)b;
    size_t m = size_of(s), n = size_of(t);
    if (m != n) return m < n ? 1 : -1;
    if (s->first != t->first) return s->first - t->first;
    return s->last - t->last;
}

/* The tensors placed so far, by offset. */
static void insert(Tensor **by_offset, int count, Tensor *t) {
    int i = count;
    for (; i > 0 && by_offset[i - 1]->offset > t->offset; i--) by_offset[i] = by_offset[i - 1];
    by_offset[i] = t;
}

static size_t lowest_free(Tensor *const *by_offset, int count, const Tensor *t) {
    size_t offset = 0;
    for (int i = 0; i < count; i++) {
        const Tensor *o = by_offset[i];
        if (o->last < t->first || o->first > t->last) continue;
        if (o->offset >= offset + size_of(t)) break;
        size_t after = o->offset + size_of(o);
        if (after > offset) offset = after;
    }
    return offset;
}

void plan_place(Plan *p) {
    take_over(p);
    Tensor **order = memory_alloc((size_t)p->tensor_count, sizeof *order);
    Tensor **by_offset = memory_alloc((size_t)p->tensor_count, sizeof *by_offset);
    if (order && by_offset) {
        int count = 0;
        for (int i = 0; i < p->tensor_count; i++)
            if (placed(p->tensors[i])) order[count++] = p->tensors[i];
        qsort(order, (size_t)count, sizeof *order, larger_first);
        for (int i = 0; i < count; i++) {
            Tensor *t = order[i];
            t->offset = lowest_free(by_offset, i, t);
            insert(by_offset, i, t);
            size_t end = t->offset + size_of(t);
            if (end > p->size) p->size = end;
            if (end > TENSOR_MOST) {
                error_set(&p->error, ERROR_MEMORY, "no memory for more than %zu numbers", TENSOR_MOST);
                break;
            }
        }
    } else {
        error_set(&p->error, ERROR_MEMORY, "no memory to lay the plan out");
    }
    memory_free(order);
    memory_free(by_offset);
}
