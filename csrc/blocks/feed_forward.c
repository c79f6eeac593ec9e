/* feed_forward: down(act(up(x))), or down(act(gate(x)) * up(x)). */
#include "blocks/block.h"
#include "ops/ops.h"

static Tensor *hidden_of(Plan *p, const Spec *s, Tensor *x) {
    Tensor *out[2];
    if (s->ffn == FFN_GATED) {
        linears(p, x, 2, (Linear[]){{s->names.gate, s->F}, {s->names.up, s->F}}, s->ffn_bias, s->in_out, out);
        return gate(p, out[0], out[1], s->act);
    }
    linears(p, x, 1, &(Linear){s->names.up, s->F}, s->ffn_bias, s->in_out, out);
    return activate(p, out[0], s->act);
}

Tensor *feed_forward(Plan *p, const Spec *s, Memory *mem, Tensor *x, int l) {
    (void)mem, (void)l;
    enter(p, "%s", s->names.ffn);
    Tensor *out;
    linears(p, hidden_of(p, s, x), 1, &(Linear){s->names.down, s->C}, s->ffn_bias, s->in_out, &out);
    out = dropout(p, out, s->residual_dropout, 0);
    leave(p, x, out);
    return out;
}
