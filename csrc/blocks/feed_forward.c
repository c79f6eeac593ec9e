/* feed_forward: down(act(up(x))), or down(act(gate(x)) * up(x)). */
#include "blocks/block.h"
#include "ops/ops.h"

static Tensor *hidden_of(Plan *p, const Spec *s, const Layer *layer, Tensor *x) {
    const Linear to[] = {{PART_GATE, s->names[PART_GATE], layer->F}, {PART_UP, s->names[PART_UP], layer->F}};
    Tensor *out[2];
    if (layer->feed_forward == FEED_FORWARD_GATED) {
        linears(p, x, 2, to, s->feed_forward_bias, s->in_out, out);
        return gate(p, out[0], out[1], s->act);
    }
    linears(p, x, 1, &to[1], s->feed_forward_bias, s->in_out, out);
    return activate(p, out[0], s->act);
}

Tensor *feed_forward(Plan *p, const Spec *s, const Past *past, const Memory *memory, Tensor *x, int l) {
    (void)past, (void)memory;
    enter(p, PART_FEED_FORWARD, s->names[PART_FEED_FORWARD]);
    Tensor *hidden = hidden_of(p, s, &s->layers[l], x), *out;
    linears(p, hidden, 1, &(Linear){PART_DOWN, s->names[PART_DOWN], s->C}, s->feed_forward_bias, s->in_out, &out);
    out = dropout(p, out, s->residual_dropout, 0);
    leave(p, x, out);
    return out;
}
