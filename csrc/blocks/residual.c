/* residual: how a branch reads the stream and rejoins it. */
#include "blocks/block.h"
#include "ops/ops.h"

Tensor *norm(Plan *p, const Spec *s, Tensor *x, Part part) {
    if (!s->names[part]) return x;
    enter(p, part, s->names[part]);
    Tensor *y = s->norm == NORM_RMS     ? rmsnorm(p, x, s->eps)
                : s->norm == NORM_LAYER ? layernorm(p, x, s->eps)
                                        : bare_layernorm(p, x, s->eps);
    leave(p, x, y);
    return y;
}

static Tensor *joined(Plan *p, const Spec *s, Tensor *x, Tensor *y) {
    switch (s->residual) {
    case RESIDUAL_PLAIN: return add(p, x, y);
    }
    return x;
}

Tensor *rejoined(Plan *p, const Spec *s, const Past *past, const Memory *memory, Tensor *x, Tensor *read, int l,
                 const Site *site) {
    if (skipped(p, s->names[site->part])) return x;
    Tensor *y = site->branch(p, s, past, memory, read, l);
    joins(p, x);
    return joined(p, s, x, norm(p, s, y, site->norm_out));
}

Tensor *residual(Plan *p, const Spec *s, const Past *past, const Memory *memory, Tensor *x, int l, const Site *site) {
    Tensor *read = norm(p, s, x, site->norm_in);
    return norm(p, s, rejoined(p, s, past, memory, x, read, l, site), site->norm_sum);
}
