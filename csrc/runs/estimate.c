/* estimate: the largest call of a run is recorded, and its plan read. */
#include "runs/estimate.h"

#include "runs/recording.h"

static size_t bytes_of(const Weights *w) {
    size_t reals = w->base.size;
    for (int i = 0; i < w->adapter_count; i++) reals += w->adapters[i]->parameters.size;
    return reals * sizeof(real);
}

static Estimate read(const Run *r) {
    const Weights *w = &r->model->weights;
    const bool backward = r->options.backward;
    const size_t scratch = r->plan.scratch * (size_t)pool_threads() + r->plan.workspace;
    const double forward = plan_flops(&r->plan, false);
    return (Estimate){.parameters = bytes_of(w), .gradients = backward ? w->trained * sizeof(real) : 0,
                      .moments = backward ? 2 * w->trained * sizeof(real) : 0,
                      .activations = (r->plan.size + scratch) * sizeof(real), .cache = r->cache.size * sizeof(real),
                      .forward_flops = forward,
                      .backward_flops = backward ? plan_flops(&r->plan, true) - forward : 0};
}

bool run_estimate(const Model *m, const RunOptions *o, Estimate *out, Error *e) {
    Run r;
    if (!run_open(&r, (Model *)m, o, e)) return false;
    Pass largest = run_largest(o);
    recording_write(&r, &largest);
    if (!r.plan.finished) *e = r.plan.error;
    else *out = read(&r);
    run_free(&r);
    return e->code == FINE;
}
