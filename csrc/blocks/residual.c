/* residual: how a branch reads the stream and rejoins it. */
#include "blocks/block.h"
#include "ops/ops.h"

Tensor *norm(Plan *p, const Spec *s, Tensor *x, const char *name) {
    enter(p, "%s", name);
    Tensor *y = s->norm == NORM_LAYER ? layernorm(p, x, s->eps) : rmsnorm(p, x, s->eps);
    leave(p, x, y);
    return y;
}

/* C does not order the arguments of a call: the norm is recorded before the branch by being named first. */
Tensor *residual(Plan *p, const Spec *s, Memory *mem, Tensor *x, int l, const char *norm_name, const char *name, Branch f) {
    bool out = skipped(p, name);
    if (s->place == PLACE_POST) {
        Tensor *sum = out ? x : add(p, x, f(p, s, mem, x, l));
        return norm(p, s, sum, norm_name);
    }
    Tensor *read = norm(p, s, x, norm_name);
    return out ? x : add(p, x, f(p, s, mem, read, l));
}
