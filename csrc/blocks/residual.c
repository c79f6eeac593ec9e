/* residual: how a branch reads the stream and rejoins it. */
#include "blocks/block.h"
#include "ops/ops.h"

#define STREAM_EPS ((real)1e-5) /* of the norm by which connections look at a stream */

static Tensor *normed(Plan *p, Tensor *x, NormKind kind, real eps) {
    switch (kind) {
    case NORM_LAYER: return layernorm(p, x, eps);
    case NORM_RMS: return rmsnorm(p, x, eps);
    case NORM_BARE: return bare_layernorm(p, x, eps);
    }
    return x;
}

Tensor *norm(Plan *p, const Spec *s, Tensor *x, Part part) {
    if (!s->names[part]) return x;
    const bool final = part == PART_FINAL_NORM;
    enter(p, part, s->names[part]);
    Tensor *y = normed(p, x, final ? s->norm : s->branch_norm, final ? s->eps : s->branch_eps);
    leave(p, x, y);
    return y;
}

Tensor *rejoined(Plan *p, const Spec *s, const Past *past, const Memory *memory, Tensor *x, Tensor *read, int l,
                 const Site *site) {
    if (skipped(p, s->names[site->part])) return x;
    Tensor *y = site->branch(p, s, past, memory, read, l);
    joins(p, x);
    return add(p, x, norm(p, s, y, site->norm_out));
}

/* What the branch reads is the module's output, and the one thing that is written into where the pass stops after it:
 * then how the streams go on is a step before it. */
static Connection connected(Plan *p, const Spec *s, Tensor *x, Part part) {
    Connection before = {0};
    const bool stops = stops_after(p, s->names[part]);
    if (stops) {
        enter(p, part, s->names[part]);
        before = hyper_width(p, x, s->streams, s->dynamic, STREAM_EPS);
        leave_container(p);
    }
    enter(p, part, s->names[part]);
    Connection c = hyper_width(p, x, s->streams, s->dynamic, STREAM_EPS);
    leave(p, x, c.read);
    return stops ? (Connection){c.read, before.streams, before.beta} : c;
}

/* The streams go on whether the branch is there or not. */
static Tensor *hyper(Plan *p, const Spec *s, const Past *past, const Memory *memory, Tensor *x, int l,
                     const Site *site) {
    Connection c = connected(p, s, x, site->connection);
    Tensor *read = norm(p, s, c.read, site->norm_in);
    if (skipped(p, s->names[site->part])) return c.streams;
    Tensor *y = site->branch(p, s, past, memory, read, l);
    joins(p, c.read);
    enter(p, site->connection, s->names[site->connection]);
    Tensor *out = hyper_depth(p, c.streams, y, c.beta);
    give(p, out);
    leave_container(p);
    return out;
}

Tensor *residual(Plan *p, const Spec *s, const Past *past, const Memory *memory, Tensor *x, int l, const Site *site) {
    if (s->residual == RESIDUAL_HYPER) return hyper(p, s, past, memory, x, l, site);
    Tensor *read = norm(p, s, x, site->norm_in);
    return norm(p, s, rejoined(p, s, past, memory, x, read, l, site), site->norm_sum);
}
