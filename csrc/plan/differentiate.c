/* differentiate: reads the recorded steps from the end and decides who writes which gradient, and how.
 *
 * Within one backward pass the first writer of a gradient overwrites and later ones add, so nothing is cleared. Where a
 * step only passes a gradient on (a residual addition), both sides share one place if nobody can tell. */
#include "plan/finish.h"

/* The gradient of a view is a view of the gradient. */
static Tensor *gradient(Plan *p, Tensor *t) {
    if (t->grad || t->kind == TENSOR_OUTSIDE) return t->grad;
    if (t->parent) {
        Tensor *parent = gradient(p, t->parent);
        t->grad = tensor_view(p, parent, (int)t->column, (int)t->cols);
        return t->grad;
    }
    t->grad = tensor_like(p, t);
    t->grad->kept = t->kept && t->name;
    t->grad->sharer = t;
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

/* A written view marks what it is a view of as written too, whose producer reads all of it. */
static void mark_written(Tensor *t) {
    t->grad_written = true;
    if (t->parent) t->parent->grad_written = true;
}

static void choose_modes(Plan *p) {
    const Module *cut = p->until ? plan_module(p, p->until) : NULL;
    for (int i = p->count - 1; i >= 0; i--) {
        Step *s = &p->steps[i];
        bool inside_until = cut && i >= cut->first && i < cut->last;
        s->differentiated = s->op->backward && !inside_until && reached(s);
        if (!s->differentiated) continue;
        bool any = false;
        int time = 2 * p->count - 1 - i;
        for (int k = 0; k < s->ins; k++) {
            Tensor *t = s->in[k];
            if (!t || !t->needs_grad || !gradient(p, t)) continue;
            if (t->grad_written) s->grad[k] = GRAD_ADD;
            else s->grad[k] = t->kind == TENSOR_PARAMETER ? GRAD_HELD : GRAD_SET;
            mark_written(t);
            live_at(t->grad, time);
            if (parent_of(t->grad)->kept) live_at(t->grad, 2 * p->count);
            any = true;
        }
        s->differentiated = any;
        if (!any) continue;
        for (int k = 0; k < s->outs; k++)
            if (s->out[k]->grad) live_at(s->out[k]->grad, time);
    }
}

/* --- sharing ----------------------------------------------------------------------------------------------------- */
static void put_off(int *time, int to) {
    if (to > *time) *time = to;
}

/* The last times at which the gradient of every tensor is written and read. */
static void note_uses(Plan *p) {
    for (int i = 0; i < p->count; i++) {
        const Step *s = &p->steps[i];
        const int time = 2 * p->count - 1 - i;
        for (int k = 0; k < s->ins; k++)
            if (s->grad[k] != GRAD_NONE) put_off(&s->in[k]->written, time);
        for (int k = 0; k < s->outs; k++) {
            Tensor *t = s->out[k];
            if (s->differentiated) put_off(&t->read, time);
            if (t->grad && t->grad->kept) put_off(&t->read, 2 * p->count);
        }
    }
}

/* May the gradients of `a` and `b` lie in one place from `time` on? Whoever is written later must find the other one
 * already read. */
static bool apart(const Tensor *a, const Tensor *b, int time) {
    if (a->written > time && b->read >= a->written) return false;
    if (b->written > time && a->read >= b->written) return false;
    return true;
}

/* Does the plan find a gradient its place? */
static bool has_place(const Tensor *grad) { return grad && grad->kind == TENSOR_STEP && !grad->parent; }

static bool shareable(const Step *s, int k) {
    if (!bit(s->op->passes, k) || s->grad[k] != GRAD_SET) return false;
    const Tensor *grad = s->in[k]->grad;
    return has_place(grad) && grad->place == grad;
}

/* May the gradient of `t` join the gradients that already share `place`? Those whose time is over by now are forgotten:
 * the steps come in the order of the backward pass. */
static bool may_join(const Tensor *t, Tensor *place, int time) {
    for (Tensor **at = &place->sharer; *at;) {
        const Tensor *o = *at;
        if (o->written <= time && o->read <= time) *at = o->next_sharer;
        else if (!apart(t, o, time)) return false;
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
    share_passed(p);
    for (int i = 0; i < p->count; i++) {
        const Step *s = &p->steps[i];
        if (!s->differentiated) continue;
        int time = 2 * p->count - 1 - i;
        for (int k = 0; k < s->ins; k++)
            if (s->in[k] && bit(s->op->saved_inputs, k)) live_at(s->in[k], time);
        for (int k = 0; k < s->outs; k++)
            if (bit(s->op->saved_outputs, k)) live_at(s->out[k], time);
    }
}
