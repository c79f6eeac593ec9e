/* feed_forward: down(act(up(x))), or down(act(gate(x)) * up(x)). */
#include "blocks/block.h"
#include "ops/ops.h"

static Tensor *project(Plan *p, const Spec *s, Tensor *x, const char *name, int outputs) {
    enter(p, "%s", name);
    Tensor *y = linear(p, x, outputs, s->ffn_bias, s->in_out);
    leave(p, x, y);
    return y;
}

Tensor *feed_forward(Plan *p, const Spec *s, Memory *mem, Tensor *x, int l) {
    (void)mem, (void)l;
    enter(p, "%s", s->names.ffn);
    Tensor *gates = s->ffn == FFN_GATED ? project(p, s, x, s->names.gate, s->F) : NULL;
    Tensor *up = project(p, s, x, s->names.up, s->F);
    Tensor *hidden = gates ? gate(p, gates, up, s->act) : activate(p, up, s->act);
    Tensor *out = project(p, s, hidden, s->names.down, s->C);
    out = dropout(p, out, s->residual_dropout, 0);
    leave(p, x, out);
    return out;
}
