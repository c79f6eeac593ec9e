/* residual: how a branch reads the stream and rejoins it. */
#include "blocks/block.h"
#include "ops/ops.h"

Tensor *norm(Plan *p, const Spec *s, Tensor *x, const char *name) {
    enter(p, "%s", name);
    Tensor *y = s->norm == NORM_LAYER ? layernorm(p, x, s->eps) : rmsnorm(p, x, s->eps);
    leave(p, x, y);
    return y;
}

/* x, or x plus what the branch made of `read`. */
static Tensor *joined(Plan *p, const Spec *s, Memory *mem, Tensor *x, Tensor *read, int l, const char *name, Branch f) {
    if (skipped(p, name)) return x;
    Tensor *y = f(p, s, mem, read, l);
    joins(p, x);
    return add(p, x, y);
}

Tensor *residual(Plan *p, const Spec *s, Memory *mem, Tensor *x, int l, const char *norm_name, const char *name, Branch f) {
    if (s->place == PLACE_POST) return norm(p, s, joined(p, s, mem, x, x, l, name, f), norm_name);
    Tensor *read = norm(p, s, x, norm_name);
    return joined(p, s, mem, x, read, l, name, f);
}
