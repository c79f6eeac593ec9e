/* layout: finds every tensor a place in one block, so that no two that live at the same moment overlap.
 *
 * Largest first, each at the lowest offset that is free during its whole life. Cheap outputs (norms, activations) are
 * written anew before the backward pass needs them instead of being kept; an output may take the place of an input
 * that nobody reads later. */
#include "plan/parts.h"

#include "base/arena.h"
#include "base/memory.h"

#include <stdlib.h>

static void live(Tensor *t, int moment) {
    if (t->whole) live(t->whole, moment);
    if (t->first < 0 || moment < t->first) t->first = moment;
    if (moment > t->last) t->last = moment;
}

void plan_lives(Plan *p) {
    for (int i = 0; i < p->count; i++) {
        const Step *s = &p->steps[i];
        for (int k = 0; k < s->outs; k++) live(s->out[k], i);
        for (int k = 0; k < s->ins; k++)
            if (s->in[k]) live(s->in[k], i);
    }
    for (int i = 0; i < p->tensor_count; i++)
        if (p->tensors[i]->kept && p->tensors[i]->producer >= 0) live(p->tensors[i], 2 * p->count);
}

/* --- writing anew ------------------------------------------------------------------------------------------------ */
typedef struct {
    int forward;     /* last forward reader */
    int begin, end;  /* first and last backward reader (moments) */
} Readers;

static Readers readers_of(const Plan *p, const Tensor *t) {
    Readers r = {t->producer, 2 * p->count, -1};
    for (int i = t->producer; i < p->count; i++) {
        const Step *s = &p->steps[i];
        int moment = 2 * p->count - 1 - i;
        bool reads = false, saves = false;
        for (int k = 0; k < s->ins; k++) {
            const Tensor *in = s->in[k];
            if (!in || (in != t && in->whole != t)) continue;
            reads = true;
            saves |= s->differentiated && (s->op->saved_inputs >> k & 1);
        }
        for (int k = 0; k < s->outs; k++)
            saves |= s->out[k] == t && s->differentiated && (s->op->saved_outputs >> k & 1);
        if (reads) r.forward = i;
        if (saves && moment < r.begin) r.begin = moment;
        if (saves && moment > r.end) r.end = moment;
    }
    return r;
}

static bool can_be_rebuilt(const Plan *p, const Tensor *t, const Readers *r) {
    if (r->end < 0 || t->kept) return false;
    const Step *producer = &p->steps[t->producer];
    for (int k = 0; k < producer->ins; k++) {
        const Tensor *in = producer->in[k];
        if (!in || in->kind != TENSOR_STEP) continue;
        const Tensor *whole = in->whole ? in->whole : in;
        if (whole->again || whole->last < r->end) return false;
    }
    return true;
}

void plan_rebuild(Plan *p) {
    int recorded = p->tensor_count;
    for (int i = 0; i < recorded; i++) {
        Tensor *t = p->tensors[i];
        if (t->kind != TENSOR_STEP || t->producer < 0 || t->whole || t->last < p->count) continue;
        const Step *producer = &p->steps[t->producer];
        if (!producer->op->cheap || producer->out[0] != t) continue;
        Readers r = readers_of(p, t);
        if (!can_be_rebuilt(p, t, &r)) continue;
        Tensor *again = tensor_like(p, t);
        if (again == &p->nowhere) return;
        again->halved = t->halved;
        again->first = r.begin;
        again->last = r.end;
        t->again = again;
        t->last = r.forward;
        Step *before = &p->steps[2 * p->count - 1 - r.begin];
        t->next_again = before->again;
        before->again = t;
    }
}

/* --- taking a place over ----------------------------------------------------------------------------------------- */
static void take_over(Plan *p) {
    for (int i = 0; i < p->count; i++) {
        const Step *s = &p->steps[i];
        if (!s->op->replaces || s->out[0]->whole) continue;
        for (int k = 0; k < s->ins; k++) {
            Tensor *in = s->in[k], *out = s->out[0];
            if (!in || !(s->op->replaces >> k & 1) || in->kind != TENSOR_STEP || in->whole || in->kept) continue;
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
