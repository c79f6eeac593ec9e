/* passes: a call that has begun is replayed, forwards and back. */
#include "runs/run.h"

#include <string.h>

static void sum_losses(Run *r) {
    const Tensor *losses = r->result.losses;
    if (!losses) return;
    double sum = r->exec.k->sum(losses->data, tensor_count(losses));
    r->loss = r->items > 0 ? sum / r->items : 0;
}

static bool complete(Run *r, int from, Cancel *cancel) {
    r->exec.cancel = cancel;
    r->state = RUN_BROKEN;
    if (!plan_forward(&r->plan, &r->exec, from, r->plan.count)) return false;
    if (r->cache.count) r->cache.held += r->exec.T;
    sum_losses(r);
    r->state = r->result.losses && r->options.backward ? RUN_DIFFERENTIABLE : RUN_FORWARD;
    return true;
}

bool run_forward(Run *r, Cancel *cancel) {
    if (!r->until || r->until->last == r->plan.count) return complete(r, 0, cancel);
    r->exec.cancel = cancel;
    if (!plan_forward(&r->plan, &r->exec, 0, r->until->last)) return false;
    r->state = RUN_STOPPED;
    return true;
}

bool run_resume(Run *r, Cancel *cancel) { return complete(r, r->until->last, cancel); }

/* Parameters that this pass did not reach have a gradient of zero, and must show it. */
static void clear_unreached(Run *r) {
    for (int i = 0; i < r->model->weights.total; i++) {
        const Tensor *t = r->by_parameter[i];
        const Parameter *q = r->model->weights.all[i];
        if (!q->trainable || (t && t->grad_written)) continue;
        memset(r->gradients->arena->data + q->grad_offset, 0, q->count * sizeof(real));
    }
}

static bool go_back(Run *r) {
    Gradients *g = r->gradients;
    r->exec.gradients_held = g->state == GRADIENTS_HELD;
    g->state = GRADIENTS_VOID;
    if (!plan_backward(&r->plan, &r->exec)) return false;
    if (!r->exec.gradients_held) clear_unreached(r);
    g->state = GRADIENTS_HELD;
    g->targets += r->counted;
    r->micro++; /* the next pass drops others */
    return true;
}

bool run_backward(Run *r, Cancel *cancel) {
    r->exec.cancel = cancel;
    r->state = RUN_FORWARD;
    if (!go_back(r)) return false;
    r->state = RUN_BACKWARD;
    return true;
}

bool run_forward_backward(Run *r, Cancel *cancel) {
    r->exec.cancel = cancel;
    r->exec.losses_wanted = true;
    const int loss = r->plan.count - 1; /* the losses are recorded last */
    const bool going = plan_forward(&r->plan, &r->exec, 0, loss) && go_back(r);
    r->exec.losses_wanted = false;
    if (!going) return false;
    sum_losses(r);
    r->state = RUN_BACKWARD;
    return true;
}

bool run_trim(Run *r, int n, Error *e) {
    if (n < 0 || n > r->cache.held)
        error_set(e, ERROR_CONFIG, "the past has %d positions; it cannot be cut back to %d", r->cache.held, n);
    else if (!cache_trim(&r->cache, n))
        error_set(e, ERROR_STATE, "a window has forgotten what position %d would see: read the text anew", n);
    else if (n == 0) r->any_masked = false;
    return e->code == FINE;
}
