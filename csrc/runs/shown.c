/* shown: what a run shows of its last call: what that call wrote, never what an older one left there. */
#include "runs/run.h"

#include <string.h>

bool run_shows_something(const Run *r, Error *e) {
    if (r->state == RUN_EMPTY) error_set(e, ERROR_STATE, "there was no pass yet: run.forward(ids) makes one");
    if (r->state == RUN_BROKEN)
        error_set(e, ERROR_STATE, "there is no pass to look into: the last one did not come to its end (it was refused "
                                  "or interrupted, or is still at work); run.forward(ids) makes another");
    return e->code == FINE;
}

bool run_shows_all(const Run *r, Error *e) {
    if (run_shows_something(r, e) && r->state == RUN_STOPPED)
        error_set(e, ERROR_STATE, "this pass stopped after '%s', before its end; run.resume() goes on", r->until->name);
    return e->code == FINE;
}

bool run_shows(const Run *r, const Tensor *t, const char *name, Error *e) {
    if (run_shows_something(r, e) && r->state == RUN_STOPPED && t->producer >= r->until->last)
        error_set(e, ERROR_STATE, "this pass stopped after '%s': '%s' was not reached; run.resume() goes on",
                  r->until->name, name);
    return e->code == FINE;
}

static bool is_read(const Plan *p, const Tensor *t) {
    for (int i = 0; i < p->count; i++)
        for (int k = 0; k < p->steps[i].ins; k++)
            for (const Tensor *in = p->steps[i].in[k]; in; in = in->parent)
                if (in == t) return true;
    return false;
}

bool run_shows_gradient(const Run *r, const Module *m, Error *e) {
    const Tensor *grad = m->output->grad;
    if (!run_shows_something(r, e)) return false;
    if (m->output != r->result.logits && !is_read(&r->plan, m->output))
        error_set(e, ERROR_STATE, "'%s' has no gradient, for nothing is computed from it; where the pass stops there, "
                                  "something is: run.forward(ids, labels=..., until='%s'), then run.resume() and "
                                  "run.backward()", m->name, m->name);
    else if (r->state != RUN_BACKWARD)
        error_set(e, ERROR_STATE, "no backward pass has formed the gradient of '%s': run.backward() does, once a "
                                  "forward pass with labels is complete", m->name);
    else if (!grad || !grad->data)
        error_set(e, ERROR_STATE, "'%s' has no gradient: the loss of this pass does not depend on it", m->name);
    return e->code == FINE;
}

real *run_parameter_gradient(Run *r, const Parameter *q) {
    if (!r->gradients || !q->trainable) return NULL;
    real *grad = r->gradients->arena->data + q->grad_offset;
    if (r->gradients->state == GRADIENTS_NONE) memset(grad, 0, q->count * sizeof(real));
    return grad;
}

Arena *run_gradient_arena(Run *r) {
    if (!r->gradients) return NULL;
    Arena *all = r->gradients->arena;
    if (r->gradients->state == GRADIENTS_NONE) memset(all->data, 0, all->count * sizeof *all->data);
    return all;
}

size_t run_likeliest(const Run *r, size_t row) {
    const Tensor *logits = r->result.logits;
    return r->exec.k->likeliest(logits->data + row * logits->stride, logits->cols);
}
