/* replay: a recording is finished (every decision taken), bound to memory, and replayed forwards and back. */
#include "plan/finish.h"

#include "base/arena.h"

static size_t most(size_t a, size_t b) { return a > b ? a : b; }

bool plan_finish(Plan *p, const struct Kernels *k) {
    if (p->error.code == FINE) plan_lives(p);
    if (p->error.code == FINE && p->backward) plan_differentiate(p);
    if (p->error.code == FINE && p->bfloat16) plan_choose_bfloat16(p);
    if (p->error.code == FINE && p->backward) plan_recompute(p);
    if (p->error.code == FINE) plan_place(p);
    for (int i = 0; i < p->count && p->error.code == FINE; i++) {
        const Step *s = &p->steps[i];
        if (s->op->scratch) p->scratch = most(p->scratch, arena_round(s->op->scratch(s, k)));
        if (s->op->workspace) p->workspace = most(p->workspace, arena_round(s->op->workspace(s, k)));
    }
    p->finished = p->error.code == FINE;
    return p->finished;
}

static real *address(const Plan *p, Tensor *t) { return p->base + place_of(t)->offset; }

static void lie_at(Tensor *t, real *at) {
    if (t->is_bfloat16) t->bfloat16 = (uint16_t *)(void *)at;
    else t->data = at;
}

void plan_bind(Plan *p, real *base) {
    p->base = base;
    for (int i = 0; i < p->tensor_count; i++) {
        Tensor *t = p->tensors[i];
        if (t->kind == TENSOR_STEP && !t->parent && t->last >= 0) lie_at(t, address(p, t));
    }
    for (int i = 0; i < p->tensor_count; i++) {
        Tensor *t = p->tensors[i];
        if (t->parent && t->parent->data) t->data = t->parent->data + t->column;
        if (t->parent && t->parent->bfloat16) t->bfloat16 = t->parent->bfloat16 + t->column;
    }
}

/* Where the outputs of a step that are written anew lie from now on: where the forward pass puts them, or for the
 * backward pass. */
static void move_outputs(const Plan *p, const Step *s, bool recomputed) {
    for (int k = 0; k < s->outs; k++)
        if (s->out[k]->recomputed) lie_at(s->out[k], address(p, recomputed ? s->out[k]->recomputed : s->out[k]));
}

static void rewind_plan(const Plan *p) {
    for (int i = 0; i < p->count; i++)
        for (const Step *s = p->steps[i].recomputed; s; s = s->next_recomputed) move_outputs(p, s, false);
}

static bool going(const Exec *x) { return !x->cancel || !atomic_load(&x->cancel->stop); }

bool plan_forward(Plan *p, Exec *x, int from, int to) {
    if (from == 0) rewind_plan(p);
    for (int i = from; i < to && going(x); i++) p->steps[i].op->forward(&p->steps[i], x);
    return going(x);
}

bool plan_backward(Plan *p, Exec *x) {
    for (int i = p->count - 1; i >= 0 && going(x); i--) {
        const Step *s = &p->steps[i];
        for (const Step *recomputed = s->recomputed; recomputed; recomputed = recomputed->next_recomputed) {
            move_outputs(p, recomputed, true);
            recomputed->op->forward(recomputed, x);
        }
        if (s->differentiated) s->op->backward(s, x);
    }
    return going(x);
}
