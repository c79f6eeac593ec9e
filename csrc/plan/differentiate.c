/* differentiate: reads the recorded steps from the end and decides who writes which gradient, and how.
 *
 * Within one backward pass the first writer of a gradient overwrites and later ones add, so nothing is cleared. Where a
 * step only passes a gradient on (a residual addition), both sides share one place if nobody can tell. */
#include "plan/finish.h"

/* The gradient of a view is a view of the gradient. */
static Tensor *gradient(Plan *p, Tensor *t) {
    if (t->grad || t->kind == TENSOR_OUTSIDE) return t->grad;
    if (t->whole) {
        Tensor *whole = gradient(p, t->whole);
        t->grad = tensor_view(p, whole, (int)t->column, (int)t->cols);
        return t->grad;
    }
    t->grad = tensor_like(p, t);
    t->grad->kept = t->kept && t->name;
    return t->grad;
}

static bool reached(const Step *s) {
    if (s->op->source) return true;
    for (int i = 0; i < s->outs; i++) {
        const Tensor *t = s->out[i];
        if (t->grad_written || (t->grad && t->grad->grad_written)) return true;
    }
    return false;
}

/* A written view marks its whole as written too: the producer of the whole reads all of it. */
static void mark_written(Tensor *t) {
    t->grad_written = true;
    if (t->whole) t->whole->grad_written = true;
}

static void choose_modes(Plan *p) {
    const Module *cut = p->cut ? plan_module(p, p->cut) : NULL;
    for (int i = p->count - 1; i >= 0; i--) {
        Step *s = &p->steps[i];
        bool inside_cut = cut && i >= cut->first && i < cut->last;
        s->differentiated = s->op->backward && !inside_cut && reached(s);
        if (!s->differentiated) continue;
        bool any = false;
        int moment = 2 * p->count - 1 - i;
        for (int k = 0; k < s->ins; k++) {
            Tensor *t = s->in[k];
            if (!t || !t->needs_grad || !gradient(p, t)) continue;
            if (t->grad_written) s->grad[k] = GRAD_ADD;
            else s->grad[k] = t->kind == TENSOR_PARAMETER ? GRAD_HELD : GRAD_SET;
            mark_written(t);
            live_at(t->grad, moment);
            any = true;
        }
        s->differentiated = any;
        if (!any) continue;
        for (int k = 0; k < s->outs; k++)
            if (s->out[k]->grad) live_at(s->out[k]->grad, moment);
    }
}

/* --- sharing ----------------------------------------------------------------------------------------------------- */
static void put_off(int *moment, int to) {
    if (to > *moment) *moment = to;
}

/* The last moments at which the gradient of every tensor is written and read; each has its place to itself. */
static void note_uses(Plan *p) {
    int end = 2 * p->count;
    for (int i = 0; i < p->tensor_count; i++) {
        Tensor *t = p->tensors[i];
        t->written = -1;
        t->read = t->grad && t->grad->kept ? end : -1;
        if (t->grad && !t->whole) t->grad->sharer = t;
    }
    for (int i = 0; i < p->count; i++) {
        const Step *s = &p->steps[i];
        if (!s->differentiated) continue;
        for (int k = 0; k < s->ins; k++)
            if (s->grad[k] != GRAD_NONE) put_off(&s->in[k]->written, end - 1 - i);
        for (int k = 0; k < s->outs; k++) put_off(&s->out[k]->read, end - 1 - i);
    }
}

/* May the gradients of `a` and `b` lie in one place from `moment` on? Whoever is written later must find the other one
 * already read. */
static bool apart(const Tensor *a, const Tensor *b, int moment) {
    if (a->written > moment && b->read >= a->written) return false;
    if (b->written > moment && a->read >= b->written) return false;
    return true;
}

/* Does the plan find a gradient its place? */
static bool has_place(const Tensor *grad) { return grad && grad->kind == TENSOR_STEP && !grad->whole; }

static bool shareable(const Step *s, int k) {
    if (!bit(s->op->passes, k) || s->grad[k] != GRAD_SET) return false;
    const Tensor *grad = s->in[k]->grad;
    return has_place(grad) && grad->place == grad;
}

/* May the gradient of `t` join the gradients that already share `place`? Those whose time is over by now are forgotten:
 * the steps come in the order of the backward pass. */
static bool may_join(const Tensor *t, Tensor *place, int moment) {
    for (Tensor **at = &place->sharer; *at;) {
        const Tensor *o = *at;
        if (o->written <= moment && o->read <= moment) *at = o->next_sharer;
        else if (!apart(t, o, moment)) return false;
        else at = &(*at)->next_sharer;
    }
    return true;
}

static void join(Tensor *t, Tensor *place) {
    t->grad->place = place;
    t->next_sharer = place->sharer;
    place->sharer = t;
    live_at(place, t->grad->last);
}

static void share_passed(Plan *p) {
    note_uses(p);
    for (int i = p->count - 1; i >= 0; i--) {
        Step *s = &p->steps[i];
        if (!s->differentiated || !s->op->passes || !has_place(s->out[0]->grad)) continue;
        Tensor *place = place_of(s->out[0]->grad);
        for (int k = 0; k < s->ins; k++) {
            if (!shareable(s, k) || !may_join(s->in[k], place, 2 * p->count - 1 - i)) continue;
            join(s->in[k], place);
            s->grad[k] = GRAD_SHARED;
        }
    }
}

void plan_differentiate(Plan *p) {
    choose_modes(p);
    int end = 2 * p->count;
    for (int i = 0; i < p->tensor_count; i++) {
        Tensor *t = p->tensors[i];
        if (t->grad && t->kind == TENSOR_STEP && t->grad->kept && t->grad->first >= 0) live_at(t->grad, end);
    }
    share_passed(p);
    for (int i = 0; i < p->count; i++) {
        const Step *s = &p->steps[i];
        if (!s->differentiated) continue;
        int moment = end - 1 - i;
        for (int k = 0; k < s->ins; k++)
            if (s->in[k] && bit(s->op->saved_inputs, k)) live_at(s->in[k], moment);
        for (int k = 0; k < s->outs; k++)
            if (bit(s->op->saved_outputs, k)) live_at(s->out[k], moment);
    }
}
